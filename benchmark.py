"""How fast: every speed that the README states, measured in one run, as ratios on the machine at hand.

    python benchmark.py                     # step, evaluation, workers, dtype, start-up and memory: about twenty minutes
    python benchmark.py study               # the report's study against the report's protocol: about forty minutes
    python benchmark.py step --json step.json

step      a training step and an evaluation, as a share of the machine's own best float32 matrix product, measured in
          turn with it, in as many processes at once as there are cores
bfloat16  the same in bfloat16, as a share of the best bfloat16 product: for a processor that computes it natively
workers   trials per hour with all workers against one
dtype     a training step in float32 against bfloat16
start     seconds to --help, and the memory of a worker
study     5 activations x 2 trials by the report's protocol, as its script ran it (one process, all cores, one context
          at a time), against run_all_experiments.py with its default settings: whole processes, both cold
scaling   studies of 10, 30 and 100 trials of a tiny model: processor seconds per trial and per pair, and beyond training
          and comparing; bytes written and peak memory
cuda      a step of the full-size model on a GPU, in bfloat16 and float32, its tokens per second and its share of the
          measured peak, evaluation, memory; and trials per hour by the size of a pack, compiled and not, and by the
          number of processes that share the GPU

Floating-point operations of a step: three times the forward pass, with full T x T attention and the head, without
embeddings. Medians over repeats; the spread is the range from the lower to the upper quartile.
"""

if __name__ == "__main__":
    import common.startup  # noqa: F401 - before the others, which take long to import

import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from common.provenance import cpu_model, native_bfloat16, usable_cpus
from common.scripts import Parser, run
from config_cpu import ConfigCPU
from training.workload import Workload, forward_flops, quartiles

ROOT = Path(__file__).resolve().parent
PARTS = ("step", "workers", "dtype", "start")
PEAK_SIZES = (1024, 2048, 4096)


def seconds(function) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def measure_steps(config, repeats, gate=None) -> dict:
    """Peak, training step and evaluation in turn, `repeats` times, in this process."""
    import torch

    from common.memory import keep_freed_memory

    keep_freed_memory()
    workload = Workload(config)
    matrices = {n: torch.randn(n, n).to(getattr(torch, config.dtype)) for n in PEAK_SIZES}
    for _ in range(3):
        workload.step()
        workload.evaluation()
    for matrix in matrices.values():
        matrix @ matrix
    if gate is not None:
        gate.wait()  # all processes measure at the same time: a core alone is faster than a core among busy ones
    rows = []
    for number in range(repeats):
        size = PEAK_SIZES[number % len(PEAK_SIZES)] if number % 4 == 3 else 2048
        peak = 2 * size**3 / seconds(lambda m=matrices[size]: m @ m)
        rows.append((peak, size, seconds(workload.step), seconds(workload.evaluation)))
    by_size = {n: float(np.median([r[0] for r in rows if r[1] == n] or [0])) for n in PEAK_SIZES}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "peak": max(by_size.values()),
        "step": [row[2] for row in rows],
        "evaluation": [row[3] for row in rows],
        "memory_bytes": memory,
    }


def _measure_in_process(channel, gate, config, repeats):
    channel.send(measure_steps(config, repeats, gate))


def in_all_cores(config, repeats) -> list[dict]:
    """`measure_steps` in one process per core, all at once."""
    spawn = multiprocessing.get_context("spawn")
    count = max(1, usable_cpus() // config.threads_per_trial)
    gate, found, processes = spawn.Barrier(count), [], []
    for _ in range(count):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=_measure_in_process, args=(theirs, gate, config, repeats))
        process.start()
        processes.append((process, ours))
    for process, channel in processes:
        found.append(channel.recv())
        process.join()
    return found


def benchmark_bfloat16(repeats) -> dict:
    return benchmark_step(repeats, "bfloat16")


