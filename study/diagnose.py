"""Probes and comparisons of a study's checkpoints: what is missing, measured by an engine, kept in diagnostics.json.

The file lies in the study's folder. Each entry names the weights that it was measured on; entries of other weights are
measured again.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from analysis.results import Cell, Study
from architectures.registry import check_user_sources
from common import json_files, storage
from common.errors import RunError, UserError
from common.provenance import program
from diagnostics.probes import PROBES
from study.jobs import Context, Job, finished
from study.local_engine import LocalEngine
from study.progress import duration
from study.recompute import checkpoint_path

FILE = storage.DIAGNOSTICS_FILE
KIND = "diagnostics"
SAVE_EVERY_S = 10.0


@dataclass(frozen=True)
class Entry:
    """One thing to measure.

    Attributes
    ----------
    name : str
        Of the probe or comparison.
    cells : tuple of Cell
        Of its one or two models.
    trials : tuple of int
    """

    name: str
    cells: tuple[Cell, ...]
    trials: tuple[int, ...]

    @property
    def key(self) -> str:
        """'curvature charlm_relu trial 3', 'barrier charlm_relu trial 1, charlm_relu trial 2'."""
        members = (f"{c.architecture}_{c.activation} trial {k}" for c, k in zip(self.cells, self.trials))
        return f"{self.name} {', '.join(members)}"

    @property
    def weights(self) -> list[str]:
        return [cell.trials[k]["weights_sha256"] for cell, k in zip(self.cells, self.trials)]


def entries(study: Study, names: Sequence[str], across: bool = False, most: int | None = None) -> list[Entry]:
    """What the names mean for a study; most: the last trial that is measured.

    A probe is measured on every trial. A comparison is measured on disjoint pairs of trials, (1, 2), (3, 4), ..., whose
    values are independent; with `across`, on trial k of the first activation and trial k of each other one.
    """
    found = []
    for cells in study.architectures.values():
        numbers = {cell: [k for k in cell.numbers if most is None or k <= most] for cell in cells}
        for name in names:
            if name in PROBES:
                found += [Entry(name, (cell,), (k,)) for cell in cells for k in numbers[cell]]
            elif across:
                first, *others = cells
                shared = [(cell, k) for cell in others for k in numbers[cell] if k in first.trials]
                found += [Entry(name, (first, cell), (k, k)) for cell, k in shared]
            else:
                pairs = [(cell, pair) for cell in cells for pair in zip(numbers[cell][::2], numbers[cell][1::2])]
                found += [Entry(name, (cell, cell), pair) for cell, pair in pairs]
    return found


def read(folder: Path, study: Study) -> dict[str, dict]:
    """Key -> {weights_sha256, values or reason, seconds} of what has been measured; a RunError for another study's file."""
    path = Path(folder) / FILE
    if not path.exists():
        return {}
    content = json_files.read_json(path)
    if content.get("kind") != KIND or content.get("identity") != study.identity:
        raise RunError(f"{path} belongs to another study; move it away")
    return content["entries"]


def run(
    study: Study, wanted: Sequence[Entry], checkpoints: Path, task, workers: int, user_files, say: Callable
) -> dict:
    """Measures what is missing, saving as it goes; returns all entries by key."""
    folder = Path(study.folder)
    known = read(folder, study)
    missing = [e for e in wanted if known.get(e.key, {}).get("weights_sha256") != e.weights]
    absent = {entry.key: path for entry in missing if (path := _absent_checkpoint(entry, checkpoints))}
    if absent and len(absent) == len(missing):
        name, path = missing[0].name, absent[missing[0].key]
        raise UserError(f"{name} needs the checkpoint {path}, which does not exist (see --checkpoints-dir)")
    for key, path in absent.items():  # without weights, so that it is measured once the file is there
        known[key] = {"weights_sha256": None, "reason": f"{path} does not exist"}
    missing = [entry for entry in missing if entry.key not in absent]
    for cell in dict.fromkeys(cell for entry in missing for cell in entry.cells):
        check_user_sources(cell.result)
    say(f"{len(wanted)} values wanted, {len(missing)} to measure, {workers} worker(s)")
    if not missing:
        return known
    engine = LocalEngine(min(workers, len(missing)), Context(task, user_files))
    try:
        _measure(engine, missing, checkpoints, known, lambda: _save(folder, study, known), workers, say)
    finally:
        engine.close()
        _save(folder, study, known)
    return known


def _absent_checkpoint(entry, checkpoints):
    """The first checkpoint that an entry needs and that does not exist; None if all do."""
    paths = (checkpoint_path(checkpoints, cell, k) for cell, k in zip(entry.cells, entry.trials))
    return next((path for path in paths if not path.exists()), None)


def _measure(engine, missing, checkpoints, known, save, workers, say):
    """Runs the jobs; once one of each name is done, says about how long the rest will take."""
    by_key = {entry.key: entry for entry in missing}
    for entry in _first_of_each_name(missing):
        engine.submit(_job(entry, checkpoints))
    engine.start()
    seconds: dict[str, float] = {}
    saved = time.monotonic()
    names = {entry.name for entry in missing}
    bar = tqdm(total=len(missing), unit="value", desc="measuring", leave=False, disable=None)  # on a terminal only
    for done, (job, (values, took)) in enumerate(finished(engine, say), 1):
        bar.update()
        entry = by_key[job.name]
        known[entry.key] = {"weights_sha256": entry.weights, "seconds": round(took, 3)}
        known[entry.key] |= {"reason": values} if isinstance(values, str) else {"values": values}
        first, seconds[entry.name] = entry.name not in seconds, took
        if first and seconds.keys() == names:
            left = sum(seconds[e.name] for e in missing if e.key not in known) / workers
            say(f"{done} of {len(missing)} measured; about {duration(left)} left")
        if time.monotonic() - saved > SAVE_EVERY_S:
            save()
            if bar.disable:
                say(f"{done} of {len(missing)} measured")
            saved = time.monotonic()
    bar.close()


def _job(entry, checkpoints):
    paths = (str(checkpoint_path(checkpoints, cell, k)) for cell, k in zip(entry.cells, entry.trials))
    arguments = {"name": entry.name, "members": list(zip(paths, entry.weights))}
    arguments |= {"activations": [cell.activation for cell in entry.cells]}
    arguments |= {"seed": entry.cells[0].trials[entry.trials[0]]["seed"]}
    return Job(entry.key, "diagnose", arguments)


def _first_of_each_name(missing):
    """The entries, beginning with one of each name, whose times give an estimate early."""
    first = list({entry.name: entry for entry in reversed(missing)}.values())
    return [*first, *itertools.filterfalse(lambda e: any(e is f for f in first), missing)]


def _save(folder, study, known):
    content = {"kind": KIND, "schema_version": json_files.SCHEMA_VERSION, "identity": study.identity}
    json_files.write_json(folder / FILE, {**content, "entries": known, "provenance": program()})
