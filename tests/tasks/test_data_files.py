"""Claims about data files of tasks: where they are found, and what is refused."""

import gzip
import hashlib
import zipfile
from dataclasses import replace

import pytest

from common.errors import UserError
from tasks.data_files import DataFile, DownloadFailed, import_needed, read_data_file

CONTENT = b"some numbers"
FILE = DataFile(
    "the numbers",
    "sets/numbers.txt",
    hashlib.sha256(CONTENT).hexdigest(),
    12,
    "https://localhost/numbers.txt",
    "CHARLM_NUMBERS",
    "system",
)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CHARLM_NUMBERS", raising=False)


def put(path, content=CONTENT):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_a_variable_names_a_file_or_its_folder(tmp_path, monkeypatch):
    put(tmp_path / "mine" / "numbers.txt")
    put(tmp_path / "data" / "sets" / "numbers.txt", b"other")
    for named in ("mine", "mine/numbers.txt"):
        monkeypatch.setenv("CHARLM_NUMBERS", named)
        assert read_data_file(FILE) == CONTENT
    monkeypatch.setenv("CHARLM_NUMBERS", "data/sets")
    with pytest.raises(
        UserError, match=r"numbers.txt, from the environment variable CHARLM_NUMBERS, is not the numbers"
    ):
        read_data_file(FILE)
    monkeypatch.setenv("CHARLM_NUMBERS", "nowhere")
    with pytest.raises(UserError, match=r"the environment variable CHARLM_NUMBERS does not exist: nowhere"):
        read_data_file(FILE)


def test_data_comes_before_the_systems_folder_and_that_before_a_download(tmp_path):
    with pytest.raises(
        DownloadFailed, match=r"the numbers could not be downloaded .*save it as data/sets/numbers.txt or set"
    ):
        read_data_file(FILE)
    put(tmp_path / "system" / "numbers.txt")
    assert read_data_file(FILE) == CONTENT
    put(tmp_path / "data" / "sets" / "numbers.txt", b"other")
    with pytest.raises(UserError, match=r"numbers.txt is not the numbers: its SHA-256 is"):
        read_data_file(FILE)


def test_a_compressed_file_is_known_by_its_content(tmp_path, monkeypatch):
    file = replace(FILE, path="numbers.txt.gz")
    monkeypatch.setenv("CHARLM_NUMBERS", "mine.gz")
    for level in (1, 9):
        put(tmp_path / "mine.gz", gzip.compress(CONTENT, level, mtime=level))
        assert read_data_file(file) == CONTENT
    for wrong, says in ((CONTENT, "Not a gzipped file"), (gzip.compress(CONTENT)[:-9], "ended before")):
        put(tmp_path / "mine.gz", wrong)
        with pytest.raises(UserError, match=f"CHARLM_NUMBERS, is not the numbers: .*{says}"):
            read_data_file(file)


def test_a_wheel_is_downloaded_by_pip_and_kept(tmp_path, monkeypatch):
    name = "numbers_demo-1-py3-none-any.whl"
    with zipfile.ZipFile(tmp_path / name, "w") as wheel:
        wheel.writestr("numbers_demo-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: numbers_demo\nVersion: 1\n")
        wheel.writestr("numbers_demo-1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    content = (tmp_path / name).read_bytes()
    digest, size = hashlib.sha256(content).hexdigest(), len(content)
    file = DataFile("the wheel", name, digest, size, "numbers_demo==1", "CHARLM_NUMBERS")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DownloadFailed, match=r"No matching distribution found for numbers_demo==1"):
        read_data_file(file)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert read_data_file(file) == content == (tmp_path / "data" / name).read_bytes()


def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it():
    with pytest.raises(UserError) as caught:
        import_needed("no_such_module", "no-such-package", "images")
    assert str(caught.value) == "--task images needs no-such-package: run ./setup.sh --tasks"
