"""A study's predictions as files that compare_predictions.py and other programs read."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analysis.results import Cell
from common.errors import UserError
from common.files import write_atomically
from config import Config
from study.recompute import check_models, checkpoint_path, study_task
from training.options import check_device


def export_predictions(
    cells: Sequence[Cell], checkpoints_dir: Path, folder: Path, user_files=(), data: str = "auto", say=print
) -> None:
    """Writes every model's probabilities on the validation split, and the true classes.

    Files are `folder`/<activation>/trial_<k>.npy and `folder`/labels.npy; with several architectures, folders are named
    <architecture>_<activation>. Probabilities are float32 (W, T, C), or (W, C) if an example has one prediction. Models that
    were trained on a device which this machine lacks predict on its CPU, which is said: their last digits differ.

    Parameters
    ----------
    cells : sequence of Cell
    checkpoints_dir : Path
    folder : Path
        Must not exist or must be empty.
    user_files
        User-defined architecture or activation, from `options.load_user_files`.
    data : str
        Location of the data, as for `load_recorded`.

    Raises
    ------
    UserError
        The folder is not empty, or a checkpoint, the data or a user's file are missing.
    RunError
        A checkpoint is damaged or of another trial.
    """
    from study.jobs import Context, predict

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; give --export-predictions a new one")
    check_models(cells, checkpoints_dir, "--export-predictions")
    task = study_task(cells[0].result, may_download=True, data=data)
    several = len({cell.architecture for cell in cells}) > 1
    device = cells[0].result["identity"]["device"]
    try:
        check_device(device)
    except UserError:
        say(f"trained on {device}, which this machine lacks: predicting on the CPU, so the last digits differ")
        device = "cpu"
    folder.mkdir(parents=True, exist_ok=True)
    for cell, number in [(each, k) for each in cells for k in each.numbers]:
        of = f"{cell.architecture}_{cell.activation}" if several else cell.activation
        path, digest = checkpoint_path(checkpoints_dir, cell, number), cell.trials[number]["weights_sha256"]
        log_p = predict(Context(task, user_files), None, None, str(path), digest, device)
        _write(folder / of / f"trial_{number}.npy", np.exp(log_p))
        say(f"{of}, trial {number}: written")
    config = Config(**cells[0].result["identity"]["config"])
    _write(folder / "labels.npy", np.asarray(task.targets("validation", config)))


def _write(path, values):
    """Saves an array, without the axis of positions if there is only one."""
    content = io.BytesIO()
    np.save(content, values[:, 0] if values.shape[1] == 1 else values)
    write_atomically(path, content.getbuffer())
