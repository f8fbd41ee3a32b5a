"""Studies, results and checkpoints on disk: atomic, validated, versioned.

A file is complete and valid, or absent: it is written next to its place, flushed to the disk and renamed. Results and
checkpoints carry a checksum of their own content, so that damage is noticed and named instead of being analysed. A
checksum shows damage, not forgery: whoever edits a file can make a new one.
"""

import functools
import hashlib
import io
import json
import math
import mmap
import os
import struct
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from common.errors import RunError, UserError
from common.files import open_regular, read_regular, set_aside, write_atomically
from common.results_format import Result, mismatches

SCHEMA_VERSION = 2
STUDY_FILE = "study.json"
SUMMARY_FILE = "all_experiments_summary.json"

# A file that is larger, or nested deeper, is none of this program's.
MOST_JSON_BYTES = 2**29
MOST_ARRAY_BYTES = 2**33
WORTH_MAPPING = 2**20  # bytes: a mapped file keeps a descriptor open, and small files are many
MOST_CHECKPOINT_BYTES = 2**35
MOST_DEPTH = 32
MOST_TRIALS = 10**5

STUDY, RESULT, SUMMARY = "a study", "a result", "a summary"  # kinds of JSON files
TRAINED_MODEL = "a trained model"  # kinds of checkpoint
RUNNING_TRIAL = "the state of an unfinished trial"

# What may differ between two results that are identical in the sense of DESIGN.md's first promise. Values per window are
# compared by their names; which pairs share a file depends on the order in which trials ended.
VOLATILE = ("training_time_s", "evaluation_time_s", "environment", "provenance", "values")


# --- JSON -----------------------------------------------------------------------------------------------------------


def stable(value):
    """`value` without what may differ between identical results (times and environments)."""
    if isinstance(value, dict):
        return {name: stable(item) for name, item in value.items() if name not in VOLATILE}
    if isinstance(value, list):
        return [stable(item) for item in value]
    return value


def write_json(path: Path, content: dict) -> None:
    """Writes `content` and a checksum of it, in `provenance`. NaN and infinity are refused: a missing value is null."""
    content = dict(content)
    provenance = {k: v for k, v in content.get("provenance", {}).items() if k != "checksum"}
    content["provenance"] = provenance
    content["provenance"] = {**provenance, "checksum": _json_checksum(content)}
    write_atomically(path, _json_text(content).encode())


def _json_text(content):
    """JSON with an object of a list on each line: a study of many pairs is written quickly, and differs by lines."""
    compact = functools.partial(json.dumps, allow_nan=False, ensure_ascii=False)
    fields = []
    for name, value in content.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            text = "[\n  " + ",\n  ".join(map(compact, value)) + "\n ]"
        else:
            text = compact(value, indent=1).replace("\n", "\n ")
        fields.append(f" {compact(name)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _json_checksum(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def read_json(path: Path, kind: str | None = None) -> dict:
    """The content of a file that `write_json` wrote.

    Args:
      kind: STUDY, RESULT or SUMMARY, where only one of them will do; its fields are checked as well.

    Raises:
      RunError: it is damaged, of another kind, or of a later program; the message names it.
    """
    try:
        content = json.loads(read_regular(path, MOST_JSON_BYTES).decode("utf-8"))
        _check_depth(content)
        provenance = dict(content["provenance"])
        checksum = provenance.pop("checksum")
        intact = checksum == _json_checksum({**content, "provenance": provenance})
    except FileNotFoundError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        intact = False
    if not intact:
        raise RunError(
            f"{path} is damaged or was edited (its checksum does not fit), or is no file of this program, and was left as"
            " it is; move it away, or restore it from a copy"
        )
    if content.get("schema_version", 0) > SCHEMA_VERSION:
        raise RunError(
            f"{path} has schema_version {content['schema_version']}, but this program knows up to {SCHEMA_VERSION}"
        )
    if kind is not None and (found := kind_of_json(content)) != kind:
        raise RunError(f"{path} is {found}, not {kind}, and was left as it is; move it away")
    return content


def kind_of_json(content: dict) -> str:
    """STUDY, RESULT or SUMMARY; older files do not say which."""
    return content.get("kind", RESULT if "trials" in content else SUMMARY if "experiments" in content else STUDY)


def _check_depth(content):
    """A ValueError where JSON is nested more deeply than any file of this program: recursion would end in a traceback."""
    level = [content]
    for _ in range(MOST_DEPTH):
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, dict) else value)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise ValueError("nested too deeply")


