"""What happens along training, as numbers: a study's curves, activations at equal steps and at equal loss.

How far two models agree depends on how far they have learnt, so a pair metric says little without the loss beside it.
Apart from analysis/results.py, which takes trained models as they are.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis import significance
from analysis.results import Cell, excludes_zero, pair_values, scaled, union
from analysis.series import truncated
from analysis.significance import Estimate

FEWEST_POINTS = 3  # of a curve that is read between its points


def steps(cell: Cell) -> list[int]:
    """The steps at which every trial of the cell has a loss."""
    found = [{point["step"] for point in record["history"]} for record in cell.trials.values()]
    return sorted(set.intersection(*found)) if found else []


def loss_at_step(cell: Cell, step: int, split: str = "val") -> Estimate:
    """Mean loss of the trials at a step of training, on the curve windows."""
    at = [point[f"{split}_loss"] for t in cell.trials.values() for point in t["history"] if point["step"] == step]
    return truncated(significance.mean_interval(at), "val_loss")


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


def pair_history(cell: Cell, pair: dict, name: str) -> list[tuple[float, float]]:
    """(the two models' mean validation loss, the metric) at every step for which the pair has both."""
    losses = [
        {point["step"]: point["val_loss"] for point in cell.trials[pair[k]]["history"]} for k in ("trial_a", "trial_b")
    ]
    return [
        ((losses[0][point["step"]] + losses[1][point["step"]]) / 2, point[name])
        for point in pair["history"]
        if point.get(name) is not None and all(side.get(point["step"]) is not None for side in losses)
    ]


def value_at_loss(history: Sequence[tuple[float, float]], loss: float) -> float | None:
    """The metric where a training curve first comes down to a loss, linear between its points; None if it never does.

    >>> value_at_loss([(4.0, 0.0), (3.0, 0.2), (2.5, 0.3)], 2.75)
    0.25
    """
    for (loss_a, value_a), (loss_b, value_b) in itertools.pairwise(history):
        if loss_a >= loss >= loss_b and loss_a > loss_b:
            share = (loss_a - loss) / (loss_a - loss_b)
            return value_a + share * (value_b - value_a)
    return None


def common_loss(cells: Sequence[Cell]) -> float | None:
    """The lowest validation loss (curve windows) that every pair of every cell comes down to.

    None if there is none, or where a curve has fewer than FEWEST_POINTS: between two points, the beginning and the end,
    there is a straight line and no curve.
    """
    lowest, first = [], []
    for cell in cells:
        for pair in cell.pairs:
            losses = [loss for loss, _ in pair_history(cell, pair, "relative_pd")]
            if len(losses) < FEWEST_POINTS:
                return None
            lowest.append(min(losses))
            first.append(losses[0])
    if not lowest or max(lowest) >= min(first):
        return None
    return max(lowest)


def matched(cells: Sequence[Cell], name: str, loss: float | None) -> dict[str, np.ndarray]:
    """Activation -> (n, n) of a pair metric on the curve windows: at a validation loss, or at the end where it is None."""
    numbers = union(cells)

    def of(cell):
        def value(pair):
            history = pair_history(cell, pair, name)
            if loss is None:
                return history[-1][1] if history else None
            return value_at_loss(history, loss)

        return pair_values(cell, value, numbers)

    return {cell.activation: of(cell) for cell in cells}


def difference_at_equal_loss(group: Sequence[Cell], reference: Cell) -> Estimate | None:
    """The difference in relative PD where all have come down to one validation loss, in % of the reference's.

    The mean of the group's activations minus the reference, paired; read off the curves, linear between their points.
    None where they have no common loss.
    """
    cells = [*group, reference]
    loss = common_loss(cells)
    if loss is None:
        return None
    found = matched(cells, "relative_pd", loss)
    base = significance.pair_interval(found[reference.activation]).mean
    mean = np.mean([found[cell.activation] for cell in group], axis=0)
    difference = significance.compare_pair_means(mean, found[reference.activation]).difference
    return scaled(difference, 100 / base) if base and difference.mean is not None else None


@dataclass(frozen=True)
class Flip:
    """Two activations whose order in a metric depends on how they are matched. `clear`: both intervals exclude 0."""

    first: str  # lower at equal steps
    second: str
    at_equal_steps: Estimate  # of first - second
    at_equal_loss: Estimate
    clear: bool


def flips(at_steps: dict[str, np.ndarray], at_loss: dict[str, np.ndarray]) -> list[Flip]:
    """Every pair of activations whose order at equal steps is another one than at equal loss."""
    found = []
    for one, other in itertools.combinations(at_steps, 2):
        pairs = [significance.compare_pair_means(side[one], side[other]).difference for side in (at_steps, at_loss)]
        if None in (pairs[0].mean, pairs[1].mean) or pairs[0].mean * pairs[1].mean >= 0:
            continue
        if pairs[0].mean > 0:
            one, other = other, one
            pairs = [replace(scaled(e, -1), low=_negative(e.high), high=_negative(e.low)) for e in pairs]
        found.append(Flip(one, other, *pairs, clear=all(excludes_zero(e) for e in pairs)))
    return found


def _negative(value):
    return None if value is None else -value
