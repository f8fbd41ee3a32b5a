"""Scores of probabilities against soft labels, with intervals over families; pure functions of arrays.

p, q: (N,) predicted probabilities and labels (probabilities themselves); families: (N,) names.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.special import betaincinv

from sensitivity.predictor import leave_one_family_out, log_score

BINS = (0.0, 1 / 3, 2 / 3, 1.0)


def brier(p: np.ndarray, q: np.ndarray) -> float:
    """The expected Brier score (lower is better): mean of q (1 - p)^2 + (1 - q) p^2."""
    return float((q * (1 - p) ** 2 + (1 - q) * p**2).mean())


def auroc(p: np.ndarray, q: np.ndarray) -> float | None:
    """P(a case that matters has the higher p), each pair weighted by q_i (1 - q_j); ties count half. None without both."""
    weight = q[:, None] * (1 - q)[None, :]
    np.fill_diagonal(weight, 0.0)
    right = (p[:, None] > p[None, :]) + 0.5 * (p[:, None] == p[None, :])
    return float((weight * right).sum() / weight.sum()) if weight.sum() > 1e-9 else None


def reliability(p: np.ndarray, q: np.ndarray) -> list[tuple[int, float, float]]:
    """(cases, mean p, mean q) of three bins of p; NaN for an empty bin."""
    found = []
    for low, high in itertools.pairwise(BINS):
        inside = (p >= low) & ((p < high) | (high == 1.0))
        n = int(inside.sum())
        found.append((n, float(p[inside].mean()) if n else np.nan, float(q[inside].mean()) if n else np.nan))
    return found


def decided(answers: Sequence[str], q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(whether a case was decided, the expected error of its answer; 0 if inconclusive)."""
    says = np.array([{"matters": 1.0, "does not matter": 0.0}.get(answer, np.nan) for answer in answers])
    known = ~np.isnan(says)
    return known, np.where(known, np.abs(np.nan_to_num(says) - q), 0.0)


def error_limit(errors: float, n: int, level: float = 0.95) -> float:
    """The one-sided upper limit of an error rate (Clopper & Pearson 1934); `errors` is rounded up. 1 where n is 0.

    >>> round(error_limit(0, 10), 2), round(error_limit(0, 30), 3)
    (0.26, 0.095)
    """
    k = int(np.ceil(errors - 1e-9))
    return 1.0 if k >= n else float(betaincinv(k + 1, n - k, level))


def over_families(
    statistic: Callable[[np.ndarray], float | None], families: Sequence[str], resamples: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """95% interval of a statistic of the cases, by a bootstrap over whole families; None below three families.

    statistic: indices of cases (with repetitions) -> value or None.
    """
    families, rng = np.asarray(families), np.random.default_rng(seed)
    members = [np.flatnonzero(families == family) for family in np.unique(families)]
    if len(members) < 3:
        return None
    drawn = (rng.integers(len(members), size=len(members)) for _ in range(resamples))
    values = [statistic(np.concatenate([members[k] for k in ks])) for ks in drawn]
    known = [value for value in values if value is not None]
    return (float(np.quantile(known, 0.025)), float(np.quantile(known, 0.975))) if known else None


def permutation_p(
    features: np.ndarray,
    q: np.ndarray,
    families: Sequence[str],
    sets: Mapping[str, Sequence[int]],
    n: int = 199,
    seed: int = 0,
) -> float:
    """p of "features are uninformative": labels are permuted over cases, and all choices and fits repeated each time."""
    rng = np.random.default_rng(seed)
    observed = log_score(leave_one_family_out(features, q, families, sets).p, q)
    as_low = 0
    for _ in range(n):
        shuffled = rng.permutation(q)
        as_low += log_score(leave_one_family_out(features, shuffled, families, sets).p, shuffled) <= observed
    return (1 + as_low) / (1 + n)
