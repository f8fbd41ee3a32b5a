"""Inference on all activations together: does the choice matter, and which are on the Pareto frontier?

Two activations are compared in analysis/significance.py. Values are (A, n): A activations, n trials. Trial k of every
activation shares its seeds, so trials are blocks; trials that are missing in any activation (None, NaN) are left out in
all. Every random draw has an explicit seed.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np

from analysis.estimates import ROUNDING, Estimate, complete_trials, pair_mean_squares
from analysis.power import trials_for_power, trials_still_needed
from analysis.significance import compare_means, compare_pair_means, equivalence, holm, minimum_effect

POWER = 0.8  # target of the number of trials needed
REMOVED_EXCESS = 0.6  # fraction of the jackknife's excess variance removed in `pseudo_values`; chosen by simulation


@dataclass(frozen=True)
class Sensitivity:
    """Whether the activation matters for one metric of one architecture.

    Attributes
    ----------
    verdict : str
        "sensitive", "insensitive" or "inconclusive" (see `judge_sensitivity`).
    reason : str or None
        For the verdict.
    trials_needed : int or None
        With the verdict "inconclusive".
    margin : float or None
        The smallest difference of interest, in the unit of the metric.
    minimum_effect_p : float or None
        Over all pairs of activations, the smallest Holm-corrected p of "no larger than the margin".
    equivalence_p : float or None
        Over all pairs of activations, the largest p of "no smaller than the margin".
    equal_means_p, smallest_p : float or None
        p of the permutation test, and the smallest possible with these trials; neither affects the verdict.
    between_sd : Estimate
        Standard deviation between activations, with the sampling variance subtracted.
    range_over_minimum : float or None
        Range of the activations' means over the smallest; increases with noise.
    """

    verdict: str
    reason: str | None
    trials_needed: int | None
    margin: float | None
    minimum_effect_p: float | None
    equivalence_p: float | None
    equal_means_p: float | None
    smallest_p: float | None
    between_sd: Estimate
    range_over_minimum: float | None

    @property
    def verdict_text(self) -> str:
        """As printed in tables: "sensitive" or "inconclusive (33 seeds needed)"."""
        return f"{self.verdict} ({self.trials_needed} seeds needed)" if self.trials_needed else self.verdict

    def as_dict(self) -> dict:
        """For JSON."""
        return asdict(self) | {"between_sd": self.between_sd.as_dict()}


def pseudo_values(matrices: np.ndarray) -> np.ndarray:
    """Values of trials that represent a pair metric: their mean over trials is the activation's mean over pairs.

    The jackknife pseudo-value of trial k is n U - (n - 1) U_without_k. The variance of pseudo-values counts most of the
    per-pair variance twice (see analysis/estimates.py), so they are shrunk towards U by a common factor: the residual
    variance (activations and trials removed) then equals the jackknife variance less 0.6 of its excess, but at least
    the variance without any per-model component.

    Parameters
    ----------
    matrices : (A, n, n) array, any unit
        A pair metric; NaN: no value.

    Returns
    -------
    (A, m) array
        Over the m >= 3 trials that are complete in all activations.

    Raises
    ------
    ValueError
        Fewer than three such trials.

    Notes
    -----
    Removing all of the excess would be unbiased, but its noise makes tests reject too often (8% at a level of 5%). With
    a factor of 0.6, five activations and equal first- and second-order variance, the permutation test rejects in 5% of
    studies for n = 5 and n = 10; with a first-order share of 0, 0.25 and 1 in 1, 4 and 5% (check_statistics.py).

    References
    ----------
    Efron & Stein 1981, The jackknife estimate of variance.
    """
    matrices = np.asarray(matrices, dtype=np.float64)
    trials = complete_trials(matrices.sum(0))
    n, groups = len(trials), len(matrices)
    if n < 3:
        raise ValueError("fewer than three trials with all their pairs in every activation")
    matrices = matrices[:, trials][:, :, trials]
    means, trial_means, _, _ = pair_mean_squares(matrices)
    jackknife_values = (trial_means - means[:, None]) * (2 * (n - 1) / (n - 2))
    _, _, ms_trials, ms_pairs = pair_mean_squares(matrices - matrices.mean(0))
    ms_trials, ms_pairs = ms_trials.sum() / (groups - 1), ms_pairs.sum() / (groups - 1)
    jackknife, excess = 4 * ms_trials / (n * (n - 2)), 2 * ms_pairs / ((n - 1) * (n - 2))
    variance = max(jackknife - REMOVED_EXCESS * excess, 2 * ms_pairs / (n * (n - 1)))
    factor = math.sqrt(variance / jackknife) if n > 3 and jackknife > 0 else 1.0
    return means[:, None] + factor * jackknife_values


def between_group_sd(values: Sequence[Sequence[float | None]], confidence: float = 0.95) -> Estimate:
    """Standard deviation (ddof 1) between the activations' true means, with the sampling variance subtracted.

    In a two-way layout with activations as fixed effects (mean square M_g), trials as blocks and a common residual
    variance (mean square M_e), the estimate is sqrt((M_g - M_e) / n), or 0. The interval inverts the noncentral
    chi-square distribution of (A - 1) M_g / M_e with M_e taken as known, but with the normal quantile replaced by
    Student's (degrees of freedom of M_e). The lower limit is 0 if the F test does not reject at (1 - confidence) / 2.

    Parameters
    ----------
    values : (A, n) array, any unit
        Values of trials, or `pseudo_values` of pairs.
    confidence : float

    Returns
    -------
    Estimate
        `mean` is the standard deviation; without an interval below two trials, or without spread over trials.

    Raises
    ------
    ValueError
        The values are not two-dimensional, or of fewer than two activations.

    Notes
    -----
    Inverting the noncentral F distribution would count the error of M_e twice and cover 100% where activations clearly
    differ. This interval covers 94 to 98% for means and n >= 5, and more for pairs with a small per-model component
    (check_statistics.py).

    References
    ----------
    Steiger 2004, Beyond the F test: effect size confidence intervals and tests of close fit in the analysis of variance
    and contrast analysis (inversion of a noncentral distribution).
    """
    values = _complete(values)
    (groups, n), method = values.shape, "noncentral chi-square with Student's quantile, trials as blocks"
    if n < 2:
        return Estimate(None, None, n, None, None, None, None, method, "fewer than two trials")
    ms_groups, ms_error = _mean_squares(values)
    df = (groups - 1) * (n - 1)
    sd = math.sqrt(max(0.0, ms_groups - ms_error) / n)
    negligible = (ROUNDING * float(np.abs(values).max())) ** 2
    if ms_error <= negligible:
        low, reason = (0.0, None) if ms_groups <= negligible else (None, "not testable: no spread over trials")
        return Estimate(sd if reason else 0.0, None, n, low, low, df, None, method, reason, None, confidence)
    from scipy.special import fdtrc, ndtr, stdtrit

    tail = (1 - confidence) / 2
    quantile = float(ndtr(stdtrit(df, 1 - tail)))
    ratio, scale = ms_groups / ms_error, ms_error / (n * (groups - 1))
    low = _noncentrality((groups - 1) * ratio, groups - 1, quantile)
    low = 0.0 if fdtrc(groups - 1, df, ratio) >= tail else math.sqrt(low * scale)
    high = math.sqrt(_noncentrality((groups - 1) * ratio, groups - 1, 1 - quantile) * scale)
    return Estimate(sd, None, n, low, high, df, None, method, None, None, confidence)


def equal_means_test(
    values: Sequence[Sequence[float | None]], n_permutations: int = 9999, seed: int = 0
) -> float | None:
    """p of the permutation test of equal means of all activations, permuting activations within each trial.

    The statistic is the largest |t| of the paired t tests of all pairs of activations; it is not a measure of size.

    Parameters
    ----------
    values : (A, n) array, any unit
        Values of trials, or `pseudo_values` of pairs.
    n_permutations, seed : int
        Permutations are drawn at random, the same for the same seed.

    Returns
    -------
    float or None
        (1 + number of permutations with a statistic at least as large) / (1 + n_permutations), never below
        `smallest_p`; None below two trials. Exact if activations are exchangeable within a trial. With equal means but
        unequal variances they are not; studentising each difference reduces the effect (check_statistics.py).

    Raises
    ------
    ValueError
        As in `between_group_sd`.

    References
    ----------
    Chung & Romano 2013, Exact and asymptotically robust permutation tests (studentised statistics).
    Westfall & Young 1993, Resampling-based multiple testing (maximum of several statistics).
    """
    values = _complete(values)
    groups, n = values.shape
    if n < 2:
        return None
    centred = values - values.mean(0)
    rounding = ROUNDING * float(np.abs(values).max())
    observed = _largest_t(centred[None], rounding)[0]
    rng = np.random.default_rng(seed)
    shuffled = rng.permuted(np.broadcast_to(centred, (n_permutations, groups, n)), axis=1)
    as_large = (_largest_t(shuffled, rounding) >= observed * (1 - 1e-9)).sum()
    return float((1 + as_large) / (1 + n_permutations))


def _largest_t(values, rounding):
    """(P, A, n) -> (P,): the largest paired |t| over all pairs; 0 if means are equal, inf if only the spread is 0."""
    largest = np.zeros(len(values))
    n = values.shape[2]
    for i, j in combinations(range(values.shape[1]), 2):
        difference = values[:, i] - values[:, j]
        mean = np.abs(difference.mean(1))
        error = difference.std(axis=1, ddof=1) / math.sqrt(n)
        t = np.divide(mean, error, out=np.full(len(mean), np.inf), where=error > rounding)
        np.maximum(largest, np.where(mean > rounding, t, 0.0), out=largest)
    return largest


def smallest_p(groups: int, n: int, n_permutations: int = 9999) -> float:
    """The smallest p that `equal_means_test` can return.

    Of the A!^n arrangements, a fraction (A (A - 1))^(1 - n) gives the same largest |t|: those that assign the two
    activations it comes from consistently, in either direction and under any two labels. With random permutations, p is
    also at least 1 / (1 + n_permutations).

    Parameters
    ----------
    groups, n : int
        A activations, n trials.
    n_permutations : int

    Returns
    -------
    float
    """
    return max((groups * (groups - 1.0)) ** (1 - n), 1 / (1 + n_permutations))


def sensitivity_of_means(
    values: Sequence[Sequence[float | None]] | np.ndarray,
    margin: float | None,
    n_permutations: int = 9999,
    seed: int = 0,
) -> Sensitivity:
    """Sensitivity of a metric of trials to the activation (see `judge_sensitivity`).

    Parameters
    ----------
    values : (A, n) array, any unit
        A activations, n trials.
    margin : float or None
        The smallest difference of interest, in the same unit. None: the verdict is "inconclusive".
    n_permutations, seed : int
        For `equal_means_test`.

    Returns
    -------
    Sensitivity
    """
    values = _complete(values)
    differences = [compare_means(x, y).difference for x, y in combinations(values, 2)]
    return _sensitivity(values, differences, margin, n_permutations, seed)


def sensitivity_of_pairs(
    matrices: np.ndarray, margin: float | None, n_permutations: int = 9999, seed: int = 0
) -> Sensitivity:
    """Sensitivity of a pair metric to the activation (see `judge_sensitivity`).

    Parameters
    ----------
    matrices : (A, n, n) array, any unit
        A activations, n trials; NaN: no value. Only trials complete in all activations are used.
    margin, n_permutations, seed
        As in `sensitivity_of_means`.

    Returns
    -------
    Sensitivity
    """
    matrices = np.asarray(matrices, dtype=np.float64)
    trials = complete_trials(matrices.sum(0))
    matrices = matrices[:, trials][:, :, trials]
    differences = [compare_pair_means(x, y).difference for x, y in combinations(matrices, 2)]
    values = pseudo_values(matrices) if len(trials) >= 3 else np.empty((len(matrices), 0))
    return _sensitivity(values, differences, margin, n_permutations, seed)


def judge_sensitivity(
    differences: Sequence[Estimate], margin: float, alpha: float = 0.05
) -> tuple[str, float | None, float | None]:
    """Whether some difference exceeds the margin, none does, or neither can be shown.

    "sensitive" if |difference| > margin is shown for some pair of activations (minimum-effect tests, Holm-corrected
    over all pairs). "insensitive" if |difference| < margin is shown for every pair (two one-sided tests at alpha each,
    an intersection-union test, which needs no correction). Otherwise "inconclusive".

    Parameters
    ----------
    differences : sequence of Estimate
        One for each of the A (A - 1) / 2 pairs of activations.
    margin : float
        The smallest difference of interest, positive, in their unit.
    alpha : float

    Returns
    -------
    verdict : str
    minimum_effect_p, equivalence_p : float or None
        The smallest corrected p of the former tests (None if no pair has one) and the largest p of the latter (None if
        any pair has none).

    Raises
    ------
    ValueError
        The margin is not positive.

    References
    ----------
    Berger 1982, Multiparameter hypothesis testing and acceptance sampling (intersection-union tests).
    Murphy & Myors 1999, Testing the hypothesis that treatments have negligible effects: minimum-effect tests in the
    general linear model.
    """
    exceeds = [p for p in holm([minimum_effect(d, margin) for d in differences]) if p is not None]
    within = [equivalence(d, margin) for d in differences]
    minimum_effect_p = min(exceeds, default=None)
    equivalence_p = None if None in within else max(within)
    if minimum_effect_p is not None and minimum_effect_p < alpha:
        return "sensitive", minimum_effect_p, equivalence_p
    insensitive = equivalence_p is not None and equivalence_p < alpha
    return "insensitive" if insensitive else "inconclusive", minimum_effect_p, equivalence_p


def pareto_front(loss: np.ndarray, pd: np.ndarray) -> np.ndarray:
    """Which activations are on the Pareto frontier: not dominated by any other.

    One activation dominates another if it is at most as high in both metrics and lower in at least one.

    Parameters
    ----------
    loss, pd : (..., A) array
        Lower is better; NaN: missing, never on the frontier.

    Returns
    -------
    (..., A) boolean array
    """
    loss, pd = np.asarray(loss, dtype=np.float64), np.asarray(pd, dtype=np.float64)
    loss_here, pd_here, loss_other, pd_other = (
        loss[..., None],
        pd[..., None],
        loss[..., None, :],
        pd[..., None, :],
    )
    as_low = (loss_other <= loss_here) & (pd_other <= pd_here)
    dominated = (as_low & ((loss_other < loss_here) | (pd_other < pd_here))).any(-1)
    return ~dominated & ~np.isnan(loss + pd)


def pareto_shares(
    losses: Sequence[Sequence[float | None]] | np.ndarray,
    pair_matrices: np.ndarray,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> np.ndarray | None:
    """The fraction of bootstrap resamples in which each activation is on the Pareto frontier of loss and PD.

    Describes how strongly the frontier depends on the trials at hand; it is not a test. Trials are drawn with
    replacement, the same for all activations; pairs of a trial with a copy of itself do not count, and resamples
    without any pair are left out.

    Parameters
    ----------
    losses : (A, n) array
        Nats.
    pair_matrices : (A, n, n) array
        A pair metric.
    n_resamples, seed : int

    Returns
    -------
    (A,) array or None
        In [0, 1]; None below three trials that are complete in all activations.

    References
    ----------
    Efron 1979, Bootstrap methods: another look at the jackknife.
    """
    losses, matrices = np.asarray(losses, dtype=np.float64), np.asarray(pair_matrices, dtype=np.float64)
    trials = complete_trials(matrices.sum(0))
    trials = trials[~np.isnan(losses[:, trials]).any(0)]
    n = len(trials)
    if n < 3:
        return None
    matrices = np.where(np.eye(n, dtype=bool), 0.0, matrices[:, trials][:, :, trials])
    drawn = np.random.default_rng(seed).integers(n, size=(n_resamples, n))
    counts = (drawn[:, :, None] == np.arange(n)).sum(1).astype(np.float64)
    pairs = n**2 - (counts**2).sum(1)
    counts, pairs = counts[pairs > 0], pairs[pairs > 0]
    pd = np.stack([((counts @ matrix) * counts).sum(1) / pairs for matrix in matrices], axis=1)
    return pareto_front(counts @ losses[:, trials].T / n, pd).mean(0)


# --- helpers ---


def _complete(values):
    """(A, n) values as float64, without the trials that are missing in any activation."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2:
        raise ValueError(f"expected (activations, trials) with at least two activations, got the shape {values.shape}")
    return values[:, ~np.isnan(values).any(0)]


