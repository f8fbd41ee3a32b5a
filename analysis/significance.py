"""Is it a difference, is it none, or are there too few trials to say? Pure functions of numbers.

Two kinds of numbers are compared. A loss belongs to one trial, and its mean over n independent trials
has Student's t interval. A pair metric belongs to two trials, and the n (n - 1) / 2 pairs of n trials
share models: their mean is a U-statistic of order two, whose uncertainty comes from the trials. So
everywhere `n` counts trials, never pairs.

Pairs follow the working model h_ij = mu + a_i + a_j + e_ij: a_i says that model i is far from all others,
e_ij is what only these two have. Their mean U then has (Hoeffding 1948: zeta_1 = s_a^2,
zeta_2 = 2 s_a^2 + s_e^2)

    Var(U) = 4 s_a^2 / n + 2 s_e^2 / (n (n - 1)).

An interval over pairs, as if they were independent, leaves out most of the first term; the jackknife counts
most of the second twice. `pair_interval` estimates both; check_statistics.py measures what that is worth.

Trials are paired across activations (trial k shares its seed), so a comparison is the mean of differences,
trial by trial or pair by pair. A missing value is None or NaN; a result that cannot be computed is None,
with the reason.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

# scipy is imported where it is used: importing it takes longer than most of what is computed here.

MOST_TRIALS = 10_000  # beyond this, "how many trials would decide" has no practical answer
ROUNDING = 1e-12  # a spread below this times the largest value is rounding, and counts as none


@dataclass(frozen=True)
class Estimate:
    """A mean with its uncertainty.

    `sd` is the sample's standard deviation (ddof 1) over the values: trials, or pairs. `variance_terms`
    (f, s) say how the standard error falls with the number of trials: its square is f / n + s / (n (n - 1)).
    """

    mean: float | None
    sd: float | None
    n: int  # trials
    low: float | None
    high: float | None
    df: float | None
    standard_error: float | None
    method: str
    reason: str | None = None  # why there is no interval
    variance_terms: tuple[float, float] | None = None
    confidence: float = 0.95

    def as_dict(self) -> dict:
        """For JSON: mean, sd, n, ci95 ([low, high] or None), method, df, and the reason for no ci95."""
        interval = None if self.low is None else [self.low, self.high]
        content = {"mean": self.mean, "sd": self.sd, "n": self.n}
        content |= {f"ci{100 * self.confidence:g}": interval, "method": self.method}
        if self.df is not None:
            content["df"] = self.df
        if interval is None:
            content["reason"] = self.reason
        return content


@dataclass(frozen=True)
class Comparison:
    """A paired difference and what it shows. `p` is two-sided, uncorrected; `verdict` fills what follows."""

    difference: Estimate
    p: float | None
    effect_size: float | None
    p_adjusted: float | None = None
    margin: float | None = None
    equivalence_p: float | None = None
    trials_needed: int | None = None
    verdict: str | None = None
    reason: str | None = None

    def as_dict(self) -> dict:
        """For JSON."""
        return asdict(self) | {"difference": self.difference.as_dict()}


# --- estimates ---


def mean_interval(values: Sequence[float | None], confidence: float = 0.95) -> Estimate:
    """The mean over independent trials, with Student's t interval. Null below two trials.

    values: (n,), any unit; missing ones are left out. Assumes that trials are independent and their mean
    about normal.
    """
    values = _floats(values, 1)
    return _mean_estimate(values[~np.isnan(values)], None, confidence)


def pair_matrix(pairs: Iterable[tuple[int, int, float | None]], n: int) -> np.ndarray:
    """The values (i, j, value) of pairs of trials 0 .. n - 1 as a symmetric (n, n) array; NaN: no value."""
    matrix = np.full((n, n), np.nan)
    for i, j, value in pairs:
        if not (0 <= i < n and 0 <= j < n and i != j):
            raise ValueError(f"({i}, {j}) is no pair of {n} trials counted from 0")
        matrix[i, j] = matrix[j, i] = math.nan if value is None else value
    return matrix


def pair_interval(matrix: np.ndarray, confidence: float = 0.95) -> Estimate:
    """The mean over all pairs of trials, a U-statistic of order two, with a t interval over trials.

    matrix: (n, n), symmetric, any unit; the diagonal is ignored. Trials that lack a pair are left out (see
    `complete_trials`). Null below three trials. `sd` is the ddof-1 standard deviation over the pairs: it
    describes them, the interval is not made of it.

    The variance components are those of a half diallel (Griffing 1956, method 4). Its mean squares are M_a
    (n - 1 degrees of freedom, expectation s_e^2 + (n - 2) s_a^2) and M_e (n (n - 3) / 2, s_e^2). Unbiased
    for Var(U) is 4 M_a / (n (n - 2)) - 2 M_e / ((n - 1) (n - 2)), whose first term alone is the jackknife.
    Where s_a^2 would come out negative, 2 M_e / (n (n - 1)) takes its place. The degrees of freedom are
    Satterthwaite's, at least (n + 1) / 2 and at most n - 1: floor and cap were chosen by simulation. Three
    trials have no M_e: the jackknife with 2 degrees of freedom, too wide rather than too narrow.

    With normal effects, 4 <= n <= 50 and any ratio of the components, the 95 % interval covers at least
    94.8 %: 95 % where s_a dominates, up to 99.6 % where s_a = 0. (For n = 5 no function of the two mean
    squares that holds 95 % everywhere is more than about 8 % narrower there.) Skewed a_i cost as much as
    they cost any t interval: with exponential ones and s_e = 0 it covers 88 % for n = 5.
    """
    return _pair_estimate(_floats(matrix, 2), None, confidence)


def complete_trials(matrix: np.ndarray) -> np.ndarray:
    """Indices of the trials that have a value for every pair among them. matrix: (n, n), NaN: no value.

    The trial that lacks most pairs goes first (of equals the last), until none lacks any, so a diverged
    trial costs one trial. The diagonal is ignored. A trial left alone has no pair, and does not count.
    """
    missing = np.isnan(matrix)
    np.fill_diagonal(missing, False)
    keep = np.arange(len(matrix))
    while (lacking := missing[np.ix_(keep, keep)].sum(1)).any():
        keep = np.delete(keep, len(keep) - 1 - np.argmax(lacking[::-1]))
    return keep if len(keep) > 1 else keep[:0]


def pair_mean_squares(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The analysis of variance of pairs: U (...), each trial's mean (..., n), M_a (...), M_e (...).

    matrices: (..., n, n), symmetric and complete, n >= 3; the diagonal is ignored. M_e is 0 for n = 3.
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
    """Var(U) and its degrees of freedom from the mean squares, element by element (see `pair_interval`)."""
    jackknife = 4 * ms_trials / (n * (n - 2))
    if n == 3:
        return jackknife, np.full_like(jackknife, 2.0)
    excess = 2 * ms_pairs / ((n - 1) * (n - 2))
    variance = np.maximum(jackknife - excess, 2 * ms_pairs / (n * (n - 1)))
    spread = jackknife**2 / (n - 1) + excess**2 / (n * (n - 3) / 2)
    df = variance**2 / np.where(spread > 0, spread, 1.0)
    return variance, np.clip(df, (n + 1) / 2, n - 1)


# --- comparisons ---


def compare_means(x: Sequence[float | None], y: Sequence[float | None]) -> Comparison:
    """x - y, paired by trial, with Student's paired t test.

    x, y: (n,), trial k of one against trial k of the other; a trial missing in either is left out. A
    difference of zero without spread has p = 1; one that is the same everywhere but not zero, none.
    """
    x, y = _floats(x, 1), _floats(y, 1)
    difference = _minus(x, y)
    return _comparison(_mean_estimate(difference[~np.isnan(difference)], _largest(x, y), 0.95))


def compare_pair_means(matrix_x: np.ndarray, matrix_y: np.ndarray) -> Comparison:
    """x - y of a pair metric, paired: the differences x_ij - y_ij are a U-statistic (see `pair_interval`).

    matrix_x, matrix_y: (n, n), pair (i, j) of one against pair (i, j) of the other, over the trials that are
    complete in both. Rules for p as in `compare_means`.
    """
    x, y = _floats(matrix_x, 2), _floats(matrix_y, 2)
    return _comparison(_pair_estimate(_minus(x, y), _largest(x, y), 0.95))


def effect_size(difference: Estimate) -> float | None:
    """Cohen's d_z of a paired difference with the small-sample correction of Hedges (1981).

    The difference over what one trial contributes to its error, sqrt(n) times the standard error (for means
    of trials, the standard deviation of the differences), times G(df/2) / (sqrt(df/2) G((df - 1)/2)), G
    being the gamma function.
    """
    if not difference.standard_error or difference.df <= 1:
        return None
    from scipy.special import gammaln

    half = difference.df / 2
    correction = math.exp(gammaln(half) - gammaln(half - 0.5) - math.log(half) / 2)
    return float(correction * difference.mean / (math.sqrt(difference.n) * difference.standard_error))


def equivalence(difference: Estimate, margin: float) -> float | None:
    """p of two one-sided t tests, the larger: of a difference not below margin, and not above -margin.

    Equivalent within the margin at level alpha if p < alpha; then the 1 - 2 alpha interval lies inside
    (-margin, margin). No difference and no spread: p = 0. Schuirmann 1987.
    """
    if not margin > 0:
        raise ValueError(f"a margin must be positive, not {margin}")
    if difference.standard_error is None or (difference.standard_error == 0 and difference.mean != 0):
        return None
    if difference.standard_error == 0:
        return 0.0
    from scipy.special import stdtr

    return float(stdtr(difference.df, (abs(difference.mean) - margin) / difference.standard_error))


@dataclass(frozen=True)
class SignFlip:
    """`smallest_p` is the least that n differences can give: above 0.05, no outcome is significant."""

    p: float | None
    smallest_p: float
    n: int


def sign_flip_test(differences: Sequence[float | None]) -> SignFlip:
    """Exact two-sided paired permutation test: the share of the 2^n sign patterns with a sum as far from 0.

    differences: (n,), missing ones are left out. Assumes only that, if nothing differs, either sign is
    equally likely. It is scipy.stats.permutation_test(permutation_type="samples") with n_resamples=inf,
    which takes 10 s for 20 differences; p is None for none, and for more than 20. Fisher 1935.
    """
    differences = _floats(differences, 1)
    differences = differences[~np.isnan(differences)]
    n = len(differences)
    smallest = min(1.0, 2.0 ** (1 - n))
    if not 1 <= n <= 20:
        return SignFlip(None, smallest, n)
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums + difference, sums - difference])
    as_far = np.abs(sums) >= abs(differences.sum()) - ROUNDING * np.abs(differences).sum()
    return SignFlip(float(as_far.mean()), smallest, n)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p-values (1979), in the given order. None stays None and is not counted."""
    order = sorted((i for i, p in enumerate(p_values) if p is not None), key=lambda i: p_values[i])
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


