"""Paired and unpaired comparisons of means: tests of difference and equivalence, corrections and verdicts.

Trials are paired across activations (trial k shares its seeds), so a comparison is a mean of differences, trial by
trial or pair by pair (analysis/estimates.py). Missing values are None or NaN; a quantity that cannot be computed is
None, with the reason.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from analysis.estimates import (
    ROUNDING,
    Estimate,
    as_floats,
    combined,
    largest,
    mean_interval,
    pair_interval,
    with_t_interval,
)
from analysis.power import trials_for_power, trials_still_needed


@dataclass(frozen=True)
class Comparison:
    """A difference and what it shows. `verdicts` fills in the attributes from `p_adjusted` on.

    Attributes
    ----------
    difference : Estimate
    p : float or None
        Two-sided, uncorrected.
    effect_size : float or None
        See `effect_size`.
    p_adjusted : float or None
        Holm-corrected over the family in which the comparison was judged.
    margin : float or None
        The smallest difference of interest, in the unit of the difference.
    equivalence_p : float or None
        Bonferroni-corrected over the family.
    verdict : str or None
        "equivalent", "different" or "inconclusive".
    sign : str or None
        "lower" or "higher" if the difference is significant, whatever the verdict.
    trials_needed : int or None
        With the verdict "inconclusive".
    reason : str or None
        For the verdict.
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
        """As printed in tables: "different", "equivalent (lower)" or "inconclusive (33 seeds needed)"."""
        if self.verdict == "equivalent" and self.sign:
            return f"equivalent ({self.sign})"
        if self.trials_needed:
            return f"{self.verdict} ({self.trials_needed} seeds needed)"
        return self.verdict or "not compared"

    def as_dict(self) -> dict:
        """For JSON."""
        return asdict(self) | {"difference": self.difference.as_dict()}


# --- comparisons ----------------------------------------------------------------------------------------------------


def compare_means(x: Sequence[float | None], y: Sequence[float | None]) -> Comparison:
    """x - y of two means over the same trials: Student's paired t test.

    Parameters
    ----------
    x, y : (n,) sequence, the same unit
        Trial k of one against trial k of the other; a trial missing in either is left out.

    Returns
    -------
    Comparison
        A difference that is 0 in every trial has p = 1; one that is the same in every trial but not 0 has none.

    Raises
    ------
    ValueError
        Different shapes, or an infinite value.

    References
    ----------
    Student 1908, The probable error of a mean.
    """
    x, y = as_floats(x, 1), as_floats(y, 1)
    return _comparison(mean_interval(_minus(x, y), scale=largest(x, y)))


def compare_pair_means(matrix_x: np.ndarray, matrix_y: np.ndarray) -> Comparison:
    """x - y of a pair metric: the paired differences x_ij - y_ij are a U-statistic over trials.

    Parameters
    ----------
    matrix_x, matrix_y : (n, n) array, symmetric, the same unit
        Pair (i, j) of one against pair (i, j) of the other, over the trials that are complete in both.

    Returns
    -------
    Comparison
        Rules for p as in `compare_means`; the interval is that of `pair_interval`.

    Raises
    ------
    ValueError
        Different shapes, or an infinite value.

    References
    ----------
    Hoeffding 1948, A class of statistics with asymptotically normal distribution.
    """
    x, y = as_floats(matrix_x, 2), as_floats(matrix_y, 2)
    return _comparison(pair_interval(_minus(x, y), scale=largest(x, y)))


def compare_independent(x: Estimate, y: Estimate) -> Comparison:
    """x - y of two means over different trials: Welch's t test.

    Parameters
    ----------
    x, y : Estimate
        From `mean_interval` or `pair_interval`, with no trial in common.

    Returns
    -------
    Comparison
        Its variance is the sum of the two, with Welch's degrees of freedom; n is the smaller of the two.
        `trials_needed` is the number of trials for each side, computed (slightly conservatively) with the n - 1 degrees
        of freedom of paired trials. No effect size. Rules for p as in `compare_means`.

    References
    ----------
    Welch 1947, The generalization of "Student's" problem when several different population variances are involved.
    """
    method, n = "Welch's t interval, trials not paired", min(x.n, y.n)
    if x.standard_error is None or y.standard_error is None:
        without = x if x.standard_error is None else y
        mean = None if None in (x.mean, y.mean) else x.mean - y.mean
        return _comparison(Estimate(mean, None, n, None, None, None, None, method, without.reason))
    v, w = x.standard_error**2, y.standard_error**2
    df = (v + w) ** 2 / (v**2 / x.df + w**2 / y.df) if v + w else min(x.df, y.df)
    terms = (x.variance_terms[0] + y.variance_terms[0], x.variance_terms[1] + y.variance_terms[1])
    estimate = Estimate(x.mean - y.mean, math.hypot(x.sd, y.sd), n, None, None, df, math.sqrt(v + w), method)
    found = _comparison(with_t_interval(estimate, terms, max(abs(x.mean), abs(y.mean))))
    return replace(found, effect_size=None)