def benchmark_step(repeats, dtype="float32") -> dict:
    config = ConfigCPU(dtype=dtype)
    flops = forward_flops(config, 65)
    found = in_all_cores(config, repeats)
    peak = float(np.median([part["peak"] for part in found]))
    steps = np.concatenate([part["step"] for part in found])
    evaluations = np.concatenate([part["evaluation"] for part in found])
    return {
        "processes": len(found),
        "peak_gflops": peak / 1e9,
        "step_ms": quartiles(steps * 1e3),
        "step_share_of_peak": quartiles(3 * flops / steps / peak),
        "evaluation_ms": quartiles(evaluations * 1e3),
        "evaluation_share_of_peak": quartiles(flops / evaluations / peak),
    }


def benchmark_dtype(repeats) -> dict:
    rows = {}
    for dtype in ("float32", "bfloat16"):
        workload = Workload(ConfigCPU(dtype=dtype))
        workload.step()
        rows[dtype] = workload
    times = {dtype: [] for dtype in rows}
    for _ in range(repeats):
        for dtype, workload in rows.items():
            times[dtype].append(seconds(workload.step))
    return {
        **{f"{dtype}_step_ms": quartiles(np.array(values) * 1e3) for dtype, values in times.items()},
        "bfloat16_speedup": quartiles(np.array(times["float32"]) / np.array(times["bfloat16"])),
        "native_bfloat16": native_bfloat16("cpu") or "none",
    }


def run_study(folder, *options) -> float:
    """Seconds of one cold run of run_all_experiments.py."""
    folders = [f"--{kind}-dir={folder}/{kind}" for kind in ("results", "checkpoints", "plots")]
    command = [sys.executable, str(ROOT / "run_all_experiments.py"), *options, *folders]
    return seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT))


def benchmark_workers(repeats) -> dict:
    """Trials per hour once the workers run: the slope between a short and a long study, start-up left out.

    Trials of 30 steps; the same ones, and so the same pairs to compare, whatever the number of workers.
    """
    all_workers = max(1, usable_cpus())
    sizes = (all_workers, 3 * all_workers)
    rates = {1: [], all_workers: []}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            for workers in rates:
                taken = []
                for trials in sizes:
                    place = f"{folder}/{repeat}_{workers}_{trials}"
                    options = ("--activations", "relu", "--trials", str(trials), "--workers", str(workers))
                    taken.append(run_study(place, *options, "--max-iters", "30", "--eval-interval", "30"))
                rates[workers].append(3600 * (sizes[1] - sizes[0]) / (taken[1] - taken[0]))
    found = {f"trials_per_hour_{workers}_worker(s)": quartiles(values) for workers, values in rates.items()}
    ratio = np.array(rates[all_workers]) / np.array(rates[1])
    return {"workers": all_workers, **found, "trials_per_hour_ratio": quartiles(ratio)}


def benchmark_start(repeats) -> dict:
    """Seconds of run_all_experiments.py --help, and the most memory that a worker of a real trial used."""
    command = [sys.executable, str(ROOT / "run_all_experiments.py"), "--help"]
    help_s = [seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)) for _ in range(repeats)]
    return {"help_s": quartiles(help_s), "worker_memory_mb": worker_memory() / 1e6}


def _trial_memory(channel):
    from common.memory import keep_freed_memory
    from study.jobs import Context, train_trial
    from tasks.registry import load_task
    from training.trial import Trial, stream_seeds

    keep_freed_memory()
    config = ConfigCPU(max_iters=20, eval_interval=10)
    seeds = stream_seeds(42, 1, ("init", "data", "dropout"))
    trial = Trial("charlm", "gelu", config, 1, 42, seeds)
    train_trial(Context(load_task()), None, None, trial, None)
    channel.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def worker_memory() -> float:
    """The peak resident memory, in bytes, of a process that runs one trial of the CPU configuration."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_trial_memory, args=(theirs,))
    process.start()
    memory = ours.recv()
    process.join()
    return memory


REPORTS_SCRIPT = """
import sys
from tasks import corpus
from training import published_protocol as report
from config_cpu import ConfigCPU
config, text = ConfigCPU(threads_per_trial=int(sys.argv[1])), corpus.load_corpus()
for activation in sys.argv[2].split(","):
    trials = [report.train_published_trial(activation, i, 42 + i, config, text) for i in range(2)]
    models = []
    for trial in trials:
        models.append(report.build_published_model(activation, config, text.vocabulary_size))
        models[-1].load_state_dict(trial["model"])
    print(report.compare_published(models, trials[-1]["generator_state"], config, text))
