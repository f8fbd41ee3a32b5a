"""Claims about what several studies show together."""

from pathlib import Path

import pytest

import analyze_results
from analysis.results import Margins
from report.several_studies import arithmetics
from report.view import View

REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference"


@pytest.fixture(scope="module")
def studies():
    return [analyze_results.read_study(REFERENCE / name) for name in ("matched", "bfloat16")]


@pytest.mark.parametrize(
    ("margins", "verdicts"),
    [
        (Margins(), ["equivalent", "equivalent"]),
        (Margins(loss=1e-6), ["inconclusive", "equivalent"]),
        (Margins(pairs=1e-4), ["equivalent", "inconclusive"]),
    ],
)
def test_bfloat16_is_equivalent_to_float32_within_the_margins_but_not_within_finer_ones(studies, margins, verdicts):
    float32, bfloat16 = studies
    view = View(float32, float32.architectures["charlm"], margins, [bfloat16])
    (table,) = arithmetics(view).content
    assert table.headers[-1] == "Verdict"
    assert [row[2] for row in table.rows] == ["Validation loss", "Relative PD"]
    assert [row[-1].split(" (")[0] for row in table.rows] == verdicts
