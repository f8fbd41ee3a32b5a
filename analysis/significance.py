"""Intervals, paired tests, equivalence, power and verdicts, for means over trials and over pairs of trials.

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
        content: dict = {"mean": self.mean, "sd": self.sd, "n": self.n}
        content |= {f"ci{100 * self.confidence:g}": interval, "method": self.method}
        if self.df is not None:
            content["df"] = self.df
        if interval is None:
            content["reason"] = self.reason
        return content


@dataclass(frozen=True)
class Comparison:
    """A paired difference and what it shows. `verdicts` fills in what follows `effect_size`.

    `p` is two-sided and uncorrected; `p_adjusted` is Holm's, and `equivalence_p` Bonferroni's, over the family that
    the comparison was judged in. `verdict` is "equivalent", "different" or "inconclusive". `sign` is "lower" or
    "higher" where the difference is significant, whatever the verdict. `trials_needed` belongs to "inconclusive".
    """

    difference: Estimate
    p: float | None
    effect_size: float | None
    p_adjusted: float | None = None
    margin: float | None = None
    equivalence_p: float | None = None
    verdict: str | None = None
    sign: str | None = None
    trials_needed: int | None = None
    reason: str | None = None

    @property
    def verdict_text(self) -> str:
        """As tables print it: "different", "equivalent (lower)" or "inconclusive (33 seeds needed)"."""
        if self.verdict == "equivalent" and self.sign:
            return f"equivalent ({self.sign})"
        if self.trials_needed:
            return f"{self.verdict} ({self.trials_needed} seeds needed)"
        return self.verdict or "not compared"

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

    With normal effects, 4 <= n <= 50 and any ratio of the components, the 95% interval covers at least
    94.8%: 95% where s_a dominates, up to 99.6% where s_a = 0. (For n = 5 no function of the two mean
    squares that holds 95% everywhere is more than about 8% narrower there.) Skewed a_i cost as much as
    they cost any t interval: with exponential ones and s_e = 0 it covers 88% for n = 5.
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


def compare_independent(x: Estimate, y: Estimate) -> Comparison:
    """x - y of two means whose trials have nothing in common: Welch's t test.

    Parameters
    ----------
    x, y : Estimate
        From `mean_interval` or `pair_interval`, of different trials.

    Returns
    -------
    Comparison
        The variance is the sum of the two, with Welch's degrees of freedom; n is the smaller of the two. Where more
        trials are needed, that many are meant for each, with the n - 1 degrees of freedom of pairs, which is a little too
        careful. No effect size. Rules for p as in `compare_means`.

    References
    ----------
    Welch 1947, The generalization of "Student's" problem when several different population variances are involved.
    """
    method, n = "Welch's t interval, trials not paired", min(x.n, y.n)
    if x.standard_error is None or y.standard_error is None:
        lacking = x if x.standard_error is None else y
        mean = None if None in (x.mean, y.mean) else x.mean - y.mean
        return _comparison(Estimate(mean, None, n, None, None, None, None, method, lacking.reason))
    v, w = x.standard_error**2, y.standard_error**2
    df = (v + w) ** 2 / (v**2 / x.df + w**2 / y.df) if v + w else min(x.df, y.df)
    terms = (x.variance_terms[0] + y.variance_terms[0], x.variance_terms[1] + y.variance_terms[1])
    estimate = Estimate(x.mean - y.mean, math.hypot(x.sd, y.sd), n, None, None, df, math.sqrt(v + w), method)
    found = _comparison(_with_interval(estimate, terms, max(abs(x.mean), abs(y.mean)), 0.95))
    return replace(found, effect_size=None)


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
    """p of "the true difference is at least as large as the margin": two one-sided t tests, the larger p.

    Parameters
    ----------
    difference : Estimate
        A paired difference with its standard error and degrees of freedom.
    margin : float
        The smallest difference of interest, positive, in the unit of the difference.

    Returns
    -------
    float or None
        Below alpha exactly if the 1 - 2 alpha interval lies inside (-margin, margin). 0 for a difference of 0
        without spread; None without a standard error, or for another difference without spread.

    Raises
    ------
    ValueError
        A margin that is not positive.

    References
    ----------
    Schuirmann 1987, A comparison of the two one-sided tests procedure and the power approach.
    """
    if (t := _student(difference, margin)) is None:
        return None
    size, reach, df = t
    return _upper_tail(reach - size, df)


def minimum_effect(difference: Estimate, margin: float) -> float | None:
    """p of "the true difference is at most as large as the margin".

    With T of Student's law, D the difference, SE its standard error and d the margin,

        p = P(T > (|D| - d) / SE) + P(T > (|D| + d) / SE),

    the two-sided t test's p at the edge of the hypothesis, where the true difference is d; for d = 0 it is that test.

    Parameters, Returns, Raises
    ---------------------------
    As in `equivalence`; 1 for a difference of 0 without spread.

    References
    ----------
    Murphy & Myors 1999, Testing the hypothesis that treatments have negligible effects: minimum-effect tests in the
    general linear model.
    """
    if (t := _student(difference, margin)) is None:
        return None
    size, reach, df = t
    return min(1.0, _upper_tail(size - reach, df) + _upper_tail(size + reach, df))


def _student(difference, margin):
    """(|D| / SE, margin / SE, df), or None where SE is unknown, or 0 and D is not."""
    if not margin > 0:
        raise ValueError(f"a margin must be positive, not {margin}")
    se = difference.standard_error
    if se is None or (se == 0 and difference.mean != 0):
        return None
    return (abs(difference.mean) / se, margin / se, difference.df) if se else (0.0, math.inf, difference.df)


def _upper_tail(t, df):
    """P(T > t)."""
    from scipy.special import stdtr

    return float(stdtr(df, -t))


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
    difference is `margin`; "equivalence": the two one-sided tests where it is 0; "minimum effect": `minimum_effect`
    where it is twice the margin (the smaller of its two terms is left out). Given the mean squares,
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
        one_sided = ndtr((margin - reach) / se)  # the distance to the edge is the margin in both tests
        power = one_sided if test == "minimum effect" else np.maximum(0, 2 * one_sided - 1)
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


def exchanged(comparison: Comparison) -> Comparison:
    """y - x of a comparison x - y: the same verdict and p, the other sign."""
    d, effect = comparison.difference, comparison.effect_size
    low, high, mean = (None if x is None else -x for x in (d.high, d.low, d.mean))
    sign = {"lower": "higher", "higher": "lower", None: None}[comparison.sign]
    difference = replace(d, mean=mean, low=low, high=high)
    return replace(comparison, difference=difference, effect_size=None if effect is None else -effect, sign=sign)


def verdicts(
    comparisons: Sequence[Comparison],
    margins: Sequence[float | None],
    alpha: float = 0.05,
    power: float | None = 0.8,
) -> list[Comparison]:
    """The comparisons of one family with their verdicts: the one rule by which two activations are compared.

    1. "equivalent" if the two one-sided tests against the margin, Bonferroni-corrected over the family, give p < alpha;
       if the difference is also significant, `sign` says which way.
    2. "different" if Holm's corrected p < alpha.
    3. "inconclusive" otherwise. `trials_needed` is the smallest n at which both tests of the family have the stated
       power under the estimated variance: of a difference where the true one is the margin (at alpha / family, Holm's
       hardest step), and of equivalence where it is 0. It is None where the n at hand reaches that already.

    Parameters
    ----------
    comparisons : sequence of Comparison
        The whole family, as stated before the data were seen. Those without a p are not counted.
    margins : sequence of float or None
        One per comparison: the smallest difference of interest, in its unit. None: nothing can be equivalent.
    alpha : float
        Level of the family.
    power : float or None
        That `trials_needed` aims at. None: it is not computed.

    Returns
    -------
    list of Comparison
        In the given order.

    References
    ----------
    Schuirmann 1987 (two one-sided tests); Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    adjusted = holm([comparison.p for comparison in comparisons])
    family = max(1, sum(p is not None for p in adjusted))
    return [
        _judged(comparison, margin, p, family, alpha, power)
        for comparison, margin, p in zip(comparisons, margins, adjusted, strict=True)
    ]


