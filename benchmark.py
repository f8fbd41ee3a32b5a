"""Measures every speed in docs/performance.md, where possible as ratios on the same machine.

    python benchmark.py                     # step, bfloat16, workers, dtype, start: about six minutes
    python benchmark.py study               # the report's study against the report's protocol: about twenty minutes
    python benchmark.py peers --nanogpt ~/nanoGPT
    python benchmark.py step --json step.json
    python benchmark.py study --quick       # smoke test: one repeat of a tiny model

step      a training step and an evaluation, as a share of the machine's best float32 matrix product, measured
          alternately with it, in one process per core
bfloat16  the same in bfloat16, as a share of the best bfloat16 product; for CPUs that support it natively
workers   trials per hour with all workers against one
dtype     a training step in float32 against bfloat16
start     time to --help of the slowest script, time of a finished study of 50 trials, and memory of a worker
study     5 activations x 2 trials by the report's protocol, as its script ran it (one process, all cores, one context
          at a time), against run_all_experiments.py with --dtype float32 and, if bfloat16 is native, --dtype auto; whole
          cold processes
scaling   studies of 10, 30 and 100 trials of a tiny model: CPU time per trial, per pair and for everything else; bytes
          written and peak memory
peers     a training step compared with nanoGPT's at the same size, in float32 and bfloat16, as one process on all cores
          and as one process per core, compiled and not; against nanoGPT's best arrangement in each dtype
diagnostics
          the duration of each probe and comparison of diagnose.py, in training steps
cuda      a step of the full-size model on a GPU in bfloat16 and float32: tokens per second, share of the measured peak,
          evaluation, memory; and trials per hour by the number of processes that share the GPU, compiled and not

Floating-point operations of a step: three times the forward pass, with full T x T attention and the head, without
embeddings. Values are medians over repeats with the quartiles. A goal applies to one kind of machine
(benchmarks/goals.py).
"""

if __name__ == "__main__":
    import common.startup  # noqa: F401 - first: the other imports are slow

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.goals import judgement, machine_kinds
from benchmarks.together import together
from common.provenance import cpu_model, native_bfloat16, usable_cpus
from common.scripts import Parser, run
from config_cpu import ConfigCPU
from training.workload import Workload, forward_flops, quartiles, seconds

ROOT = Path(__file__).resolve().parent
PARTS = ("step", "bfloat16", "workers", "dtype", "start")
PEAK_SIZES = (1024, 2048, 4096)
QUICK = {  # the sizes of --quick
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 8,
    "block_size": 32,
    "batch_size": 4,
    "max_iters": 2,
    "eval_interval": 1,
    "curve_windows": 4,
}
SMALL = {
    "n_layer": 1,
    "n_head": 1,
    "n_embd": 8,
    "batch_size": 1,
    "max_iters": 2,
}  # of the finished study


def measure_steps(config, repeats, gate) -> dict:
    """Times peak, training step and evaluation alternately, `repeats` times, in this process."""
    import torch

    from common.memory import keep_freed_memory

    keep_freed_memory()
    workload = Workload(config)
    sizes = PEAK_SIZES if repeats > 3 else (2048,)
    matrices = {n: torch.randn(n, n).to(getattr(torch, config.dtype)) for n in sizes}
    for _ in range(3):
        workload.step()
        workload.evaluation()
    for matrix in matrices.values():
        matrix @ matrix
    gate.wait()
    rows = []
    for number in range(repeats):
        size = sizes[number % len(sizes)] if number % 4 == 3 else 2048
        peak = 2 * size**3 / seconds(lambda m=matrices[size]: m @ m)
        rows.append((peak, size, seconds(workload.step), seconds(workload.evaluation)))
    by_size = {n: float(np.median([r[0] for r in rows if r[1] == n] or [0])) for n in sizes}
    return {
        "peak": max(by_size.values()),
        "step": [row[2] for row in rows],
        "evaluation": [row[3] for row in rows],
    }


def benchmark_bfloat16(repeats, size) -> dict:
    """`benchmark_step` in bfloat16, if the CPU supports it natively."""
    if native_bfloat16("cpu") is None:
        return {"step_share_of_peak": "not applicable here: this CPU does not support bfloat16 natively"}
    return benchmark_step(repeats, size, "bfloat16")