# --- power ---


def predicted_power(
    variance_terms: tuple[float, float],
    n: int,
    margin: float,
    alpha: float = 0.05,
    test: str = "difference",
) -> float:
    """Power with n trials under the working model with normal effects, for means of trials or of pairs.

    variance_terms: as in `Estimate`, taken as true. test "difference": the two-sided t test where the true
    difference is `margin`; "equivalence": the two one-sided tests where it is 0. Given the mean squares,
    power is a normal probability; Gauss-Legendre quadrature averages it over their chi-square laws. For
    means of trials that is the noncentral t distribution (of which scipy's is NaN far in the tail).
    """
    from scipy.special import gammaincinv, ndtr, stdtrit

    def chi_square(df, nodes):
        position, weight = _gauss_legendre(nodes)
        return gammaincinv(df / 2, (position + 1) / 2) * 2 / df, weight / 2

    first, second = variance_terms
    se = math.sqrt(first / n + second / (n * (n - 1)))
    if se == 0:
        return 1.0
    ratio, weights = chi_square(n - 1, 40)  # of a mean square to its expectation
    if second == 0:
        variance, df = first / n * ratio, n - 1
    else:
        s_a2, s_e2 = first / 4, second / 2
        pair_ratio, pair_weights = chi_square(max(1, n * (n - 3) / 2), 12)
        variance, df = pair_variance((s_e2 + (n - 2) * s_a2) * ratio[:, None], s_e2 * pair_ratio[None, :], n)
        weights = weights[:, None] * pair_weights
    if test == "difference":
        reach = stdtrit(df, 1 - alpha / 2) * np.sqrt(variance)
        power = ndtr((margin - reach) / se) + ndtr((-margin - reach) / se)
    else:
        reach = stdtrit(df, 1 - alpha) * np.sqrt(variance)
        power = np.maximum(0, 2 * ndtr((margin - reach) / se) - 1)
    return float((weights * power).sum())


