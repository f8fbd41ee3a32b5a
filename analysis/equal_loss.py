"""Comparisons at equal loss: a pair metric read off a training curve at a prespecified loss.

The disagreement of two models depends on how far training has progressed, so activations that learn at different speeds
are compared where their loss is the same. The loss, the bandwidth and the last usable step are fixed before the data
are seen: a loss chosen from the curves (such as the lowest that all of them reach) depends on the runs being compared.
"""

import math
from dataclasses import dataclass

import numpy as np

from analysis.significance import Comparison, compare_pair_means

BANDWIDTH = 0.1  # nats on either side of the loss
FEWEST_POINTS = 5  # curve points within the bandwidth
LOG_MARGIN = math.log(1.05)  # for the log ratio of two activations' pair metric

TOO_COARSE = "curve too coarse"
NOT_REACHED = "loss not reached"


@dataclass(frozen=True)
class Reading:
    """A value read off a curve.

    Attributes
    ----------
    value : float or None
    points : int
        Curve points within the bandwidth.
    reason : str or None
        Why there is no value: TOO_COARSE or NOT_REACHED.
    """

    value: float | None
    points: int
    reason: str | None = None


def value_at_loss(
    losses: np.ndarray,
    values: np.ndarray,
    loss: float,
    bandwidth: float = BANDWIDTH,
    fewest_points: int = FEWEST_POINTS,
) -> Reading:
    """A metric at a given loss: a local-linear fit to the points of a training curve, evaluated at the loss.

    Points are weighted by the Epanechnikov kernel, 1 - ((loss_k - loss) / bandwidth)^2. Only the descent is used, up to
    the point of lowest loss: passing the same loss again while overfitting is a different state of training.

    Parameters
    ----------
    losses, values : (S,) array
        Loss (nats) and metric (any unit) at the points of the curve, in the order of training. The caller leaves out
        points after the last usable step, such as those in a cooldown.
    loss : float
        Nats, fixed before the curve was seen.
    bandwidth : float
        Nats on either side of the loss.
    fewest_points : int
        Required within the bandwidth, in addition to a point on either side of the loss.

    Returns
    -------
    Reading

    References
    ----------
    Fan & Gijbels 1996, Local polynomial modelling and its applications, chapters 2 and 3.
    """
    losses, values = np.asarray(losses, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if len(losses) == 0 or losses.min() > loss:
        return Reading(None, 0, NOT_REACHED)
    descent = slice(int(losses.argmin()) + 1)
    x, y = losses[descent] - loss, values[descent]
    weight = np.maximum(0.0, 1 - (x / bandwidth) ** 2)
    near = weight > 0
    points = int(near.sum())
    if points < fewest_points or x[near].min() > 0 or x[near].max() < 0:
        return Reading(None, points, TOO_COARSE)
    x, y, weight = x[near], y[near], weight[near]
    mean_x, mean_y = np.average(x, weights=weight), np.average(y, weights=weight)
    spread = weight @ (x - mean_x) ** 2
    slope = weight @ ((x - mean_x) * (y - mean_y)) / spread if spread > 0 else 0.0
    return Reading(float(mean_y - slope * mean_x), points)


def log_ratio(matrix_a: np.ndarray, matrix_b: np.ndarray) -> Comparison:
    """The mean over pairs (i, j) of log(PD_A(i, j) / PD_B(i, j)), with its interval over trials.

    Parameters
    ----------
    matrix_a, matrix_b : (n, n) array
        A positive pair metric of two activations, paired by (i, j); NaN: no value.

    Returns
    -------
    Comparison
        `difference` is in logarithms: exp(x) - 1 is the relative difference of the two geometric means. Its usual
        margin is LOG_MARGIN. The mean is a U-statistic over trials (`estimates.pair_interval`).

    Raises
    ------
    ValueError
        A value is 0 or negative.
    """
    logs = []
    for matrix in (matrix_a, matrix_b):
        values = np.array(matrix, dtype=np.float64)
        np.fill_diagonal(values, np.nan)
        if (values <= 0).any():
            raise ValueError("a log ratio needs positive values")
        logs.append(np.log(values))
    return compare_pair_means(*logs)
