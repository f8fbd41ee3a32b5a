"""Power of the tests of analysis/significance.py, and the number of trials that reaches it."""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from analysis.estimates import pair_variance

MOST_TRIALS = 10_000  # larger answers to "how many trials are needed?" are of no practical use


def predicted_power(
    variance_terms: tuple[float, float],
    n: int,
    margin: float,
    alpha: float = 0.05,
    test: str = "difference",
) -> float:
    """Power with n trials under the working model with normal effects (analysis/estimates.py).

    Given the mean squares, power is a normal probability; Gauss-Legendre quadrature averages it over their chi-square
    distributions. For means of trials this is the noncentral t distribution (scipy's is NaN far in the tail).

    Parameters
    ----------
    variance_terms : (float, float)
        Of the difference (see `Estimate`), taken as known. The second is 0 for means of trials.
    n : int
        Trials, at least 2; 3 for pairs.
    margin : float
        The smallest difference of interest, in the unit of the difference.
    alpha : float
    test : str
        "difference": the two-sided t test where the true difference is the margin. "equivalence": the two one-sided
        tests where it is 0. "minimum effect": the minimum-effect test where it is twice the margin (its smaller term
        omitted).

    Returns
    -------
    float
        In [0, 1].

    References
    ----------
    Cohen 1988, Statistical power analysis for the behavioral sciences.
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
    """The smallest number of trials with the stated predicted power at the margin.

    The observed difference plays no part: power computed from it would only restate p.

    Parameters
    ----------
    variance_terms, margin, alpha, test
        As in `predicted_power`; the variance is taken as known and extrapolated to other n.
    power : float

    Returns
    -------
    int or None
        None: more than MOST_TRIALS.

    References
    ----------
    Hoenig & Heisey 2001, The abuse of power: the pervasive fallacy of power calculations for data analysis.
    """
    return fewest_trials(
        lambda n: predicted_power(variance_terms, n, margin, alpha, test),
        power,
        3 if variance_terms[1] else 2,
    )


def fewest_trials(power_at: Callable[[int], float], power: float, start: int) -> int | None:
    """The smallest n for which a power that increases with n is reached, by bisection.

    Parameters
    ----------
    power_at : callable
        Number of trials -> power.
    power : float
    start : int
        The smallest n considered; the largest is MOST_TRIALS.

    Returns
    -------
    int or None
        None: more than MOST_TRIALS.
    """
    low = high = start
    while power_at(high) < power:
        if high == MOST_TRIALS:
            return None
        low, high = high + 1, min(2 * high, MOST_TRIALS)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power_at(middle) >= power else (middle + 1, high)
    return high


def trials_still_needed(needed: Sequence[int | None], n: int, margin: float, power: float) -> tuple[int | None, str]:
    """How many trials an inconclusive result calls for, in a number and a sentence.

    Parameters
    ----------
    needed : sequence of int or None
        For each test, from `trials_for_power`.
    n : int
        Trials at hand.
    margin, power : float
        That `needed` was computed with.

    Returns
    -------
    trials : int or None
        None if the trials at hand suffice for every test, or a test needs more than MOST_TRIALS.
    reason : str
    """
    if None in needed:
        return None, f"over {MOST_TRIALS} trials would be needed at a margin of {margin:.3g}"
    if max(needed) <= n:
        return None, f"{n} trials suffice to tell 0 from {margin:.3g}; the true difference may lie between the two"
    return max(needed), f"{max(needed)} trials give {power:.0%} power at a margin of {margin:.3g}; there are {n}"
