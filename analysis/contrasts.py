"""Prespecified contrasts between activations: by how many percent their models' disagreement differs.

A contrast is the mean over pairs of trials (i, j) of log(PD_A(i, j) / PD_B(i, j)), at a common loss or at the end of
training (analysis/equal_loss.py). At each of these two endpoints, the contrasts of a study are one family.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.curves import CommonLoss, at_equal_loss, log_ratios
from analysis.equal_loss import log_ratio
from analysis.estimates import Estimate
from analysis.outlying import outlying_runs_of_pairs
from analysis.results import Cell, matrix, union
from analysis.significance import Comparison


@dataclass(frozen=True)
class Contrast:
    """One contrast with its verdict.

    Attributes
    ----------
    cell, reference : Cell
    comparison : Comparison
        Its difference is in logarithms (see `percent`).
    outlying : tuple of int
        Numbers of the trials flagged as outlying in either activation.
    without_outlying : Estimate or None
        The difference without them; None if there are none.
    """

    cell: Cell
    reference: Cell
    comparison: Comparison
    outlying: tuple[int, ...] = ()
    without_outlying: Estimate | None = None

    @property
    def name(self) -> str:
        return f"{self.cell.label} / {self.reference.label}"


def contrasts(
    pairs: Sequence[tuple[Cell, Cell]], name: str, margin: float, common: CommonLoss | None = None
) -> list[Contrast]:
    """The contrasts of one family at one endpoint, with their verdicts.

    Parameters
    ----------
    pairs : sequence of (Cell, Cell)
        The whole family: (activation, its reference).
    name : str
        A pair metric, such as relative_pd.
    margin : float
        The smallest ratio of interest: log(1 + share).
    common : CommonLoss, optional
        The loss at which the metric is read off the curves. None: at the end of training, on all windows.

    Returns
    -------
    list of Contrast
        `comparison.difference` is in logarithms (see `percent`).
    """

    def read(cell, numbers):
        return (matrix(cell, name, numbers), []) if common is None else at_equal_loss(cell, name, common, numbers)

    judged = zip(pairs, log_ratios(pairs, read, margin), strict=True)
    return [_with_outlying(cell, reference, comparison, read) for (cell, reference), comparison in judged]


def _with_outlying(cell, reference, comparison, read):
    """The contrast, with the outlying trials of either activation and the difference without them."""
    numbers = union((cell, reference))
    flagged = {numbers[k] for side in (cell, reference) for k in outlying_runs_of_pairs(read(side, numbers)[0])}
    if not flagged or comparison.difference.mean is None:
        return Contrast(cell, reference, comparison, tuple(sorted(flagged)))
    rest = [number for number in numbers if number not in flagged]
    without = log_ratio(read(cell, rest)[0], read(reference, rest)[0])
    return Contrast(cell, reference, comparison, tuple(sorted(flagged)), without.difference)


def percent(estimate: Estimate) -> tuple[float | None, float | None, float | None]:
    """An estimate of a log ratio in percent, 100 (exp(x) - 1).

    Parameters
    ----------
    estimate : Estimate
        In logarithms.

    Returns
    -------
    mean, low, high : float or None
        Percent.
    """
    mean, low, high = (None if x is None else 100 * math.expm1(x) for x in (estimate.mean, estimate.low, estimate.high))
    return mean, low, high
