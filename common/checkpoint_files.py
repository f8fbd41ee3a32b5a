"""Checkpoints: weights of trained models, and saved states of unfinished trials.

They are read with weights_only=True and limits on size and depth, and contain a checksum of their content.
"""

import hashlib
import io
import struct
from pathlib import Path

import numpy as np

from common.errors import RunError
from common.files import check_archive, open_regular, set_aside, write_atomically
from common.json_files import MOST_DEPTH, first_difference

MOST_CHECKPOINT_BYTES = 2**35  # this program writes no larger file
TRAINED_MODEL = "a trained model"  # kinds of checkpoint
RUNNING_TRIAL = "the state of an unfinished trial"


def weights_sha256(weights: dict) -> str:
    """SHA-256 of the tensors' names (sorted), dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        add_to_digest(digest, name)
        add_to_digest(digest, weights[name])
    return digest.hexdigest()


def add_to_digest(digest, value):
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
        add_to_digest(digest, f"dict of {len(value)}")
        for name in sorted(value, key=str):
            add_to_digest(digest, str(name))
            add_to_digest(digest, value[name])
        return
    elif isinstance(value, list | tuple):
        add_to_digest(digest, f"list of {len(value)}")
        for item in value:
            add_to_digest(digest, item)
        return
    else:
        header, data = type(value).__name__, repr(value).encode()
    header = header.encode()
    digest.update(struct.pack("<QQ", len(header), len(data)))
    digest.update(header)
    digest.update(data)


def write_checkpoint(path: Path, content: dict) -> None:
    """torch.save of `content` (tensors, numbers, strings, lists and dicts of them) with a checksum inside."""
    import torch

    digest = hashlib.sha256()
    add_to_digest(digest, content)
    buffer = io.BytesIO()
    torch.save({**content, "checksum": digest.hexdigest()}, buffer)
    write_atomically(path, buffer.getvalue())


def read_checkpoint(path: Path, kind: str | None = None) -> dict:
    """Reads a checkpoint, without running code from the file (weights_only=True).

    Parameters
    ----------
    path : Path
    kind : str, optional
        TRAINED_MODEL or RUNNING_TRIAL, if only this kind is accepted.

    Returns
    -------
    dict

    Raises
    ------
    FileNotFoundError
    RunError
        The file is damaged, of another kind, or contains something other than plain data.
    """
    import torch

    try:
        with open_regular(path) as file:
            size = check_archive(file, MOST_CHECKPOINT_BYTES)
            content = torch.load(file, map_location="cpu", weights_only=True)
        _check_plain(content, size)
        checksum = content.pop("checksum")
    except (FileNotFoundError, RunError):
        raise
    except OSError as error:
        raise RunError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    except Exception as error:  # torch, pickle and zipfile raise different errors for damaged files
        raise RunError(f"the checkpoint {path} is damaged or is not plain data, and was not loaded") from error
    digest = hashlib.sha256()
    add_to_digest(digest, content)
    if digest.hexdigest() != checksum:
        raise RunError(f"the checkpoint {path} is damaged: checksum mismatch")
    if kind is not None and (found := kind_of_checkpoint(content)) != kind:
        raise RunError(f"the checkpoint {path} is {found}, not {kind}")
    return content


def kind_of_checkpoint(content: dict) -> str:
    """TRAINED_MODEL or RUNNING_TRIAL; in older files without a kind, only the latter has an identity."""
    return content.get("kind", RUNNING_TRIAL if "identity" in content else TRAINED_MODEL)


def _check_plain(content, size):
    """Raises ValueError if `content` is larger than a file of `size` bytes can hold, nested too deeply or unusual.

    A pickle of a few bytes can expand without bound: by repeated references to one list, by a tensor with stride 0, or
    by a container that contains itself.
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
                    raise ValueError("an unsupported kind of tensor")
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
    """Writes the state that a running trial needs to resume.

    Parameters
    ----------
    path : Path or None
        None: nothing is written.
    identity
        Of the trial; must be equal for resuming.
    environment : dict
        From `provenance.numeric_environment`; must be equal for resuming.
    content : dict
    report : callable or None
        Receives a warning if writing fails (disk full); the trial continues.
    """
    if path is None:
        return
    try:
        content = {**content, "kind": RUNNING_TRIAL, "identity": identity, "environment": environment}
        write_checkpoint(path, content)
    except RunError as error:
        if report:
            report({"warning": f"{error}; the trial continues, but cannot be resumed from this point"})


def load_state(path: Path | None, identity, environment: dict, report) -> dict | None:
    """Reads the state written by `save_state` for this identity and environment; None if there is none.

    A damaged file, or one of another kind, is set aside. `report` receives a warning about it, about a state of another
    trial, and about one saved in another environment: a trial resumed from it would be bit-identical with neither.
    """

    def say(warning):
        if report:
            report({"warning": f"{warning}; the trial starts over"})

    if path is None:
        return None
    try:
        content = read_checkpoint(path, RUNNING_TRIAL)
        same = content["identity"] == identity
    except FileNotFoundError:
        return None
    except (RunError, KeyError) as error:
        reason = error if isinstance(error, RunError) else f"{path} is not the state of a trial"
        say(f"{reason}; set aside as {set_aside(path).name}")
        return None
    if not same:
        say(f"{path} was saved by another trial, or by another version of this program")
        return None
    if difference := first_difference(content.get("environment", {}), environment):
        say(f"{path} was saved in another environment ({difference})")
        return None
    return content
