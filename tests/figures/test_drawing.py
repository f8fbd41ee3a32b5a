"""Claims about drawing many figures: one that fails costs no other, and nor does a machine on which processes cannot work."""

import os
import subprocess
import sys
from pathlib import Path

import failing_figures
import pytest

from figures import drawing

ROOT = Path(__file__).resolve().parents[2]
PATHS = [Path(f"{number}.png") for number in range(10)]


def calls(function):
    return [(function, (number,)) for number in range(10)]


@pytest.fixture(params=[1, 2], ids=["here", "in processes"])
def processes(request, monkeypatch):
    """How many processes draw."""
    monkeypatch.setattr(drawing, "_processes", lambda: request.param)


def test_a_figure_that_fails_costs_no_other(processes):
    wanted = calls(failing_figures.draw)
    wanted[4] = (failing_figures.fail, (4,))
    outcomes = drawing.draw_all(wanted)
    assert outcomes[:4] + outcomes[5:] == PATHS[:4] + PATHS[5:]
    assert isinstance(outcomes[4], ZeroDivisionError) and str(outcomes[4]) == "no 4"


def test_figures_of_a_process_that_was_killed_are_drawn_nevertheless(processes):
    assert drawing.draw_all(calls(failing_figures.draw_or_die)) == PATHS


@pytest.mark.parametrize("error", [OSError(30, "Read-only file system"), NotImplementedError("no semaphores")])
def test_figures_are_drawn_where_no_process_can_be_started(monkeypatch, error):
    def refuse(*arguments):
        raise error

    monkeypatch.setattr(drawing, "_processes", lambda: 2)
    monkeypatch.setattr(drawing, "ProcessPoolExecutor", refuse)
    assert drawing.draw_all(calls(failing_figures.draw)) == PATHS


def test_figures_are_drawn_where_the_path_of_temporary_files_is_too_long_for_a_socket(tmp_path):
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    code = (
        "import failing_figures; from figures import drawing\n"
        "drawing._processes = lambda: 2\n"
        "drawing.begin()\n"
        "print(*drawing.draw_all([(failing_figures.draw, (number,)) for number in range(10)]))"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.stdout.split(), done.stderr) == ([str(path) for path in PATHS], "")
