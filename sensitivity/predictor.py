"""Ridge logistic regression on soft labels, with nested leave-one-family-out validation.

Arrays: N cases, F features; q (N,) in [0, 1], the probability that the activation matters; families (N,) names. Features
may be NaN.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

PENALTIES = (1.0, 10.0, 100.0)
MOST_ERROR = 0.1  # of the training cases that a threshold decides
FEWEST_DECIDED = 3
NEVER_LOW, NEVER_HIGH = -1.0, 2.0  # thresholds that are never reached
CLIP = 1e-3  # probabilities are kept this far from 0 and 1, since so few cases cannot support more extreme ones


@dataclass(frozen=True, eq=False)
class Logistic:
    """A fitted ridge logistic regression: P = expit(intercept + ((x - mean) / sd) @ weights); NaN counts as the mean."""

    columns: tuple[int, ...]
    mean: np.ndarray
    sd: np.ndarray
    intercept: float
    weights: np.ndarray

    def predict(self, features: np.ndarray) -> np.ndarray:
        """(N,) probabilities for (N, F) features, kept CLIP away from 0 and 1."""
        x = (np.asarray(features, dtype=np.float64)[:, self.columns] - self.mean) / self.sd
        return np.clip(expit(self.intercept + np.nan_to_num(x) @ self.weights), CLIP, 1 - CLIP)


def fit(features: np.ndarray, q: np.ndarray, columns: Sequence[int], penalty: float) -> Logistic:
    """Ridge logistic regression on soft labels by Newton's method; the intercept is not penalised.

    Minimises -sum[q ln p + (1 - q) ln(1 - p)] + penalty/2 |weights|^2 over standardised features.
    """
    x = np.asarray(features, dtype=np.float64)[:, list(columns)]
    known = ~np.isnan(x)
    counts = np.maximum(known.sum(0), 1)
    mean = np.where(known, x, 0.0).sum(0) / counts
    sd = np.sqrt(np.where(known, (x - mean) ** 2, 0.0).sum(0) / counts)
    sd = np.where(sd > 1e-12, sd, 1.0)
    design = np.column_stack([np.ones(len(x)), np.where(known, (x - mean) / sd, 0.0)])
    ridge = np.full(design.shape[1], penalty)
    ridge[0] = 1e-6  # keeps the intercept finite if all labels are equal
    beta = np.zeros(design.shape[1])
    for _ in range(50):
        p = expit(design @ beta)
        gradient = design.T @ (p - q) + ridge * beta
        hessian = (design * (p * (1 - p) + 1e-9)[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(hessian, gradient)
        beta -= step * min(1.0, 2.0 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    return Logistic(tuple(columns), mean, sd, float(beta[0]), beta[1:])


def log_score(p: np.ndarray, q: np.ndarray) -> float:
    """The expected log score in nats (lower is better): mean of -[q ln p + (1 - q) ln(1 - p)]."""
    p = np.clip(p, CLIP, 1 - CLIP)
    return float(-(q * np.log(p) + (1 - q) * np.log(1 - p)).mean())


@dataclass(frozen=True, eq=False)
class Fitted:
    """A predictor with its chosen feature set (by name), penalty and two thresholds."""

    model: Logistic
    chosen: tuple[str, float]
    low: float
    high: float

    def answer(self, p: float) -> str:
        """ "matters", "does not matter" or "inconclusive"."""
        return "matters" if p >= self.high else "does not matter" if p <= self.low else "inconclusive"


def fit_chosen(
    features: np.ndarray, q: np.ndarray, families: Sequence[str], sets: Mapping[str, Sequence[int]]
) -> Fitted:
    """Chooses feature set and penalty by leave-one-family-out log score, then thresholds from the same predictions."""
    families = np.asarray(families)
    best: tuple[float, tuple[str, float], np.ndarray] | None = None
    for name, columns in sets.items():
        for penalty in PENALTIES:
            p = _without_own_family(features, q, families, columns, penalty)
            score = log_score(p, q)
            if best is None or score < best[0] - 1e-12:
                best = score, (name, penalty), p
    if best is None:
        raise ValueError("no feature set to choose from")
    _, chosen, p = best
    return Fitted(fit(features, q, sets[chosen[0]], chosen[1]), chosen, *thresholds(p, q))


def _without_own_family(features, q, families, columns, penalty):
    """(N,) each case's probability from a regression on the other families; with one family, the mean label."""
    p = np.empty(len(q))
    for family in np.unique(families):
        inside = families == family
        if inside.all():
            return np.full(len(q), q.mean())
        p[inside] = fit(features[~inside], q[~inside], columns, penalty).predict(features[inside])
    return p


def thresholds(p: np.ndarray, q: np.ndarray) -> tuple[float, float]:
    """(low, high): p <= low means "does not matter", p >= high "matters", each with an expected error up to MOST_ERROR.

    Each threshold is the one that decides the most cases; it is never reached if it would decide fewer than FEWEST_DECIDED.
    """
    high, low = NEVER_HIGH, NEVER_LOW
    for t in np.unique(p):
        above, below = p >= t, p <= t
        if t >= 0.5 and high == NEVER_HIGH and above.sum() >= FEWEST_DECIDED and (1 - q[above]).mean() <= MOST_ERROR:
            high = float(t)
        if t < 0.5 and below.sum() >= FEWEST_DECIDED and q[below].mean() <= MOST_ERROR:
            low = float(t)
    return low, high


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """The prediction for each case by a predictor fitted without its family."""

    p: np.ndarray
    answers: list[str]
    chosen: dict[str, tuple[str, float]]  # family left out -> (feature set, penalty)


def leave_one_family_out(
    features: np.ndarray, q: np.ndarray, families: Sequence[str], sets: Mapping[str, Sequence[int]]
) -> OutOfFold:
    """Out-of-fold predictions; every choice is repeated without the predicted family."""
    families = np.asarray(families)
    p, answers, chosen = np.empty(len(q)), [""] * len(q), {}
    for family in np.unique(families):
        inside = families == family
        fitted = fit_chosen(features[~inside], q[~inside], families[~inside], sets)
        p[inside] = fitted.model.predict(features[inside])
        chosen[str(family)] = fitted.chosen
        for k in np.flatnonzero(inside):
            answers[k] = fitted.answer(p[k])
    return OutOfFold(p, answers, chosen)


# --- baselines --------------------------------------------------------------------------------------------------------


def prevalence(q: np.ndarray, families: Sequence[str]) -> np.ndarray:
    """(N,) mean label of the other families."""
    families = np.asarray(families)
    return np.array([q[families != family].mean() for family in families])


def family_mean(q: np.ndarray, families: Sequence[str]) -> np.ndarray:
    """(N,) mean label of the other cases of the same family, or of all other cases if there are none."""
    families, found = np.asarray(families), []
    for k, family in enumerate(families):
        others = np.arange(len(q)) != k
        same = others & (families == family)
        found.append(q[same if same.any() else others].mean())
    return np.array(found)


def rescaled(p: np.ndarray, q: np.ndarray, families: Sequence[str]) -> np.ndarray:
    """(N,) probabilities recalibrated by a logistic regression on the other families."""
    column = logit(np.clip(p, CLIP, 1 - CLIP))[:, None]
    return _without_own_family(column, q, np.asarray(families), (0,), 1.0)
