"""Which diagnostics go with reproducibility: rank correlations over architectures (exploratory)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import rankdata

from analysis.significance import holm

FEWEST = 8  # architectures; with fewer the smallest possible interval says nothing
RESAMPLES = 4999


@dataclass(frozen=True)
class Association:
    """Spearman's correlation of a diagnostic with an outcome over n architectures.

    low, high: 95% percentile bootstrap over architectures. p: two-sided permutation test; p_adjusted: Holm over the table.
    """

    diagnostic: str
    outcome: str
    n: int
    correlation: float
    low: float
    high: float
    p: float
    p_adjusted: float | None = None


def associations(
    diagnostics: Mapping[str, np.ndarray], outcomes: Mapping[str, np.ndarray], seed: int = 0
) -> list[Association]:
    """Every diagnostic with every outcome.

    Parameters
    ----------
    diagnostics, outcomes : mapping
        Name -> (n,) values, one per architecture, all in the same order; no NaN.

    Returns
    -------
    list of Association
        Empty with fewer than FEWEST architectures. Constant diagnostics are left out.
    """
    rng = np.random.default_rng(seed)
    found = [
        Association(name, outcome, len(x), *_spearman(np.asarray(x), np.asarray(y), rng))
        for name, x in diagnostics.items()
        for outcome, y in outcomes.items()
        if len(x) >= FEWEST and np.ptp(x) > 0 and np.ptp(y) > 0
    ]
    return [replace(one, p_adjusted=p) for one, p in zip(found, holm([one.p for one in found]))]


def _spearman(x, y, rng):
    """(correlation, low, high, p)."""
    n = len(x)
    drawn = rng.integers(n, size=(RESAMPLES, n))
    resampled = _correlations(rankdata(x[drawn], axis=1), rankdata(y[drawn], axis=1))
    shuffled = rng.permuted(np.tile(rankdata(y), (RESAMPLES, 1)), axis=1)
    ranks = rankdata(x)[None, :]
    observed = float(_correlations(ranks, rankdata(y)[None, :])[0])
    null = _correlations(ranks, shuffled)
    low, high = np.nanquantile(resampled, (0.025, 0.975))
    return observed, float(low), float(high), float((1 + (abs(null) >= abs(observed) - 1e-12).sum()) / (1 + RESAMPLES))


def _correlations(a, b):
    """Pearson's correlation of each row; NaN where a row is constant."""
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
