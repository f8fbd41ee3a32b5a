"""Means over trials and over pairs of trials, with confidence intervals.

A loss belongs to one trial, so its mean over n independent trials has Student's t interval. A pair metric belongs to
two trials, and the n (n - 1) / 2 pairs of n trials share models: their mean is a U-statistic of order two, whose
uncertainty comes from the trials. `n` therefore always counts trials, never pairs.

Pairs follow the working model h_ij = mu + a_i + a_j + e_ij, with a per-model component a_i (model i is far from all
others) and a per-pair component e_ij. The variance of their mean U is (Hoeffding 1948: zeta_1 = s_a^2,
zeta_2 = 2 s_a^2 + s_e^2)

    Var(U) = 4 s_a^2 / n + 2 s_e^2 / (n (n - 1)).

Treating pairs as independent omits most of the first term; the jackknife counts most of the second twice.
`pair_interval` estimates both. Missing values are None or NaN; a quantity that cannot be computed is None, with the
reason.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

# scipy is imported where it is used: importing it takes longer than most of the computations here.

ROUNDING = 1e-12  # a spread below this fraction of the largest value is rounding error and counts as zero


@dataclass(frozen=True)
class Estimate:
    """A mean with its uncertainty.

    Attributes
    ----------
    mean, sd : float or None
        Mean and standard deviation (ddof 1) of the values: trials or pairs.
    n : int
        Number of trials.
    low, high : float or None
        The confidence interval.
    df, standard_error : float or None
        Of the t interval.
    method : str
        How the interval was computed.
    reason : str or None
        Why there is no interval.
    variance_terms : (float, float) or None
        (f, s): the squared standard error is f / n + s / (n (n - 1)).
    confidence : float
        Of the interval.
    """

    mean: float | None
    sd: float | None
    n: int
    low: float | None
    high: float | None
    df: float | None
    standard_error: float | None
    method: str
    reason: str | None = None
    variance_terms: tuple[float, float] | None = None
    confidence: float = 0.95

    def as_dict(self) -> dict:
        """For JSON: mean, sd, n, ci95 ([low, high] or None), method, df, and the reason if there is no interval."""
        interval = None if self.low is None else [self.low, self.high]
        content: dict = {"mean": self.mean, "sd": self.sd, "n": self.n}
        content |= {f"ci{100 * self.confidence:g}": interval, "method": self.method}
        if self.df is not None:
            content["df"] = self.df
        if interval is None:
            content["reason"] = self.reason
        return content


# --- means of trials ------------------------------------------------------------------------------------------------


def mean_interval(values: Sequence[float | None], confidence: float = 0.95, scale: float | None = None) -> Estimate:
    """The mean over independent trials, with Student's t interval.

    Parameters
    ----------
    values : (n,) sequence, any unit
        One value per trial; missing ones are left out.
    confidence : float
    scale : float, optional
        Magnitude that rounding errors are relative to; default: the largest value. Differences pass that of their
        operands.

    Returns
    -------
    Estimate
        Without an interval below two trials.

    Raises
    ------
    ValueError
        The values are not one-dimensional, or one is infinite.

    References
    ----------
    Student 1908, The probable error of a mean.
    """
    values = as_floats(values, 1)
    values = values[~np.isnan(values)]
    method, n = "t interval over trials", len(values)
    if n < 2:
        return _no_interval(values, n, method, "fewer than two trials")
    sd = float(values.std(ddof=1))
    estimate = Estimate(float(values.mean()), sd, n, None, None, n - 1, sd / math.sqrt(n), method)
    return with_t_interval(estimate, (sd**2, 0.0), largest(values) if scale is None else scale, confidence)


# --- means of pairs -------------------------------------------------------------------------------------------------


def pair_matrix(pairs: Iterable[tuple[int, int, float | None]], n: int) -> np.ndarray:
    """The values of pairs of trials as a symmetric matrix.

    Parameters
    ----------
    pairs : iterable of (int, int, float or None)
        (i, j, value), trials counted from 0.
    n : int
        Number of trials.

    Returns
    -------
    (n, n) array
        NaN where there is no value, and on the diagonal.

    Raises
    ------
    ValueError
        A pair of a trial with itself, or with one outside 0 .. n - 1.
    """
    matrix = np.full((n, n), np.nan)
    for i, j, value in pairs:
        if not (0 <= i < n and 0 <= j < n and i != j):
            raise ValueError(f"({i}, {j}) is not a pair of trials numbered 0 to {n - 1}")
        matrix[i, j] = matrix[j, i] = math.nan if value is None else value
    return matrix


def pair_interval(matrix: np.ndarray, confidence: float = 0.95, scale: float | None = None) -> Estimate:
    """The mean over all pairs of trials, a U-statistic of order two, with a t interval over trials.

    The variance components are those of a half diallel, with mean squares M_a (n - 1 degrees of freedom, expectation
    s_e^2 + (n - 2) s_a^2) and M_e (n (n - 3) / 2 degrees of freedom, expectation s_e^2). Var(U) is estimated by

        max(4 M_a / (n (n - 2)) - 2 M_e / ((n - 1) (n - 2)), 2 M_e / (n (n - 1))),

    unbiased in the first form (whose first term is the jackknife), or by the second where s_a^2 would be negative. The
    degrees of freedom are Satterthwaite's, clipped to [(n + 1) / 2, n - 1], limits chosen by simulation. With three trials M_e has no degrees of freedom, so the
    (conservative) jackknife with 2 degrees of freedom is used.

    Parameters
    ----------
    matrix : (n, n) array, symmetric, any unit
        The diagonal is ignored. Trials with a missing pair are left out (see `complete_trials`).
    confidence : float
    scale : float, optional
        As in `mean_interval`.

    Returns
    -------
    Estimate
        Without an interval below three trials. `sd` is over the pairs; it describes them and is not used in the
        interval.

    Raises
    ------
    ValueError
        The matrix is not square, or a value is infinite.

    Notes
    -----
    With normal effects, 4 <= n <= 50 and any ratio of the components, the 95% interval covers at least 94.8%: 95% where
    s_a dominates, up to 99.6% where s_a = 0. (For n = 5, no function of the two mean squares that keeps 95% everywhere
    is more than about 8% narrower there.) Skewed a_i cost as much coverage as they cost any t interval: exponential
    ones with s_e = 0 give 88% for n = 5.

    References
    ----------
    Griffing 1956, Concept of general and specific combining ability in relation to diallel crossing systems (method 4).
    Hoeffding 1948, A class of statistics with asymptotically normal distribution.
    Satterthwaite 1946, An approximate distribution of estimates of variance components.
    """
    matrix = as_floats(matrix, 2)
    method = "t interval over trials, U-statistic of pairs"
    trials = complete_trials(matrix)
    matrix, n = matrix[np.ix_(trials, trials)], len(trials)
    values = matrix[np.triu_indices(n, 1)]
    if n < 3:
        return _no_interval(values, n, method, "fewer than three trials with all their pairs")
    mean, _, ms_trials, ms_pairs = pair_mean_squares(matrix)
    variance, df = pair_variance(ms_trials, ms_pairs, n)
    terms = (max(0.0, n * float(variance) - 2 * float(ms_pairs) / (n - 1)), 2 * float(ms_pairs))
    sd, se = float(values.std(ddof=1)), math.sqrt(variance)
    estimate = Estimate(float(mean), sd, n, None, None, float(df), se, method)
    return with_t_interval(estimate, terms, largest(values) if scale is None else scale, confidence)


def complete_trials(matrix: np.ndarray) -> np.ndarray:
    """The trials that have a value for every pair among them.

    Repeatedly drops the trial with the most missing pairs (ties: the last), so a diverged trial costs one trial.

    Parameters
    ----------
    matrix : (n, n) array
        NaN: no value. The diagonal is ignored.

    Returns
    -------
    (m,) array of int
        Indices in ascending order; empty if fewer than two trials remain.
    """
    missing = np.isnan(matrix)
    np.fill_diagonal(missing, False)
    keep = np.arange(len(matrix))
    while (counts := missing[np.ix_(keep, keep)].sum(1)).any():
        keep = np.delete(keep, len(keep) - 1 - np.argmax(counts[::-1]))
    return keep if len(keep) > 1 else keep[:0]


def pair_mean_squares(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Analysis of variance of pairs: the mean squares of trials and of what remains of each pair.

    Parameters
    ----------
    matrices : (..., n, n) array, n >= 3
        Symmetric and complete; the diagonal is ignored.

    Returns
    -------
    mean : (...) array
        U, the mean over pairs.
    trial_means : (..., n) array
        Of each trial's pairs.
    ms_trials, ms_pairs : (...) array
        M_a and M_e (see `pair_interval`); M_e is 0 for n = 3.

    References
    ----------
    Griffing 1956, Concept of general and specific combining ability in relation to diallel crossing systems (method 4).
    """
    n = matrices.shape[-1]
    diagonal = np.eye(n, dtype=bool)
    pairs = np.where(diagonal, 0.0, matrices)
    trial_means = pairs.sum(-1) / (n - 1)
    mean = trial_means.mean(-1)
    effects = (trial_means - mean[..., None]) * ((n - 1) / (n - 2))
    residuals = pairs - mean[..., None, None] - effects[..., :, None] - effects[..., None, :]
    residuals = np.where(diagonal, 0.0, residuals)
    ms_trials = (n - 2) * (effects**2).sum(-1) / (n - 1)
    ms_pairs = (residuals**2).sum((-2, -1)) / (n * (n - 3)) if n > 3 else np.zeros_like(ms_trials)
    return mean, trial_means, ms_trials, ms_pairs