_gauss_legendre = functools.cache(np.polynomial.legendre.leggauss)


def trials_for_power(
    variance_terms: tuple[float, float],
    margin: float,
    power: float = 0.8,
    alpha: float = 0.05,
    test: str = "difference",
) -> int | None:
    """The fewest trials whose predicted power at the stated margin is `power`; None: over MOST_TRIALS.

    variance_terms: of the difference (see `Estimate`), taken as true and carried over to other n. The observed
    difference plays no part: power there would only restate p (Hoenig & Heisey 2001). test: see
    `predicted_power`.
    """
    return fewest_trials(
        lambda n: predicted_power(variance_terms, n, margin, alpha, test),
        power,
        3 if variance_terms[1] else 2,
    )


def fewest_trials(power_at: Callable[[int], float], power: float, start: int) -> int | None:
    """The smallest n from `start` to MOST_TRIALS with power_at(n) >= power (growing in n), or None."""
    low = high = start
    while power_at(high) < power:
        if high == MOST_TRIALS:
            return None
        low, high = high + 1, min(2 * high, MOST_TRIALS)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power_at(middle) >= power else (middle + 1, high)
    return high


# --- the verdict ---


def verdict(
    comparison: Comparison,
    margin: float | None,
    p_adjusted: float | None,
    alpha: float = 0.05,
    power: float = 0.8,
    family: int = 1,
) -> Comparison:
    """The comparison, with "different", "equivalent within the margin" or "undecided, n trials would decide".

    margin: the smallest difference of interest, in the metric's unit, or None. p_adjusted: corrected over its
    family of `family` tests (see `holm`). A difference that is significant and within the margin is
    "different", and the reason says how small. n trials would decide: a true difference of the margin would
    be found (at alpha / family, Holm's hardest step), and a true difference of 0 called equivalent, each with
    probability `power`.
    """
    difference = comparison.difference
    p = equivalence(difference, margin) if margin else None
    equivalent = p is not None and p < alpha
    result = replace(comparison, margin=margin, p_adjusted=p_adjusted, equivalence_p=p)
    if p_adjusted is not None and p_adjusted < alpha:
        size = ", but smaller than the margin" if equivalent else ""
        return replace(result, verdict="different", reason=f"p = {p_adjusted:.2g} after correction{size}")
    if equivalent:
        reason = f"p = {p:.2g} against a margin of {margin:.3g}, two one-sided tests"
        return replace(result, verdict="equivalent within the margin", reason=reason)
    if comparison.p is None:
        return replace(result, verdict="undecided", reason=difference.reason)
    if not margin:
        return replace(result, verdict="undecided", reason="without a margin nothing is equivalent")
    needed = [
        trials_for_power(difference.variance_terms, margin, power, alpha / family, "difference"),
        trials_for_power(difference.variance_terms, margin, power, alpha, "equivalence"),
    ]
    trials, text, reason = undecided(needed, difference.n, margin, power)
    return replace(result, trials_needed=trials, verdict=text, reason=reason)


