"""A study's folder: which files belong to it, and its results with their values per window."""

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
MOST_TRIALS = 10**5


def sibling(folder: Path, kind: str) -> Path:
    """The folder of `kind` that belongs to a study: 'results' in its path becomes `kind`, or `kind` lies inside it.

    >>> sibling(Path("results/published"), "plots").as_posix(), sibling(Path("mine"), "plots").as_posix()
    ('plots/published', 'mine/plots')
    """
    places = [index for index, part in enumerate(folder.parts) if part == "results"]
    if not places:
        return folder / kind
    return Path(*folder.parts[: places[-1]], kind, *folder.parts[places[-1] + 1 :])


def read_study(folder: Path, say: Callable[[str], object] = lambda text: None) -> tuple[dict, list[dict]]:
    """(study.json, the results in the order of their files' names) of a folder; each result knows its `path`.

    Args:
      say: told of each JSON file that is left out, since it is no result, or not the one that its name says.
    """
    folder = Path(folder)
    if not os.path.lexists(folder / STUDY_FILE):
        raise UserError(f"{folder} holds no study ({STUDY_FILE} is missing); run run_all_experiments.py first")
    study = read_json(folder / STUDY_FILE, STUDY)
    results = []
    for path in sorted(folder.glob("*.json")):
        if path.name in (STUDY_FILE, SUMMARY_FILE):
            continue
        try:
            results.append(read_result(path))
        except Misplaced as error:
            say(f"{error}; it is left out")
    return study, results


class Misplaced(RunError):
    """A file in order, but not the one that belongs in its place."""


def read_result(path: Path) -> dict:
    """A result, with its `path`; a RunError names a file that is damaged, Misplaced one that is not what its name says."""
    if "_" not in Path(path).stem:
        raise Misplaced(f"{path} is no result")
    content = read_json(path)
    if kind_of_json(content) != RESULT:
        raise Misplaced(f"{path} is {kind_of_json(content)}, not {RESULT}")
    if found := mismatches(content, Result, unknown_fields=True):
        raise RunError(f"{path} is not a valid result: {found[0]}")
    if (name := name_of(content)) != Path(path).stem:
        raise Misplaced(f"{path} holds the result of {name}: it is a copy, or was renamed or swapped")
    numbers = [record["trial"] for record in content["trials"]]
    if len(set(numbers)) < len(numbers) or any(not 0 < number <= MOST_TRIALS for number in numbers):
        raise RunError(f"{path} is not a valid result: its trials are numbered {numbers!s:.60}")
    content["path"] = str(path)
    return content


def name_of(result: dict) -> str:
    """How a result's files and folders are called."""
    return f"{result['architecture']}_{result['activation']}"


def read_values(result: dict, measures: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """A result's values per window, by name, from the files that it names; those that were deleted are left out.

    Args:
      result: from `read_result`.
      measures: "loss" and names of metrics; None: all.

    Raises:
      RunError: a file is damaged, or not the one that the result names.
    """
    found: dict[str, np.ndarray] = {}
    for _, file in files_of_values(result):
        for name, array in file.arrays.items():
            if measures is None or measure_of(name) in measures:
                found[name] = array.copy()  # or all of the file would stay in memory
    return found


def files_of_values(result: dict) -> Iterator[tuple[str, ArrayFile]]:
    """(path within the study's folder, content) of each file of `read_values`; errors as there."""
    for place, sha256 in value_files(result):
        path = Path(result["path"]).parent / place
        try:
            file = read_npz(path) if path.suffix == ".npz" else read_arrays(path)
        except FileNotFoundError:
            continue
        if sha256 is None:
            _check_old_arrays(path, file.arrays, result)
        elif file.sha256 != sha256:
            raise RunError(
                f"{path} is not the file that {result['path']} names; move it away, or restore it from a copy"
            )
        yield place, file


def measure_of(name: str) -> str:
    """The measure in an array's name: 'loss' of 'trial_3_loss', 'relative_pd' of 'pair_1_3_relative_pd'."""
    return name.split("_", 3 if name.startswith("pair_") else 2)[-1]


def value_files(result: dict) -> list[tuple[str, str | None]]:
    """(path, SHA-256) of each file with values per window of a result; None where a result of schema_version 1 names none."""
    name = name_of(result)
    if "values" not in result:
        return [(f"{name}.npz", None)]
    for entry in result["values"]:
        place = PurePosixPath(entry["file"])
        if place.parent != PurePosixPath(name) and entry["file"] != f"{name}.npz":
            raise RunError(f"{result['path']} names a file that cannot be its own: {entry['file']!r:.100}")
    return [(entry["file"], entry["sha256"]) for entry in result["values"]]


def _check_old_arrays(path, arrays, result):
    """A RunError unless arrays that do not say whose they are have the means that their result has."""
    means = {}
    for record in result["trials"]:
        exact = record.get("matched") or record  # of the published protocol, whose own losses are sampled
        means[f"trial_{record['trial']}_loss"] = exact["val_loss"]
    for pair in result["pairs"]:
        means[f"pair_{pair['trial_a']}_{pair['trial_b']}_top1_disagreement"] = pair["top1_disagreement"]
    for name, mean in means.items():
        if name in arrays and mean is not None and not math.isclose(arrays[name].mean(dtype=float), mean, rel_tol=1e-5):
            raise RunError(f"{path} belongs to another result than {result['path']} ({name}); move it away")
