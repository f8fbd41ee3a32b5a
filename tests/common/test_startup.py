"""Ctrl-C in a script: one line and exit status 130, whatever it is doing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py") if 'if __name__ == "__main__":' in path.read_text())

# In steps, since a signal that arrives just before a sleep begins is only handled after it.
SLEEP = "for _ in range(600): time.sleep(0.1)"

# Stands for a library that is slow to import, and that takes an interrupt for a fault of the installation, as numpy does.
SLOW_LIBRARY = f"""
import time
open("importing", "w").close()
try:
    {SLEEP}
except BaseException as error:
    raise ImportError("check your installation") from error
"""


def interrupted(command, folder, when, times=1):
    """(exit status, stdout, stderr) of a command that gets Ctrl-C, so many times, once the file `when` is there."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"}
    process = subprocess.Popen(command, cwd=folder, env=environment, text=True, **streams)
    for _ in range(1000):
        if (folder / when).exists() or process.poll() is not None:
            break
        time.sleep(0.02)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1 * (times > 1))
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_interrupt_while_a_script_imports_its_libraries_is_one_line(script, tmp_path):
    for library in ("numpy", "torch"):
        (tmp_path / f"{library}.py").write_text(SLOW_LIBRARY)
    needed = ["activations"] if script == "plot_utils.py" else []
    status, out, err = interrupted([sys.executable, str(ROOT / script), *needed], tmp_path, "importing")
    assert (status, out) == (130, "")
    assert err.startswith("interrupted") and err.count("\n") == 1


@pytest.mark.parametrize(("tidying_up", "times"), [("pass", 1), (SLEEP, 2)])
def test_an_interrupt_ends_a_script_at_work_and_a_second_one_does_not_wait_until_it_has_tidied_up(
    tmp_path, tidying_up, times
):
    (tmp_path / "script.py").write_text(f"""
import common.startup, time
from common.scripts import run
def main(argv):
    try:
        open("working", "w").close()
        {SLEEP}
    finally:
        {tidying_up}
run(main)
""")
    status, out, err = interrupted([sys.executable, "script.py"], tmp_path, "working", times)
    assert (status, out, err) == (130, "", "interrupted\n" if times == 1 else "")


def test_an_interrupt_while_python_tidies_up_after_a_script_is_no_traceback(tmp_path):
    (tmp_path / "script.py").write_text("""
import atexit, common.startup, time
from common.scripts import run
@atexit.register
def slow():
    open("ending", "w").close()
    time.sleep(60)
run(lambda argv: 0)
""")
    assert interrupted([sys.executable, "script.py"], tmp_path, "ending") == (-signal.SIGINT, "", "")
