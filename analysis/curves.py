"""Training curves as numbers: activations at equal steps and at equal loss.

The disagreement of two models depends on how far training has progressed, so a pair metric is hard to interpret without
the loss. analysis/results.py treats the models at the end of training.
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
    """The loss at which activations are compared; all attributes are fixed before the data are seen.

    Attributes
    ----------
    loss : float
        Nats: the mean of a pair's two models on the curve windows.
    bandwidth : float
        Nats.
    last_step : int or None
        The last usable step, before any cooldown; None: all are usable.
    """

    loss: float
    bandwidth: float = equal_loss.BANDWIDTH
    last_step: int | None = None


def steps(cell: Cell) -> list[int]:
    """The steps at which every trial of the cell was evaluated, in ascending order."""
    found = [{point["step"] for point in record["history"]} for record in cell.trials.values()]
    return sorted(set.intersection(*found)) if found else []


def loss_at_step(cell: Cell, step: int, split: str = "val") -> Estimate:
    """Mean loss (nats) of the trials at a training step, on the curve windows; split: "train" or "val"."""
    at = [point[f"{split}_loss"] for t in cell.trials.values() for point in t["history"] if point["step"] == step]
    return truncated(mean_interval(at), "val_loss")


def along_training(cells: Sequence[Cell], name: str) -> list[tuple[int, float]]:
    """A pair metric along training, on the curve windows: (step, mean over cells of the mean over pairs).

    Steps at which some pair has no value are left out.
    """
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
    """First point, turning point if there is one, and last point of a path of (step, value).

    The turning point is the one farthest outside the interval between the values of both ends, if it lies outside by
    more than a tenth of the path's range.

    >>> turns([(0, 0.13), (50, 0.09), (100, 0.08), (500, 0.12)]), turns([(0, 0.13), (50, 0.1), (100, 0.08)])
    ([(0, 0.13), (100, 0.08), (500, 0.12)], [(0, 0.13), (100, 0.08)])
    """
    ends, values = [path[0], path[-1]], [value for _, value in path]
    low, high = sorted(value for _, value in ends)
    outside, turn = max((max(low - point[1], point[1] - high), point) for point in path)
    return [path[0], turn, path[-1]] if outside > 0.1 * (max(values) - min(values)) else ends


def pair_history(cell: Cell, pair: dict, name: str, last_step: int | None = None) -> list[tuple[float, float]]:
    """A pair's curve: (mean validation loss of its two models, metric) at every step with both, up to `last_step`."""
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
    """A pair metric of every pair of a cell, read off its curve at the common loss.

    Parameters
    ----------
    cell : Cell
    name : str
        A pair metric.
    common : CommonLoss
    numbers : sequence of int, optional
        Trial numbers; default: all of the cell's.

    Returns
    -------
    values : (n, n) array
        NaN: no such pair, or its curve cannot be read at the common loss.
    reasons : list of str
        For each pair whose curve cannot be read, `equal_loss.TOO_COARSE` or `equal_loss.NOT_REACHED`.
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

    The comparisons are one family (see `log_ratios`).

    Parameters
    ----------
    cells, reference : Cell
    name : str
        A pair metric.
    common : CommonLoss
    margin : float
        The smallest log ratio of interest: log(1 + share).

    Returns
    -------
    list of Comparison
    """
    return log_ratios(
        [[(cell, reference)] for cell in cells],
        lambda cell, numbers: at_equal_loss(cell, name, common, numbers),
        margin,
    )


def log_ratios(
    contrasts: Sequence[Sequence[tuple[Cell, Cell]]],
    read: Callable[[Cell, Sequence[int]], tuple[np.ndarray, list[str]]],
    margin: float,
) -> list[Comparison]:
    """One family of contrasts: the mean over pairs of log(metric of the first / metric of the second), with verdicts.

    If any pair of either activation cannot be read, the contrast has no value, since the remaining pairs would be a
    selection; its verdict is then `equal_loss.NOT_REACHED` or `equal_loss.TOO_COARSE`.

    Parameters
    ----------
    contrasts : sequence of sequences of (Cell, Cell)
        The whole family, as stated before the data were seen. Each is a list of groups of trials without a common trial
        (usually one): pairs are formed within a group.
    read : callable
        (cell, trial numbers) -> (n, n) values of the pair metric, and a reason for each pair that cannot be read.
    margin : float
        The smallest log ratio of interest: log(1 + share).

    Returns
    -------
    list of Comparison
        In the order of `contrasts`.
    """
    found, unread_reasons = [], []
    for groups in contrasts:
        matrices, unread = [], []
        for cell, reference in groups:
            numbers = union((cell, reference))
            (values, reasons), (base, base_reasons) = read(cell, numbers), read(reference, numbers)
            matrices.append((values, base))
            unread += [*reasons, *base_reasons]
        if unread:
            matrices = [(np.full_like(values, np.nan), base) for values, base in matrices]
        unread_reasons.append(sorted(unread, reverse=True))
        found.append(significance.compare_in_groups([equal_loss.log_ratio(*both) for both in matrices]))
    judged = significance.verdicts(found, [margin] * len(found))
    return [
        replace(comparison, verdict=reasons[0], reason=f"{len(reasons)} pairs cannot be read at the common loss")
        if reasons
        else comparison
        for comparison, reasons in zip(judged, unread_reasons)
    ]
