"""Claims about the shell scripts, each shown by running them in a folder of the test's own."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Stands for the study: it reports what it was given, and works until it is stopped.
FAKE_STUDY = """
import os, signal, sys, time
def note(line):
    with open(os.environ["CHARLM_STATUS_FILE"], "a") as file:
        print(line, file=file)
if "--bad" in sys.argv:
    sys.exit(2)
if "--dry-run" in sys.argv or "--help" in sys.argv:
    print("checked", sys.argv[1:])
    if "CHARLM_STATUS_FILE" in os.environ:
        note("analyze=python analyze_results.py 'results/a study'")
    sys.exit(0)
if "--fails" in sys.argv:
    print("the disk is full")
    sys.exit(1)
def stop(*_):
    note("state=stopping")
    print("told to stop")
    if "--never-stops" not in sys.argv:
        time.sleep(3 if "--finishes-its-step" in sys.argv else 0)
        print("stopped")
        sys.exit(143)
signal.signal(signal.SIGTERM, stop)
if "--says-it-stops" in sys.argv:
    print("stopping: says a trial")
print("working", sys.argv[1:], os.environ["PYTHONUNBUFFERED"], os.getpgid(0) == os.getpid())
print("ignores hangups", signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)
for _ in range(600):
    time.sleep(0.1)
"""


def run(*command, cwd, timeout=120, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def wait_until(condition, seconds=20.0) -> bool:
    end = time.monotonic() + seconds
    while not (done := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return bool(done)


# --- run_background.sh --------------------------------------------------------------------------------------


class Study:
    """A folder with run_background.sh and stand-ins for what it starts."""

    def __init__(self, folder: Path):
        self.folder = folder
        shutil.copy(ROOT / "run_background.sh", folder)
        (folder / "run_all_experiments.py").write_text(FAKE_STUDY)
        executable(folder / "setup.sh", "#!/bin/sh\necho set up\n")
        executable(folder / "venv" / "bin" / "python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')

    def start(self, *options, **environment) -> subprocess.CompletedProcess:
        return run("./run_background.sh", *options, cwd=self.folder, **environment)

    def start_and_stop(self, *options) -> int:
        """The process of a run that has been told to stop, and has said that it will."""
        self.start(*options)
        assert wait_until(lambda: "hangups" in self.logs[0].read_text())
        os.kill(self.pid, signal.SIGTERM)
        assert wait_until(lambda: "told to stop" in self.logs[0].read_text())
        return self.pid

    @property
    def pid(self) -> int:
        return int((self.folder / "experiment.pid").read_text())

    @property
    def logs(self) -> list[Path]:
        return sorted(self.folder.glob("*.log"))

    def alive(self) -> bool:
        state = run("ps", "-p", str(self.pid), "-o", "stat=", cwd=self.folder).stdout.strip()
        return state != "" and not state.startswith("Z")


@pytest.fixture
def study(tmp_path):
    study = Study(tmp_path)
    yield study
    if (tmp_path / "experiment.pid").exists():
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(study.pid, signal.SIGKILL)


def test_a_start_checks_the_options_and_names_log_and_process(study):
    done = study.start("--trials", "3", "--corpus", "a file.txt")
    assert done.returncode == 0, done.stderr
    assert "checked ['--dry-run', '--trials', '3', '--corpus', 'a file.txt']" in done.stdout
    (log,) = study.logs
    assert re.fullmatch(r"experiments_\d{8}_\d{6}\.log", log.name)
    assert f"tail -f {log.name}" in done.stdout
    assert "kill $(cat experiment.pid)" in done.stdout
    assert "venv/bin/python analyze_results.py 'results/a study' " in done.stdout
    assert wait_until(lambda: "hangups" in log.read_text())
    assert log.read_text().splitlines()[-2:] == [
        "working ['--trials', '3', '--corpus', 'a file.txt'] 1 True",
        "ignores hangups True",
    ]


def test_kill_ends_the_study_itself(study):
    study.start()
    assert study.alive()
    assert wait_until(lambda: "hangups" in study.logs[0].read_text())
    assert run("bash", "-c", "kill $(cat experiment.pid)", cwd=study.folder).returncode == 0
    assert wait_until(lambda: "stopped" in study.logs[0].read_text())
    assert wait_until(lambda: not study.alive())


def test_a_second_start_is_refused_while_one_runs(study):
    study.start()
    first = study.pid
    done = study.start()
    assert done.returncode == 1
    assert f"a run is already in progress (process {first}); stop it with: kill {first}" in done.stderr
    assert "if you have just done so, it finishes its step first; try again in a moment" in done.stderr
    assert (study.pid, len(study.logs)) == (first, 1)
    assert study.alive()


def test_of_starts_at_the_same_moment_one_wins(study):
    starts = [
        subprocess.Popen(["./run_background.sh"], cwd=study.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(3)
    ]
    for start in starts:
        start.communicate(timeout=60)
    assert sorted(start.returncode for start in starts) == [0, 1, 1]
    assert len(study.logs) == 1
    assert study.alive()


@pytest.mark.parametrize("stale", ["", "nonsense", "999999999", "another program's"])
def test_a_stale_pid_file_is_no_obstacle(study, stale):
    """One whose process is gone, or whose number another program has by now: this test's own."""
    stale = stale.replace("another program's", str(os.getpid()))
    (study.folder / "experiment.pid").write_text(stale)
    done = study.start()
    assert done.returncode == 0, done.stderr
    assert str(study.pid) != stale
    assert study.alive()


