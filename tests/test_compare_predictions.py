"""compare_predictions.py from a folder of predictions to the report: what it says, what it writes, how it takes bad input."""

import csv
import json
import shutil

import numpy as np
import pytest
from own_predictions import made_logits, place, softmax

import compare_predictions
from common import json_files
from common.scripts import run

NOISE = {"relu": 0.5, "gelu": 0.4, "tanh": 0.5}


@pytest.fixture
def folder(tmp_path):
    """Three variants of four trials: gelu shares relu's trials, tanh has its own."""
    names = {"relu": list("1234"), "gelu": list("1234"), "tanh": list("abcd")}
    logits, labels = made_logits(NOISE, names, n=300, n_classes=3)
    place(tmp_path / "mine", {f"{v}/{t}.npy": softmax(x) for v, ts in logits.items() for t, x in ts.items()}, labels)
    return tmp_path / "mine"


def status_of(*arguments):
    with pytest.raises(SystemExit) as ended:
        run(compare_predictions.main, [*map(str, arguments), "--workers", "1"])
    return ended.value.code


def test_one_command_gives_the_verdicts_the_tables_the_figure_and_the_numbers(folder, capsys):
    assert status_of(folder, "--reference", "relu") == 0
    printed = capsys.readouterr().out
    for text in (
        "300 examples, 3 classes",
        "n = 4 trials each",
        "The family is 8 comparisons",
        "All 3 variants together",
        "gelu against relu: ",
    ):
        assert text in printed
    assert "not paired: no trial name in common for tanh, others paired by trial name" in " ".join(printed.split())
    assert (folder / "forest.png").read_bytes().startswith(b"\x89PNG")
    assert "data:image/png;base64" in (folder / "report.html").read_text()
    assert "![" in (folder / "REPORT.md").read_text()
    content = json_files.read_json(folder / "comparison.json")
    assert content["reference"] == "relu" and list(content["variants"]) == ["relu", "gelu", "tanh"]
    assert {c["variant"]: c["paired"] for c in content["comparisons"]} == {"gelu": True, "tanh": False}
    assert len(content["provenance"]["sha256"]) == 13


def test_every_number_of_the_tables_is_in_the_json_with_n_interval_and_method(folder):
    compare_predictions.main([str(folder), "--reference", "relu", "--no-figures", "--workers", "1"])
    content = json_files.read_json(folder / "comparison.json")
    for variant in content["variants"].values():
        for name, estimate in variant["summary"].items():
            assert estimate["n"] == 4 and estimate["method"] and len(estimate["ci95"]) == 2, name
    loss = next(c for c in content["comparisons"] if (c["variant"], c["measure"]) == ("gelu", "loss"))
    assert loss["primary"] and loss["margin"] == 0.01 and loss["se_examples"] > 0
    assert f"{loss['difference']['mean']:+.4f}" in (folder / "REPORT.md").read_text()
    assert not (folder / "forest.png").exists()


def test_the_export_holds_one_row_for_each_trial_pair_and_comparison(folder, tmp_path):
    out = tmp_path / "tables"
    arguments = [str(folder), "--no-figures", "--export", str(out), "--output", str(tmp_path / "out"), "--workers", "1"]
    assert compare_predictions.main(arguments) == 0
    rows = {name: list(csv.DictReader((out / f"{name}.csv").open())) for name in ("trials", "pairs", "comparisons")}
    assert {name: len(found) for name, found in rows.items()} == {"trials": 12, "pairs": 18, "comparisons": 20}
    assert (rows["pairs"][0]["trial_a"], rows["pairs"][0]["trial_b"]) == ("1", "2")
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert float(rows["comparisons"][0]["difference"]) == content["comparisons"][0]["difference"]["mean"]
    assert "\\begin{table}" in (out / "tables.tex").read_text()
    assert not (folder / "comparison.json").exists()


def test_two_trials_say_what_cannot_be_had(tmp_path, capsys):
    logits, labels = made_logits({"a": 0.5, "b": 0.5}, {"a": list("12"), "b": list("12")}, n=50)
    place(tmp_path, {f"{v}/{t}.npy": softmax(x) for v, ts in logits.items() for t, x in ts.items()}, labels)
    assert status_of(tmp_path) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "Two trials make one pair" in printed
        and "inconclusive: fewer than three trials with all their pairs" in printed
    )


def test_one_variant_alone_is_described(tmp_path, capsys):
    logits, _ = made_logits({"a": 0.5}, {"a": list("123")}, n=50)
    place(tmp_path, {f"a/{t}.npy": softmax(x) for t, x in logits["a"].items()})
    assert status_of(tmp_path) == 0
    assert "There is one variant, a, and nothing to compare it with" in capsys.readouterr().out


def test_a_folder_that_was_copied_is_said(folder, capsys):
    shutil.rmtree(folder / "gelu")
    shutil.copytree(folder / "relu", folder / "gelu")
    assert status_of(folder, "--no-figures") == 0
    assert "relu/1.npy is the same file as gelu/1.npy (and 3 more)" in " ".join(capsys.readouterr().out.split())


def test_copies_infinite_losses_and_outlying_trials_are_said(tmp_path, capsys):
    logits, labels = made_logits({"a": 0.3, "b": 0.3}, {"a": list("12345678"), "b": list("12345678")}, n=200)
    a, b = (softmax(np.stack(list(logits[name].values()))) for name in "ab")
    a[1] = a[0]
    b[2] = np.eye(7)[np.roll(labels, 1)]
    place(
        tmp_path, {f"a/{k}.npy": p for k, p in enumerate(a, 1)} | {f"b/{k}.npy": p for k, p in enumerate(b, 1)}, labels
    )
    assert status_of(tmp_path) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Trials of a that predict exactly the same: 1 and 2. Are they copies?" in printed
    assert "Cross-entropy (nats) of b is infinite in 1 of its trials" in printed
    assert "b, Relative PD: 3 lies far from all others; without: " in printed


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--margin", "0"], "--margin must be positive, but it is 0.0"),
        (["--margin-loss", "nan"], "--margin-loss must be positive"),
        (["--logits"], "contains probabilities, not logits"),
        (["--reference", "swish"], "unknown variant 'swish'"),
        (["--export", "FOLDER/tables"], "tables would be read as a variant in"),
        (["--output", "FOLDER/relu"], "relu would be read as a variant in"),
        (["--groups", "none.npy"], "none.npy (--groups) does not exist"),
    ],
)
def test_a_mistake_is_one_sentence_with_status_2_and_writes_nothing(folder, options, says, capsys):
    before = sorted(folder.rglob("*"))
    assert status_of(folder, *(option.replace("FOLDER", str(folder)) for option in options)) == 2
    printed = capsys.readouterr()
    assert says in printed.err and printed.err.count("\n") == 1 and printed.out == ""
    assert sorted(folder.rglob("*")) == before


def test_three_functions_do_the_same_in_a_notebook(folder, tmp_path, capsys):
    found = compare_predictions.compare(compare_predictions.load(folder), reference="relu")
    assert found.comparisons["gelu", "relative_pd"].verdict in ("different", "equivalent", "inconclusive")
    compare_predictions.report(found, tmp_path / "here")
    assert status_of(folder, "--reference", "relu") == 0
    contents = [json_files.read_json(place / "comparison.json") for place in (folder, tmp_path / "here")]
    assert contents[0] == contents[1]
    assert {path.name for path in (tmp_path / "here").iterdir()} == {
        "REPORT.md",
        "report.html",
        "forest.png",
        "comparison.json",
    }
