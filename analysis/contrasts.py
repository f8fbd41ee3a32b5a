"""Prespecified contrasts between activations: by how many percent their models' disagreement differs.

A contrast is the mean over pairs of trials (i, j) of log(PD_A(i, j) / PD_B(i, j)), at a common loss or at the end of
training (analysis/equal_loss.py). At each of these two endpoints, the contrasts of a study are one family. If trials come
in groups whose models never existed together, pairs are formed within groups (`estimates.combined`).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.curves import CommonLoss, at_equal_loss, log_ratios
from analysis.equal_loss import log_ratio
from analysis.estimates import Estimate, combined
from analysis.outlying import outlying_runs_of_pairs
from analysis.results import Cell, matrix, union
from analysis.significance import Comparison


@dataclass(frozen=True)
class Contrast:
    """One contrast with its verdict.

    Attributes
    ----------
    groups : sequence of (Cell, Cell)
        An activation and its reference, for each group of trials.
    comparison : Comparison
        Its difference is in logarithms (see `percent`).
    outlying : tuple of int
        Seeds of the trials flagged as outlying in either activation.
    without_outlying : Estimate or None
        The difference without them; None if there are none.
    """

    groups: Sequence[tuple[Cell, Cell]]
    comparison: Comparison
    outlying: tuple[int, ...] = ()
    without_outlying: Estimate | None = None

    @property
    def names(self) -> tuple[str, str]:
        """Of the activation and its reference, with the learning rates if these differ."""
        (cell, reference), *_ = self.groups
        rates = learning_rate(cell), learning_rate(reference)
        if rates[0] == rates[1]:
            return cell.label, reference.label
        return f"{cell.label} at {rates[0]:g}", f"{reference.label} at {rates[1]:g}"


def contrasts(
    family: Sequence[Sequence[tuple[Cell, Cell]]], name: str, margin: float, common: CommonLoss | None = None
) -> list[Contrast]:
    """The contrasts of one family at one endpoint, with their verdicts.

    Parameters
    ----------
    family : sequence of sequences of (Cell, Cell)
        For each contrast, (activation, its reference) in each group of trials.
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

    judged = zip(family, log_ratios(family, read, margin), strict=True)
    return [_with_outlying(groups, comparison, read) for groups, comparison in judged]


def _with_outlying(groups, comparison, read):
    """The contrast, with the outlying trials of either activation and the difference without them."""
    seeds, rests = [], []
    for cell, reference in groups:
        numbers = union((cell, reference))
        flagged = {numbers[k] for side in (cell, reference) for k in outlying_runs_of_pairs(read(side, numbers)[0])}
        trials = reference.trials | cell.trials
        seeds += [trials[number]["seed"] for number in sorted(flagged)]
        rests.append([number for number in numbers if number not in flagged])
    if not seeds or comparison.difference.mean is None:
        return Contrast(groups, comparison, tuple(seeds))
    ratios = [
        log_ratio(read(cell, rest)[0], read(reference, rest)[0]) for (cell, reference), rest in zip(groups, rests)
    ]
    return Contrast(groups, comparison, tuple(seeds), combined([ratio.difference for ratio in ratios]))


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


def learning_rate(cell: Cell) -> float:
    """At which the cell's trials were trained."""
    return cell.result["identity"]["config"]["learning_rate"]


def by_activation(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Label -> the cells of an activation at one learning rate, one for each group of trials; rates named if several."""
    cells = list(cells)
    several = len({learning_rate(cell) for cell in cells}) > 1

    def label(cell):
        return f"{cell.label} at {learning_rate(cell):g}" if several else cell.label

    labels = dict.fromkeys(map(label, cells))
    return {name: [cell for cell in cells if label(cell) == name] for name in labels}