def test_a_run_may_follow_one_that_was_stopped(study):
    study.start()
    os.kill(study.pid, signal.SIGTERM)
    assert wait_until(lambda: not study.alive())
    assert study.start().returncode == 0
    assert len(study.logs) == 2


def test_a_start_waits_for_a_run_that_is_stopping(study):
    first = study.start_and_stop("--finishes-its-step")
    done = study.start()
    assert done.returncode == 0, done.stderr
    assert f"the last run (process {first}) is finishing" in done.stdout
    assert study.logs[0].read_text().endswith("stopped\n"), "the next run began before the last one had ended"
    assert study.pid != first
    assert study.alive()


def test_a_start_does_not_wait_for_ever(study):
    """Here its seconds pass in no time."""
    first = study.start_and_stop("--never-stops")
    executable(study.folder / "bin" / "sleep", "#!/bin/sh\n")
    done = study.start(PATH=f"{study.folder / 'bin'}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert f"the last run (process {first}) is still stopping after 30 s; try again in a moment" in done.stderr
    assert (study.pid, len(study.logs)) == (first, 1)
    assert study.alive()


def test_what_an_earlier_run_noted_is_forgotten(study):
    study.start_and_stop()
    assert wait_until(lambda: not study.alive())
    assert study.start().returncode == 0
    first = study.pid
    done = study.start()
    assert (done.returncode, study.pid) == (1, first)
    assert "a run is already in progress" in done.stderr, "the second run was taken for one that is stopping"


def test_nothing_is_read_out_of_the_log(study):
    study.start("--says-it-stops")
    assert wait_until(lambda: "stopping: says a trial" in study.logs[0].read_text())
    assert "a run is already in progress" in study.start().stderr


def test_a_study_is_started_through_a_symbolic_link(study, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("-else where")
    (elsewhere / "start it").symlink_to(study.folder / "run_background.sh")
    (elsewhere / "again").symlink_to("start it")
    done = run("./again", "--trials", "3", cwd=elsewhere, CDPATH=str(elsewhere.parent))
    assert done.returncode == 0, done.stderr
    assert study.alive()
    assert {path.name for path in elsewhere.iterdir()} == {"start it", "again"}


def test_the_commands_that_a_start_prints_work_where_it_was_called(tmp_path):
    """As they are, or after the one that goes to the program's folder."""
    (tmp_path / "it's a $HOME").mkdir()
    there = Study(tmp_path / "it's a $HOME")
    try:
        done = run(str(there.folder / "run_background.sh"), cwd=tmp_path)
        (go,) = re.findall("cd .*", done.stdout)
        (stop,) = re.findall(r"kill \$[(].*?[)]", done.stdout)
        assert run("bash", "-c", f"{go} && {stop}", cwd=tmp_path).returncode == 0
        assert wait_until(lambda: not there.alive())
        assert " cd " not in there.start().stdout
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(there.pid, signal.SIGKILL)


@pytest.mark.parametrize("name", ["a study", "-dash", "it's $HOME"])
def test_the_scripts_may_lie_in_any_folder(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    there = Study(folder)
    try:
        done = run(str(folder / "run_background.sh"), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert there.alive()
    finally:
        os.kill(there.pid, signal.SIGKILL)


def test_a_bad_option_starts_nothing(study):
    done = study.start("--bad")
    assert done.returncode == 2
    assert study.logs == []
    assert not (study.folder / "experiment.pid").exists()


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("*.py") if "__main__" in path.read_text()))
def test_help_imports_none_of_the_slow_libraries(script):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / script), "--help"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and f"usage: {script}" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported and imported.isdisjoint({"torch", "scipy", "matplotlib", "ray"})


@pytest.mark.parametrize("option", ["--help", "--dry-run"])
def test_help_and_dry_run_stay_in_the_foreground(study, option):
    done = study.start(option)
    assert done.returncode == 0
    assert f"checked ['{option}']" in done.stdout
    assert study.logs == []
    assert not (study.folder / "experiment.pid").exists()


def test_a_run_that_ends_at_once_says_why(study):
    done = study.start("--fails")
    assert done.returncode == 1
    assert "exit status 1" in done.stdout + done.stderr
    assert "the disk is full" in done.stdout


def test_a_failed_setup_starts_nothing(study):
    executable(study.folder / "setup.sh", "#!/bin/sh\nexit 3\n")
    assert study.start().returncode == 3
    assert study.logs == []


# --- setup.sh -----------------------------------------------------------------------------------------------


class Setup:
    """A folder with setup.sh and requirements that are wheels in it, so that installing takes no network."""

    def __init__(self, folder: Path):
        self.folder = folder

    def prepare(self) -> None:
        shutil.copy(ROOT / "setup.sh", self.folder)
        for version in ("1", "2"):
            self.make_wheel("numbers_demo", version)
        self.make_wheel("tests_demo", "1")
        self.require("./numbers_demo-1-py3-none-any.whl")
        (self.folder / "requirements-dev.txt").write_text("-r requirements.txt\n./tests_demo-1-py3-none-any.whl\n")

    def make_wheel(self, name: str, version: str) -> None:
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(self.folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", f"VERSION = {version!r}\n")
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")

    def require(self, line: str) -> None:
        (self.folder / "requirements.txt").write_text(line + "\n")

    def run(self, *options, **environment) -> subprocess.CompletedProcess:
        return run("./setup.sh", *options, cwd=self.folder, **{"PYTHON": "", "PIP_NO_INDEX": "1", **environment})

    def installed(self, name: str) -> str:
        """The version that venv/ has of a package; empty where it has none."""
        return run("venv/bin/python", "-c", f"print(__import__('{name}').VERSION)", cwd=self.folder).stdout.strip()


@pytest.fixture
def setup(tmp_path):
    setup = Setup(tmp_path)
    setup.prepare()
    return setup


@pytest.fixture(scope="module")
def set_up_once(tmp_path_factory):
    """What setup.sh makes of such a folder, and what it said."""
    setup = Setup(tmp_path_factory.mktemp("setup"))
    setup.prepare()
    return setup, setup.run(PYTHON=sys.executable)


@pytest.fixture
def done_setup(set_up_once, tmp_path):
    """A copy of a folder in which setup.sh has run."""
    shutil.copytree(set_up_once[0].folder, tmp_path / "copy", symlinks=True)
    return Setup(tmp_path / "copy")


def test_setup_makes_a_venv_and_installs_what_is_required(set_up_once):
    setup, said = set_up_once
    assert said.returncode == 0, said.stderr
    assert "creating venv/" in said.stdout
    assert "source venv/bin/activate" in said.stdout
    assert setup.installed("numbers_demo") == "1"
    assert setup.installed("tests_demo") == ""


def test_setup_does_nothing_twice_and_installs_again_when_requirements_change(done_setup):
    setup = done_setup
    marker = setup.folder / "venv" / "not touched"
    marker.touch()
    second = setup.run()
    assert second.returncode == 0
    assert second.stdout.count("\n") == 1
    assert "installing" not in second.stdout

    with (setup.folder / "requirements-dev.txt").open("a") as file:
        file.write("# what the tests need does not matter to the programs\n")
    assert "installing" not in setup.run().stdout

    setup.require("./numbers_demo-2-py3-none-any.whl")
    third = setup.run()
    assert "installing requirements.txt" in third.stdout
    assert setup.installed("numbers_demo") == "2"
    assert marker.exists()

    assert setup.installed("tests_demo") == ""
    assert setup.run("--dev").returncode == 0
    assert setup.installed("tests_demo") == "1"
    for options in ([], ["--dev"]):
        assert "installing" not in setup.run(*options).stdout

    (setup.folder / "requirements-tasks.txt").write_text("-r requirements.txt\n")
    assert "installing requirements-tasks.txt" in setup.run("--tasks").stdout


def test_an_installation_that_failed_is_not_taken_as_done(done_setup):
    setup = done_setup
    setup.require("no-such-package-here==1")
    for _ in range(2):
        failed = setup.run()
        assert failed.returncode == 1
        assert "pip could not install requirements.txt" in failed.stderr
    setup.require("./numbers_demo-1-py3-none-any.whl")
    assert "installing" in setup.run().stdout  # the failed attempt may have changed what an earlier one installed


def test_a_venv_whose_python_is_gone_is_made_again(done_setup):
    python = done_setup.folder / "venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere")
    done = done_setup.run(PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    assert "creating venv/" in done.stdout
    assert done_setup.installed("numbers_demo") == "1"


def test_a_folder_called_venv_that_is_none_is_left_alone(setup):
    (setup.folder / "venv").mkdir()
    (setup.folder / "venv" / "thesis.tex").touch()
    done = setup.run(PYTHON=sys.executable)
    assert done.returncode == 1
    assert "move it away" in done.stderr
    assert (setup.folder / "venv" / "thesis.tex").exists()


def test_setups_at_the_same_moment_wait_for_each_other(setup):
    command, environment = ["./setup.sh"], {**os.environ, "PYTHON": sys.executable, "PIP_NO_INDEX": "1"}
    setups = [
        subprocess.Popen(command, cwd=setup.folder, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in setups]
    assert [process.returncode for process in setups] == [0, 0]
    assert sum("creating venv/" in output for output in outputs) == 1
    assert sum("installing" in output for output in outputs) == 1
    assert setup.installed("numbers_demo") == "1"


def test_without_a_python_one_sentence_says_so(setup, tmp_path):
    for name in ("python3", "python3.14", "python3.13", "python3.12", "python3.11", "python"):
        executable(tmp_path / "old" / name, "#!/bin/sh\nexit 1\n")
    done = setup.run(PATH=f"{tmp_path / 'old'}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert done.stderr.startswith("setup.sh: no Python of version 3.11 or newer was found")
    assert done.stderr.count("\n") == 1
    assert not (setup.folder / "venv").exists()

    done = setup.run(PYTHON="/no/such/python")
    assert done.returncode == 2
    assert done.stderr == "setup.sh: PYTHON=/no/such/python is not a Python of version 3.11 or newer\n"


def test_setup_knows_its_options(setup):
    done = setup.run("--devel")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "unknown option '--devel'; options: --tasks, --dev" in done.stderr
    done = setup.run("--help")
    assert done.returncode == 0
    assert "./setup.sh --dev" in done.stdout
    assert not (setup.folder / "venv").exists()


# --- run_tests.sh and .ci/run -----------------------------------------------------------------------------------


def test_only_the_workplaces_own_script_knows_where_the_corpus_lies(tmp_path):
    assert "shared" not in (ROOT / "run_tests.sh").read_text()
    checkout, corpus = tmp_path / "a checkout", tmp_path / "shared" / "data" / "shakespeare.txt"
    executable(checkout / ".ci" / "run", (ROOT / ".ci" / "run").read_text())
    executable(checkout / "run_tests.sh", '#!/bin/sh\necho "${CHARLM_CORPUS:-none} $*"\n')
    assert run(".ci/run", "-k", "scripts", cwd=checkout, CHARLM_CORPUS="").stdout == "none -k scripts\n"
    corpus.parent.mkdir(parents=True)
    corpus.touch()
    assert run(".ci/run", cwd=checkout, CHARLM_CORPUS="").stdout == f"{corpus.resolve()} \n"
    assert run(".ci/run", cwd=checkout, CHARLM_CORPUS="my.txt").stdout == "my.txt \n"


# --- all of them --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["setup.sh", "run_background.sh", "run_tests.sh", ".ci/run"])
def test_scripts_are_valid_and_executable(script):
    assert os.access(ROOT / script, os.X_OK)
    assert run("bash", "-n", script, cwd=ROOT).returncode == 0
    assert (ROOT / script).read_text().startswith("#!/usr/bin/env bash\n")


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("venv/bin/python", True),
        ("data/shakespeare.txt", True),
        ("plots/a.png", True),
        ("checkpoints/charlm_relu/trial_1.pt", True),
        ("results/charlm_relu.json", True),
        ("results/published/charlm_relu.json", True),
        ("results/reference/cpu/charlm_relu.json", False),
        ("results/reference/cpu/charlm_relu.npz", False),
        ("experiments_20251129_194424.log", True),
        ("experiment.pid", True),
        ("experiment.status", True),
        ("tests/test_corpus.py", False),
    ],
)
def test_git_ignores_what_programs_make_and_keeps_the_reference_studies(path, ignored, tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not on this machine")
    run("git", "init", cwd=tmp_path)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    assert (run("git", "check-ignore", "-q", path, cwd=tmp_path).returncode == 0) == ignored