def _judged(comparison, margin, p_adjusted, family, alpha, power):
    difference = comparison.difference
    p = equivalence(difference, margin) if margin else None
    p = None if p is None else min(1.0, family * p)
    significant = p_adjusted is not None and p_adjusted < alpha
    sign = ("lower" if difference.mean < 0 else "higher") if significant else None
    result = replace(comparison, margin=margin, p_adjusted=p_adjusted, equivalence_p=p, sign=sign)
    if p is not None and p < alpha:
        return replace(result, verdict="equivalent", reason=f"smaller than the margin of {margin:.3g} (p = {p:.2g})")
    if significant:
        return replace(result, verdict="different", reason=f"p = {p_adjusted:.2g} after correction")
    if comparison.p is None:
        return replace(result, verdict="inconclusive", reason=difference.reason)
    if not margin:
        return replace(result, verdict="inconclusive", reason="without a margin nothing is equivalent")
    if power is None:
        return replace(result, verdict="inconclusive")
    needed = [
        trials_for_power(difference.variance_terms, margin, power, alpha / family, test)
        for test in ("difference", "equivalence")
    ]
    trials, reason = trials_still_needed(needed, difference.n, margin, power)
    return replace(result, verdict="inconclusive", trials_needed=trials, reason=reason)


def trials_still_needed(needed: Sequence[int | None], n: int, margin: float, power: float) -> tuple[int | None, str]:
    """(trials needed, reason) where n trials showed nothing and the tests need `needed` trials each."""
    if None in needed:
        return None, f"over {MOST_TRIALS} trials would be needed at a margin of {margin:.3g}"
    if max(needed) <= n:
        return None, f"{n} trials suffice to tell 0 from {margin:.3g}; the true difference may lie between the two"
    return max(needed), f"{max(needed)} trials give {power:.0%} power at a margin of {margin:.3g}; there are {n}"


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
