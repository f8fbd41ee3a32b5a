"""Studies small enough to be run a hundred times, and how to compare, interrupt and watch them.

A run is started in two ways: `start_really`, the command that a user types, and `start`, the same through
forked_runs.py, which saves the seconds that Python and PyTorch take to start.
"""

import atexit
import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace  # noqa: F401 - for tests that change a trial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import train
from common import array_files, checkpoint_files, json_files, storage
from config_cpu import ConfigCPU
from training.trial import Interrupted, Trial, stream_seeds

ROOT = Path(__file__).resolve().parents[2]

SIZES = {
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 8,
    "block_size": 16,
    "batch_size": 4,
    "max_iters": 6,
    "eval_interval": 2,
    "curve_windows": 4,
}
TINY = ["--config", "cpu"]  # the same as options
for _name, _value in SIZES.items():
    TINY += [f"--{_name.replace('_', '-')}", str(_value)]

# A prelude: a running trial saves its state after steps 2 and 4.
SAVE_TWICE = """
import train
train.SAVE_EVERY_S = -1
save = train._save_partial
def save_twice(path, learner, state, report):
    if state["step"] in (2, 4):
        save(path, learner, state, report)
train._save_partial = save_twice
"""

# A prelude: trials take long enough to be watched, and their numbers stay what they are.
SLOW = """
import time, randomness
real = randomness.generator
def slow(seed, stream, *rest):
    if stream == "data":
        time.sleep(0.25)
    return real(seed, stream, *rest)
randomness.generator = slow
"""


def a_trial(
    number=1, activation="relu", vary=("init", "data", "dropout"), device="cpu", architecture="charlm", **changes
):
    """A trial at these sizes but for some changes, as a study with seed 42 would have it."""
    config = ConfigCPU(**{**SIZES, **changes})
    return Trial(architecture, activation, config, number, 41 + number, stream_seeds(42, number, vary), device)


def assert_same(one, other):
    """Two outcomes of a trial are identical: weights, predictions, curves, and every number of the record but times."""
    assert json_files.first_difference(json_files.stable(one["record"]), json_files.stable(other["record"])) is None
    assert one["weights"].keys() == other["weights"].keys()
    assert all(torch.equal(tensor, other["weights"][name]) for name, tensor in one["weights"].items())
    assert np.array_equal(one["log_probabilities"], other["log_probabilities"])
    assert np.array_equal(one["window_loss"], other["window_loss"])
    assert [step for step, _ in one["curve"]] == [step for step, _ in other["curve"]]
    assert all(np.array_equal(_point(a), _point(b)) for (_, a), (_, b) in zip(one["curve"], other["curve"]))


def interrupted_and_resumed(trial, task, folder, steps=3, resumed_task=None):
    """The outcome of a trial that was stopped after some steps and resumed, there with another copy of its task if given."""
    with pytest.raises(Interrupted):
        train.run_trial(trial, task, folder / "partial.pt", should_stop=stop_after(steps))
    return train.run_trial(trial, resumed_task or task, folder / "partial.pt")


def _point(source):
    """Predictions at a point of a curve, which may lie in a file."""
    return array_files.read_arrays(source).arrays["log_probabilities"] if isinstance(source, str) else source


def farthest(weights, others):
    """The largest difference between two models' weights."""
    assert weights.keys() == others.keys()
    return max(float((tensor.double() - others[name].double()).abs().max()) for name, tensor in weights.items())


def stop_after(steps):
    """A should_stop that asks for a stop after so many steps of this run."""
    done = iter(range(1, 1000))
    return lambda: next(done) >= steps


class Reads(TorchDispatchMode):
    """Counts the values that are read back from tensors: each makes the program wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    """The names of the operations that PyTorch carries out, such as 'bmm'."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name().removeprefix("aten::").partition(".")[0])
        return func(*args, **(kwargs or {}))


class Run:
    """A run that has been started: its process, and what it says."""

    def __init__(self, pid, output, wait):
        self.pid, self._output, self._wait = pid, output, wait
        self.status = None

    def wait(self, seconds=120):
        """Its exit status, minus the number of the signal that killed it; None after so many seconds."""
        if self.status is None:
            self.status = self._wait(seconds)
        return self.status

    @property
    def out(self):
        return Path(f"{self._output}.out").read_text()

    @property
    def err(self):
        return Path(f"{self._output}.err").read_text()

    def signal(self, number):
        """A signal to the driver alone."""
        os.kill(self.pid, number)

    def signal_all(self, number):
        """A signal to the driver and its workers, as Ctrl-C in a terminal sends it."""
        os.killpg(self.pid, number)

    def workers(self):
        """Processes of this run other than the driver."""
        return [pid for pid in processes_of(self.pid) if pid != self.pid]

    def wait_until_alone(self, seconds=20):
        """Waits for the end of every process of this run; returns those that are left."""
        end = time.monotonic() + seconds
        while (left := processes_of(self.pid)) and time.monotonic() < end:
            time.sleep(0.01)
        return left


