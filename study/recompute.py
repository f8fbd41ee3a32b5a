"""The parts of the analysis that need trained models: recomputing stored values, and predicting a passage of text.

Models are evaluated by the same jobs that the study ran (study/jobs.py), so identical values are expected.
"""

import itertools
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from analysis.results import Cell
from common import array_files, checkpoint_files, json_files, storage
from common.errors import UserError
from config import Config
from study.jobs import Job, Member, finished
from tasks import corpus as text
from tasks import ngrams
from training import curve_files
from training.options import check_device

WORKERS = 2  # at most; each holds the predictions of a model in memory
PASSAGE_LENGTH = 512  # characters
PASSAGE_TRIALS = 8  # models, at most
NOT_MEASURES = ("trial_a", "trial_b", "per_window")


def study_task(result: dict, may_download: bool, data: str = "auto"):
    """The task of a result, with verified data; raises UserError if unavailable. data: as for `load_recorded`."""
    from tasks.registry import load_recorded

    label = result.get("corpus", {}).get("label")
    available = os.environ.get("CHARLM_CORPUS") or Path("data/shakespeare.txt").exists()
    if label == "shakespeare" and data == "auto" and not may_download and not available:
        raise UserError("corpus shakespeare is unavailable (neither CHARLM_CORPUS nor data/shakespeare.txt)")
    return load_recorded(result, data)


def baselines(study, data: str = "auto") -> tuple[ngrams.Baseline, ...] | str:
    """The n-gram baselines on a study's text, or why they are unavailable."""
    if "task" in study.cells[0].result:
        return "the task is not text"
    try:
        task = study_task(study.cells[0].result, may_download=False, data=data)
    except UserError as error:
        return str(error)
    return ngrams.baselines(task.corpus, study.identity["config"]["block_size"])


def checkpoint_path(checkpoints_dir: Path, cell: Cell, number: int) -> Path:
    return Path(checkpoints_dir) / f"{cell.architecture}_{cell.activation}" / f"trial_{number}.pt"


def check_models(cells: Sequence[Cell], checkpoints_dir: Path, option: str) -> None:
    """Raises UserError unless the models of all trials are there; `option` names what needs them."""
    from architectures.registry import check_user_sources

    for cell in cells:
        check_user_sources(cell.result)
        for number in cell.numbers:
            path = checkpoint_path(checkpoints_dir, cell, number)
            if not path.exists():
                raise UserError(f"{option} needs the checkpoint {path}, which does not exist (see --checkpoints-dir)")


# --- recomputing ----------------------------------------------------------------------------------------------------


def recompute(cells: Sequence[Cell], checkpoints_dir: Path, user_files=(), say=print, data: str = "auto") -> bool:
    """Recomputes every stored loss, accuracy and pair from the checkpoints; prints per cell whether all are identical.

    Greedy continuations are taken from the result, not generated again. Histories of pairs are compared if the
    predictions along training are still available.

    Parameters
    ----------
    cells : sequence of Cell
        Cells with complete trials.
    user_files
        User-defined architecture or activation, from `options.load_user_files`.
    data : str
        Location of the data, as for `load_recorded`.

    Returns
    -------
    bool
        Whether everything is identical.
    """
    from common.provenance import usable_cpus
    from study.jobs import Context
    from study.local_engine import LocalEngine

    task = study_task(cells[0].result, may_download=True, data=data)
    check_device(cells[0].result["identity"]["device"])
    check_models(cells, checkpoints_dir, "--recompute")
    engine = LocalEngine(min(WORKERS, usable_cpus()), Context(task, user_files))
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _recompute(engine, task, cells, checkpoints_dir, Path(folder), say)
    finally:
        engine.close()