def compare_in_groups(comparisons: Sequence[Comparison]) -> Comparison:
    """The same comparison made in several groups of trials that share no trial, as one: see `estimates.combined`.

    Parameters
    ----------
    comparisons : sequence of Comparison
        From `compare_means` or `compare_pair_means`, one for each group.

    Returns
    -------
    Comparison
    """
    return _comparison(combined([comparison.difference for comparison in comparisons]))


def exchanged(comparison: Comparison) -> Comparison:
    """The comparison y - x, given x - y.

    Parameters
    ----------
    comparison : Comparison

    Returns
    -------
    Comparison
        The same p and verdict, the opposite sign.
    """
    d, effect = comparison.difference, comparison.effect_size
    low, high, mean = (None if x is None else -x for x in (d.high, d.low, d.mean))
    sign = {"lower": "higher", "higher": "lower", None: None}[comparison.sign]
    difference = replace(d, mean=mean, low=low, high=high)
    return replace(comparison, difference=difference, effect_size=None if effect is None else -effect, sign=sign)


def _comparison(difference):
    p = None
    if difference.standard_error:
        from scipy.special import stdtr

        p = float(2 * stdtr(difference.df, -abs(difference.mean) / difference.standard_error))
    elif difference.standard_error == 0 and difference.mean == 0:
        p = 1.0
    return Comparison(difference, p, effect_size(difference))


def _minus(x, y):
    if x.shape != y.shape:
        raise ValueError(f"trials are compared in pairs, but the shapes are {x.shape} and {y.shape}")
    return x - y


# --- effect size and tests against a margin -------------------------------------------------------------------------


def effect_size(difference: Estimate) -> float | None:
    """Cohen's d_z of a paired difference, with Hedges' small-sample correction.

    The difference divided by sqrt(n) times its standard error (for means of trials, the standard deviation of the
    differences), times G(df/2) / (sqrt(df/2) G((df - 1)/2)), where G is the gamma function.

    Parameters
    ----------
    difference : Estimate
        A paired difference.

    Returns
    -------
    float or None
        None without a standard error, if it is 0, or with one degree of freedom or fewer.

    References
    ----------
    Cohen 1988, Statistical power analysis for the behavioral sciences.
    Hedges 1981, Distribution theory for Glass's estimator of effect size and related estimators.
    """
    if not difference.standard_error or difference.df <= 1:
        return None
    from scipy.special import gammaln

    half = difference.df / 2
    correction = math.exp(gammaln(half) - gammaln(half - 0.5) - math.log(half) / 2)
    return float(correction * difference.mean / (math.sqrt(difference.n) * difference.standard_error))


def equivalence(difference: Estimate, margin: float) -> float | None:
    """p of two one-sided t tests of "the true difference is at least as large as the margin".

    Parameters
    ----------
    difference : Estimate
        With its standard error and degrees of freedom.
    margin : float
        The smallest difference of interest, positive, in the unit of the difference.

    Returns
    -------
    float or None
        The larger of the two p-values: below alpha exactly if the 1 - 2 alpha interval lies inside (-margin, margin).
        0 for a difference of 0 without spread; None without a standard error, or for another difference without spread.

    Raises
    ------
    ValueError
        The margin is not positive.

    References
    ----------
    Schuirmann 1987, A comparison of the two one-sided tests procedure and the power approach.
    """
    if (t := _t_and_margin(difference, margin)) is None:
        return None
    size, reach, df = t
    return _upper_tail(reach - size, df)


