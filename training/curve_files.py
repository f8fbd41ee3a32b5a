"""The predictions at the points of a trial's curves: each point is written once, in a file of its own.

A pair's history compares two trials at each point, and no checkpoint can give these predictions again. So they stay
next to the trial's checkpoint, for the pairs with trials that are added later. Without them (they may be deleted) such a
trial is trained again, to the same bits, when a pair needs its curve.

    checkpoints/<architecture>_<activation>/trial_<k>.curve/<step>.safetensors
"""

from pathlib import Path

import numpy as np

from common import array_files
from common.errors import RunError
from common.provenance import numeric_environment
from training.identity import read_belonging
from training.trial import partial_identity


def curve_folder(folder: Path, number: int) -> Path:
    """Where the points of a trial lie, given the folder of its checkpoint."""
    return Path(folder) / f"trial_{number}.curve"


def point_path(folder: Path, step: int) -> Path:
    """The file of one point."""
    return Path(folder) / f"{step}{array_files.ARRAY_SUFFIX}"


def about_curve(trial, task, environment: dict) -> dict:
    """What the points of a trial's curve belong to: with the step, it says every bit of them."""
    identity = partial_identity(trial, task)
    return {"kind": "curve point", "identity": identity, "environment": numeric_environment(environment)}


def write_point(folder: Path, about: dict, step: int, log_p: np.ndarray) -> None:
    """Writes the (Wc, T, C) log-probabilities of one point."""
    array_files.write_arrays(point_path(folder, step), {**about, "step": step}, {"log_probabilities": log_p})


def read_point(folder: Path, about: dict, step: int) -> np.ndarray:
    """(Wc, T, C) log-probabilities of one point, mapped into memory; a RunError where they are missing or not this trial's."""
    path = point_path(folder, step)
    try:
        return read_belonging(path, {**about, "step": step})["log_probabilities"]
    except FileNotFoundError:
        raise RunError(f"{path} is missing") from None


def what_is_wrong(folder: Path, about: dict, steps) -> str | None:
    """Why the points of a trial cannot be used, in words; None where all are there and in order."""
    try:
        for step in steps:
            read_point(folder, about, step)
    except RunError as error:
        return str(error)
    return None
