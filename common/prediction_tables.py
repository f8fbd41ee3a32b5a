"""Reads one file of predictions or labels: .npz, .npy, .csv or .parquet. Nothing is ever unpickled."""

import csv
import re
import shutil
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError

FORMATS = (".npz", ".npy", ".csv", ".parquet")
HEADINGS = ("label", "labels", "prediction", "predictions", "class", "target", "truth", "y", "group", "groups")


@dataclass(frozen=True)
class Table:
    """An array in a .npy file, with the names of its columns and the true labels if the original file has them."""

    file: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    classes: tuple[str, ...] | None
    labels: np.ndarray | None

    @property
    def array(self) -> np.ndarray:
        """Newly memory-mapped, so that pages read before do not stay in memory."""
        return np.load(self.file, mmap_mode="r", allow_pickle=False)


def read_table(path: Path, scratch: Path) -> Table:
    """Reads a file of any format; raises UserError if it is damaged or contains neither numbers nor labels."""
    kind = path.suffix.lower()
    classes = labels = None
    if kind == ".npy":
        file = path
    elif kind == ".npz":
        file, classes, labels = _from_npz(path, scratch)
    elif kind == ".parquet":
        values, classes = _from_parquet(path)
        file = saved(values, scratch)
    elif kind in (".csv", ".txt"):
        values, classes = _from_csv(path)
        file = saved(values, scratch)
    else:
        raise UserError(f"{path} has an unknown format; supported: {', '.join(FORMATS)}")
    array = _opened(path, file)
    if array.dtype.kind not in "fiubUS":
        raise UserError(
            f"{path} contains {array.dtype} values; predictions must be numbers, and labels integers or strings"
        )
    if array.size == 0:
        raise UserError(f"{path} is empty: its shape is {array.shape}")
    if not array.flags.c_contiguous:
        file = saved(np.ascontiguousarray(array), scratch)
        array = _opened(path, file)
    return Table(file, array.shape, array.dtype, classes, labels)


def _new(scratch):
    return scratch / f"{len(list(scratch.iterdir()))}.npy"


def saved(array, scratch):
    np.save(file := _new(scratch), array)
    return file


def _opened(path, file):
    """The memory-mapped array of an .npy file; path: the user's file, for messages."""
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        if re.search("pickle|object", str(error), re.IGNORECASE):
            raise UserError(
                f"{path} contains Python objects, stored as a pickle, which can run code when read; save one array of"
                " numbers (do all rows have the same length?)"
            ) from error
        raise UserError(f"{path} is damaged or not a NumPy file: {error}") from error


def _from_npz(path, scratch):
    """(predictions as an .npy file, class names or None, labels or None); the array 'predictions', or the only other one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            rest = [name for name in names if name not in ("labels", "classes")]
            chosen = "predictions" if "predictions" in rest else rest[0] if len(rest) == 1 else None
            if not chosen:
                raise UserError(
                    f"{path} contains {len(rest)} arrays ({', '.join(rest)}); name the one to read 'predictions' (next to"
                    " optional 'labels' and 'classes')"
                )
            files = {}
            for name in {chosen, *names} & {chosen, "labels", "classes"}:
                files[name] = _new(scratch)
                with archive.open(f"{name}.npy") as source, open(files[name], "wb") as target:
                    shutil.copyfileobj(source, target, 2**20)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise UserError(f"{path} is damaged or not a file of numpy.savez: {error}") from error
    classes = tuple(map(str, _opened(path, files["classes"]).ravel())) if "classes" in files else None
    labels = np.array(_opened(path, files["labels"])) if "labels" in files else None
    return files[chosen], classes, labels


def _from_parquet(path):
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UserError(f"reading {path} needs the package pyarrow; install it, or save .npy or .csv") from error
    try:
        table = parquet.readread_table(path)
    except (ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged or not a Parquet file: {error}") from error
    columns = [column.to_numpy() for column in table.columns]
    columns = [column.astype(str) if column.dtype == object else column for column in columns]
    if len(columns) == 1:
        return columns[0], None
    return np.stack(columns, axis=1), tuple(table.column_names)


def _from_csv(path):
    """(array, class names or None): one column per class, with or without a header; a single column: labels."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            first, second = next(lines, []), next(lines, [])
        names = _heading(path, first, second)
        if len(first) == 1 and not _is_number((second or first)[0]):
            with open(path, newline="", encoding="utf-8-sig") as file:
                cells = [line[0] for line in csv.reader(file) if line]
            return np.array(cells[1 if names else 0 :]), None
        array = np.loadtxt(
            path, delimiter=",", skiprows=1 if names else 0, ndmin=2, comments=None, encoding="utf-8-sig"
        )
    except (ValueError, csv.Error) as error:  # a UnicodeDecodeError is a ValueError
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not a table of comma-separated numbers: {error}") from error
    return (array[:, 0], None) if array.shape[1] == 1 else (array, tuple(names) if names else None)


def _heading(path, first, second):
    """The first line if it is a header, else None. pandas writes 0, 1, 2 for unnamed columns."""
    if not first:
        raise UserError(f"{path} is empty")
    if len(first) == 1 and re.search("[;\t]", first[0]):
        raise UserError(f"{path} separates columns by {'tabs' if chr(9) in first[0] else 'semicolons'}; use commas")
    if len(first) > 1 and first[0] == "":
        raise UserError(f"{path} starts with an unnamed column, an index; save it without (pandas: index=False)")
    if len(first) == 1 and not _is_number(first[0]):
        return first if (second and _is_number(second[0])) or first[0].strip().lower() in HEADINGS else None
    counting = first == [str(k) for k in range(len(first))] and any("." in cell or "e" in cell for cell in second)
    return [name.strip() for name in first] if counting or not all(map(_is_number, first)) else None


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
