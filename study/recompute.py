"""What the analysis needs a study's trained models for: checking stored pair metrics, and predicting one passage.

Apart from analyze_results.py because everything else there works from the small result files alone; torch is needed
only here. The models are evaluated by the very tasks that the study ran (study/local_engine.py), so the same bits are expected.
"""

import itertools
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analysis.results import Cell
from common import storage
from common.errors import RunError, UserError
from config import Config
from tasks import corpus as text
from training.options import check_device

WORKERS = 2  # at the most; each holds one model's predictions, or maps those of some into memory
PASSAGE_LENGTH = 512  # characters
PASSAGE_TRIALS = 8  # models at the most
NOT_MEASURES = ("trial_a", "trial_b", "per_window")


def study_task(result: dict, may_download: bool, data: str = "auto"):
    """The task of a result with its data, verified; a UserError if they are unavailable. data: as for `load_recorded`."""
    from tasks.registry import load_recorded

    label = result.get("corpus", {}).get("label")
    at_hand = os.environ.get("CHARLM_CORPUS") or Path("data/shakespeare.txt").exists()
    if label == "shakespeare" and data == "auto" and not may_download and not at_hand:
        raise UserError("corpus shakespeare is not at hand (CHARLM_CORPUS names no file, and data/ has none)")
    return load_recorded(result, data)


def yardsticks(study, data: str = "auto") -> tuple[text.Yardstick, ...] | str:
    """What tables of counts predict on a study's text, or why that cannot be said."""
    try:
        task = study_task(study.cells[0].result, may_download=False, data=data)
    except UserError as error:
        return str(error)
    if not hasattr(task, "corpus"):
        return "the task is not text"
    return text.yardsticks(task.corpus, study.identity["config"]["block_size"])


def checkpoint_path(checkpoints_dir: Path, cell: Cell, number: int) -> Path:
    return Path(checkpoints_dir) / f"{cell.architecture}_{cell.activation}" / f"trial_{number}.pt"


# --- recomputing ----------------------------------------------------------------------------------------------------


def recompute(cells: Sequence[Cell], checkpoints_dir: Path, user_files=(), say=print, data: str = "auto") -> bool:
    """Measures every stored pair again from the checkpoints; says per cell whether all is identical, returns it for all.

    Greedy continuations are taken from the result: writing text anew is no part of this check.

    Args:
      cells: those that have pairs.
      user_files: a reader's own architecture or activation, from `options.load_user_files`.
      data: where the data are, as for `load_recorded`.
    """
    from architectures.registry import check_reader_sources
    from common.provenance import usable_cpus
    from study.jobs import Context
    from study.local_engine import LocalEngine

    task = study_task(cells[0].result, may_download=True, data=data)
    check_device(cells[0].result["identity"]["device"])
    for cell in cells:
        check_reader_sources(cell.result)
        for number in _in_pairs(cell):
            path = checkpoint_path(checkpoints_dir, cell, number)
            if not path.exists():
                raise UserError(
                    f"--recompute needs the checkpoint {path}, which does not exist (see --checkpoints-dir)"
                )
    engine = LocalEngine(min(WORKERS, usable_cpus()), Context(task, user_files))
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _recompute(engine, cells, checkpoints_dir, Path(folder), say)
    finally:
        engine.close()


def _recompute(engine, cells, checkpoints_dir, folder, say):
    """The comparisons of a cell follow its last prediction, while the next cell's models predict: no worker waits."""
    owner, files, pairs = {}, {}, {}  # job name -> (cell, trial or None); the others by cell
    identical = True

    def submit(index, number, job, first=False):
        owner[job.name] = index, number
        engine.submit(job, first)

    for index, cell in enumerate(cells):
        paths = {number: checkpoint_path(checkpoints_dir, cell, number) for number in _in_pairs(cell)}
        if other := _other_weights(cell, paths):
            say(f"recomputed {_name(cell)}: DIFFERENT, {other}")
            identical = False
            continue
        files[index], pairs[index] = {}, {}
        for number, path in paths.items():
            submit(index, number, _prediction(cell, number, path))
        engine.start()
    while not engine.idle:
        for kind, job, payload in engine.events():
            if kind == "failed":
                raise RunError(f"{job.name} failed: {payload}")
            if kind == "retry":
                say(f"{job.name}: {payload}")
            if kind != "done":
                continue
            index, number = owner[job.name]
            cell = cells[index]
            if number is not None:
                files[index][number] = folder / f"{index}_{number}.npy"
                np.save(files[index][number], payload)
                if len(files[index]) == len(_in_pairs(cell)):
                    for comparison in _comparisons(cell, checkpoints_dir, files[index]):
                        submit(index, None, comparison, first=True)
                continue
            pairs[index] |= {(pair["trial_a"], pair["trial_b"]): pair for pair in payload}
            if len(pairs[index]) == len(cell.pairs):
                identical &= _say_whether_identical(cell, pairs.pop(index), say)
                for path in files.pop(index).values():
                    path.unlink()
    return identical


def _name(cell):
    return f"{cell.architecture} with {cell.activation}"


def _in_pairs(cell):
    """The trials of the stored pairs."""
    return sorted({number for pair in cell.pairs for number in (pair["trial_a"], pair["trial_b"])})


def _other_weights(cell, paths):
    """Which checkpoint holds another model than its trial's, in words; None where none does."""
    for number, path in paths.items():
        found = storage.weights_sha256(storage.read_checkpoint(path)["model"])
        if found != cell.trials[number]["weights_sha256"]:
            return f"{path} holds other weights than the result of trial {number} says"
    return None