def pair_variance(ms_trials, ms_pairs, n: int):
    """Var(U) and its degrees of freedom from the mean squares.

    Parameters
    ----------
    ms_trials, ms_pairs : float or array
        From `pair_mean_squares`; shapes that broadcast.
    n : int
        Number of trials, at least 3.

    Returns
    -------
    variance, df : array
        Element by element, as described in `pair_interval`.

    References
    ----------
    Satterthwaite 1946, An approximate distribution of estimates of variance components.
    """
    jackknife = 4 * ms_trials / (n * (n - 2))
    if n == 3:
        return jackknife, np.full_like(jackknife, 2.0)
    excess = 2 * ms_pairs / ((n - 1) * (n - 2))
    variance = np.maximum(jackknife - excess, 2 * ms_pairs / (n * (n - 1)))
    spread = jackknife**2 / (n - 1) + excess**2 / (n * (n - 3) / 2)
    df = variance**2 / np.where(spread > 0, spread, 1.0)
    return variance, np.clip(df, (n + 1) / 2, n - 1)


# --- groups of trials -----------------------------------------------------------------------------------------------


def combined(groups: Sequence[Estimate]) -> Estimate:
    """The mean over groups of trials that share no trial, weighted by their numbers of trials.

    Pairs of trials are formed within groups only, as when the models of an earlier group no longer exist.

    Parameters
    ----------
    groups : sequence of Estimate
        From `mean_interval` or `pair_interval`, at least one.

    Returns
    -------
    Estimate
        With w_g = n_g / n, the variance is sum w_g^2 SE_g^2, with Satterthwaite's degrees of freedom; `sd` is that within
        groups. Without an interval if a group has none.

    References
    ----------
    Satterthwaite 1946, An approximate distribution of estimates of variance components.
    """
    if len(groups) == 1:
        return groups[0]
    n = sum(group.n for group in groups)
    without = [group for group in groups if group.standard_error is None]
    method = f"{groups[0].method}, {len(groups)} groups"
    if n == 0 or any(group.mean is None for group in groups):
        return Estimate(None, None, n, None, None, None, None, method, without[0].reason)
    weights = [group.n / n for group in groups]
    mean = sum(w * group.mean for w, group in zip(weights, groups))
    if without:
        return Estimate(mean, None, n, None, None, None, None, method, without[0].reason)
    parts = [(w * group.standard_error) ** 2 for w, group in zip(weights, groups)]
    variance = sum(parts)
    spread = sum(part**2 / group.df for part, group in zip(parts, groups))
    df = variance**2 / spread if spread else min(group.df for group in groups)
    first, second = (sum(w * group.variance_terms[k] for w, group in zip(weights, groups)) for k in (0, 1))
    sd = math.sqrt(sum(w * group.sd**2 for w, group in zip(weights, groups)))
    estimate = Estimate(mean, sd, n, None, None, df, math.sqrt(variance), method)
    return with_t_interval(estimate, (first, second), max(abs(group.mean) for group in groups), groups[0].confidence)


