"""Predictions at the curve points of a trial, one file per point.

A pair's history compares two trials at each curve point, and the final checkpoint cannot reproduce these predictions.
They are kept next to the checkpoint for pairs with trials added later. They may be deleted: if a pair needs a curve
that is missing, its trial is retrained, bit-identically.

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
    """Folder of a trial's curve points, given the folder of its checkpoint."""
    return Path(folder) / f"trial_{number}.curve"


def point_path(folder: Path, step: int) -> Path:
    """The file of one point."""
    return Path(folder) / f"{step}{array_files.ARRAY_SUFFIX}"


def about_curve(trial, task, environment: dict) -> dict:
    """The identity stored with a trial's curve points; together with the step it determines their content."""
    identity = partial_identity(trial, task)
    return {"kind": "curve point", "identity": identity, "environment": numeric_environment(environment)}


def write_point(folder: Path, about: dict, step: int, log_p: np.ndarray) -> None:
    """Writes the (Wc, T, C) log-probabilities of one point."""
    array_files.write_arrays(point_path(folder, step), {**about, "step": step}, {"log_probabilities": log_p})


def read_point(folder: Path, about: dict, step: int) -> np.ndarray:
    """(Wc, T, C) log-probabilities of one point, memory-mapped; raises RunError if missing, damaged or of another trial."""
    path = point_path(folder, step)
    try:
        return read_belonging(path, {**about, "step": step})["log_probabilities"]
    except FileNotFoundError:
        raise RunError(f"{path} is missing") from None


def curve_problem(folder: Path, about: dict, steps) -> str | None:
    """Why a trial's curve points cannot be used; None if all of them can."""
    try:
        for step in steps:
            read_point(folder, about, step)
    except RunError as error:
        return str(error)
    return None
