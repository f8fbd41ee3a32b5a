"""Two laws of classifiers that differ only in their seed: what they predict from labels alone, and whether it holds.

Let p_c be the share of all training runs that predict class c for an example, y its true class, N the number of examples.

- If the ensemble of all runs is class-aggregated calibrated (of all pairs of an example and a class with a given p_c, a share
  p_c has that class as the true one), the expected disagreement of two runs equals the expected error of one (Jiang et al. 2022).
- If, over runs, errors on different examples of a fixed test set are independent, the variance of a run's accuracy is the mean of
  p_y (1 - p_y), divided by N. If the ensemble is calibrated too, it is in expectation the mean of sum_c p_c^2 (1 - p_c), divided
  by N; for two classes, error / (2N) (Jordan 2023 for two classes; for more by the same argument).

A difference between disagreement and error, or between the two predicted variances if there are more than two classes, speaks
against calibration; agreement does not establish it. The measured variance against the first prediction tests independence.

References
----------
Jiang, Nagarajan, Baek and Kolter 2022, Assessing generalization of SGD via disagreement, arXiv 2106.13799.
Jordan 2023, On the variance of neural network training with respect to test sets and distributions, arXiv 2304.01910.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from analysis.estimates import Estimate, pair_interval
from analysis.predictions import Variants, error_over_examples
from analysis.results import Cell, matrix, sd_estimate, values


@dataclass(frozen=True)
class Laws:
    """What the laws predict of a variant, and what was measured.

    Attributes
    ----------
    disagreement_minus_error : Estimate
        Mean over pairs of runs of their disagreement minus their mean error, with a 95% interval over runs and examples.
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


def laws(variants: Variants, cell: Cell) -> Laws | None:
    """The laws for one of the variants; None without true classes or with fewer than three trials."""
    by_block = variants.by_block[cell.activation]
    if "variance_if_independent" not in by_block:
        return None
    from scipy.special import gammainc, gammaincc

    errors = 1 - np.array(values(cell, "accuracy"), dtype=float)
    difference = pair_interval(matrix(cell, "top1_disagreement") - (errors[:, None] + errors) / 2)
    over_examples = error_over_examples(variants, "disagreement_minus_error", cell.activation)
    independent, calibrated = (
        max(0.0, float(by_block[f"variance_if_{name}"].sum())) / variants.predictions.n_rows**2
        for name in ("independent", "calibrated")
    )
    sd, df = sd_estimate(cell, "accuracy"), len(errors) - 1
    p = None
    if independent and sd.mean is not None:
        half = df * sd.mean**2 / independent / 2
        p = min(1.0, 2 * float(min(gammainc(df / 2, half), gammaincc(df / 2, half))))
    return Laws(_with(difference, over_examples), sd, math.sqrt(independent), math.sqrt(calibrated), p)


def _with(difference, over_examples):
    """The estimate with an interval over runs and examples; without one if either error is unknown.

    Both errors are added in quadrature, which counts the part that depends on run and example together twice.
    """
    if over_examples is None or difference.standard_error is None:
        return replace(difference, low=None, high=None)
    over_runs = difference.high - difference.mean if difference.standard_error else 0.0
    half = math.hypot(over_runs, 1.96 * over_examples)
    return replace(difference, low=difference.mean - half, high=difference.mean + half, reason=None)
