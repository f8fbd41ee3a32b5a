"""Claims about pooled studies: a factor that alone decides relative PD explains it, and others lose nothing without it."""

import itertools

import numpy as np
import pytest
from made_results import make_result

from analysis.pooled import FACTORS, Row, explained, r_squared, rows
from analysis.results import Cell, Study


def simulated(rng, effect):
    """Rows whose log relative PD is `effect` of (architecture, activation, learning rate, loss), and a little noise."""
    found = []
    for architecture, activation, rate in itertools.product(
        ("charlm", "mlp", "gru"), ("relu", "gelu"), (3e-4, 1e-3, 3e-3)
    ):
        loss = rng.uniform(1.8, 2.6)
        pd = 0.1 * np.exp(effect(architecture, activation, rate, loss) + 0.01 * rng.standard_normal())
        found.append(Row(None, architecture, activation, rate, 100, loss, pd))
    return found


@pytest.mark.parametrize(
    ("factor", "effect"),
    [
        ("learning rate", lambda architecture, activation, rate, loss: np.log(rate)),
        ("architecture", lambda architecture, activation, rate, loss: len(architecture)),
        ("validation loss", lambda architecture, activation, rate, loss: loss),
    ],
)
def test_the_factor_that_decides_explains_all_and_only_its_absence_costs(factor, effect):
    found = explained(simulated(np.random.default_rng(1), effect), resamples=50)
    for name, (alone, unique) in found.items():
        assert (alone[0] > 0.95) == (name == factor)
        assert (unique[0] > 0.3) == (name == factor)


def test_r_squared_is_that_of_numpys_correlation_for_one_straight_line():
    table = simulated(
        np.random.default_rng(2), lambda architecture, activation, rate, loss: 0.3 * (activation == "relu")
    )
    dummy, y = [row.activation == "relu" for row in table], np.log([row.relative_pd for row in table])
    assert r_squared(table, ["activation"]) == pytest.approx(np.corrcoef(dummy, y)[0, 1] ** 2)
    assert r_squared(table, list(FACTORS)) >= r_squared(table, ["activation"])


def test_only_matched_studies_that_vary_everything_are_pooled():
    results = [make_result("relu", 3), make_result("gelu", 3), make_result("swish", 3)]
    for result in results:
        result["identity"] |= {"protocol": "matched", "vary": ["init", "data", "dropout"]}
    results[1]["identity"]["vary"] = ["init"]
    results[2]["identity"]["protocol"] = "published"
    assert [row.activation for row in rows([Study("made", {}, [Cell(r) for r in results], [])])] == ["relu"]
