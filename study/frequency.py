"""Reads what a study's models predicted along training, and measures disagreement by frequency of the true class."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.frequency import GROUPS, by_group, frequency_groups
from analysis.results import Cell
from common.errors import UserError
from training import curve_files
from training.evaluate import curve_examples


@dataclass(frozen=True)
class Course:
    """An activation's disagreement along training.

    Attributes
    ----------
    cell : Cell
    steps : list of int
        S training steps.
    groups : list of str
        G groups of classes, the most frequent first: their symbols.
    values : dict
        "relative_pd" and "js_divergence" -> (S, 1 + G, n, n) array over pairs of trials; index 0: all positions.
    """

    cell: Cell
    steps: list[int]
    groups: list[str]
    values: dict[str, np.ndarray]


def course(cell: Cell, checkpoints_dir: Path, task) -> Course:
    """Measures the pairs of a cell at every point of its curves; a UserError if the predictions were deleted."""
    from config import Config
    from train import trial_of_result

    config = Config(**cell.result["identity"]["config"])
    targets = task.targets("validation", config)
    targets = targets[curve_examples(len(targets), config.curve_windows)]
    groups = frequency_groups(targets, task.n_classes)
    of_position = groups[targets.ravel()]
    numbers, steps = cell.numbers, [point["step"] for point in cell.trials[cell.numbers[0]]["history"]]
    places = {}
    for k in numbers:
        record = cell.trials[k]
        about = curve_files.about_curve(trial_of_result(cell.result, record), task, record["environment"])
        folder = curve_files.curve_folder(Path(checkpoints_dir) / f"{cell.architecture}_{cell.activation}", k)
        if fault := curve_files.curve_problem(folder, about, steps):
            raise UserError(f"the predictions along training are needed, but {fault} (see --checkpoints-dir)")
        places[k] = folder, about
    shape = (len(steps), 1 + GROUPS, len(numbers), len(numbers))
    values = {name: np.full(shape, np.nan) for name in ("relative_pd", "js_divergence")}
    for s, step in enumerate(steps):
        read = [curve_files.read_point(*places[k], step).reshape(len(of_position), -1) for k in numbers]
        for i, j in itertools.combinations(range(len(numbers)), 2):
            for name, found in by_group(read[i], read[j], of_position).items():
                values[name][s, : len(found), i, j] = values[name][s, : len(found), j, i] = found
    return Course(cell, steps, [_symbols(task, groups, g) for g in range(GROUPS)], values)


def _symbols(task, groups, group):
    """The classes of a group in text, by their characters if the task has an alphabet."""
    members = np.flatnonzero(groups == group)
    if not hasattr(task, "corpus"):
        return ", ".join(map(str, members))
    text = task.corpus.decode(members)
    return text.replace("\n", "↵").replace(" ", "␣")
