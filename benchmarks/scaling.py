"""The cost of a study as it grows: one activation, a tiny model, n trials and n (n - 1) / 2 pairs, in one process.

Times are CPU time, which is little affected by other load and excludes waiting for the disk.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from pathlib import Path

TRIALS = (10, 30, 100)
SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 32, "batch_size": 4}
LENGTH = {"max_iters": 20, "eval_interval": 10, "curve_windows": 10}


class Engine:
    """Runs jobs in this process, one after the other; `seconds` holds the total time of each kind of job."""

    def __init__(self, context):
        self.context, self.waiting, self.seconds = context, deque(), Counter()

    def submit(self, job, first=False):
        (self.waiting.appendleft if first else self.waiting.append)(job)

    @property
    def idle(self):
        return not self.waiting

    def events(self):
        from study.jobs import FUNCTIONS

        job, started = self.waiting.popleft(), time.process_time()
        found = FUNCTIONS[job.function](self.context, lambda event: None, lambda: False, **job.arguments)
        self.seconds[job.function] += time.process_time() - started
        return [("done", job, found)]


def measure_study(n_trials: int, folder: Path) -> dict:
    """Seconds per trial and per pair, those beyond training and comparing, bytes written, peak memory."""
    from config_cpu import ConfigCPU
    from study import run
    from study.experiment import Experiment
    from study.jobs import Context
    from study.plan import Plan
    from study.progress import Progress
    from training.identity import open_study
    from training.workload import random_text

    config, task = ConfigCPU(**SIZES, **LENGTH), random_text(length=40_000)
    folders = (folder / "results", folder / "checkpoints", folder / "plots")
    streams = ("init", "data", "dropout")
    plan = Plan(config, "cpu", "matched", 42, streams, n_trials, (("charlm", "relu"),), *folders)
    open_study(plan.results_dir, plan.identity(task), {})
    experiment = Experiment(plan, task, "charlm", "relu", {"n_parameters": 0, "sizes": None})
    engine, progress = Engine(Context(task)), Progress(n_trials, n_trials, config.max_iters)
    warm_up = next(experiment.jobs())
    engine.submit(warm_up)
    engine.events()  # the first job imports most of PyTorch
    engine.seconds.clear()
    started, written = time.process_time(), bytes_written()
    jobs = [(experiment, job) for job in experiment.jobs()]
    if not run.run(plan, task, [experiment], (), jobs, engine, progress, lambda: False):
        raise RuntimeError("a job failed")
    elapsed, n_pairs = time.process_time() - started, n_trials * (n_trials - 1) // 2
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "training_s_per_trial": engine.seconds["trial"] / n_trials,
        "comparing_ms_per_pair": 1000 * engine.seconds["compare"] / n_pairs,
        "beyond_both_s_per_trial": (elapsed - sum(engine.seconds.values())) / n_trials,
        "written_MB_per_trial": (bytes_written() - written) / 1e6 / n_trials,
        "peak_memory_MB": memory / 1e6,
    }


def bytes_written() -> int:
    """Bytes that this process has written, if the system counts them."""
    path = Path("/proc/self/io")
    return int(path.read_text().split("wchar: ")[1].split()[0]) if path.exists() else 0


def benchmark_scaling():
    """Yields {name: value} for each number of trials, each measured in a new process because of peak memory."""
    for n in TRIALS:
        command = [sys.executable, "-c", f"from benchmarks.scaling import main; main({n})"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment, cwd=Path(__file__).parent.parent
        )
        found = json.loads(done.stdout.splitlines()[-1])
        yield {f"{name}, {n} trials": value for name, value in found.items()}


def main(n_trials: int) -> None:
    """Prints the result of `measure_study` as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure_study(n_trials, Path(folder))))