def benchmark_step(repeats, size, dtype="float32") -> dict:
    """A training step and an evaluation in concurrent processes, one per core, as shares of the best product."""
    config = ConfigCPU(**size, dtype=dtype)
    flops = forward_flops(config, 65)
    found = together(max(1, usable_cpus() // config.threads_per_trial), measure_steps, config, repeats)
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


def benchmark_dtype(repeats, size) -> dict:
    rows = {}
    for dtype in ("float32", "bfloat16"):
        workload = Workload(ConfigCPU(**size, dtype=dtype))
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


def run_study(folder, size, *options) -> float:
    """Seconds of one cold run of run_all_experiments.py with the CPU configuration, changed by `size`."""
    options += ("--config", "cpu", *(f"--{name.replace('_', '-')}={value}" for name, value in size.items()))
    folders = [f"--{kind}-dir={folder}/{kind}" for kind in ("results", "checkpoints", "plots")]
    command = [sys.executable, str(ROOT / "run_all_experiments.py"), *options, *folders]
    return seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT))


def benchmark_workers(repeats, size) -> dict:
    """Trials per hour without start-up: the slope between a short and a long study of trials of 30 steps.

    The trials and pairs are the same for any number of workers.
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
                    taken.append(run_study(place, {"max_iters": 30, "eval_interval": 30} | size, *options))
                rates[workers].append(3600 * (sizes[1] - sizes[0]) / (taken[1] - taken[0]))
    found = {f"trials_per_hour_{workers}_worker(s)": quartiles(values) for workers, values in rates.items()}
    ratio = np.array(rates[all_workers]) / np.array(rates[1])
    return {"workers": all_workers, **found, "trials_per_hour_ratio": quartiles(ratio)}


def benchmark_start(repeats, size) -> dict:
    """Time of --help, time of a finished study, and peak memory of a worker that trains a trial."""
    slowest = {"median": 0.0}
    for script in sorted(path for path in ROOT.glob("*.py") if '__name__ == "__main__"' in path.read_text()):
        command = [sys.executable, str(script), "--help"]
        taken = [
            seconds(lambda c=command: subprocess.run(c, check=True, stdout=subprocess.DEVNULL)) for _ in range(repeats)
        ]
        slowest = max(slowest, quartiles(taken), key=lambda row: row["median"])
    with tempfile.TemporaryDirectory() as folder:
        study = (folder, SMALL | size, *(("--trials", "2", "--activations", "relu") if size else ()))
        run_study(*study)
        finished = [run_study(*study) for _ in range(repeats)]
    return {
        "help_s": slowest,
        "finished_study_s": quartiles(finished),
        "worker_memory_mb": together(1, trial_memory, size)[0] / 1e6,
    }


def trial_memory(size, gate) -> float:
    """The peak resident memory of this process, in bytes, after one trial of the CPU configuration."""
    from common.memory import keep_freed_memory
    from study.jobs import Context, train_trial
    from tasks.registry import load_task
    from training.trial import Trial, stream_seeds

    keep_freed_memory()
    config = ConfigCPU(**({"max_iters": 20, "eval_interval": 10} | size))
    seeds = stream_seeds(42, 1, ("init", "data", "dropout"))
    trial = Trial("charlm", "gelu", config, 1, 42, seeds)
    train_trial(Context(load_task()), None, None, trial, None)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


REPORTS_SCRIPT = """
import json, sys
from tasks import corpus
from training import published_protocol as report
from config_cpu import ConfigCPU
config, text = ConfigCPU(**json.loads(sys.argv[1])), corpus.load_corpus()
for activation in sys.argv[2].split(","):
    trials = [report.train_published_trial(activation, i, 42 + i, config, text) for i in range(2)]
    models = []
    for trial in trials:
        models.append(report.build_published_model(activation, config, text.vocabulary_size))
        models[-1].load_state_dict(trial["model"])
    print(report.compare_published(models, trials[-1]["generator_state"], config, text))
