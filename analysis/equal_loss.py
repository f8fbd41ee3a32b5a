"""Comparisons at equal loss: a pair metric read off a training curve where its loss has a value fixed beforehand.

How far two models agree depends on how far training has got, so activations that learn at different speed are compared
where their loss is the same. The loss, the bandwidth and the last usable step are fixed before the data are seen:
a loss chosen from the curves, the lowest that all of them reach, say, depends on the runs that it compares.
"""

import math
from dataclasses import dataclass

import numpy as np

from analysis.significance import Comparison, compare_pair_means

BANDWIDTH = 0.1  # nats on either side of the loss
FEWEST_POINTS = 5  # of a curve, within the bandwidth
LOG_MARGIN = math.log(1.05)  # of a ratio of two activations' pair metric

TOO_COARSE = "curve too coarse"
NOT_REACHED = "loss not reached"


@dataclass(frozen=True)
class Reading:
    """A value read off a curve, or None and why: TOO_COARSE or NOT_REACHED. `points` were within the bandwidth."""

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
    """A metric where a training curve passes a loss: a local-linear fit to the curve's points around it.

    The fit weighs points by Epanechnikov's kernel, 1 - ((loss_k - loss) / bandwidth)^2, and is evaluated at the loss.
    It uses the descent only, up to the point of lowest loss: a loss that is passed again while a model overfits is
    another state of training.

    Parameters
    ----------
    losses, values : (S,) array
        Loss in nats and metric, in any unit, at the curve's points in the order of training. Points after the last
        usable step, in a cooldown, say, are left out by the caller.
    loss : float
        Nats, fixed before the curve was seen.
    bandwidth : float
        Nats on either side.
    fewest_points : int
        Within the bandwidth, with at least one on either side of the loss; with fewer there is no value.

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
        A positive pair metric of two activations, pair (i, j) of one against pair (i, j) of the other; NaN: no value.

    Returns
    -------
    Comparison
        `difference` is in logarithms: exp(x) - 1 is the relative difference of the two geometric means. Its margin is
        LOG_MARGIN. The logarithms are a U-statistic over trials (`estimates.pair_interval`).

    Raises
    ------
    ValueError
        A value of 0 or less.
    """
    logs = []
    for matrix in (matrix_a, matrix_b):
        values = np.array(matrix, dtype=np.float64)
        np.fill_diagonal(values, np.nan)
        if (values <= 0).any():
            raise ValueError("a ratio needs positive values")
        logs.append(np.log(values))
    return compare_pair_means(*logs)
