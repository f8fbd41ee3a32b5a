"""Checkpoints: the weights of trained models, and the states from which unfinished trials resume.

They are read with weights_only=True, within bounds, and carry a checksum of their content.
"""

import hashlib
import io
import struct
from pathlib import Path

import numpy as np

from common.errors import RunError
from common.files import check_archive, open_regular, set_aside, write_atomically
from common.json_files import MOST_DEPTH, first_difference

MOST_CHECKPOINT_BYTES = 2**35  # a file that is larger is none of this program's
TRAINED_MODEL = "a trained model"  # kinds of checkpoint
RUNNING_TRIAL = "the state of an unfinished trial"


def weights_sha256(weights: dict) -> str:
    """SHA-256 over the tensors' sorted names, dtypes, shapes and bytes."""
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
    """torch.save of `content` (tensors, numbers, texts, lists and dicts of them) with a checksum inside."""
    import torch

    digest = hashlib.sha256()
    add_to_digest(digest, content)
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
            size = check_archive(file, MOST_CHECKPOINT_BYTES)
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
    add_to_digest(digest, content)
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
