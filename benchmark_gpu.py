"""How fast on a GPU: the part of benchmark.py that needs one (`python benchmark.py cuda`).

A module of its own because processes that share a GPU, and packs, are measured otherwise than a CPU's cores: together,
until they no longer fit.
"""

import multiprocessing
import time

import numpy as np

import benchmark
from benchmark import forward_flops, quartiles

PROCESSES = (1, 2, 4, 8, 16)  # that share one GPU
PACKS = (2, 4, 8, 16)


def steps_together(config, device, processes, steps, **how) -> list[float] | None:
    """Seconds that each of several processes on one device took for its steps, all at once; None: they do not fit.

    `how`: pack, compiled.
    """
    spawn = multiprocessing.get_context("spawn")
    running = []
    for _ in range(processes):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=_steps_in_process, args=(theirs, config, device, steps, how))
        process.start()
        theirs.close()
        running.append((process, ours))
    ready = [channel.recv() for _, channel in running]
    fits = all(ready)
    for _, channel in running:
        channel.send(fits)
    found = [channel.recv() for _, channel in running] if fits else [None]
    for process, _ in running:
        process.join()
    return None if None in found else found


def _steps_in_process(channel, config, device, steps, how):
    """Says whether it is ready, hears whether all others are, says how many seconds it took; None: out of memory."""
    from engines import is_out_of_memory
    from train import wait_for

    def seconds_of(count):
        started = time.perf_counter()
        for _ in range(count):
            workload.step()
        wait_for(device)
        return time.perf_counter() - started

    def unless_out_of_memory(function):
        try:
            return function()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise

    workload = unless_out_of_memory(lambda: benchmark.Workload(config, device, **how))
    channel.send(workload and unless_out_of_memory(lambda: seconds_of(3)))
    if channel.recv():
        channel.send(unless_out_of_memory(lambda: seconds_of(steps)))


def benchmark_cuda(repeats) -> dict:
    """The full-size model on a GPU: alone, and in several processes at once."""
    import torch

    from config import Config
    from errors import UserError
    from train import wait_for

    if not torch.cuda.is_available():
        raise UserError("benchmark.py cuda needs CUDA, and PyTorch finds none here")
    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)

    def timed(function, count):
        wait_for("cuda")
        started = time.perf_counter()
        for _ in range(count):
            function()
        wait_for("cuda")
        return (time.perf_counter() - started) / count

    timed(lambda: matrix @ matrix, 5)
    peaks = np.array([2 * 8192**3 / timed(lambda: matrix @ matrix, 5) for _ in range(repeats)])
    rows = {"gpu": torch.cuda.get_device_name(), "peak_tflops": quartiles(peaks / 1e12)}
    for dtype in ("bfloat16", "float32"):
        config = Config(dtype=dtype)
        torch.cuda.reset_peak_memory_stats()
        workload = benchmark.Workload(config, "cuda")
        timed(workload.step, 5)
        steps = np.array([timed(workload.step, 10) for _ in range(repeats)])
        evaluations = np.array([timed(workload.evaluation, 1) for _ in range(repeats)])
        rows |= {
            f"{dtype}_step_ms": quartiles(steps * 1e3),
            f"{dtype}_tokens_per_s": quartiles(config.batch_size * config.block_size / steps),
            f"{dtype}_step_share_of_bfloat16_peak": quartiles(3 * forward_flops(config, 65) / steps / np.median(peaks)),
            f"{dtype}_evaluation_ms": quartiles(evaluations * 1e3),
            f"{dtype}_memory_gb": torch.cuda.max_memory_allocated() / 1e9,
        }
        del workload
        torch.cuda.empty_cache()
    rows |= trials_per_hour("cuda", Config(), PROCESSES)
    for compiled in (False, True):
        rows |= trials_per_hour_packed("cuda", Config(), (None, *PACKS) if compiled else PACKS, compiled)
    return rows


def trials_per_hour(device, config, counts, steps=100) -> dict:
    """Whole trials per hour, training steps alone, by the number of processes; ends where they do not fit."""
    rows = {}
    for count in counts:
        found = steps_together(config, device, count, steps)
        name = f"trials_per_hour_{count}_processes"
        if found is None:
            rows[name] = "out of memory"
            break
        rows[name] = 3600 * count * steps / max(found) / config.max_iters
    return rows


def trials_per_hour_packed(device, config, packs, compiled, steps=50) -> dict:
    """Whole trials per hour, training steps alone, by the size of a pack in one process; None is a trial alone.

    Ends where a pack does not fit. Compiling happens in the first steps, which are not counted.
    """
    rows = {}
    for pack in packs:
        found = steps_together(config, device, 1, steps, pack=pack, compiled=compiled)
        name = f"trials_per_hour_pack_of_{pack or 1}" + ("_compiled" if compiled else "")
        if found is None:
            rows[name] = "out of memory"
            break
        rows[name] = 3600 * (pack or 1) * steps / found[0] / config.max_iters
    return rows
