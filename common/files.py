"""Files as bytes: read without surprises, written whole or not at all, one writer for a folder.

A study's folder may come from somebody else. So nothing here follows a symbolic link in the place of a file that is
written, reads anything but a regular file, or reads more than a reader is prepared for.
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

UNFINISHED = ".tmp"  # how a file's name ends while it is being written; a hidden one


# --- reading --------------------------------------------------------------------------------------------------------


def open_regular(path: Path) -> BinaryIO:
    """Opens a file for reading; a RunError refuses a pipe, a device or a folder, where reading could wait for ever.

    Raises:
      FileNotFoundError: there is none.
      RunError: it cannot be read, or is no regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if os.path.islink(path):
            raise RunError(f"cannot read {path}: it is a link to nothing") from None
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
            raise RunError(f"cannot read {path}: it has {size:,} bytes, and no such file has more than {most:,}")
        try:
            return file.read(most)
        except OSError as error:
            raise RunError(f"cannot read {path}: {cause(error)}") from error


def check_archive(file: BinaryIO, most: int) -> int:
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


# --- writing --------------------------------------------------------------------------------------------------------


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """The file at `path` holds all of `parts` or what it held before, even if the machine stops now."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)  # less the umask
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
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has no such thing
            raise
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
    while os.path.lexists(target := Path(f"{path}.aside-{number}")):
        number += 1
    os.replace(path, target)
    return target


def private_folder(name: str) -> Path:
    """A folder for temporary files that only this user can write in: always the same one, unless somebody else made it."""
    folder = Path(tempfile.gettempdir()) / f"{name}_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = os.lstat(folder)
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return folder if ours else Path(tempfile.mkdtemp(prefix=f"{name}_"))


# --- one writer -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(folder: Path, option: str = "--results-dir"):
    """Holds the folder, which `option` sets, for this process; a RunError says who holds it. The end of the process lets go."""
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
    """Opens a lock file, unbuffered, or makes one; never a file of another name, for its content is replaced later."""
    if path.is_symlink():  # O_NOFOLLOW says the same, less clearly
        raise RunError(f"{path} is a symbolic link, which a lock never is; remove it")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(descriptor)
        raise RunError(f"{path} is not a lock file of this program; remove it")
    return os.fdopen(descriptor, "rb+", buffering=0)