"""


def benchmark_study(repeats, size) -> dict:
    """The report's study by the report's protocol, and by this program in each dtype; whole cold processes."""
    from activations import REPORT

    options = {"float32": "float32"} | ({"bfloat16": "auto"} if native_bfloat16("cpu") else {})
    old, new = [], {dtype: [] for dtype in options}
    fields = {"threads_per_trial": usable_cpus()} | ({"eval_iters": 1} | size if size else {})
    activations = REPORT[:1] if size else REPORT
    for _ in range(repeats):
        command = [sys.executable, "-c", REPORTS_SCRIPT, json.dumps(fields), ",".join(activations)]
        old.append(seconds(lambda c=command: subprocess.run(c, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)))
        for dtype, option in options.items():
            with tempfile.TemporaryDirectory() as folder:
                options_of_study = ("--trials", "2", "--activations", *activations, "--dtype", option)
                new[dtype].append(run_study(folder, size, *options_of_study))
    rows = {"published_s": quartiles(old)}
    for dtype, taken in new.items():
        rows |= {f"{dtype}_s": quartiles(taken), f"{dtype}_speedup": quartiles(np.array(old) / np.array(taken))}
    if "bfloat16" not in new:
        rows["bfloat16_speedup"] = "not applicable here: this CPU does not support bfloat16 natively"
    return rows


def measure(part, repeats, size, nanogpt):
    """Yields the measurements of a part, {name: value}."""
    if part == "cuda":
        from benchmarks.gpu import benchmark_cuda

        yield from benchmark_cuda(repeats)
    elif part == "diagnostics":
        from benchmarks.diagnostics import benchmark_diagnostics

        yield from benchmark_diagnostics(repeats, size)
    elif part == "scaling":
        from benchmarks.scaling import benchmark_scaling

        yield from benchmark_scaling()
    elif part == "peers":
        from benchmarks.peers import benchmark_peers

        yield from benchmark_peers(repeats, size, nanogpt)
    else:
        yield globals()[f"benchmark_{part}"](repeats, size)


def show(results, kinds) -> str:
    """The results as a Markdown table; `kinds` as for `judgement`."""
    from tabulate import tabulate

    rows = []
    for part, values in results["parts"].items():
        for name, value in values.items():
            median = value["median"] if isinstance(value, dict) else value
            goal = "" if isinstance(value, str) else judgement(part, name, median, kinds)
            if isinstance(value, dict):
                digits = 3 if median < 100 else 4
                shown = [f"{value[key]:.{digits}g}" for key in ("median", "q25", "q75")]
                row = [shown[0], f"{shown[1]} to {shown[2]}", value["n"]]
            else:
                row = [f"{value:.4g}" if isinstance(value, float) else value, "", ""]
            rows.append([part, name.replace("_", " "), *row, goal])
    headers = ["part", "measure", "median", "quartiles", "n", "goal"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def main(argv=None) -> int:
    p = Parser(prog="benchmark.py", description="Measure every speed in docs/performance.md on this machine.")
    choices = (*PARTS, "study", "scaling", "peers", "diagnostics", "cuda")
    p.add_argument(
        "parts", nargs="*", metavar="PART", help=f"any of {', '.join(choices)} (default: {', '.join(PARTS)})"
    )
    p.add_argument("--repeats", type=int, help="repeats of each measurement (default: 20 for steps, 3 for runs)")
    p.add_argument("--nanogpt", type=Path, metavar="PATH", help="a checkout of karpathy/nanoGPT, for peers")
    p.add_argument("--quick", action="store_true", help="smoke test: one repeat of a tiny model")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the results as JSON")
    args = p.parse_args(argv)
    from common.errors import UserError, unknown
    from common.files import write_atomically

    for part in args.parts:
        if part not in choices:
            raise unknown("part", part, choices)
    if args.repeats is not None and args.repeats < 1:
        raise UserError(f"--repeats must be at least 1, but it is {args.repeats}")
    if args.nanogpt and "peers" not in args.parts:
        raise UserError("--nanogpt is for the part peers; add that part, or leave out --nanogpt")
    for part in ("scaling", "cuda"):
        if args.quick and part in args.parts:
            raise UserError(f"--quick has no effect on {part}; leave one of them out")
    size = QUICK if args.quick else {}
    results = {"machine": f"{cpu_model()}, {usable_cpus()} usable of {os.cpu_count()} cores", "parts": {}}
    print(results["machine"], flush=True)
    for part in args.parts or PARTS:
        repeats = args.repeats or (1 if args.quick else 20 if part in ("step", "bfloat16", "dtype", "cuda") else 3)
        print(f"measuring: {part} ({repeats} repeats)", file=sys.stderr, flush=True)
        results["parts"][part] = {}
        for rows in measure(part, repeats, size, args.nanogpt):
            results["parts"][part] |= rows
            if args.json:  # after each, so that an interrupted run keeps its measurements
                write_atomically(args.json, (json.dumps(results, indent=1) + "\n").encode())
    print(show(results, set() if args.quick else machine_kinds()))
    return 0


if __name__ == "__main__":
    run(main)
