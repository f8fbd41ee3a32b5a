"""Rank correlations over architectures: equal to SciPy's, and their p and intervals hold what they promise."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from analysis.associations import FEWEST, associations


@pytest.mark.parametrize("ties", [False, True])
def test_the_correlation_is_scipys(ties):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 12))
    if ties:
        x = x.round()
    (found,) = associations({"x": x}, {"y": y})
    expected = spearmanr(x, y)
    assert found.correlation == pytest.approx(expected.statistic, abs=1e-12)
    assert found.p == pytest.approx(expected.pvalue, abs=0.05) and found.n == 12
    assert found.low <= found.correlation <= found.high


def test_unrelated_diagnostics_are_rarely_called_related():
    rng = np.random.default_rng(2)
    found = [
        associations({"a": rng.normal(size=10), "b": rng.normal(size=10)}, {"y": rng.normal(size=10)})
        for _ in range(60)
    ]
    assert sum(min(a.p_adjusted for a in table) < 0.05 for table in found) <= 8  # 3 expected


def test_few_architectures_and_constants_give_no_number():
    rng = np.random.default_rng(3)
    few = rng.normal(size=FEWEST - 1)
    assert associations({"x": few}, {"y": few}) == []
    assert associations({"x": np.ones(FEWEST)}, {"y": rng.normal(size=FEWEST)}) == []