# --- building blocks ------------------------------------------------------------------------------------------------


def as_floats(values, dimensions: int) -> np.ndarray:
    """Values as float64, None as NaN.

    Parameters
    ----------
    values : array_like
    dimensions : 1 or 2
        Expected shape: (n,) or (n, n).

    Raises
    ------
    ValueError
        Another shape, or an infinite value.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != dimensions or (dimensions == 2 and array.shape[0] != array.shape[1]):
        raise ValueError(f"expected {'(n,)' if dimensions == 1 else '(n, n)'}, got the shape {array.shape}")
    if np.isinf(array).any():
        raise ValueError("a value is infinite, so the mean is too")
    return array


def largest(*arrays: np.ndarray) -> float:
    """The largest magnitude in any of the arrays, NaN ignored; 0 if there is none."""
    return max(float(np.abs(array[~np.isnan(array)]).max(initial=0.0)) for array in arrays)


def with_t_interval(
    estimate: Estimate, variance_terms: tuple[float, float], scale: float, confidence: float = 0.95
) -> Estimate:
    """An estimate completed by its t interval.

    Values that are all equal have no interval, except that values that are all exactly 0 have [0, 0]: identical models
    differ by 0.

    Parameters
    ----------
    estimate : Estimate
        With mean, sd, df and standard error.
    variance_terms : (float, float)
        See `Estimate`.
    scale : float
        Magnitude that rounding errors are relative to, in the unit of the mean.
    confidence : float

    Returns
    -------
    Estimate
    """
    estimate = replace(estimate, variance_terms=variance_terms, confidence=confidence)
    if estimate.sd <= ROUNDING * scale:
        estimate = replace(estimate, sd=0.0, standard_error=0.0, variance_terms=(0.0, 0.0))
        if abs(estimate.mean) <= ROUNDING * scale:
            return replace(estimate, mean=0.0, low=0.0, high=0.0)
        return replace(estimate, reason="not testable: all values are equal")
    from scipy.special import stdtrit

    reach = float(stdtrit(estimate.df, (1 + confidence) / 2)) * estimate.standard_error
    return replace(estimate, low=estimate.mean - reach, high=estimate.mean + reach)


def at_level(estimate: Estimate, confidence: float) -> Estimate:
    """The estimate with an interval of another confidence; unchanged if it has none."""
    if estimate.low is None or not estimate.standard_error:
        return estimate
    return with_t_interval(estimate, estimate.variance_terms, abs(estimate.mean), confidence)


def _no_interval(values, n, method, reason):
    mean = float(values.mean()) if len(values) else None
    return Estimate(mean, None, n, None, None, None, None, method, reason)