# --- arrays ---------------------------------------------------------------------------------------------------------

ARRAY_SUFFIX = ".safetensors"
# Types of the safetensors format, of which these files are: https://github.com/huggingface/safetensors#format
TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
}


class ArrayFile(NamedTuple):
    """What a file of arrays holds: what it belongs to, the arrays by name, and the checksum that a result names."""

    about: dict
    arrays: dict[str, np.ndarray]
    sha256: str


def write_arrays(path: Path, about: dict, arrays: dict[str, np.ndarray]) -> str:
    """Writes arrays and what they belong to as a safetensors file; returns the checksum of both, which lies inside.

    The format: the header's length (8 bytes), the header (JSON: types, shapes, places, and `about` among its metadata),
    the numbers. The checksum is the SHA-256 of header and numbers, with 64 zeros in its own place.
    """
    metadata = {"sha256": "0" * 64, "about": json.dumps(about, sort_keys=True, allow_nan=False)}
    header: dict[str, dict] = {"__metadata__": metadata}
    parts, start = [], 0
    names = {dtype: name for name, dtype in TYPES.items()}
    for name, array in arrays.items():
        array = np.asarray(array, order="C")
        place = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [start, start + array.nbytes]}
        header[name] = place
        parts.append(array.reshape(-1).view(np.uint8).data)
        start += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)  # so that numbers which are mapped into memory are aligned
    digest = hashlib.sha256(text)
    for part in parts:
        digest.update(part)
    sha256 = digest.hexdigest()
    text = text.replace(b"0" * 64, sha256.encode(), 1)
    write_atomically(path, struct.pack("<Q", len(text)), text, *parts)
    return sha256


