"""Claims about `analyze_results.py --across`: one row per study and architecture, by the rules of a study of its own."""

from pathlib import Path

import pytest

import analyze_results
from analysis.results import Cell, Margins, Study, activation_sensitivity, score_sensitivity
from common.errors import UserError
from report import across

REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference"


@pytest.fixture(scope="module")
def studies():
    return [analyze_results.read_study(REFERENCE / name) for name in ("architectures", "longer")]


def rows_of(text):
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ][1:]


def test_every_architecture_of_every_study_is_judged_as_in_a_study_of_its_own(studies):
    groups = across.comparable(studies)
    rows = rows_of(across.table(groups, Margins()))
    assert all(len(row) == 9 for row in rows) and [row[6] for row in rows][-1] == "82"
    assert len(rows) == sum(len(study.architectures) for study in studies) == 7
    expected = [activation_sensitivity(cells, Margins()) for study in studies for cells in study.architectures.values()]
    assert [(row[4], row[7]) for row in rows] == [(e["val_loss"].verdict, e["relative_pd"].verdict) for e in expected]


def with_scores(study, value_of):
    """The study with a score for each trial: value_of(activation, trial number)."""
    cells = []
    for cell in study.cells:
        scored = [
            trial
            | {
                "score": {
                    "name": "mean return",
                    "value": value_of(cell.activation, trial["trial"]),
                    "higher_is_better": True,
                }
            }
            for trial in cell.result["trials"]
        ]
        cells.append(Cell(cell.result | {"trials": scored}, cell.arrays))
    return Study(study.folder, study.identity, cells, study.planned)


@pytest.mark.parametrize(("drop", "verdict"), [(0.0, "insensitive"), (100.0, "sensitive")])
def test_a_score_takes_the_place_of_the_loss_with_a_margin_relative_to_the_references(studies, drop, verdict):
    longer = with_scores(
        studies[1], lambda name, k: 400 + k * (3 if name == "relu" else 5) % 7 - drop * (name != "relu")
    )
    (row,) = rows_of(across.table(across.comparable([longer]), Margins()))
    name, margin, found = score_sensitivity(longer.cells, Margins())
    assert (name, found.verdict, row[4]) == ("mean return", verdict, verdict)
    assert margin == pytest.approx(0.05 * 403, rel=0.01) and row[3].startswith("40")


def test_every_column_has_a_name_of_its_own(studies):
    header = across.table(across.comparable(studies), Margins()).splitlines()[0].split("|")[1:-1]
    assert len(header) == len(set(header)) == 9


def test_the_command_prints_the_table_and_draws_the_figure(studies, tmp_path, capsys):
    folders = [str(REFERENCE / name) for name in ("architectures", "longer")]
    assert analyze_results.main(["--across", *folders, "--plots-dir", str(tmp_path)]) == 0
    assert across.table(across.comparable(studies), Margins()) in capsys.readouterr().out
    assert (tmp_path / "all_cpu_across.png").stat().st_size > 10_000


def test_studies_without_two_activations_are_refused():
    with pytest.raises(UserError, match="has two activations"):
        analyze_results.main(["--across", str(REFERENCE / "vary_bit"), "--no-figures"])
