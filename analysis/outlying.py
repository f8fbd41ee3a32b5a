"""Runs that lie far from all others: no interval survives them if they are rare, so they are flagged."""

import math

import numpy as np

from analysis.estimates import ROUNDING, complete_trials, pair_mean_squares

FALSE_ALARMS = 0.01  # per set of n runs


def studentised_deviations(values: np.ndarray) -> np.ndarray:
    """Each value's deviation from the mean of the others, in units of its standard error without it.

    Parameters
    ----------
    values : (n,) array, n >= 3, any unit

    Returns
    -------
    (n,) array
        (x_k - m_k) / (s_k sqrt(1 + 1 / (n - 1))), m_k and s_k being the mean and the ddof-1 standard deviation of the
        other n - 1 values: Student's t with n - 2 degrees of freedom for independent, or equally correlated, normal
        values. Infinite if the others do not differ from each other, and 0 if no value does.

    References
    ----------
    Cook & Weisberg 1982, Residuals and influence in regression, 2.2 (externally studentised residuals).
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n < 3:
        raise ValueError(f"a deviation from the others needs three runs, not {n}")
    deviation = values - values.mean()  # n - 1 n-ths of the one from the others' mean
    sum_of_squares = (deviation**2).sum() - deviation**2 * n / (n - 1)  # of the others, about their own mean
    rounding = ROUNDING * np.abs(values).max()
    spread = np.sqrt(np.maximum(sum_of_squares, 0) / (n - 2))
    spread = np.where(spread > rounding + 1e-7 * np.abs(deviation), spread, 0.0)  # the subtraction cancels
    distance = np.where(np.abs(deviation) > rounding, deviation * n / (n - 1), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distance == 0, 0.0, distance / (spread * math.sqrt(n / (n - 1))))


def outlying_runs(values: np.ndarray, false_alarms: float = FALSE_ALARMS) -> np.ndarray:
    """Indices of the runs whose value lies far from those of all others.

    A run is flagged if its externally studentised deviation exceeds Student's quantile (n - 2 degrees of freedom) at
    false_alarms / (2 n): a set of n normal values then has a flag with a probability of at most `false_alarms`.

    Parameters
    ----------
    values : (n,) array, any unit
        NaN: a missing run, which is not counted.
    false_alarms : float

    Returns
    -------
    (k,) array of int
        Positions in `values`; empty below three runs.
    """
    values = np.asarray(values, dtype=np.float64)
    present = np.flatnonzero(~np.isnan(values))
    n = len(present)
    if n < 3:
        return present[:0]
    from scipy.special import stdtrit

    threshold = stdtrit(n - 2, 1 - false_alarms / (2 * n))
    return present[np.abs(studentised_deviations(values[present])) > threshold]


def outlying_runs_of_pairs(matrix: np.ndarray, false_alarms: float = FALSE_ALARMS) -> np.ndarray:
    """Indices of the runs that are far from all others in a pair metric: by the mean over their pairs.

    Parameters
    ----------
    matrix : (n, n) array, symmetric, any unit
        NaN: no value. Runs that lack a pair are left out (see `estimates.complete_trials`).
    false_alarms : float

    Returns
    -------
    (k,) array of int
        Rows of `matrix`; empty below three complete runs.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    trials = complete_trials(matrix)
    if len(trials) < 3:
        return trials[:0]
    _, trial_means, _, _ = pair_mean_squares(matrix[np.ix_(trials, trials)])
    return trials[outlying_runs(trial_means, false_alarms)]