def read_arrays(path: Path, mapped: bool = False) -> ArrayFile:
    """What `write_arrays` wrote.

    Args:
      mapped: leave the numbers in the file, as memory that the system fills and frees as it likes.

    Raises:
      FileNotFoundError: there is none.
      RunError: it is damaged, or no such file.
    """
    with open_regular(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            if size > MOST_ARRAY_BYTES:
                raise ValueError("too large")
            data = (
                mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
                if mapped and size > WORTH_MAPPING
                else file.read(size)
            )
            return _parsed(memoryview(data))
        except OSError as error:
            raise RunError(f"cannot read {path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, struct.error) as error:
            message = f"{path} is damaged (its checksum does not fit) and was left as it is; move it away"
            raise RunError(message) from error


def _parsed(data):
    """The content of a file of arrays; a ValueError, or one of the many that strange JSON can cause, where it is damaged."""
    (length,) = struct.unpack_from("<Q", data)
    text, numbers = bytes(data[8 : 8 + length]), data[8 + length :]
    header = json.loads(text)
    metadata = header.pop("__metadata__")
    sha256 = metadata["sha256"]
    digest = hashlib.sha256(text.replace(sha256.encode(), b"0" * 64, 1))
    digest.update(numbers)
    if digest.hexdigest() != sha256:
        raise ValueError("the checksum does not fit")
    arrays, start = {}, 0
    for name, place in header.items():
        dtype, shape = TYPES[place["dtype"]], [int(n) for n in place["shape"]]
        count = math.prod(shape)
        arrays[name] = np.frombuffer(numbers, dtype, count, start).reshape(shape)
        start += count * dtype.itemsize
        if min(shape, default=0) < 0 or place["data_offsets"] != [start - count * dtype.itemsize, start]:
            raise ValueError("numbers in another place")
    if start != len(numbers):
        raise ValueError("more numbers than the header says")
    about = json.loads(metadata["about"])
    _check_depth(about)
    return ArrayFile(about, arrays, sha256)


def read_npz(path: Path) -> ArrayFile:
    """The arrays of a result of schema_version 1, which do not say what they belong to; errors as of `read_arrays`."""
    try:
        with open_regular(path) as file:
            _check_archive(file, MOST_ARRAY_BYTES)
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        checksum = str(arrays.pop("checksum"))
        digest = hashlib.sha256()
        _add(digest, arrays)
        intact = checksum == digest.hexdigest()
    except (FileNotFoundError, RunError):
        raise
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception:  # zipfile, zlib and numpy each have their own words for damage
        intact = False
    if not intact:
        raise RunError(f"{path} is damaged (its checksum does not fit) and was left as it is; move it away")
    return ArrayFile({}, arrays, checksum)


def _check_archive(file, most):
    """A ValueError unless a zip archive unpacks to no more than it has; returns its size, and leaves it at its start."""
    size = file.seek(0, io.SEEK_END)
    if size > most:
        raise ValueError("too large")
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("compressed")
    if sum(member.file_size for member in members) > size:
        raise ValueError("members overlap")
    file.seek(0)
    return size


# --- checkpoints ----------------------------------------------------------------------------------------------------


def weights_sha256(weights: dict) -> str:
    """SHA-256 over the tensors' sorted names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        _add(digest, name)
        _add(digest, weights[name])
    return digest.hexdigest()


def _add(digest, value):
    """Adds one value to a digest, unambiguously: each part is preceded by its length."""
    if hasattr(value, "detach"):
        array = value.detach().cpu().contiguous()
        if str(array.dtype) == "torch.bfloat16":
            import torch

            array = array.view(torch.int16)
        header, data = f"{value.dtype}{tuple(value.shape)}", array.numpy().reshape(-1).view(np.uint8)
    elif isinstance(value, np.ndarray):
        header, data = f"{value.dtype}{value.shape}", value.tobytes()
    elif isinstance(value, dict):
        _add(digest, f"dict of {len(value)}")
        for name in sorted(value, key=str):
            _add(digest, str(name))
            _add(digest, value[name])
        return
    elif isinstance(value, list | tuple):
        _add(digest, f"list of {len(value)}")
        for item in value:
            _add(digest, item)
        return
    else:
        header, data = type(value).__name__, repr(value).encode()
    header = header.encode()
    digest.update(struct.pack("<QQ", len(header), len(data)))
    digest.update(header)
    digest.update(data)


def write_checkpoint(path: Path, content: dict) -> None:
    """torch.save of `content` (tensors, numbers, texts, lists and dicts of them) with a checksum inside."""
    import torch

    digest = hashlib.sha256()
    _add(digest, content)
    buffer = io.BytesIO()
    torch.save({**content, "checksum": digest.hexdigest()}, buffer)
    write_atomically(path, buffer.getvalue())


def read_checkpoint(path: Path, kind: str | None = None) -> dict:
    """The content of a checkpoint. Never runs code from the file (weights_only=True).

    Args:
      kind: TRAINED_MODEL or RUNNING_TRIAL, where only one of them will do.

    Raises:
      FileNotFoundError: there is none.
      RunError: it is damaged, of another kind, or holds something other than plain data.
    """
    import torch

    try:
        with open_regular(path) as file:
            size = _check_archive(file, MOST_CHECKPOINT_BYTES)
            content = torch.load(file, map_location="cpu", weights_only=True)
        _check_plain(content, size)
        checksum = content.pop("checksum")
    except (FileNotFoundError, RunError):
        raise
    except OSError as error:
        raise RunError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    except Exception as error:  # torch, pickle and zipfile each have their own words for damage
        raise RunError(f"the checkpoint {path} is damaged or is not plain data, and was not loaded") from error
    digest = hashlib.sha256()
    _add(digest, content)
    if digest.hexdigest() != checksum:
        raise RunError(f"the checkpoint {path} is damaged: its checksum does not fit its content")
    if kind is not None and (found := kind_of_checkpoint(content)) != kind:
        raise RunError(f"the checkpoint {path} holds {found}, not {kind}")
    return content


def kind_of_checkpoint(content: dict) -> str:
    """TRAINED_MODEL or RUNNING_TRIAL; older files do not say which, but only a running trial keeps its identity."""
    return content.get("kind", RUNNING_TRIAL if "identity" in content else TRAINED_MODEL)


def _check_plain(content, size):
    """A ValueError unless a file of `size` bytes can hold `content` as it stands.

    A pickle of a few bytes can refer to one list so often, or stretch one number over so large a tensor, that no machine
    comes to the end of it; it can also contain itself.
    """
    import torch

    level, n_values, n_bytes = [content], 0, 0
    for _ in range(MOST_DEPTH):
        below: list = []
        for value in level:
            if isinstance(value, dict):
                below += [*value, *value.values()]
            elif isinstance(value, list | tuple):
                below += value
            elif isinstance(value, torch.Tensor):
                if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
                    raise ValueError("a tensor of an unusual kind")
                n_bytes += value.numel() * value.element_size()
            elif value is not None and not isinstance(value, str | int | float):
                raise ValueError(f"a {type(value).__name__}")
            if n_values + len(below) > size or n_bytes > 4 * size:  # weights may share memory
                raise ValueError("more than the file can hold")
        n_values, level = n_values + len(below), below
        if not level:
            return
    raise ValueError("nested too deeply")


def save_state(path: Path | None, identity, environment: dict, content: dict, report) -> None:
    """Writes what a running trial needs to resume from here; a path of None writes nothing.

    Args:
      identity: of the trial, or of those that are trained together; only an equal one resumes from this state.
      environment: what decides the trial's bits besides its identity; the same is true of it.
      report: told of a disk that is full, which is no reason to end the trial: what it gives is written at its end.
    """
    if path is None:
        return
    try:
        content = {**content, "kind": RUNNING_TRIAL, "identity": identity, "environment": environment}
        write_checkpoint(path, content)
    except RunError as error:
        if report:
            report({"warning": f"{error}; the trial continues, but could not resume from here"})


def load_state(path: Path | None, identity, environment: dict, report) -> dict | None:
    """What `save_state` wrote for this identity in this environment; None if there is none, or another's.

    A damaged file, or one of another kind, is set aside. `report` is told of it, and of a state that another environment
    made: a trial that went on from it would be a mixture, with the bits of neither.
    """

    def say(warning):
        if report:
            report({"warning": f"{warning}, and the trial starts from its beginning"})

    if path is None:
        return None
    try:
        content = read_checkpoint(path, RUNNING_TRIAL)
        same = content["identity"] == identity
    except FileNotFoundError:
        return None
    except (RunError, KeyError) as error:
        reason = error if isinstance(error, RunError) else f"{path} is no state of a trial"
        say(f"{reason}; set aside as {set_aside(path).name}")
        return None
    if same and (difference := first_difference(content.get("environment", {}), environment)):
        say(f"{path} was saved in another environment ({difference})")
        return None
    return content if same else None


# --- a study's folder -----------------------------------------------------------------------------------------------


def first_difference(expected, found, name: str = "") -> str | None:
    """Where two JSON values first differ: 'config.n_embd: 128 against 64'; None where they are equal."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in [*expected, *(key for key in found if key not in expected)]:
            path = f"{name}.{key}" if name else str(key)
            if key not in expected:
                return f"{path}: missing against {found[key]!r}"
            if key not in found:
                return f"{path}: {expected[key]!r} against missing"
            if difference := first_difference(expected[key], found[key], path):
                return difference
        return None
    if isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            if all(isinstance(entry, (str, int, float)) for entry in (*expected, *found)):
                sides = (", ".join(map(str, side)) or "nothing" for side in (expected, found))
                return f"{name}: {' against '.join(sides)}"
            return f"{name}: {len(expected)} entries against {len(found)}"
        for index, (left, right) in enumerate(zip(expected, found)):
            if difference := first_difference(left, right, f"{name}[{index}]"):
                return difference
        return None
    return None if expected == found else f"{name}: {expected!r} against {found!r}"


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
