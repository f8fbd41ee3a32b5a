"""What several activations show together: does the choice matter, and which are on the Pareto frontier?

Apart from analysis/significance.py, which compares two, because these questions take all activations at once. Values
are (A, n): A activations, n trials, where trial k of every activation shares its seed, so a trial is a
block. Trials that are missing anywhere (None, NaN) are left out everywhere. Every random draw has an
explicit seed.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np

from analysis.estimates import ROUNDING, Estimate, complete_trials, pair_mean_squares
from analysis.power import trials_for_power, trials_still_needed
from analysis.significance import compare_means, compare_pair_means, equivalence, holm, minimum_effect

POWER = 0.8  # that the number of trials needed aims at
REMOVED_EXCESS = 0.6  # of the jackknife's excess variance, in `pseudo_values`; chosen by simulation


@dataclass(frozen=True)
class Sensitivity:
    """Whether the activation matters for one metric of one architecture.

    `verdict` is "sensitive", "insensitive" or "inconclusive". It rests on two tests over all pairs of activations:
    `minimum_effect_p`, the smallest p of "no larger than the margin" after Holm's correction, and `equivalence_p`, the
    largest p of "no smaller than the margin". `equal_means_p` is the permutation test's, of which `smallest_p` is the
    least that these trials can give; it plays no part in the verdict. `between_sd`: the standard deviation between
    activations, sampling variance subtracted. `range_over_minimum`: of the activations' means; it grows with noise.
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
        """As tables print it: "sensitive" or "inconclusive (33 seeds needed)"."""
        return f"{self.verdict} ({self.trials_needed} seeds needed)" if self.trials_needed else self.verdict

    def as_dict(self) -> dict:
        """For JSON."""
        return asdict(self) | {"between_sd": self.between_sd.as_dict()}


def pseudo_values(matrices: np.ndarray) -> np.ndarray:
    """One value per activation and trial whose mean over trials is the activation's mean over pairs.

    matrices: (A, n, n), a pair metric; returns (A, m), over the m >= 3 trials that are complete in all. The
    jackknife's pseudo-value of trial k is n U - (n - 1) U_without_k. Their spread counts most of the variance
    between pairs twice (see analysis/estimates.py), so here they are drawn towards U by one common factor: the
    spread left after activations and trials are taken out then stands for the jackknife variance less 0.6 of
    its excess, and no less than the variance if trials have no effect of their own.

    Subtracting all of the excess would be unbiased, but its noise makes tests reject too often (8% at 5%).
    At 0.6, five activations, equal first- and second-order variance, the permutation test rejects 5% for
    n = 5 and n = 10; with a first-order share of 0, 0.25 and 1: 1, 4 and 5% (check_statistics.py).
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
    """The standard deviation (ddof 1) between activations' true means, sampling variance subtracted.

    values: (A, n), trials, or `pseudo_values` of pairs. Two-way layout: activations are fixed effects, trials
    are blocks, and what is left has one variance, estimated by M_e; M_g is activations' mean square. The
    estimate is sqrt((M_g - M_e) / n), or 0. Its interval inverts the noncentral chi-square law of
    (A - 1) M_g / M_e, with M_e taken as true but the normal quantile replaced by Student's (df of M_e); the
    lower limit is 0 where the F test does not reject at (1 - confidence) / 2. Inverting the noncentral F
    would count the error of M_e twice, and cover 100% where activations differ clearly; this covers 94 to
    98% for means and n >= 5, and more for pairs whose trials bring little (check_statistics.py).
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
    """p of "all activations have the same mean", by permuting the activations within each trial.

    The statistic is the largest |t| of the paired t tests of all pairs of activations. It says nothing about how large
    a difference is.

    Parameters
    ----------
    values : (A, n) array, any unit
        Trials, or `pseudo_values` of pairs.
    n_permutations, seed : int
        Drawn at random, the same for the same seed.

    Returns
    -------
    float or None
        (1 + the number of permutations with a statistic as large) / (1 + n_permutations), never below `smallest_p`;
        None below two trials. Exact if the activations are exchangeable within a trial. Equal means with unequal
        variances are not exchangeable; dividing by each pair's own standard error makes that matter less
        (check_statistics.py).

    References
    ----------
    Chung & Romano 2013, Exact and asymptotically robust permutation tests (studentised statistics); Westfall & Young
    1993, Resampling-based multiple testing (the largest of several statistics).
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
    """(P, A, n) -> (P,): the largest |paired t| over the pairs; 0 where means agree, inf where only spread is missing."""
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
    """The least p that `equal_means_test` can give A activations with n trials.

    Of the A!^n arrangements, those that treat the two activations with the largest |t| alike, in either direction and
    under any two names, cannot be told apart: (A (A - 1))^(1 - n) of all. Drawn permutations count at least one.
    """
    return max((groups * (groups - 1.0)) ** (1 - n), 1 / (1 + n_permutations))


def sensitivity_of_means(
    values: Sequence[Sequence[float | None]] | np.ndarray,
    margin: float | None,
    n_permutations: int = 9999,
    seed: int = 0,
) -> Sensitivity:
    """Sensitive, insensitive or inconclusive, for a metric of trials (see `judge_sensitivity`).

    Parameters
    ----------
    values : (A, n) array, any unit
        A activations, n trials.
    margin : float or None
        The smallest difference of interest, in the same unit.
    n_permutations, seed : int
        Of `equal_means_test`.

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
    """Sensitive, insensitive or inconclusive, for a pair metric. matrices: (A, n, n); else as `sensitivity_of_means`."""
    matrices = np.asarray(matrices, dtype=np.float64)
    trials = complete_trials(matrices.sum(0))
    matrices = matrices[:, trials][:, :, trials]
    differences = [compare_pair_means(x, y).difference for x, y in combinations(matrices, 2)]
    values = pseudo_values(matrices) if len(trials) >= 3 else np.empty((len(matrices), 0))
    return _sensitivity(values, differences, margin, n_permutations, seed)


