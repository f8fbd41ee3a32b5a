"""Files as bytes: safe reading, atomic writing, and a lock for a folder.

A study's folder may come from an untrusted source. So nothing here writes through a symbolic link, reads anything but a
regular file, or reads more than a given number of bytes.
"""

import contextlib
import errno
import fcntl
import io
import os
import secrets
import socket
import stat
import tempfile
import zipfile
from pathlib import Path
from typing import BinaryIO

from common.errors import RunError, UserError, cause

UNFINISHED = ".tmp"  # suffix of the hidden file that is being written


# --- reading --------------------------------------------------------------------------------------------------------


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading (not a pipe, a device or a folder, where reading could block forever).

    Raises
    ------
    FileNotFoundError
    RunError
        The file cannot be read or is not a regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if os.path.islink(path):
            raise RunError(f"cannot read {path}: it is a broken link") from None
        raise
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise RunError(f"cannot read {path}: {'Is a directory' if stat.S_ISDIR(mode) else 'it is not a regular file'}")
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, most: int) -> bytes:
    """The bytes of a regular file of at most `most` bytes; errors as for `open_regular`."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise RunError(f"cannot read {path}: it has {size:,} bytes, more than the maximum of {most:,}")
        try:
            return file.read(most)
        except OSError as error:
            raise RunError(f"cannot read {path}: {cause(error)}") from error


def check_archive(file: BinaryIO, most: int) -> int:
    """Raises ValueError if a zip archive could unpack to more than its size; rewinds the file and returns its size."""
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


# --- writing --------------------------------------------------------------------------------------------------------


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Writes a file so that it has either the new content or the old one, even after a crash."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)  # minus the umask
        try:
            with os.fdopen(handle, "wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _flush_folder(path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {cause(error)}") from error


def _flush_folder(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not supported by this file system
            raise
    finally:
        os.close(descriptor)


def check_writable(folder: Path) -> None:
    """Raises an error if files cannot be written in `folder`, which need not exist yet; changes nothing."""
    folder = Path(folder)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"{existing} is a file, not a folder; choose another")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RunError(f"cannot write in {existing}; choose another folder, or change its permissions")


def set_aside(path: Path) -> Path:
    """Renames `path` to the first free `path.aside-<number>`; returns the new path."""
    number = 1
    while os.path.lexists(target := Path(f"{path}.aside-{number}")):
        number += 1
    os.replace(path, target)
    return target


def private_folder(name: str) -> Path:
    """A temporary folder that only this user can write to; always the same one, unless another user created it."""
    folder = Path(tempfile.gettempdir()) / f"{name}_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = os.lstat(folder)
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return folder if ours else Path(tempfile.mkdtemp(prefix=f"{name}_"))


# --- one writer -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(folder: Path, option: str = "--results-dir"):
    """Locks a folder for this process; raises RunError, naming the holder and `option`, if another process has the lock.

    The lock is released when the process ends.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _open_lock(folder / ".lock")
    except OSError as error:
        raise RunError(f"cannot write in {folder}: {cause(error)}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read(1000).decode(errors="replace") or "another process"
            raise RunError(f"{folder} is in use by {holder}; wait for it, or choose another {option}") from None
        except OSError as error:
            raise RunError(f"{folder} cannot be locked ({error.strerror or error}); choose another {option}") from error
        try:
            file.truncate(0)
            file.seek(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        except OSError as error:
            raise RunError(f"cannot write in {folder}: {cause(error)}") from error
        yield


def _open_lock(path):
    """Opens or creates a lock file, unbuffered; rejects links, since the content will be overwritten."""
    if path.is_symlink():  # a clearer message than that of O_NOFOLLOW
        raise RunError(f"{path} is a symbolic link, not a lock file; remove it")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(descriptor)
        raise RunError(f"{path} is not a lock file of this program; remove it")
    return os.fdopen(descriptor, "rb+", buffering=0)
