"""A study's folder: its files, and its results with their values per window."""

import math
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from common.array_files import ArrayFile, read_arrays, read_npz
from common.errors import RunError, UserError
from common.json_files import RESULT, STUDY, kind_of_json, read_json
from common.results_format import Result, mismatches

STUDY_FILE = "study.json"
SUMMARY_FILE = "all_experiments_summary.json"
DIAGNOSTICS_FILE = "diagnostics.json"
MOST_TRIALS = 10**5


def sibling(folder: Path, kind: str) -> Path:
    """The folder of `kind` that belongs to a study: 'results' in its path becomes `kind`; without it, a subfolder.

    >>> sibling(Path("results/published"), "plots").as_posix(), sibling(Path("mine"), "plots").as_posix()
    ('plots/published', 'mine/plots')
    """
    indices = [index for index, part in enumerate(folder.parts) if part == "results"]
    if not indices:
        return folder / kind
    return Path(*folder.parts[: indices[-1]], kind, *folder.parts[indices[-1] + 1 :])


def read_study(folder: Path, say: Callable[[str], object] = lambda text: None) -> tuple[dict, list[dict]]:
    """Reads a study's folder.

    Parameters
    ----------
    folder : Path
    say : callable
        Called with a note on each JSON file that is skipped because it is not the result that its name claims.

    Returns
    -------
    study : dict
        study.json.
    results : list of dict
        Sorted by file name; each with its `path`.
    """
    folder = Path(folder)
    if not os.path.lexists(folder / STUDY_FILE):
        raise UserError(f"{folder} contains no study ({STUDY_FILE} is missing); run run_all_experiments.py first")
    study = read_json(folder / STUDY_FILE, STUDY)
    results = []
    for path in sorted(folder.glob("*.json")):
        if path.name in (STUDY_FILE, SUMMARY_FILE, DIAGNOSTICS_FILE):
            continue
        try:
            results.append(read_result(path))
        except Misplaced as error:
            say(f"{error}; it is ignored")
    return study, results


class Misplaced(RunError):
    """A valid file that is not the one that its name claims."""


def read_result(path: Path) -> dict:
    """Reads a result and adds its `path`; raises RunError if damaged, Misplaced if it is not what its name claims."""
    if "_" not in Path(path).stem:
        raise Misplaced(f"{path} is not a result")
    content = read_json(path)
    if kind_of_json(content) != RESULT:
        raise Misplaced(f"{path} is {kind_of_json(content)}, not {RESULT}")
    if found := mismatches(content, Result, unknown_fields=True):
        raise RunError(f"{path} is not a valid result: {found[0]}")
    if (name := name_of(content)) != Path(path).stem:
        raise Misplaced(f"{path} contains the result of {name}: it is a copy, or was renamed or swapped")
    numbers = [record["trial"] for record in content["trials"]]
    if len(set(numbers)) < len(numbers) or any(not 0 < number <= MOST_TRIALS for number in numbers):
        raise RunError(f"{path} is not a valid result: its trials are numbered {numbers!s:.60}")
    content["path"] = str(path)
    return content


def name_of(result: dict) -> str:
    """The base name of a result's files and folders."""
    return f"{result['architecture']}_{result['activation']}"


def read_values(result: dict, measures: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Reads a result's values per window; files that were deleted are skipped.

    Parameters
    ----------
    result : dict
        From `read_result`.
    measures : collection of str, optional
        "loss" and names of metrics; default: all.

    Returns
    -------
    dict
        Name, such as 'pair_1_3_relative_pd' -> (W,) array.

    Raises
    ------
    RunError
        A file is damaged, or not the one listed in the result.
    """
    found: dict[str, np.ndarray] = {}
    for _, file in files_of_values(result):
        for name, array in file.arrays.items():
            if measures is None or measure_of(name) in measures:
                found[name] = array.copy()  # else the whole file would stay in memory
    return found


def files_of_values(result: dict) -> Iterator[tuple[str, ArrayFile]]:
    """Yields (path within the study's folder, content) of each values file; errors as for `read_values`."""
    for name, sha256 in value_files(result):
        path = Path(result["path"]).parent / name
        try:
            file = read_npz(path) if path.suffix == ".npz" else read_arrays(path)
        except FileNotFoundError:
            continue
        if sha256 is None:
            _check_old_arrays(path, file.arrays, result)
        elif file.sha256 != sha256:
            raise RunError(
                f"{path} is not the file listed in {result['path']}; move it away, or restore it from a copy"
            )
        yield name, file


def measure_of(name: str) -> str:
    """The measure in an array's name: 'trial_3_loss' -> 'loss', 'pair_1_3_relative_pd' -> 'relative_pd'."""
    return name.split("_", 3 if name.startswith("pair_") else 2)[-1]


def value_files(result: dict) -> list[tuple[str, str | None]]:
    """(path, SHA-256) of each values file of a result; the SHA-256 is None for results of schema_version 1."""
    name = name_of(result)
    if "values" not in result:
        return [(f"{name}.npz", None)]
    for entry in result["values"]:
        if PurePosixPath(entry["file"]).parent != PurePosixPath(name) and entry["file"] != f"{name}.npz":
            raise RunError(f"{result['path']} lists a file outside its own folder: {entry['file']!r:.100}")
    return [(entry["file"], entry["sha256"]) for entry in result["values"]]


def _check_old_arrays(path, arrays, result):
    """Raises RunError unless the means of arrays without an identity equal those in the result."""
    means = {}
    for record in result["trials"]:
        exact = record.get("matched") or record  # published protocol: its own losses are sampled
        means[f"trial_{record['trial']}_loss"] = exact["val_loss"]
    for pair in result["pairs"]:
        means[f"pair_{pair['trial_a']}_{pair['trial_b']}_top1_disagreement"] = pair["top1_disagreement"]
    for name, mean in means.items():
        if name in arrays and mean is not None and not math.isclose(arrays[name].mean(dtype=float), mean, rel_tol=1e-5):
            raise RunError(f"{path} belongs to another result than {result['path']} ({name}); move it away")