def judge_sensitivity(
    differences: Sequence[Estimate], margin: float, alpha: float = 0.05
) -> tuple[str, float | None, float | None]:
    """Whether some difference exceeds a margin, or none does, or neither is shown.

    "sensitive" if for some pair of activations |difference| > margin is shown: minimum-effect tests, Holm-corrected
    over all pairs. "insensitive" if |difference| < margin is shown for every pair: two one-sided tests at alpha each,
    an intersection-union test, which needs no correction. Else "inconclusive".

    Parameters
    ----------
    differences : sequence of Estimate
        Of all A (A - 1) / 2 pairs of activations.
    margin : float
        The smallest difference of interest, in their unit.
    alpha : float

    Returns
    -------
    verdict : str
    minimum_effect_p, equivalence_p : float or None
        The smallest and the largest p of the two; None where a pair has none.

    References
    ----------
    Murphy & Myors 1999 (minimum-effect tests); Berger 1982, Multiparameter hypothesis testing and acceptance sampling
    (intersection-union tests).
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
    """Which activations no other one beats: none is as low in both and lower in one. (..., A) -> (..., A)."""
    loss, pd = np.asarray(loss, dtype=np.float64), np.asarray(pd, dtype=np.float64)
    loss_here, pd_here, loss_other, pd_other = (
        loss[..., None],
        pd[..., None],
        loss[..., None, :],
        pd[..., None, :],
    )
    as_low = (loss_other <= loss_here) & (pd_other <= pd_here)
    beaten = (as_low & ((loss_other < loss_here) | (pd_other < pd_here))).any(-1)
    return ~beaten & ~np.isnan(loss + pd)


def pareto_shares(
    losses: Sequence[Sequence[float | None]] | np.ndarray,
    pair_matrices: np.ndarray,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> np.ndarray | None:
    """The share of bootstrap resamples in which each activation is on the frontier of (loss, PD).

    losses: (A, n); pair_matrices: (A, n, n). Trials are drawn with replacement, the same for all activations;
    a trial paired with its own copy is no pair. Resamples without any pair are left out. None below three
    trials. It describes how far the frontier depends on the trials at hand; it is no test. Efron 1979.
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
    """(A, n) as float64, without the trials that are missing in any activation."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2:
        raise ValueError(f"expected (activations, trials), two activations or more, got the shape {values.shape}")
    return values[:, ~np.isnan(values).any(0)]


def _mean_squares(values):
    """The mean squares of a two-way layout without replication: of the rows, and of what is left."""
    groups, n = values.shape
    row_means = values.mean(1)
    centred = row_means - values.mean()
    residuals = values - row_means[:, None] - values.mean(0) + values.mean()
    return n * float((centred**2).sum()) / (groups - 1), float((residuals**2).sum()) / ((groups - 1) * (n - 1))


def _noncentrality(statistic, df, probability):
    """The noncentrality with which a chi-square is below the statistic with this probability, or 0."""
    from scipy.special import chdtr, chndtr, ndtri

    if chdtr(df, statistic) <= probability:
        return 0.0
    if statistic > 1e4:  # here the root is normal, and scipy's series is slow
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
    least = None if p is None else smallest_p(groups, n, n_permutations)
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
    return Sensitivity(verdict, reason, needed, margin, exceeds, within, p, least, between, spread)


def _trials_needed(differences, margin, alpha=0.05) -> tuple[list[int | None], int]:
    """(trials that each test needs, trials at hand).

    For "insensitive" where nothing differs, each pair has the power that leaves POWER for all (Bonferroni); for
    "sensitive" one pair differs by twice the margin, at Holm's hardest step.
    """
    pairs = len(differences)
    settings = (("equivalence", 1 - (1 - POWER) / pairs, alpha), ("minimum effect", POWER, alpha / pairs))
    needed = [
        trials_for_power(difference.variance_terms, margin, power, level, test)
        for difference in differences
        for test, power, level in settings
    ]
    return needed, differences[0].n
