"""Arrays on disk: safetensors files with a checksum and an identity, and the older .npz files."""

import hashlib
import json
import math
import mmap
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.checkpoint_files import add_to_digest
from common.errors import RunError
from common.files import check_archive, open_regular, write_atomically
from common.json_files import check_depth

MOST_ARRAY_BYTES = 2**33  # this program writes no larger file
WORTH_MAPPING = 2**20  # bytes; smaller files are read, since each mapped file keeps a descriptor open
ARRAY_SUFFIX = ".safetensors"
# Dtypes of the safetensors format: https://github.com/huggingface/safetensors#format
TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
}


class ArrayFile(NamedTuple):
    """The content of an array file: its identity, arrays by name, and the checksum that a result lists."""

    about: dict
    arrays: dict[str, np.ndarray]
    sha256: str


def write_arrays(path: Path, about: dict, arrays: dict[str, np.ndarray]) -> str:
    """Writes arrays and their identity `about` as a safetensors file; returns the checksum, which is stored inside.

    Format: length of the header (8 bytes), header (JSON: dtypes, shapes, offsets, and `about` in the metadata), data.
    The checksum is the SHA-256 of header and data, computed with 64 zeros in place of the checksum.
    """
    metadata = {"sha256": "0" * 64, "about": json.dumps(about, sort_keys=True, allow_nan=False)}
    header: dict[str, dict] = {"__metadata__": metadata}
    parts, start = [], 0
    names = {dtype: name for name, dtype in TYPES.items()}
    for name, array in arrays.items():
        array = np.asarray(array, order="C")
        entry = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [start, start + array.nbytes]}
        header[name] = entry
        parts.append(array.reshape(-1).view(np.uint8).data)
        start += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)  # so that memory-mapped data are aligned
    digest = hashlib.sha256(text)
    for part in parts:
        digest.update(part)
    sha256 = digest.hexdigest()
    text = text.replace(b"0" * 64, sha256.encode(), 1)
    write_atomically(path, struct.pack("<Q", len(text)), text, *parts)
    return sha256


def read_arrays(path: Path, mapped: bool = False) -> ArrayFile:
    """Reads a file written by `write_arrays`.

    Parameters
    ----------
    path : Path
    mapped : bool
        Memory-map the file instead of reading it.

    Returns
    -------
    ArrayFile

    Raises
    ------
    FileNotFoundError
    RunError
        The file is damaged or not an array file.
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
            message = f"{path} is damaged (checksum mismatch) and was left unchanged; move it away"
            raise RunError(message) from error


def _parsed(data):
    """The content of an array file; raises ValueError, or another error caused by malformed JSON, if it is damaged."""
    (length,) = struct.unpack_from("<Q", data)
    text, numbers = bytes(data[8 : 8 + length]), data[8 + length :]
    header = json.loads(text)
    metadata = header.pop("__metadata__")
    sha256 = metadata["sha256"]
    digest = hashlib.sha256(text.replace(sha256.encode(), b"0" * 64, 1))
    digest.update(numbers)
    if digest.hexdigest() != sha256:
        raise ValueError("checksum mismatch")
    arrays, start = {}, 0
    for name, entry in header.items():
        dtype, shape = TYPES[entry["dtype"]], [int(n) for n in entry["shape"]]
        count = math.prod(shape)
        arrays[name] = np.frombuffer(numbers, dtype, count, start).reshape(shape)
        start += count * dtype.itemsize
        if min(shape, default=0) < 0 or entry["data_offsets"] != [start - count * dtype.itemsize, start]:
            raise ValueError("wrong offsets")
    if start != len(numbers):
        raise ValueError("more data than the header describes")
    about = json.loads(metadata["about"])
    check_depth(about)
    return ArrayFile(about, arrays, sha256)


def read_npz(path: Path) -> ArrayFile:
    """The arrays of a result of schema_version 1, which have no identity; errors as for `read_arrays`."""
    try:
        with open_regular(path) as file:
            check_archive(file, MOST_ARRAY_BYTES)
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        checksum = str(arrays.pop("checksum"))
        digest = hashlib.sha256()
        add_to_digest(digest, arrays)
        intact = checksum == digest.hexdigest()
    except (FileNotFoundError, RunError):
        raise
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception:  # zipfile, zlib and numpy raise different errors for damaged files
        intact = False
    if not intact:
        raise RunError(f"{path} is damaged (checksum mismatch) and was left unchanged; move it away")
    return ArrayFile({}, arrays, checksum)