def _prediction(cell, number, path):
    from study.jobs import Job

    arguments = {"checkpoint": str(path), "device": cell.result["identity"]["device"]}
    return Job(f"predictions of {_name(cell)}, trial {number}", "predict", arguments)


def _comparisons(cell, checkpoints_dir, predictions):
    """A task for each worker: together, every stored pair of the cell."""
    from study.jobs import Job

    keys = [(pair["trial_a"], pair["trial_b"]) for pair in cell.pairs]
    size = max(1, -(-len(keys) // WORKERS))
    for start in range(0, len(keys), size):
        part = keys[start : start + size]
        members = {
            k: {
                "predictions": str(predictions[k]),
                "curve": str(checkpoint_path(checkpoints_dir, cell, k)),
                "continuations": cell.trials[k].get("continuations"),
            }
            for k in sorted(set(itertools.chain.from_iterable(part)))
        }
        last = cell.result["identity"]["protocol"] == "published"
        config = Config(**cell.result["identity"]["config"])
        arguments = {"members": members, "pairs": part, "config": config, "last_position": last}
        yield Job(f"pairs of {_name(cell)} from {start}", "compare", arguments)


def _say_whether_identical(cell, pairs, say):
    """Says, and returns, whether the pairs measured now are the stored ones."""
    stored = {(pair["trial_a"], pair["trial_b"]): pair for pair in cell.pairs}
    worst, count, first = 0.0, 0, None
    for key, pair in sorted(pairs.items()):
        difference, largest, n = _difference(stored[key], pair, cell.arrays or {}, key)
        first, worst, count = first or difference, max(worst, largest), count + n
    if first is None:
        say(f"recomputed {_name(cell)}: identical, {len(pairs)} pairs, {count:,} numbers")
    else:
        most = f"; largest difference {worst:.3g}" if worst else ""
        say(f"recomputed {_name(cell)}: DIFFERENT, first {first} (stored against now){most}")
    return first is None


def _difference(stored, now, arrays, key):
    """(first difference in words or None, the largest one, how many numbers were compared) of one pair."""
    first, worst, count = None, 0.0, 0
    for name, value in now.items():
        if name in NOT_MEASURES:
            continue
        found = storage.first_difference(stored.get(name), value, f"pair {key} {name}")
        first = first or found
        count += len(value) if isinstance(value, list) else 1
        if found and isinstance(value, float) and isinstance(stored.get(name), float):
            worst = max(worst, abs(value - stored[name]))
    for name, values in now["per_window"].items():
        before = arrays.get(f"pair_{key[0]}_{key[1]}_{name}")
        if before is None:
            first = first or (f"pair {key} {name} per window: missing" if arrays else None)
            continue
        values = np.asarray(values, np.float32)
        count += len(values)
        if not np.array_equal(before, values, equal_nan=True):
            first = first or f"pair {key} {name} per window"
            if before.shape == values.shape:
                worst = max(worst, float(np.nanmax(np.abs(before - values))))
    return first, worst, count


# --- a passage ------------------------------------------------------------------------------------------------------


def passage(
    cells: Sequence[Cell], checkpoints_dir: Path, data: str = "auto"
) -> tuple[str, int, dict[str, tuple[np.ndarray, int]]]:
    """Where the models of each activation disagree on a passage from the middle of the validation split.

    Returns:
      (the text, where it begins in the validation split, activation -> ((length,) share of pairs of models whose most
      likely characters differ at this place, given all before it in its window, number of models)).

    Raises:
      UserError: the corpus or the checkpoints are not at hand; the message says which.
      RunError: a checkpoint is damaged.
    """
    available = {
        cell.activation: [k for k in cell.numbers if checkpoint_path(checkpoints_dir, cell, k).exists()][
            :PASSAGE_TRIALS
        ]
        for cell in cells
    }
    if all(len(numbers) < 2 for numbers in available.values()):
        raise UserError(f"{checkpoints_dir} holds no two checkpoints of an activation")
    task = study_task(cells[0].result, may_download=False, data=data)
    if not hasattr(task, "corpus"):
        raise UserError(f"{task.name} is no text")
    corpus = task.corpus
    size = cells[0].result["identity"]["config"]["block_size"]
    starts = text.evaluation_starts(corpus, "validation", size)
    count = min(len(starts), max(1, PASSAGE_LENGTH // size))
    first = (len(starts) - count) // 2
    x, y = text.windows(corpus.validation, starts[first : first + count], size)
    shares = {}
    for cell in cells:
        numbers = available[cell.activation]
        if len(numbers) >= 2:
            choices = [_choices(checkpoint_path(checkpoints_dir, cell, k), cell.trials[k], x) for k in numbers]
            differ = [a != b for a, b in itertools.combinations(choices, 2)]
            shares[cell.activation] = np.mean(differ, axis=0), len(numbers)
    return corpus.decode(y.ravel()), int(starts[first]) + 1, shares


def _choices(path, record, x):
    """(windows x T,) the most likely characters of a trial's model; a UserError where the file holds another model."""
    import torch

    from tasks.base import log_probabilities
    from training.trial import load_model

    model, content = load_model(path)
    if storage.weights_sha256(content["model"]) != record["weights_sha256"]:
        raise UserError(f"{path} holds other weights than the result of trial {record['trial']} says")
    log_p = log_probabilities(model, torch.from_numpy(x), Config(**content["config"]))
    return np.concatenate([part.argmax(-1).numpy() for part in log_p]).ravel()