"""


def benchmark_study(repeats) -> dict:
    """The report's study by the report's protocol, and by this program's default settings; both whole and cold."""
    from activations import REPORT

    old, new = [], []
    for _ in range(repeats):
        command = [sys.executable, "-c", REPORTS_SCRIPT, str(usable_cpus()), ",".join(REPORT)]
        old.append(seconds(lambda c=command: subprocess.run(c, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)))
        with tempfile.TemporaryDirectory() as folder:
            new.append(run_study(folder, "--trials", "2"))
    return {
        "published_s": quartiles(old),
        "matched_s": quartiles(new),
        "speedup": quartiles(np.array(old) / np.array(new)),
    }


def measure(part, repeats):
    """Yields what a part measures, {name: value}, as it comes."""
    if part == "cuda":
        from benchmarks.gpu import benchmark_cuda

        yield from benchmark_cuda(repeats)
    elif part == "scaling":
        from benchmarks.scaling import benchmark_scaling

        yield from benchmark_scaling()
    else:
        yield globals()[f"benchmark_{part}"](repeats)


def show(results) -> str:
    """The results as a Markdown table."""
    from tabulate import tabulate

    rows = []
    for part, values in results["parts"].items():
        for name, value in values.items():
            if isinstance(value, dict):
                digits = 3 if value["median"] < 100 else 4
                shown = [f"{value[key]:.{digits}g}" for key in ("median", "q25", "q75")]
                rows.append([part, name.replace("_", " "), shown[0], f"{shown[1]} to {shown[2]}", value["n"]])
            else:
                rows.append(
                    [part, name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else value, "", ""]
                )
    return tabulate(rows, ["part", "measure", "median", "quartiles", "n"], tablefmt="github", disable_numparse=True)


def main(argv=None) -> int:
    p = Parser(prog="benchmark.py", description="Measure every speed that the README states, on this machine.")
    choices = (*PARTS, "bfloat16", "study", "scaling", "cuda")
    p.add_argument(
        "parts", nargs="*", metavar="PART", help=f"any of {', '.join(choices)} (default: {', '.join(PARTS)})"
    )
    p.add_argument("--repeats", type=int, help="repeats of each measurement (default: 20 for steps, 3 for runs)")
    p.add_argument("--json", type=Path, help="also write the results to this file")
    args = p.parse_args(argv)
    from common.errors import UserError, unknown
    from common.storage import write_atomically

    for part in args.parts:
        if part not in choices:
            raise unknown("part", part, choices)
    if args.repeats is not None and args.repeats < 1:
        raise UserError(f"--repeats must be at least 1, but it is {args.repeats}")
    results = {"machine": f"{cpu_model()}, {usable_cpus()} usable of {os.cpu_count()} cores", "parts": {}}
    print(results["machine"], flush=True)
    for part in args.parts or PARTS:
        repeats = args.repeats or (20 if part in ("step", "bfloat16", "dtype", "cuda") else 3)
        print(f"measuring: {part} ({repeats} repeats)", file=sys.stderr, flush=True)
        results["parts"][part] = {}
        for rows in measure(part, repeats):
            results["parts"][part] |= rows
            if args.json:  # after each, so that a run that is cut off has what it measured
                write_atomically(args.json, (json.dumps(results, indent=1) + "\n").encode())
    print(show(results))
    return 0


if __name__ == "__main__":
    run(main)
