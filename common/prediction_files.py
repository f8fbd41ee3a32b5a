"""Reads existing predictions from any framework: FOLDER/<variant>/<trial>.npz, .npy, .csv or .parquet.

`load` reads and checks all of them before anything is computed. Every trial becomes one .npy file (the original, or a
converted one in a temporary folder), from which `rows` reads a few examples at a time, so memory does not grow with the
number of trials. Nothing is ever unpickled.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from common.errors import UserError
from common.prediction_tables import FORMATS, read_table, saved
from common.storage import STUDY_FILE

PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt")
SUM_TOLERANCE = 1e-3  # allowed deviation of an example's probabilities from sum 1, such as by rounding to 4 decimals
MOST_BLOCKS = 1000
MOST_CLASSES = 50_000  # of labels


@dataclass(frozen=True)
class Predictions:
    """The predictions found by `load`. Rows are examples, or the T positions of W windows in sequence.

    kind: "probabilities", "logits" or "labels". shape: of every trial: (N, C), (W, T, C), or (N,) for labels.
    trials: variant -> trial -> its .npy file; labels are stored as codes 0 .. C - 1. classes: their names, if known.
    truth: (rows,) codes, or None. blocks: (rows,) index of the row's block, below MOST_BLOCKS.
    blocks_are: "examples", "groups" or "windows". sha256: of every file that was read.
    """

    folder: Path
    kind: str
    shape: tuple[int, ...]
    trials: dict[str, dict[str, Path]]
    classes: tuple[str, ...] | None
    truth: np.ndarray | None
    blocks: np.ndarray
    blocks_are: str
    sha256: dict[str, str]
    scratch: TemporaryDirectory  # deleted with this object

    @property
    def n_rows(self) -> int:
        return len(self.blocks)


def load(folder: Path | str, logits: bool = False, groups: Path | str | None = None) -> Predictions:
    """Reads and checks every trial of every variant in a folder.

    Parameters
    ----------
    folder : path
        Contains <variant>/<trial>.npz, .npy, .csv or .parquet, and labels.* with the true labels, if known.
    logits : bool
        The files contain logits or log-probabilities instead of probabilities.
    groups : path, optional
        File with one value per example (or window): those with the same value are not independent.

    Returns
    -------
    Predictions

    Raises
    ------
    UserError
        Names the invalid file and the reason.
    """
    folder, scratch = Path(folder), TemporaryDirectory(prefix="predictions-")
    files = find_trials(folder)
    tables = {path: read_table(path, Path(scratch.name)) for trials in files.values() for path in trials.values()}
    first, shape = next(iter(tables)), next(iter(tables.values())).shape
    for path, table in tables.items():
        _check_shape(path, table, first, shape)
    _check_classes(tables)
    kind = "labels" if len(shape) == 1 else "logits" if logits else "probabilities"
    if kind == "labels" and logits:
        raise UserError(f"{first} holds labels (N,), not logits (N, C); leave out --logits")
    named = next((table.classes for table in tables.values() if table.classes), None)
    known = _true_labels(folder, tables, shape, Path(scratch.name))
    if kind == "labels":
        stored, named = _coded(tables, known, Path(scratch.name))
    else:
        for path, table in tables.items():
            _check_scores(path, table.array, logits)
        stored = {path: table.file for path, table in tables.items()}
    truth = None
    if known is not None:
        truth = _codes(known[0], known[1], len(named or ()) if kind == "labels" else shape[-1], named).reshape(-1)
    units, blocks_are = shape[0], "windows" if len(shape) == 3 else "examples"
    blocks = np.arange(units) * min(units, MOST_BLOCKS) // units
    if groups is not None:
        blocks, blocks_are = _grouped(Path(groups), units, Path(scratch.name)), "groups"
    read = [*tables, *([known[0]] if known else []), *([Path(groups)] if groups is not None else [])]
    return Predictions(
        folder=folder,
        kind=kind,
        shape=shape,
        trials={name: {trial: stored[path] for trial, path in trials.items()} for name, trials in files.items()},
        classes=named,
        truth=truth,
        blocks=np.repeat(blocks, shape[1] if len(shape) == 3 else 1).astype(np.int32),
        blocks_are=blocks_are,
        sha256={_relative(path, folder): _sha256(path) for path in read},
        scratch=scratch,
    )


def rows(file: Path, start: int, stop: int) -> np.ndarray:
    """Rows start .. stop - 1 of a trial, (n, C), or (n,) for labels; a copy, so that no other rows stay in memory."""
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    array = array if array.ndim < 3 else array.reshape(-1, array.shape[2])
    return np.array(array[start:stop])


# --- which files ----------------------------------------------------------------------------------------------------


def find_trials(folder: Path) -> dict[str, dict[str, Path]]:
    """Variant -> trial -> file, both in natural order (2 before 10); hidden files are ignored."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name the one that contains a folder of predictions per variant")
    if (folder / STUDY_FILE).exists():
        raise UserError(
            f"{folder} is a study, not a folder of predictions; write its predictions with"
            f" analyze_results.py {folder} --export-predictions DIR"
        )
    variants = sorted((path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."), key=_natural)
    if not variants:
        raise UserError(f"{folder} contains no folder; predictions are read from {folder}/<variant>/<trial>.npz")
    return {variant.name: _trials_of(variant) for variant in variants}


def _trials_of(variant):
    found: dict[str, Path] = {}
    for path in sorted((path for path in variant.iterdir() if path.name[0] != "."), key=_natural):
        if path.suffix.lower() in PICKLES:
            raise UserError(f"{path} is a pickle, which can run code when read; save the array with numpy.save")
        if path.suffix.lower() not in FORMATS or not path.is_file():
            raise UserError(f"{path} is not a file of predictions ({', '.join(FORMATS)}); move it out of {variant}")
        if path.stem in found:
            raise UserError(f"{path} and {found[path.stem].name} are both trial {path.stem!r}; keep one of them")
        found[path.stem] = path
    if len(found) < 2:
        raise UserError(
            f"{variant} contains {len(found) or 'no'} trial{'s' if not found else ''}; comparing models takes at least two"
        )
    return found


def _natural(path):
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", path.stem) if part]


def _relative(path, folder):
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- checks ---------------------------------------------------------------------------------------------------------


def _check_shape(path, table, first, expected):
    """Raises UserError unless the shape is one of predictions or labels and equals that of the other trials."""
    shape, dtype = table.shape, table.dtype
    if not 1 <= len(shape) <= 3 or (len(shape) > 1 and (shape[-1] == 1 or dtype.kind not in "fiub")):
        raise UserError(
            f"{path} contains {dtype} values of shape {shape}; expected are predictions (N, C) or (W, T, C) with at least"
            " two classes, or labels (N,)"
        )
    if shape != expected:
        raise UserError(f"{path} has shape {shape}, but {first} has {expected}; all trials must have the same")
    if table.classes and len(shape) > 1 and len(table.classes) != shape[-1]:
        raise UserError(f"{path} names {len(table.classes)} classes, but has {shape[-1]} columns")


def _check_classes(tables):
    """Raises UserError unless all files with class names have the same names in the same order."""
    named = {path: table.classes for path, table in tables.items() if table.classes}
    for path, classes in named.items():
        first, expected = next(iter(named.items()))
        if classes != expected:
            raise UserError(
                f"{path} has the classes {', '.join(classes)}, but {first} has {', '.join(expected)}; all trials must have the"
                " same, in the same order"
            )


def _check_scores(path, array, logits):
    """Raises UserError, naming the first invalid row, unless every row is probabilities (or finite logits)."""
    flat = array.reshape(-1, array.shape[-1])
    step, all_sum_to_1 = max(1, 2**20 // flat.shape[1]), True
    for start in range(0, len(flat), step):
        values = np.asarray(flat[start : start + step], np.result_type(flat.dtype, np.float32))
        _refuse(path, start, np.isnan(values).any(axis=1), values, "contains NaN")
        with np.errstate(invalid="ignore", over="ignore"):
            sums = values.sum(axis=1, dtype=np.float64)
            are = (values.min(axis=1) >= 0) & (np.abs(sums - 1) <= SUM_TOLERANCE)
        all_sum_to_1 &= bool(are.all())
        if logits:
            _refuse(path, start, ~np.isfinite(values.max(axis=1)), values, "contains an infinite logit")
        else:
            wrong = "does not contain probabilities (nonnegative, sum 1; add --logits for logits or log-probabilities)"
            _refuse(path, start, ~are, values, wrong)
    if logits and all_sum_to_1:
        raise UserError(f"{path} contains probabilities, not logits: every row sums to 1; leave out --logits")


def _refuse(path, start, bad, values, what):
    if bad.any():
        index = int(np.argmax(bad))
        shown = ", ".join(f"{value:.4g}" for value in values[index, :5]) + (", ..." if values.shape[1] > 5 else "")
        raise UserError(f"{path} {what}; the first such row (counting from 0) is {start + index}: {shown}")


# --- labels ---------------------------------------------------------------------------------------------------------


def _as_labels(path: Path, array: np.ndarray) -> np.ndarray:
    """Labels as integers or strings."""
    if array.dtype.kind in "US":
        return np.asarray(array, str)
    if array.dtype.kind == "f":
        if np.isnan(array).any():
            raise UserError(f"{path} contains NaN, first at {int(np.argmax(np.isnan(array)))} (counting from 0)")
        if not np.isfinite(array).all() or (array != np.floor(array)).any():
            raise UserError(
                f"{path} contains {array.ndim}-dimensional values that are not integers; labels must be integers or"
                " strings, and probabilities have one column per class, even for two classes"
            )
    return array.astype(np.int64)


def _true_labels(folder, tables, shape, scratch):
    """(file, labels) from labels.* in the folder or from the trials' files, which must agree; None if there are none."""
    files = sorted(path for path in folder.glob("labels.*") if path.is_file())
    if len(files) > 1:
        raise UserError(f"{files[0]} and {files[1].name} both contain labels; keep one of them")
    found = [(path, _as_labels(path, read_table(path, scratch).array)) for path in files]
    found += [(path, _as_labels(path, table.labels)) for path, table in tables.items() if table.labels is not None]
    if not found:
        return None
    expected = shape if len(shape) == 1 else shape[:-1]
    for path, labels in found:
        if labels.shape != expected:
            raise UserError(
                f"{path} contains labels of shape {labels.shape}, but the predictions of {next(iter(tables))} need {expected}"
            )
        if not np.array_equal(labels, found[0][1]):
            raise UserError(
                f"{path} and {found[0][0]} contain different labels: their examples differ, or are in another order"
            )
    return found[0]


def _coded(tables, known, scratch):
    """({file: its labels as codes in an .npy file}, class names): classes are all labels in any trial or the truth."""
    source, labels = known or (first := next(iter(tables)), _as_labels(first, tables[first].array))
    classes = np.unique(labels)
    for path, table in tables.items():
        found = np.unique(_as_labels(path, table.array))
        if found.dtype.kind != classes.dtype.kind:
            kinds = {"i": "numbers", "U": "strings"}
            raise UserError(
                f"the labels in {path} are {kinds[found.dtype.kind]}, but those in {source} are"
                f" {kinds[classes.dtype.kind]}; all must be of the same type"
            )
        classes = np.union1d(classes, found)
    if len(classes) > MOST_CLASSES:
        raise UserError(
            f"there are {len(classes):,} different labels up to {path}; at most {MOST_CLASSES:,} classes are supported"
        )
    stored = {}
    for path, table in tables.items():
        stored[path] = saved(np.searchsorted(classes, _as_labels(path, table.array)).astype(np.int32), scratch)
    return stored, tuple(map(str, classes))


def _codes(path: Path, labels: np.ndarray, n_classes: int, names: Sequence[str] | None) -> np.ndarray:
    """Labels as codes 0 .. C - 1: by class name if all labels are class names, else unchanged."""
    found, inverse = np.unique(labels, return_inverse=True)
    codes = {name: code for code, name in enumerate(names or ())}
    if all(str(label) in codes for label in found):
        return np.array([codes[str(label)] for label in found])[inverse.reshape(-1)]
    if labels.dtype.kind == "U":
        raise UserError(
            f"{path} contains the label {str(found[0])!r}, but the classes are {', '.join(names) if names else 'numbered'};"
            " name them in the header of a .csv, or as 'classes' in an .npz"
        )
    wrong = [label for label in found if not 0 <= label < n_classes]
    if wrong:
        raise UserError(
            f"{path} contains the label {wrong[0]}, but there are {n_classes} classes: 0 to {n_classes - 1}"
        )
    return labels


def _grouped(path, units, scratch):
    """(units,) block of each example or window: its group, or one of MOST_BLOCKS unions of groups."""
    if not path.is_file():
        raise UserError(f"{path} (--groups) does not exist")
    groups = read_table(path, scratch).array
    if groups.shape != (units,):
        raise UserError(
            f"{path} (--groups) has shape {groups.shape}, but there are {units} examples: it must be ({units},)"
        )
    found, inverse = np.unique(groups, return_inverse=True)
    if len(found) < 2:
        raise UserError(f"{path} (--groups) has only one group; without --groups, examples count as independent")
    return inverse * min(len(found), MOST_BLOCKS) // len(found)
