"""Claims about the status file: what a study notes for the program that started it."""

import os
import shlex
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import studies

from common.scripts import as_typed
from common.status import note_status
from run_all_experiments import analysis_command
from study.signals import Signals


@pytest.fixture
def status(tmp_path, monkeypatch):
    path = tmp_path / "a status"
    monkeypatch.setenv("CHARLM_STATUS_FILE", str(path))
    return path


def test_notes_are_lines_of_name_and_value(status):
    note_status("state", "running")
    note_status("analyze", "python analyze_results.py 'a=b'")
    assert status.read_text() == "state=running\nanalyze=python analyze_results.py 'a=b'\n"


@pytest.mark.parametrize("place", [None, "", "/no/such/folder/status"])
def test_without_a_place_nothing_is_noted_and_nothing_fails(monkeypatch, tmp_path, place):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CHARLM_STATUS_FILE", raising=False)
    if place is not None:
        monkeypatch.setenv("CHARLM_STATUS_FILE", place)
    note_status("state", "stopping")
    assert not list(tmp_path.iterdir())


def test_a_study_that_is_told_to_stop_notes_it_at_once(status, capfd):
    with Signals() as signals:
        signals.trials_running = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        assert status.read_text() == "state=stopping\n"
    assert "stopping: " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("folders", "file", "command"),
    [
        (["results"], None, ["analyze_results.py"]),
        (["results"], "my activation.py", ["analyze_results.py", "--activation-file", "my activation.py"]),
        (["a study's"], None, ["analyze_results.py", "a study's"]),
        (["-dash"], None, ["analyze_results.py", "./-dash"]),
        (["all sizes/scale_1M", "-x"], None, ["analyze_results.py", "--scales", "all sizes/scale_1M", "./-x"]),
    ],
)
def test_the_command_that_analyzes_studies_can_be_typed(folders, file, command):
    plans = [SimpleNamespace(results_dir=Path(folder)) for folder in folders]
    args = SimpleNamespace(architecture_file=None, activation_file=file)
    assert shlex.split(analysis_command(plans, args)) == ["python", *command]


def test_a_checked_study_notes_that_command(tiny_corpus_file, tmp_path):
    options = [
        "--dry-run",
        *studies.TINY,
        f"--corpus={tiny_corpus_file}",
        "--activations=relu",
        "--results-dir=a study",
    ]
    set_status = "import os\nos.environ['CHARLM_STATUS_FILE'] = 'status'"
    done = studies.run("run_all_experiments.py", *options, folder=tmp_path, prelude=set_status)
    assert done.status == 0, done.err
    assert (tmp_path / "status").read_text() == "analyze=python analyze_results.py 'a study'\n"


@pytest.mark.parametrize("path", ["results", "a study", "-x", "it's", "$HOME", "ä", "*"])
def test_a_path_as_typed_is_that_path_and_no_option(path):
    (word,) = shlex.split(as_typed(path))
    assert os.path.normpath(word) == path
    assert not word.startswith("-")