def minimum_effect(difference: Estimate, margin: float) -> float | None:
    """p of the minimum-effect test of "the true difference is at most as large as the margin".

    With difference D, standard error SE, margin d and T following Student's t distribution,

        p = P(T > (|D| - d) / SE) + P(T > (|D| + d) / SE),

    the p-value of the two-sided t test at the edge of the hypothesis, a true difference of d. For d = 0 it is the t
    test.

    Parameters
    ----------
    difference : Estimate
        With its standard error and degrees of freedom.
    margin : float
        The smallest difference of interest, positive, in the unit of the difference.

    Returns
    -------
    float or None
        1 for a difference of 0 without spread; None without a standard error, or for another difference without spread.

    Raises
    ------
    ValueError
        The margin is not positive.

    References
    ----------
    Murphy & Myors 1999, Testing the hypothesis that treatments have negligible effects: minimum-effect tests in the
    general linear model.
    """
    if (t := _t_and_margin(difference, margin)) is None:
        return None
    size, reach, df = t
    return min(1.0, _upper_tail(size - reach, df) + _upper_tail(size + reach, df))


def _t_and_margin(difference, margin):
    """(|D| / SE, margin / SE, df), or None if SE is unknown, or is 0 and D is not."""
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


# --- the sign-flip test ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SignFlip:
    """Result of `sign_flip_test`.

    Attributes
    ----------
    p : float or None
    smallest_p : float
        The smallest p possible with n differences: above 0.05, no outcome is significant.
    n : int
        Number of differences.
    """

    p: float | None
    smallest_p: float
    n: int


def sign_flip_test(differences: Sequence[float | None]) -> SignFlip:
    """Exact two-sided paired permutation test of a mean difference of 0.

    p is the fraction of the 2^n sign patterns whose sum is at least as far from 0. The test assumes only that, under
    the null hypothesis, either sign is equally likely. Equals scipy.stats.permutation_test(permutation_type="samples")
    with n_resamples=inf, which takes 10 s for 20 differences.

    Parameters
    ----------
    differences : (n,) sequence, any unit
        Missing ones are left out.

    Returns
    -------
    SignFlip
        p is None without differences, and for more than 20.

    Raises
    ------
    ValueError
        A difference is infinite.

    References
    ----------
    Fisher 1935, The design of experiments, section 21.
    """
    differences = as_floats(differences, 1)
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


# --- families and verdicts ------------------------------------------------------------------------------------------


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p-values.

    Parameters
    ----------
    p_values : sequence of float or None
        Of one family. None is not counted.

    Returns
    -------
    list of float or None
        In the given order; None stays None.

    References
    ----------
    Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    order = sorted((i for i, p in enumerate(p_values) if p is not None), key=lambda i: p_values[i])
    adjusted: list[float | None] = [None] * len(p_values)
    largest_so_far = 0.0
    for rank, i in enumerate(order):
        largest_so_far = max(largest_so_far, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = largest_so_far
    return adjusted


def verdicts(
    comparisons: Sequence[Comparison],
    margins: Sequence[float | None],
    alpha: float = 0.05,
    power: float | None = 0.8,
) -> list[Comparison]:
    """The comparisons of one family with their verdicts: the single rule by which two activations are compared.

    1. "equivalent" if the two one-sided tests against the margin, Bonferroni-corrected over the family, give p < alpha;
       if the difference is also significant, `sign` gives its direction.
    2. "different" if the Holm-corrected p < alpha.
    3. "inconclusive" otherwise. `trials_needed` is the smallest n at which, given the estimated variance, both tests
       have the stated power: the test of a difference where the true one equals the margin (at alpha / family, Holm's
       strictest step), and the equivalence test where it is 0. It is None if the trials at hand already suffice.

    Parameters
    ----------
    comparisons : sequence of Comparison
        The whole family, as stated before the data were seen. Those without a p are not counted.
    margins : sequence of float or None
        For each comparison, the smallest difference of interest in its unit. None: it cannot be equivalent.
    alpha : float
        Level of the family.
    power : float or None
        Target of `trials_needed`; None: not computed.

    Returns
    -------
    list of Comparison
        In the given order.

    Raises
    ------
    ValueError
        A negative margin, or not one margin per comparison.

    References
    ----------
    Holm 1979, A simple sequentially rejective multiple test procedure.
    Schuirmann 1987, A comparison of the two one-sided tests procedure and the power approach.
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
