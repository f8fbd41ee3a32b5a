"""Studies, results and checkpoints on disk: atomic, validated, versioned.

A file is complete and valid, or absent: it is written beside its place, flushed to the disk and renamed. Results and
checkpoints carry a checksum of their own content, so that damage is noticed and named instead of being analysed. A
checksum shows damage, not forgery: whoever edits a file can make a new one.
"""

import hashlib
import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np

from common.errors import RunError, UserError
from common.files import open_regular, read_regular, set_aside, write_atomically

SCHEMA_VERSION = 1
STUDY_FILE = "study.json"
SUMMARY_FILE = "all_experiments_summary.json"

# A file that is larger, or nested deeper, is none of this program's.
MOST_JSON_BYTES = 2**29
MOST_ARRAY_BYTES = 2**33
MOST_CHECKPOINT_BYTES = 2**35
MOST_DEPTH = 32

TRAINED_MODEL = "a trained model"  # kinds of checkpoint
RUNNING_TRIAL = "the state of an unfinished trial"

# What may differ between two results that are identical in the sense of DESIGN.md's first promise.
VOLATILE = ("training_time_s", "evaluation_time_s", "environment", "provenance")


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
    write_atomically(path, (json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def _json_checksum(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def read_json(path: Path) -> dict:
    """The content of a file that `write_json` wrote; a RunError names a file that is damaged."""
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
    return content


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


# --- arrays beside a result -----------------------------------------------------------------------------------------


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes an .npz with one array more: a checksum of all, for a zip's CRCs miss one that is cut or lost."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, checksum=np.array(_arrays_checksum(arrays)))  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes one .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomically(path, buffer.getbuffer())


def _arrays_checksum(arrays):
    digest = hashlib.sha256()
    _add(digest, arrays)
    return digest.hexdigest()


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file that `write_arrays` wrote; a RunError names a file that is damaged."""
    try:
        with open_regular(path) as file:
            _check_archive(file, MOST_ARRAY_BYTES)
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        intact = str(arrays.pop("checksum")) == _arrays_checksum(arrays)
    except RunError:
        raise
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception:  # zipfile, zlib and numpy each have their own words for damage
        intact = False
    if not intact:
        raise RunError(f"{path} is damaged (its checksum does not fit) and was left as it is; move it away")
    return arrays


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
    """Writes what a running trial needs to go on from here; a path of None writes nothing.

    Args:
      identity: of the trial, or of those that are trained together; only an equal one goes on from this state.
      environment: what decides the trial's bits beside its identity; the same is true of it.
      report: told of a disk that is full, which is no reason to end the trial: what it gives is written at its end.
    """
    if path is None:
        return
    try:
        content = {**content, "kind": RUNNING_TRIAL, "identity": identity, "environment": environment}
        write_checkpoint(path, content)
    except RunError as error:
        if report:
            report({"warning": f"{error}; the trial goes on, but could not resume from here"})


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


def read_study(folder: Path) -> tuple[dict, list[dict]]:
    """(study.json, the results in the order of their files' names) of a folder."""
    folder = Path(folder)
    if not (folder / STUDY_FILE).exists():
        raise UserError(f"{folder} holds no study ({STUDY_FILE} is missing); run run_all_experiments.py first")
    study = read_json(folder / STUDY_FILE)
    results = []
    for path in sorted(folder.glob("*.json")):
        if path.name not in (STUDY_FILE, SUMMARY_FILE):
            content = read_json(path)
            if "trials" in content and "architecture" in content:
                content["path"] = str(path)
                results.append(content)
    return study, results
