"""The section on one flipped bit: only for a study of bits, every architecture beside the other, sorted by what became of it."""

from pathlib import Path

import pytest
from studies import ROOT

import analyze_results
from report.contents import build
from report.one_bit import derivative

REFERENCE = Path(ROOT) / "results" / "reference"
TITLE = "What becomes of one flipped bit"


def section(folder):
    document = build(analyze_results.read_study(REFERENCE / folder))
    return next((found for found in document.sections if found.title == TITLE), None)


def test_both_architectures_stand_beside_each_other_and_the_jumping_derivatives_come_first():
    table = next(part for part in section("one_bit/activations").content if hasattr(part, "rows"))
    assert table.headers == ["Activation", "Derivative", "CharLM", "MiniGPT"]
    assert [row[1] for row in table.rows[:6]] == ["jumps"] * 6 and "jumps" not in {row[1] for row in table.rows[6:]}
    assert ["ReLU", "jumps", "3.6e-03", "4.0e-03"] in table.rows


@pytest.mark.parametrize("folder", ["vary_init", "matched"])
def test_other_studies_have_no_such_section(folder):
    assert section(folder) is None


def test_derivatives_are_those_of_the_activations():
    names = ("relu", "squared_relu", "smelu_0.0001", "smelu_1_centred", "gelu", "my_own")
    expected = ["jumps", "continuous", "continuous", "continuous", "smooth", "unknown"]
    assert [derivative(name) for name in names] == expected
