"""What happens along training, as numbers: a study's curves, activations at equal steps and at equal loss.

How far two models agree depends on how far training has got, so a pair metric says little without the loss.
Apart from analysis/results.py, which takes trained models as they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis import equal_loss, significance
from analysis.estimates import Estimate, mean_interval
from analysis.results import Cell, pair_values, union
from analysis.series import truncated
from analysis.significance import Comparison


@dataclass(frozen=True)
class CommonLoss:
    """Where activations are compared at equal loss; all of it is fixed before the data are seen."""

    loss: float  # nats, of the two models of a pair on average, on the curve windows
    bandwidth: float = equal_loss.BANDWIDTH  # nats
    last_step: int | None = None  # the last usable one, before a cooldown; None: the last of all


def steps(cell: Cell) -> list[int]:
    """The steps at which every trial of the cell has a loss."""
    found = [{point["step"] for point in record["history"]} for record in cell.trials.values()]
    return sorted(set.intersection(*found)) if found else []


def loss_at_step(cell: Cell, step: int, split: str = "val") -> Estimate:
    """Mean loss of the trials at a step of training, on the curve windows."""
    at = [point[f"{split}_loss"] for t in cell.trials.values() for point in t["history"] if point["step"] == step]
    return truncated(mean_interval(at), "val_loss")


def along_training(cells: Sequence[Cell], name: str) -> list[tuple[int, float]]:
    """(step, mean over cells of the mean over pairs) of a pair metric on the curve windows, where every pair has it."""
    curves = [
        [
            {point["step"]: point[name] for point in pair["history"] if point.get(name) is not None}
            for pair in cell.pairs
        ]
        for cell in cells
        if cell.pairs
    ]
    common = set.intersection(*({*curve} for pairs in curves for curve in pairs)) if curves else ()
    return [(step, float(np.mean([np.mean([c[step] for c in pairs]) for pairs in curves]))) for step in sorted(common)]


def turns(path: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """The first and the last point of a path of (step, value), and between them the one where it turns, if it does.

    It turns at the point that lies farthest outside of the values of both ends, by a tenth of the path's range at least.

    >>> turns([(0, 0.13), (50, 0.09), (100, 0.08), (500, 0.12)]), turns([(0, 0.13), (50, 0.1), (100, 0.08)])
    ([(0, 0.13), (100, 0.08), (500, 0.12)], [(0, 0.13), (100, 0.08)])
    """
    ends, values = [path[0], path[-1]], [value for _, value in path]
    low, high = sorted(value for _, value in ends)
    outside, turn = max((max(low - point[1], point[1] - high), point) for point in path)
    return [path[0], turn, path[-1]] if outside > 0.1 * (max(values) - min(values)) else ends


def pair_history(cell: Cell, pair: dict, name: str, last_step: int | None = None) -> list[tuple[float, float]]:
    """(the two models' mean validation loss, the metric) at every step for which the pair has both, up to a last one."""
    losses = [
        {point["step"]: point["val_loss"] for point in cell.trials[pair[k]]["history"]} for k in ("trial_a", "trial_b")
    ]
    return [
        ((losses[0][step] + losses[1][step]) / 2, point[name])
        for point in pair["history"]
        if point.get(name) is not None
        and all(side.get(step := point["step"]) is not None for side in losses)
        and (last_step is None or step <= last_step)
    ]


def at_equal_loss(
    cell: Cell, name: str, common: CommonLoss, numbers: Sequence[int] | None = None
) -> tuple[np.ndarray, list[str]]:
    """A pair metric of every pair of a cell where its curve passes the common loss.

    Returns
    -------
    values : (n, n) array
        Over `numbers` (all of the cell's by default); NaN: no pair, or not readable.
    reasons : list of str
        Why a pair could not be read (`equal_loss.TOO_COARSE` or NOT_REACHED), one per such pair.
    """
    reasons = []

    def value(pair):
        losses, values = np.array(pair_history(cell, pair, name, common.last_step), dtype=float).reshape(-1, 2).T
        reading = equal_loss.value_at_loss(losses, values, common.loss, common.bandwidth)
        if reading.reason:
            reasons.append(reading.reason)
        return reading.value

    return pair_values(cell, value, numbers), reasons


def compare_at_equal_loss(
    cells: Sequence[Cell], reference: Cell, name: str, common: CommonLoss, margin: float
) -> list[Comparison]:
    """Each cell against the reference at the common loss: the mean log ratio of a pair metric, with its verdict.

    The cells are one family (see `log_ratios`).

    Parameters
    ----------
    cells, reference : Cell
    name : str
        A pair metric.
    common : CommonLoss
    margin : float
        Of the logarithm: log(1 + share).
    """
    return log_ratios(
        [(cell, reference) for cell in cells], lambda cell, numbers: at_equal_loss(cell, name, common, numbers), margin
    )


def log_ratios(
    contrasts: Sequence[tuple[Cell, Cell]],
    read: Callable[[Cell, Sequence[int]], tuple[np.ndarray, list[str]]],
    margin: float,
) -> list[Comparison]:
    """One family of contrasts: the mean over pairs of log(metric of the first / metric of the second), with verdicts.

    A contrast in which any pair of either activation cannot be read has no number, for those that can be read would be
    a selection: its verdict is `equal_loss.NOT_REACHED` or TOO_COARSE.

    Parameters
    ----------
    contrasts : sequence of (Cell, Cell)
        The whole family, as stated before the data were seen.
    read : callable
        (cell, trial numbers) -> (n, n) values of the pair metric, and why a pair could not be read, one per such pair.
    margin : float
        Of the logarithm: log(1 + share).
    """
    found, unread_reasons = [], []
    for cell, reference in contrasts:
        numbers = union((cell, reference))
        (values, reasons), (base, base_reasons) = read(cell, numbers), read(reference, numbers)
        unread_reasons.append(sorted((*reasons, *base_reasons), reverse=True))
        if unread_reasons[-1]:
            values = np.full_like(values, np.nan)
        found.append(equal_loss.log_ratio(values, base))
    judged = significance.verdicts(found, [margin] * len(found))
    return [
        replace(comparison, verdict=reasons[0], reason=f"{len(reasons)} pairs cannot be read at the common loss")
        if reasons
        else comparison
        for comparison, reasons in zip(judged, unread_reasons)
    ]
