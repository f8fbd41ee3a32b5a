"""Outlying runs. If they are rare, they invalidate any interval, so they are flagged."""

import math

import numpy as np

from analysis.estimates import ROUNDING, complete_trials, pair_mean_squares

FALSE_ALARMS = 0.01  # per set of n runs
FEWEST = 4  # runs


def studentised_deviations(values: np.ndarray) -> np.ndarray:
    """Externally studentised residuals: each value's deviation from the mean of the others, in standard errors.

    Parameters
    ----------
    values : (n,) array, n >= 3, any unit

    Returns
    -------
    (n,) array
        (x_k - m_k) / (s_k sqrt(1 + 1 / (n - 1))), where m_k and s_k are the mean and standard deviation (ddof 1) of the
        other n - 1 values. For independent or equally correlated normal values it follows Student's t distribution with
        n - 2 degrees of freedom. Infinite if the others are all equal, and 0 if all values are equal.

    Raises
    ------
    ValueError
        Fewer than three values.

    References
    ----------
    Cook & Weisberg 1982, Residuals and influence in regression, section 2.2.
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n < 3:
        raise ValueError(f"a deviation from the other runs needs at least three runs, not {n}")
    deviation = values - values.mean()  # (n - 1) / n times the deviation from the mean of the others
    sum_of_squares = (deviation**2).sum() - deviation**2 * n / (n - 1)  # of the others about their mean
    rounding = ROUNDING * np.abs(values).max()
    spread = np.sqrt(np.maximum(sum_of_squares, 0) / (n - 2))
    spread = np.where(spread > rounding + 1e-7 * np.abs(deviation), spread, 0.0)  # cancellation
    distance = np.where(np.abs(deviation) > rounding, deviation * n / (n - 1), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distance == 0, 0.0, distance / (spread * math.sqrt(n / (n - 1))))


def outlying_runs(values: np.ndarray, false_alarms: float = FALSE_ALARMS) -> np.ndarray:
    """Indices of the runs whose value is an outlier among n runs.

    A run is flagged if its externally studentised residual exceeds Student's quantile (n - 2 degrees of freedom) at
    false_alarms / (2 n). For n normal values the probability of any flag is then at most `false_alarms`.

    Parameters
    ----------
    values : (n,) array, any unit
        NaN: a missing run, which is not counted.
    false_alarms : float
        Probability of a false positive in a set of n runs.

    Returns
    -------
    (k,) array of int
        Positions in `values`; empty below four runs: of three, two equal values, as counts often are, would make any third
        one an outlier.

    References
    ----------
    Cook & Weisberg 1982, Residuals and influence in regression, section 2.2.
    """
    values = np.asarray(values, dtype=np.float64)
    present = np.flatnonzero(~np.isnan(values))
    n = len(present)
    if n < FEWEST:
        return present[:0]
    from scipy.special import stdtrit

    threshold = stdtrit(n - 2, 1 - false_alarms / (2 * n))
    return present[np.abs(studentised_deviations(values[present])) > threshold]


def outlying_runs_of_pairs(matrix: np.ndarray, false_alarms: float = FALSE_ALARMS) -> np.ndarray:
    """Indices of the runs that are outliers in a pair metric, judged by the mean over each run's pairs.

    Parameters
    ----------
    matrix : (n, n) array, symmetric, any unit
        NaN: no value. Runs with a missing pair are left out (see `estimates.complete_trials`).
    false_alarms : float
        As in `outlying_runs`.

    Returns
    -------
    (k,) array of int
        Rows of `matrix`; empty below four complete runs.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    trials = complete_trials(matrix)
    if len(trials) < FEWEST:
        return trials[:0]
    _, trial_means, _, _ = pair_mean_squares(matrix[np.ix_(trials, trials)])
    return trials[outlying_runs(trial_means, false_alarms)]
