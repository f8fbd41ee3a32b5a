"""Studies, results and checkpoints on disk: atomic, validated, versioned.

A file is complete and valid, or absent: it is written beside its place, flushed to the disk and renamed. Results and
checkpoints carry a checksum of their own content, so that damage is noticed and named instead of being analysed.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import socket
import struct
import tempfile
from pathlib import Path

import numpy as np

from common.errors import RunError, UserError

SCHEMA_VERSION = 1
STUDY_FILE = "study.json"
SUMMARY_FILE = "all_experiments_summary.json"
UNFINISHED = ".tmp"  # how a file's name ends while it is being written; a hidden one

# What may differ between two results that are identical in the sense of DESIGN.md's first promise.
VOLATILE = ("training_time_s", "evaluation_time_s", "environment", "provenance")


def write_atomically(path: Path, data: bytes) -> None:
    """The file at `path` holds all of `data` or what it held before, even if the machine stops now."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _flush_folder(path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}; make room or choose another folder") from error


def _flush_folder(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(folder: Path) -> None:
    """Raises an error unless files can be written in `folder`, which need not exist yet; changes nothing."""
    folder = Path(folder)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"{existing} is a file, not a folder; choose another")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RunError(f"cannot write in {existing}; choose another folder, or change who may write there")


def set_aside(path: Path) -> Path:
    """Renames `path` to the first free `path.aside-<number>`, so that it is neither used nor lost."""
    number = 1
    while (target := Path(f"{path}.aside-{number}")).exists():
        number += 1
    os.replace(path, target)
    return target


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
        content = json.loads(Path(path).read_bytes().decode("utf-8"))
        provenance = dict(content["provenance"])
        checksum = provenance.pop("checksum")
        intact = checksum == _json_checksum({**content, "provenance": provenance})
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError):
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


# --- arrays beside a result -----------------------------------------------------------------------------------------


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes an .npz with one array more: a checksum of all, for a zip's CRCs miss one that is cut or lost."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, checksum=np.array(_arrays_checksum(arrays)))
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
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        intact = str(arrays.pop("checksum")) == _arrays_checksum(arrays)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception:  # zipfile, zlib and numpy each have their own words for damage
        intact = False
    if not intact:
        raise RunError(f"{path} is damaged (its checksum does not fit) and was left as it is; move it away")
    return arrays


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


def read_checkpoint(path: Path) -> dict:
    """The content of a checkpoint. Never runs code from the file (weights_only=True).

    Raises:
      FileNotFoundError: there is none.
      RunError: it is damaged, or holds something other than plain data.
    """
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        checksum = content.pop("checksum")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    except Exception as error:  # torch, pickle and zipfile each have their own words for damage
        raise RunError(f"the checkpoint {path} is damaged or is not plain data, and was not loaded") from error
    digest = hashlib.sha256()
    _add(digest, content)
    if digest.hexdigest() != checksum:
        raise RunError(f"the checkpoint {path} is damaged: its checksum does not fit its content")
    return content


def save_state(path: Path | None, identity, content: dict, report) -> None:
    """Writes what a running trial needs to go on from here; a path of None writes nothing.

    Args:
      identity: of the trial, or of those that are trained together; only an equal one goes on from this state.
      report: told of a disk that is full, which is no reason to end the trial: what it gives is written at its end.
    """
    if path is None:
        return
    try:
        write_checkpoint(path, {**content, "identity": identity})
    except RunError as error:
        if report:
            report({"warning": f"{error}; the trial goes on, but could not resume from here"})


def load_state(path: Path | None, identity, report) -> dict | None:
    """What `save_state` wrote for this identity; None where there is none, another's, or a damaged one (set aside)."""
    if path is None or not Path(path).exists():
        return None
    try:
        content = read_checkpoint(path)
    except RunError as error:
        aside = set_aside(path)
        if report:
            report({"warning": f"{error}; set aside as {aside.name}, and the trial starts from its beginning"})
        return None
    return content if content["identity"] == identity else None


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


def open_study(folder: Path, identity: dict, provenance: dict, option: str = "--results-dir") -> None:
    """Makes sure that `folder` holds the study of this identity: writes study.json, or compares with the one there."""
    if not holds_study(folder, identity, option):
        content = {"schema_version": SCHEMA_VERSION, "identity": identity, "provenance": provenance}
        write_json(Path(folder) / STUDY_FILE, content)


def holds_study(folder: Path, identity: dict, option: str = "--results-dir") -> bool:
    """Whether `folder`, which `option` sets, holds the study of this identity; a UserError where it holds another one."""
    path = Path(folder) / STUDY_FILE
    advice = f"choose another {option}, or set the old study aside with --fresh"
    if not path.exists():
        if any(Path(folder).glob("*_*.json")):
            raise UserError(f"{folder} holds results but no {STUDY_FILE}; {advice}")
        return False
    if difference := first_difference(read_json(path)["identity"], identity):
        raise UserError(f"{folder} holds a study of another identity ({difference}); {advice}")
    return True


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


@contextlib.contextmanager
def locked(folder: Path, option: str = "--results-dir"):
    """Holds the folder, which `option` sets, for this process; a RunError says who holds it. The end of the process lets go."""
    folder = Path(folder)
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab+", buffering=0)  # noqa: SIM115 - closed below, and by the end of the process
    except OSError as error:
        raise RunError(f"cannot write in {folder}: {error.strerror or error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().decode() or "another process"
            raise RunError(f"{folder} is in use by {holder}; wait for it, or choose another {option}") from None
        except OSError as error:
            raise RunError(f"{folder} cannot be locked ({error.strerror or error}); choose another {option}") from error
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        except OSError as error:
            raise RunError(f"cannot write in {folder}: {error.strerror or error}") from error
        yield
