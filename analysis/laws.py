"""Two laws of classifiers that differ only in their seed: what they predict from labels alone, and whether it holds.

Let p_c be the share of all training runs that predict class c for an example, y its true class, N the number of examples.

- If the ensemble of all runs is class-wise calibrated (of the examples with a given p_c, a share p_c belongs to class c), the mean
  disagreement of two runs equals their mean error (Jiang et al. 2022).
- If runs err independently on different examples, the variance of a run's accuracy is the mean of p_y (1 - p_y), divided by N. If
  the ensemble is calibrated too, that is the mean of sum_c p_c^2 (1 - p_c) over N; for two classes, error / (2N) (Jordan 2023).

So the first law and the second variance test calibration, and the measured variance against the first one independence.

References
----------
Jiang, Nagarajan, Baek and Kolter 2022, Assessing generalization of SGD via disagreement, arXiv 2106.13799.
Jordan 2023, Calibrated chaos: variance between runs of neural network training is harmless and inevitable, arXiv 2304.01910.
"""

import math
from dataclasses import dataclass

import numpy as np

from analysis.estimates import Estimate, pair_interval
from analysis.results import Cell, matrix, sd_estimate, values

FEWEST_TRIALS = 3  # of which p^2 (1 - p) has an unbiased estimate


@dataclass(frozen=True)
class Laws:
    """What the laws predict of a variant, and what was measured.

    Attributes
    ----------
    disagreement_minus_error : Estimate
        Mean over pairs of runs of their disagreement minus their mean error; 0 if the ensemble is calibrated.
    sd : Estimate
        Standard deviation of the accuracy over runs.
    sd_if_independent, sd_if_calibrated : float
        What it would be if errors on different examples were independent, and the ensemble calibrated too.
    p : float or None
        Two-sided chi-square test that the variance is the one of independent errors; None if that variance is 0.
    """

    disagreement_minus_error: Estimate
    sd: Estimate
    sd_if_independent: float
    sd_if_calibrated: float
    p: float | None


def vote_variances(labels: np.ndarray, truth: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Unbiased estimates of p_y (1 - p_y) and of sum_c p_c^2 (1 - p_c), for each example.

    Parameters
    ----------
    labels : (n, N) integers
        The class that each of n runs predicts; n is at least FEWEST_TRIALS.
    truth : (N,) integers
    n_classes : int

    Returns
    -------
    independent, calibrated : (N,) arrays
        U-statistics of the numbers of votes.
    """
    n, size = labels.shape
    votes = np.zeros((size, n_classes))
    for own in labels:
        votes[np.arange(size), own] += 1
    right = votes[np.arange(size), truth]
    squares = votes * (votes - 1) / (n * (n - 1))
    cubes = votes * (votes - 1) * (votes - 2) / (n * (n - 1) * (n - 2))
    return right * (n - right) / (n * (n - 1)), (squares - cubes).sum(axis=1)


def laws(cell: Cell, n_examples: int) -> Laws | None:
    """The laws for a variant of `predictions.compare`; None without true classes or with fewer than three trials."""
    if (sums := cell.result.get("vote_variances")) is None:
        return None
    from scipy.special import gammainc, gammaincc

    errors = 1 - np.array(values(cell, "accuracy"), dtype=float)
    difference = matrix(cell, "top1_disagreement") - (errors[:, None] + errors) / 2
    independent, calibrated = (max(0.0, total) / n_examples**2 for total in sums)
    sd, df = sd_estimate(cell, "accuracy"), len(errors) - 1
    p = None
    if independent and sd.mean is not None:
        half = df * sd.mean**2 / independent / 2
        p = min(1.0, 2 * float(min(gammainc(df / 2, half), gammaincc(df / 2, half))))
    return Laws(pair_interval(difference), sd, math.sqrt(independent), math.sqrt(calibrated), p)
