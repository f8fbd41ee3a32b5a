"""Arrays on disk: safetensors files that carry a checksum and say what they belong to, and the older .npz files."""

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

MOST_ARRAY_BYTES = 2**33  # a file that is larger is none of this program's
WORTH_MAPPING = 2**20  # bytes: a mapped file keeps a descriptor open, and small files are many
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
    check_depth(about)
    return ArrayFile(about, arrays, sha256)


def read_npz(path: Path) -> ArrayFile:
    """The arrays of a result of schema_version 1, which do not say what they belong to; errors as of `read_arrays`."""
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
    except Exception:  # zipfile, zlib and numpy each have their own words for damage
        intact = False
    if not intact:
        raise RunError(f"{path} is damaged (its checksum does not fit) and was left as it is; move it away")
    return ArrayFile({}, arrays, checksum)
