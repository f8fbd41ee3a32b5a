"""Probabilistic labels: the posterior probability that two activations' true means differ by more than a margin.

The largest of several noisy differences is biased upward, so the probability is computed under a shrinkage model:

    y[a, k] = block k + effect a + residual,  effect ~ N(0, tau^2),  residual ~ N(0, sigma^2)

with p(sigma^2) proportional to 1 / sigma^2 and tau half-Cauchy, scale margin / 2 (Gelman 2006, Prior distributions for
variance parameters). With four activations that puts about one half on "matters" before any data.
"""

import math
from collections.abc import Sequence

import numpy as np

TAUS, SIGMAS, DRAWS = 200, 400, 4000  # quantiles of tau's prior; draws of sigma; draws of the effects


def effect_draws(values: np.ndarray, margin: float, seed: int = 0) -> np.ndarray:
    """(DRAWS, A) posterior draws of the activations' effects, centred.

    Parameters
    ----------
    values : (A, n) array
        A activations, n >= 2 trials; trial k of every activation shares its seeds.
    margin : float
        The smallest difference of interest, in the same unit; sets the scale of tau's prior.
    """
    values = np.asarray(values, dtype=np.float64)
    groups, n = values.shape
    if groups < 2 or n < 2:
        raise ValueError("a posterior needs two activations and two trials")
    rng = np.random.default_rng(seed)
    means = values.mean(1) - values.mean()
    residuals = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    df = (groups - 1) * (n - 1)
    rounding = (1e-9 * max(1.0, float(np.abs(values).max()))) ** 2
    error = max(float((residuals**2).sum()), rounding) / rng.chisquare(df, SIGMAS) / n  # sigma^2 / n
    tau = (margin / 2 * np.tan(np.pi / 2 * (np.arange(TAUS) + 0.5) / TAUS)) ** 2  # equally probable
    total = error[:, None] + tau  # (SIGMAS, TAUS): the variance of a mean
    log_weight = -0.5 * ((groups - 1) * np.log(total) + float((means**2).sum()) / total)
    weight = np.exp(log_weight - log_weight.max()).ravel()
    chosen = rng.choice(weight.size, DRAWS, p=weight / weight.sum())
    e, t = error[chosen // TAUS][:, None], tau[chosen % TAUS][:, None]
    noise = rng.standard_normal((DRAWS, groups))
    return t / (t + e) * means + np.sqrt(t * e / (t + e)) * (noise - noise.mean(1, keepdims=True))


def probability_matters(values: np.ndarray, margin: float, seed: int = 0) -> float:
    """P(the largest difference between two activations' means > margin); arguments as in `effect_draws`."""
    return float((np.ptp(effect_draws(values, margin, seed), axis=1) > margin).mean())


def largest_difference(values: np.ndarray, margin: float, seed: int = 0) -> tuple[float, float, float]:
    """(median, 2.5% and 97.5% quantiles) of the largest difference between two activations' means."""
    low, median, high = np.quantile(np.ptp(effect_draws(values, margin, seed), axis=1), (0.025, 0.5, 0.975))
    return float(median), float(low), float(high)


def regret(values: np.ndarray, chosen: int, margin: float, seed: int = 0) -> float:
    """The expected excess of one activation's mean over the lowest, in the values' unit."""
    draws = effect_draws(values, margin, seed)
    return float((draws[:, chosen] - draws.min(1)).mean())


def complete_blocks(table: Sequence[Sequence[float | None]]) -> np.ndarray:
    """(A, n') values of the trials that every activation has."""
    values = np.array([[math.nan if v is None else v for v in row] for row in table], dtype=np.float64)
    return values[:, ~np.isnan(values).any(0)]


def loss_label(losses: Sequence[Sequence[float | None]], margin: float) -> float | None:
    """P(the activation matters for the loss).

    If some activations have a diverged trial (None) and others have none, it matters: 1. If all have one, the recipe does
    not work, and the label is None.
    """
    diverged = [any(loss is None for loss in row) for row in losses]
    if any(diverged):
        return None if all(diverged) else 1.0
    return probability_matters(np.array(losses, dtype=np.float64), margin)