class _Check:
    """The state of recomputing one cell."""

    def __init__(self, cell, task, checkpoints_dir, folder):
        self.cell, self.folder = cell, folder
        self.values = storage.read_values(cell.result)
        self.members = {k: _member(cell, task, checkpoints_dir, k, folder) for k in cell.numbers}
        if any(not member.steps for member in self.members.values()):
            self.members = {k: replace(member, steps=()) for k, member in self.members.items()}
        self.evaluated, self.pairs = {}, {}

    def evaluations(self):
        for number, member in self.members.items():
            arguments = {name: getattr(member, name) for name in ("checkpoint", "weights_sha256", "device")}
            yield number, Job(f"evaluation of {_name(self.cell)}, trial {number}", "evaluate", arguments)

    def add_evaluation(self, number, found):
        """Stores a model's evaluation, with its predictions on disk; returns whether it was the last one."""
        arrays = {"log_probabilities": found.pop("log_probabilities")}
        array_files.write_arrays(Path(self.members[number].predictions), self.members[number].about, arrays)
        self.evaluated[number] = found
        return len(self.evaluated) == len(self.members)

    def comparisons(self):
        """One job per worker; together they cover every stored pair of the cell."""
        keys = [(pair["trial_a"], pair["trial_b"]) for pair in self.cell.pairs]
        size = max(1, -(-len(keys) // WORKERS))
        identity = self.cell.result["identity"]
        for start in range(0, len(keys), size):
            arguments = {"members": self.members, "pairs": keys[start : start + size]}
            arguments |= {"config": Config(**identity["config"]), "last_position": identity["protocol"] == "published"}
            yield Job(f"pairs of {_name(self.cell)} from {start}", "compare", arguments)

    def add_pairs(self, pairs):
        self.pairs |= {(pair["trial_a"], pair["trial_b"]): pair for pair in pairs}

    @property
    def is_done(self):
        return len(self.evaluated) == len(self.members) and len(self.pairs) == len(self.cell.pairs)


def _recompute(engine, task, cells, checkpoints_dir, folder, say):
    """Runs all jobs; the comparisons of a cell are queued first after its last evaluation, so no worker idles."""
    owner, checks = {}, {}  # job name -> (cell, trial or None); the others by cell
    identical = True

    def submit(index, number, job, first=False):
        owner[job.name] = index, number
        engine.submit(job, first)

    for index, cell in enumerate(cells):
        paths = {number: checkpoint_path(checkpoints_dir, cell, number) for number in cell.numbers}
        if other := _other_weights(cell, paths):
            say(f"recomputed {_name(cell)}: DIFFERENT, {other}")
            identical = False
            continue
        checks[index] = _Check(cell, task, checkpoints_dir, folder / str(index))
        for number, job in checks[index].evaluations():
            submit(index, number, job)
        engine.start()
    for job, payload in finished(engine, say):
        index, number = owner[job.name]
        check = checks[index]
        if number is None:
            check.add_pairs(payload)
        elif check.add_evaluation(number, payload):
            for comparison in check.comparisons():
                submit(index, None, comparison, first=True)
        if check.is_done:
            identical &= _report_whether_identical(check, say)
            shutil.rmtree(check.folder)
            del checks[index]
    return identical


def _name(cell):
    return f"{cell.architecture} with {cell.activation}"


def _other_weights(cell, paths):
    """A sentence naming the first checkpoint with the wrong weights; None if there is none."""
    for number, path in paths.items():
        found = checkpoint_files.weights_sha256(
            checkpoint_files.read_checkpoint(path, checkpoint_files.TRAINED_MODEL)["model"]
        )
        if found != cell.trials[number]["weights_sha256"]:
            return f"the weights in {path} are not those of trial {number}'s result"
    return None


def _member(cell, task, checkpoints_dir, number, folder):
    """A trial as input of comparisons; `folder` receives its predictions, and the curve of an old checkpoint."""
    from train import trial_of_result

    path, record = checkpoint_path(checkpoints_dir, cell, number), cell.trials[number]
    about_curve = curve_files.about_curve(trial_of_result(cell.result, record), task, record["environment"])
    curve_folder = curve_files.curve_folder(path.parent, number)
    steps = tuple(point["step"] for point in record["history"])
    if curve_files.curve_problem(curve_folder, about_curve, steps):
        curve = checkpoint_files.read_checkpoint(path).get("curve") or []  # of schema_version 1
        curve_folder, steps = curve_files.curve_folder(folder, number), tuple(step for step, _ in curve)
        for step, log_p in curve:
            curve_files.write_point(curve_folder, about_curve, step, log_p.numpy())
    return Member(
        checkpoint=str(path),
        weights_sha256=record["weights_sha256"],
        device=cell.result["identity"]["device"],
        predictions=str(folder / f"{number}{array_files.ARRAY_SUFFIX}"),
        about={"identity": cell.result["identity"], "weights_sha256": record["weights_sha256"]},
        curve_folder=str(curve_folder),
        about_curve=about_curve,
        steps=steps,
        continuations=record.get("continuations"),
    )


def _report_whether_identical(check, say):
    """Prints and returns whether the recomputed values equal the stored ones."""
    stored = {(pair["trial_a"], pair["trial_b"]): pair for pair in check.cell.pairs}
    found = [_difference_of_trial(check.cell.trials[k], now, check.values, k) for k, now in check.evaluated.items()]
    found += [_difference(stored[key], pair, check.values, key) for key, pair in sorted(check.pairs.items())]
    first = next((difference for difference, _, _ in found if difference), None)
    worst, count = max((largest for _, largest, _ in found), default=0.0), sum(n for _, _, n in found)
    if first is None:
        trials, pairs = len(check.evaluated), len(check.pairs)
        say(f"recomputed {_name(check.cell)}: identical, {pairs} pairs and {trials} trials, {count:,} numbers")
    else:
        most = f"; largest difference {worst:.3g}" if worst else ""
        say(f"recomputed {_name(check.cell)}: DIFFERENT, first {first} (stored vs. recomputed){most}")
    return first is None


def _difference_of_trial(record, now, values, number):
    """(first difference as text or None, largest absolute difference, count of compared numbers) of one trial."""
    exact = record.get("matched") or record  # published protocol: its own losses are sampled
    names = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
    first = json_files.first_difference(
        {name: exact[name] for name in names}, {name: now[name] for name in names}, f"trial {number}"
    )
    worst = max(abs(exact[name] - now[name]) for name in names)
    before, losses = values.get(f"trial_{number}_loss"), now["window_loss"]
    if before is None:
        return first, worst, len(names)
    if not np.array_equal(before, losses):
        first = first or f"trial {number} loss per window"
    return first, worst, len(names) + len(losses)


def _difference(stored, now, arrays, key):
    """(first difference as text or None, largest absolute difference, count of compared numbers) of one pair."""
    first, worst, count = None, 0.0, 0
    for name, value in now.items():
        if name in NOT_MEASURES or (name == "history" and not value):  # empty: curve files were deleted
            continue
        found = json_files.first_difference(stored.get(name), value, f"pair {key} {name}")
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


def passage(cell: Cell, checkpoints_dir: Path, data: str = "auto") -> tuple[str, int, np.ndarray, int]:
    """Where the models of an activation disagree on a passage from the middle of the validation split.

    Returns
    -------
    text : str
    start : int
        Position of the first character in the validation split, from 1.
    share : (length,) array
        Fraction of pairs of models whose most likely characters differ at a position, given its prefix in the window.
    n_models : int

    Raises
    ------
    UserError
        The corpus or the checkpoints are unavailable.
    RunError
        A checkpoint is damaged.
    """
    numbers = [k for k in cell.numbers if checkpoint_path(checkpoints_dir, cell, k).exists()][:PASSAGE_TRIALS]
    if len(numbers) < 2:
        raise UserError(f"{checkpoints_dir} contains fewer than two of its checkpoints")
    task = study_task(cell.result, may_download=False, data=data)
    if not hasattr(task, "corpus"):
        raise UserError(f"the task {task.name} is not text")
    corpus = task.corpus
    size = cell.result["identity"]["config"]["block_size"]
    starts = text.evaluation_starts(corpus, "validation", size)
    count = min(len(starts), max(1, PASSAGE_LENGTH // size))
    first = (len(starts) - count) // 2
    x, y = text.windows(corpus.validation, starts[first : first + count], size)
    choices = [_choices(checkpoint_path(checkpoints_dir, cell, k), cell.trials[k], x) for k in numbers]
    share = np.mean([a != b for a, b in itertools.combinations(choices, 2)], axis=0)
    return corpus.decode(y.ravel()), int(starts[first]) + 1, share, len(numbers)


def _choices(path, record, x):
    """(windows x T,) most likely characters of a trial's model; raises UserError if the file holds another model."""
    import torch

    from tasks.base import log_probabilities
    from training.trial import load_model

    model, content = load_model(path)
    if checkpoint_files.weights_sha256(content["model"]) != record["weights_sha256"]:
        raise UserError(f"the weights in {path} are not those of trial {record['trial']}'s result")
    log_p = log_probabilities(model, torch.from_numpy(x), Config(**content["config"]))
    return np.concatenate([part.argmax(-1).numpy() for part in log_p]).ravel()
