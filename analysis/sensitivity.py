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

from analysis.significance import (
    ROUNDING,
    Estimate,
    compare_means,
    compare_pair_means,
    complete_trials,
    equivalence,
    fewest_trials,
    pair_mean_squares,
    trials_for_power,
    undecided,
)

REMOVED_EXCESS = 0.6  # of the jackknife's excess variance, in `pseudo_values`; chosen by simulation


@dataclass(frozen=True)
class Sensitivity:
    """Whether the activation matters for one metric of one architecture.

    `between_sd`: the standard deviation between activations, sampling variance subtracted. `p`: of the
    permutation test. `equivalence_p`: the largest p of two one-sided tests over all pairs of activations.
    `range_over_minimum`: of the activations' means; it grows with noise, and decides nothing.
    """

    between_sd: Estimate
    p: float | None
    equivalence_p: float | None
    margin: float | None
    range_over_minimum: float | None
    trials_needed: int | None
    verdict: str
    reason: str | None

    def as_dict(self) -> dict:
        """For JSON."""
        return asdict(self) | {"between_sd": self.between_sd.as_dict()}


def pseudo_values(matrices: np.ndarray) -> np.ndarray:
    """One value per activation and trial whose mean over trials is the activation's mean over pairs.

    matrices: (A, n, n), a pair metric; returns (A, m), over the m >= 3 trials that are complete in all. The
    jackknife's pseudo-value of trial k is n U - (n - 1) U_without_k. Their spread counts most of the variance
    between pairs twice (see analysis/significance.py), so here they are drawn towards U by one common factor: the
    spread left after activations and trials are taken out then stands for the jackknife variance less 0.6 of
    its excess, and no less than the variance if trials have no effect of their own.

    Subtracting all of the excess would be unbiased, but its noise makes tests reject too often (8 % at 5 %).
    At 0.6, five activations, equal first- and second-order variance, the permutation test rejects 5 % for
    n = 5 and n = 10; with a first-order share of 0, 0.25 and 1: 1, 4 and 5 % (check_statistics.py).
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
    would count the error of M_e twice, and cover 100 % where activations differ clearly; this covers 94 to
    98 % for means and n >= 5, and more for pairs whose trials bring little (check_statistics.py).
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


def permutation_sensitivity_test(
    values: Sequence[Sequence[float | None]], n_permutations: int = 9999, seed: int = 0
) -> float | None:
    """p of "the activation makes no difference": activations are permuted within each trial.

    values: (A, n), trials, or `pseudo_values` of pairs. The statistic is the spread of the activations'
    means; the smallest p is 1 / (n_permutations + 1). None below two trials. Exact for means of trials, which
    are exchangeable within a trial if the activation makes no difference; for pairs see `pseudo_values`.
    """
    values = _complete(values)
    groups, n = values.shape
    if n < 2:
        return None
    centred = values - values.mean(0)
    tolerance = (ROUNDING * float(np.abs(values).max()) * n) ** 2 * groups
    observed = (centred.sum(1) ** 2).sum()
    rng = np.random.default_rng(seed)
    shuffled = rng.permuted(np.broadcast_to(centred, (n_permutations, groups, n)), axis=1)
    as_far = (shuffled.sum(2) ** 2).sum(1) >= observed * (1 - ROUNDING) - tolerance
    return float((1 + as_far.sum()) / (1 + n_permutations))


def smallest_p(groups: int, n: int) -> float:
    """The smallest p that permuting A activations within each of n trials can give: one relabelling of all changes nothing."""
    return math.factorial(groups) ** (1.0 - n)


def sensitivity_of_means(
    values: Sequence[Sequence[float | None]], margin: float | None, n_permutations: int = 9999, seed: int = 0
) -> Sensitivity:
    """Sensitive, insensitive or undecided, for a metric of trials. values: (A, n); margin: in its unit."""
    values = _complete(values)
    differences = [compare_means(x, y).difference for x, y in combinations(values, 2)]
    return _sensitivity(values, differences, margin, n_permutations, seed)


def sensitivity_of_pairs(
    matrices: np.ndarray, margin: float | None, n_permutations: int = 9999, seed: int = 0
) -> Sensitivity:
    """Sensitive, insensitive or undecided, for a pair metric. matrices: (A, n, n); margin: in its unit."""
    matrices = np.asarray(matrices, dtype=np.float64)
    trials = complete_trials(matrices.sum(0))
    matrices = matrices[:, trials][:, :, trials]
    differences = [compare_pair_means(x, y).difference for x, y in combinations(matrices, 2)]
    values = pseudo_values(matrices) if len(trials) >= 3 else np.empty((len(matrices), 0))
    return _sensitivity(values, differences, margin, n_permutations, seed)


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
    losses: Sequence[Sequence[float | None]],
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


def _sensitivity(values, differences, margin, n_permutations, seed, alpha=0.05, power=0.8):
    groups, n = values.shape
    means = values.mean(1) if n else np.zeros(groups)
    spread = float(np.ptp(means) / means.min()) if means.min() > 0 else None
    between, p = between_group_sd(values), permutation_sensitivity_test(values, n_permutations, seed)
    tests = [equivalence(difference, margin) for difference in differences] if margin else [None]
    equivalence_p = None if None in tests else max(tests)
    equivalent = equivalence_p is not None and equivalence_p < alpha
    needed = None
    if p is not None and p < alpha:
        size = ", but all differences are smaller than the margin" if equivalent else ""
        verdict, reason = "sensitive", f"p = {p:.2g}, activations permuted within trials{size}"
    elif equivalent:
        verdict, reason = "insensitive", f"no difference reaches the margin: p = {equivalence_p:.2g}"
    elif equivalence_p is None:
        reason = (
            "without a margin nothing is insensitive"
            if not margin
            else next((d.reason for d in differences if d.reason), None)
        )
        verdict = "undecided"
    else:
        tests_need = _trials_needed(groups, differences, margin, alpha, power)
        needed, verdict, reason = undecided(tests_need, n, margin, power)
    if verdict.startswith("undecided") and p is not None and (least := smallest_p(groups, n)) >= alpha:
        too_few = f"permuting {groups} activations within {n} trials gives no p below {least:.2g}"
        reason = f"{reason}; {too_few}" if reason else too_few
    return Sensitivity(between, p, equivalence_p, margin, spread, needed, verdict, reason)


def _trials_needed(groups, differences, margin, alpha, power):
    """Trials for the F test where two activations differ by the margin and the others lie midway, and for
    all equivalence tests at once (each at the power that leaves `power` for all, by Bonferroni)."""
    from scipy.special import fdtri, ncfdtr

    first, second = np.mean([difference.variance_terms for difference in differences], axis=0)

    def power_at(n):
        df = (groups - 1) * (n - 1)
        noncentrality = margin**2 / (first / n + second / (n * (n - 1)))
        return 1 - ncfdtr(groups - 1, df, noncentrality, fdtri(groups - 1, df, 1 - alpha))

    joint = 1 - (1 - power) / len(differences)
    return [
        fewest_trials(lambda n: power_at(n) * (smallest_p(groups, n) < alpha), power, 3 if second else 2),
        trials_for_power((first, second), margin, joint, alpha, "equivalence"),
    ]