def undecided(needed: list[int | None], n: int, margin: float, power: float) -> tuple[int | None, str, str]:
    """trials_needed, verdict and reason, where n trials showed nothing and the tests need `needed` each."""
    if None in needed:
        return None, "undecided", f"over {MOST_TRIALS} trials would be needed at a margin of {margin:.3g}"
    if max(needed) <= n:
        reason = f"{n} trials tell 0 from {margin:.3g}, but the true difference may lie between the two"
        return None, "undecided", reason
    reason = f"{max(needed)} trials give {power:.0%} power at a margin of {margin:.3g}; there are {n}"
    return max(needed), f"undecided, {max(needed)} trials would decide", reason


# --- helpers ---


def _floats(values, dimensions):
    """values as float64, None as NaN."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != dimensions or (dimensions == 2 and array.shape[0] != array.shape[1]):
        raise ValueError(f"expected {'(n,)' if dimensions == 1 else '(n, n)'}, got the shape {array.shape}")
    if np.isinf(array).any():
        raise ValueError("a value is infinite, and so is its mean")
    return array


def _minus(x, y):
    if x.shape != y.shape:
        raise ValueError(f"trials are compared in pairs, but the shapes are {x.shape} and {y.shape}")
    return x - y


def _largest(*arrays):
    """The largest magnitude: what rounding errors are relative to."""
    return max(float(np.abs(array[~np.isnan(array)]).max(initial=0.0)) for array in arrays)


def _mean_estimate(values, scale, confidence):
    method, n = "t interval over trials", len(values)
    if n < 2:
        return _no_interval(values, n, method, "fewer than two trials")
    sd = float(values.std(ddof=1))
    estimate = Estimate(float(values.mean()), sd, n, None, None, n - 1, sd / math.sqrt(n), method)
    return _with_interval(estimate, (sd**2, 0.0), _largest(values) if scale is None else scale, confidence)


def _pair_estimate(matrix, scale, confidence):
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
    return _with_interval(estimate, terms, _largest(values) if scale is None else scale, confidence)


def _no_interval(values, n, method, reason):
    mean = float(values.mean()) if len(values) else None
    return Estimate(mean, None, n, None, None, None, None, method, reason)


def _with_interval(estimate, variance_terms, scale, confidence):
    """Values that are all equal have no interval, unless all are exactly 0: identical models differ by 0."""
    estimate = replace(estimate, variance_terms=variance_terms, confidence=confidence)
    if estimate.sd <= ROUNDING * scale:
        estimate = replace(estimate, sd=0.0, standard_error=0.0, variance_terms=(0.0, 0.0))
        if abs(estimate.mean) <= ROUNDING * scale:
            return replace(estimate, mean=0.0, low=0.0, high=0.0)
        return replace(estimate, reason="not testable: all values are equal")
    from scipy.special import stdtrit

    reach = float(stdtrit(estimate.df, (1 + confidence) / 2)) * estimate.standard_error
    return replace(estimate, low=estimate.mean - reach, high=estimate.mean + reach)


def _comparison(difference):
    p = None
    if difference.standard_error:
        from scipy.special import stdtr

        p = float(2 * stdtr(difference.df, -abs(difference.mean) / difference.standard_error))
    elif difference.standard_error == 0 and difference.mean == 0:
        p = 1.0
    return Comparison(difference, p, effect_size(difference))
