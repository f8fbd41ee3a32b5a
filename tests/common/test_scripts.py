"""A script does its work and ends with the right status, whatever becomes of what it prints."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import describe

ROOT = Path(__file__).resolve().parents[2]

# Prints before and after its work, the writing of a file.
SCRIPT = """
import common.startup
import sys
from common.scripts import run
def main(argv):
    with open("work", "w") as file:  # opened first: it would take the place of a closed stream
        for stream in (sys.stdout, sys.stderr):
            for _ in range(2000):
                print("β = 1", file=stream, flush=True)
        file.write("done")
    return 0
run(main)
"""


def in_shell(folder, redirection, **environment):
    """The script in bash, with its streams redirected."""
    (folder / "script.py").write_text(SCRIPT)
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; '{sys.executable}' script.py {redirection}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_closed_stream_stops_nothing_and_no_file_takes_its_place(tmp_path, closed):
    done = in_shell(tmp_path, closed)
    assert done.returncode == 0
    assert (tmp_path / "work").read_text() == "done"
    assert done.stdout == ("" if "1>" in closed else "β = 1\n" * 2000)
    assert done.stderr == ("" if "2>" in closed else "β = 1\n" * 2000)


@pytest.mark.parametrize("pipe", ["2>/dev/null | head -n 1", "2>&1 >/dev/null | head -n 1"])
def test_a_reader_that_goes_stops_nothing(tmp_path, pipe):
    done = in_shell(tmp_path, pipe)
    assert (done.returncode, done.stdout, done.stderr) == (0, "β = 1\n", "")
    assert (tmp_path / "work").read_text() == "done"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_under_the_output_stops_nothing_and_is_said_once(tmp_path, unbuffered):
    done = in_shell(tmp_path, ">/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert (tmp_path / "work").read_text() == "done"
    assert done.returncode == 1
    assert done.stderr.replace("β = 1\n", "") == (
        "error: not all output could be written: No space left on device; free some space, or choose another folder\n"
    )
    assert in_shell(tmp_path, "2>/dev/full").returncode == 0


def test_an_encoding_without_a_character_gets_a_question_mark(tmp_path):
    done = in_shell(tmp_path, "", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stdout == "? = 1\n" * 2000


@pytest.mark.parametrize("name", ["ENOSPC", "EMFILE", "EFBIG", "EAGAIN", "EROFS", "EIO"])
@pytest.mark.parametrize("file", [None, "/some/file"])
def test_what_the_system_complains_of_is_a_sentence_that_names_the_file_if_there_is_one(name, file):
    number = getattr(errno, name)
    text = describe(OSError(number, os.strerror(number), file))
    assert os.strerror(number) in text and "Errno" not in text
    assert text.startswith(f"{file}: ") or file is None
