"""Claims about --export: one row per observation, every number with all its digits, columns as documented, valid LaTeX."""

import csv
from pathlib import Path

import pytest
from made_results import make_result

import analyze_results
from analysis.results import Cell, Study
from common import json_files, scripts
from report.document import Document, Section, Table
from report.export import export

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "results" / "reference"


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def exported(folder, *results, document=Document("", "", [])):  # noqa: B008 - it is frozen
    study = Study("made", {}, [Cell(result) for result in results], [])
    export([study], document, folder)
    return [read(folder / f"{name}.csv") for name in ("trials", "pairs", "curves")]


@pytest.mark.parametrize(("name", "n"), [("matched", 10), ("published", 2)])
def test_a_shipped_study_is_exported_with_every_trial_pair_and_point(name, n, tmp_path, capsys):
    study = tmp_path / name
    study.mkdir()
    for path in (REFERENCE / name).iterdir():
        (study / path.name).symlink_to(path)
    with pytest.raises(SystemExit) as stop:
        scripts.run(analyze_results.main, [str(study), "--no-figures", "--export", str(tmp_path / "out")])
    assert stop.value.code == 0 and f"{tmp_path / 'out' / 'pairs.csv'}" in capsys.readouterr().out
    trials, pairs, curves = (read(tmp_path / "out" / f"{kind}.csv") for kind in ("trials", "pairs", "curves"))
    assert len(trials) == 5 * n and len(pairs) == 5 * n * (n - 1) // 2
    result = json_files.read_json(study / "charlm_gelu.json")
    (row,) = (r for r in pairs if (r["activation"], r["trial_a"], r["trial_b"]) == ("gelu", "1", "2"))
    assert float(row["relative_pd"]) == result["pairs"][0]["relative_pd"]
    of_trials = sum(2 * len(trial["history"]) for trial in result["trials"])
    of_pairs = sum(len(point) - 1 for pair in result["pairs"] for point in pair["history"])
    assert sum(point["activation"] == "gelu" for point in curves) == of_trials + of_pairs
    if name == "published":
        assert float(row["published_relative_pd"]) == result["published_pairs"][0]["relative_pd"]


def test_a_lost_trial_is_a_row_with_empty_fields_and_probes_are_measures(tmp_path):
    result = make_result("relu", 2)
    lost, kept = (dict(trial) for trial in result["trials"])
    lost |= {"status": "diverged", "val_loss": None, "history": []}
    kept["history"] = [{"step": 5, "train_loss": 2.0, "val_loss": 2.5, "probes": {"gradient_norm": {"all": 0.5}}}]
    trials, _, curves = exported(tmp_path, {**result, "trials": [lost, kept]})
    assert [(t["status"], t["val_loss"]) for t in trials] == [("diverged", ""), ("complete", str(kept["val_loss"]))]
    own = [(p["step"], p["measure"], p["value"]) for p in curves if not p["trial_b"]]
    assert own == [("5", "train_loss", "2.0"), ("5", "val_loss", "2.5"), ("5", "gradient_norm.all", "0.5")]


def test_every_column_is_documented(tmp_path):
    found = exported(tmp_path, make_result("relu", 2))
    text = (ROOT / "docs" / "results-format.md").read_text(encoding="utf-8")
    described = text[text.index("## Exported tables") :] + text[text.index("### Pair\n") : text.index("### PairHist")]
    for rows in found:
        assert all(f"`{column}`" in described for column in rows[0]), rows[0]


def test_names_of_users_are_text_in_latex(tmp_path):
    table = Table(["Activation", "Loss"], [["my_50%_$act$ β", "-0.1 [-0.2, 0.0]"]], "A & B, **n = 3**")
    exported(tmp_path, document=Document("", "", [Section("A title", [table])]))
    text = (tmp_path / "tables.tex").read_text(encoding="utf-8")
    assert r"my\_50\%\_\$act\$ $\beta$" in text and "$-$0.1 [$-$0.2, 0.0]" in text
    assert r"\caption{A \& B, n = 3}" in text and r"\label{tab:a-title-1}" in text
    assert all(command in text for command in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert text.isascii()


def test_export_with_an_audit_or_a_sweep_is_a_mistake(capsys):
    with pytest.raises(SystemExit) as stop:
        scripts.run(analyze_results.main, ["--export", "x", "--audit", str(REFERENCE / "matched")])
    assert stop.value.code == 2 and "--export applies to one study" in capsys.readouterr().err