def _mean_squares(values):
    """The mean squares of a two-way layout without replication: of the rows, and of the residuals."""
    groups, n = values.shape
    row_means = values.mean(1)
    centred = row_means - values.mean()
    residuals = values - row_means[:, None] - values.mean(0) + values.mean()
    return n * float((centred**2).sum()) / (groups - 1), float((residuals**2).sum()) / ((groups - 1) * (n - 1))


def _noncentrality(statistic, df, probability):
    """The noncentrality of a chi-square distribution with P(X < statistic) = probability, or 0 if there is none."""
    from scipy.special import chdtr, chndtr, ndtri

    if chdtr(df, statistic) <= probability:
        return 0.0
    if statistic > 1e4:  # the square root is then normal, and scipy's series is slow
        return float((math.sqrt(statistic) - ndtri(probability)) ** 2)
    low, high = 0.0, (math.sqrt(statistic) + 10) ** 2
    while high - low > 1e-9 * (1 + high):
        middle = (low + high) / 2
        low, high = (middle, high) if chndtr(statistic, df, middle) > probability else (low, middle)
    return low


def _sensitivity(values, differences, margin, n_permutations, seed):
    groups, n = values.shape
    means = values.mean(1) if n else np.zeros(groups)
    spread = float(np.ptp(means) / means.min()) if means.min() > 0 else None
    p = equal_means_test(values, n_permutations, seed)
    smallest = None if p is None else smallest_p(groups, n, n_permutations)
    verdict, exceeds, within = judge_sensitivity(differences, margin) if margin else ("inconclusive", None, None)
    needed = None
    if verdict == "sensitive":
        reason = f"some difference exceeds the margin (p = {exceeds:.2g})"
    elif verdict == "insensitive":
        reason = f"no difference reaches the margin (p = {within:.2g})"
    elif not margin:
        reason = "no margin was given"
    elif within is None:
        reason = next((d.reason for d in differences if d.reason), None)
    else:
        needed, reason = trials_still_needed(*_trials_needed(differences, margin), margin, POWER)
    between = between_group_sd(values)
    return Sensitivity(verdict, reason, needed, margin, exceeds, within, p, smallest, between, spread)


def _trials_needed(differences, margin, alpha=0.05) -> tuple[list[int | None], int]:
    """(number of trials that each test needs, number at hand).

    For "insensitive" with no true difference, the power for each pair is such that all pairs together have POWER
    (Bonferroni); for "sensitive", one pair differs by twice the margin, at Holm's strictest step.
    """
    pairs = len(differences)
    settings = (("equivalence", 1 - (1 - POWER) / pairs, alpha), ("minimum effect", POWER, alpha / pairs))
    needed = [
        trials_for_power(difference.variance_terms, margin, power, level, test)
        for difference in differences
        for test, power, level in settings
    ]
    return needed, differences[0].n
