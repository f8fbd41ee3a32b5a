"""What all tests share: the repository on the path, corpora, scripts to run, and no network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

os.environ.setdefault("MPLBACKEND", "Agg")  # no windows, whatever the machine
# Nothing listens there, so that a download fails at once, here and in the programs that a test starts.
os.environ["https_proxy"] = os.environ["HTTPS_PROXY"] = "http://127.0.0.1:9"

# The same examples every time, however busy the machine is.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

NO_SHAKESPEARE = "no Shakespeare here: CHARLM_CORPUS is not set and data/shakespeare.txt does not exist"


def shakespeare_path() -> Path | None:
    """Where Shakespeare should be on this machine, if anywhere."""
    if named := os.environ.get("CHARLM_CORPUS"):
        return Path(named).resolve()
    stored = ROOT / "data" / "shakespeare.txt"
    return stored if stored.exists() else None


def pytest_runtest_setup(item):
    if item.get_closest_marker("shakespeare") and shakespeare_path() is None:
        pytest.skip(NO_SHAKESPEARE)
    if "torch" in sys.modules:  # a trial that ran in this process has set both
        sys.modules["torch"].set_num_threads(1)
        sys.modules["torch"].use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def shakespeare():
    """The Shakespeare corpus; the test is skipped where it is not on this machine."""
    if shakespeare_path() is None:
        pytest.skip(NO_SHAKESPEARE)
    from tasks.corpus import load_corpus

    return load_corpus("shakespeare", data_dir=ROOT / "data", progress=False)


@pytest.fixture(scope="session")
def tiny_corpus_file(tmp_path_factory) -> Path:
    """A text file of 6,000 characters, the same everywhere: sentences of words drawn by a fixed rule."""
    words = [
        "the",
        "a",
        "king",
        "queen",
        "fool",
        "sees",
        "loves",
        "fears",
        "old",
        "young",
        "and",
        "but",
        "not",
    ]
    state, text = 1, ""
    while len(text) < 6000:
        state = state * 48271 % (2**31 - 1)  # Lehmer's generator, as minstd_rand in C++
        text += words[state % len(words)] + (".\n" if state % 11 == 0 else " ")
    path = tmp_path_factory.mktemp("corpus") / "tiny.txt"
    path.write_bytes(text[:6000].encode())
    return path


@pytest.fixture(scope="session")
def corpus(tiny_corpus_file):
    """The text of that file as a corpus."""
    from tasks.corpus import load_corpus

    return load_corpus(str(tiny_corpus_file))


@pytest.fixture(scope="session")
def task(corpus):
    """The text task on that corpus."""
    from tasks.text import Text

    return Text(corpus)


@pytest.fixture
def in_float64(monkeypatch):
    """Models are built in float64, so that two ways of computing differ by little more than nothing."""
    from training import step

    real = step.build
    monkeypatch.setattr(step, "build", lambda *arguments: real(*arguments).double())


@pytest.fixture
def not_compiled(monkeypatch):
    """A compiled trial takes the function to be compiled as it is, which saves a minute."""
    import torch

    from training import compiled

    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(compiled, "_last_compiled", {})


@pytest.fixture
def run_script(tmp_path):
    """run_script("train.py", "--help", ..., env={...}, cwd=..., timeout=...) -> subprocess.CompletedProcess.

    Runs a script of this repository in an empty folder of the test's own, so that what it writes goes there.
    """

    def run(script, *arguments, env=None, cwd=tmp_path, timeout=300, **options) -> subprocess.CompletedProcess:
        known = {"CHARLM_CORPUS": str(path)} if (path := shakespeare_path()) else {}
        return subprocess.run(
            [sys.executable, str(ROOT / script), *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, **known, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            **options,
        )

    return run