def processes_of(group) -> list[int]:
    """The live processes of a process group (one that has ended and waits to be noticed is not alive)."""
    found = []
    if os.path.exists("/proc/self/stat"):
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, its_group = path.read_text().rsplit(")", 1)[1].split()[:3]
                threads = len(list((path.parent / "task").iterdir()))
            except (OSError, IndexError):
                continue
            # where another thread ends it, a process is a zombie while that thread still holds its files, a lock's too
            if int(its_group) == group and (state not in "ZX" or threads > 1):
                found.append(int(path.parent.name))
        return found
    listing = subprocess.run(["ps", "-A", "-o", "pid=,pgid=,stat="], capture_output=True, text=True, check=True)
    for line in listing.stdout.splitlines():
        pid, its_group, state = line.split()[:3]
        if int(its_group) == group and "Z" not in state:
            found.append(int(pid))
    return found


@functools.cache
def _server():
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "helpers" / "forked_runs.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    atexit.register(server.wait)
    atexit.register(server.stdin.close)
    return server


def _ask(**request):
    server = _server()
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    answer = server.stdout.readline()
    assert answer, "the server of forked runs has died"
    return json.loads(answer)


def start(script, *arguments, folder, prelude="", kill_at=0, victim="driver", trace="") -> Run:
    """Starts a script in a folder, without the seconds that Python and PyTorch take to start.

    Args:
      prelude: Python that the run executes first, in the driver; its workers inherit what it does.
      kill_at: end the `victim` (driver or worker) just before its kill_at-th change of a study's files; 0: never.
      trace: a file for these changes, one line each.
    """
    output = tempfile.mktemp(dir=folder, prefix=".run_")
    request = {"script": script.removesuffix(".py"), "arguments": [str(a) for a in arguments], "folder": str(folder)}
    more = {"output": output, "prelude": prelude, "kill_at": kill_at, "victim": victim, "trace": str(trace)}
    pid = _ask(**request, **more)["pid"]
    return Run(pid, output, lambda seconds: _ask(pid=pid, seconds=seconds)["status"])


def start_really(script, *arguments, folder, **options) -> Run:
    """Starts a script in a folder as a user does."""
    output = tempfile.mktemp(dir=folder, prefix=".run_")
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    with open(f"{output}.out", "w") as out, open(f"{output}.err", "w") as err:
        streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
        process = subprocess.Popen(command, cwd=folder, start_new_session=True, **streams, **options)

    def wait(seconds):
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    return Run(process.pid, output, wait)


def run(script, *arguments, folder, seconds=120, really=False, **options) -> Run:
    """Starts a script and waits for its end, and for that of its workers."""
    started = (start_really if really else start)(script, *arguments, folder=folder, **options)
    assert started.wait(seconds) is not None, f"still running after {seconds} s:\n{started.out}{started.err}"
    assert not started.wait_until_alone(), "processes outlived their run"
    return started


def trained_and_verified(task, architecture, max_iters, folder) -> tuple[Run, Run]:
    """The runs that train two trials of a task's first architecture, whose initial weights differ, and repeat the second."""
    options = (
        "--n-embd=8",
        f"--max-iters={max_iters}",
        "--eval-interval=2",
        "--trials=2",
        "--workers=1",
        "--vary=init",
    )
    study = ("run_all_experiments.py", "--task", task, "--config=cpu", "--activations=relu")
    done = run(*study, *options, folder=folder)
    result = f"results/{task}_vary_init/{architecture}_relu.json"
    return done, run("train.py", "--verify", result, "--trial=2", folder=folder)


def content(folder) -> dict:
    """Everything that a study has written, without what may differ between identical ones; file name -> content.

    A file that should not be there (a temporary one, the state of an unfinished trial) counts as well.
    """
    found, named = {}, set()  # named: files that a result names, and whose values are compared as those of the result
    for path in sorted(p for kind in ("results", "checkpoints") for p in (Path(folder) / kind).rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or path.name == ".lock":
            continue
        if path.suffix == ".json":
            content = json_files.read_json(path)
            found[name] = json_files.stable(content)
            if "trials" in content:
                values = storage.read_values(storage.read_result(path))
                found |= {f"{name}: {array}": _digest(numbers) for array, numbers in values.items()}
                named |= {str(path.parent.relative_to(folder) / place) for place, _ in storage.value_files(content)}
        elif path.parent.suffix == ".curve":
            found[name] = _digest(array_files.read_arrays(path).arrays)
        elif path.suffix == ".pt" and "aside" not in path.name:
            found[name] = {part: _digest(value) for part, value in checkpoint_files.read_checkpoint(path).items()}
        else:
            found[name] = "a file of another kind"
    return {name: content for name, content in found.items() if name not in named}


def _digest(value):
    digest = hashlib.sha256()
    checkpoint_files.add_to_digest(digest, value)
    return digest.hexdigest()


def difference(one, other) -> str | None:
    """The first difference between two studies, each a folder or what `content` gave; None where they are identical."""
    one, other = (x if isinstance(x, dict) else content(x) for x in (one, other))
    return json_files.first_difference(one, other)
