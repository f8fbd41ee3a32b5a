"""Speed on a GPU (`python benchmark.py cuda`): single trials, and processes that share the GPU."""

import contextlib
import multiprocessing
import time

import numpy as np

from training.workload import Workload, forward_flops, quartiles

PROCESSES = (1, 2, 4, 8)  # sharing one GPU


def steps_together(config, device, processes, steps, compiled=False) -> list[float] | None:
    """Seconds that each of several concurrent processes on one device took for its steps; None: out of memory."""
    spawn = multiprocessing.get_context("spawn")
    running = []
    for _ in range(processes):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=_steps_in_process, args=(theirs, config, device, steps, compiled))
        process.start()
        theirs.close()
        running.append((process, ours))
    ready = [_received(channel) for _, channel in running]
    fits = all(ready)
    for _, channel in running:
        with contextlib.suppress(OSError):  # the process has died
            channel.send(fits)
    found = [_received(channel) for _, channel in running] if fits else [None]
    for process, _ in running:
        process.join()
    return None if None in found else found


def _received(channel):
    """A process's message; None if it has died, as it may when out of memory."""
    try:
        return channel.recv()
    except EOFError:
        return None


def _steps_in_process(channel, config, device, steps, compiled):
    """Warms up (and compiles), sends whether it is ready, receives whether all are, sends the seconds its steps took; None: out of memory."""
    from common.memory import is_out_of_memory
    from training.step import synchronize

    def seconds_of(count):
        started = time.perf_counter()
        for _ in range(count):
            workload.step()
        synchronize(device)
        return time.perf_counter() - started

    def unless_out_of_memory(function):
        try:
            return function()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise

    workload = unless_out_of_memory(lambda: Workload(config, device, compiled=compiled))
    channel.send(workload and unless_out_of_memory(lambda: seconds_of(3)))
    if channel.recv():
        channel.send(unless_out_of_memory(lambda: seconds_of(steps)))


def benchmark_cuda(repeats):
    """Yields the speeds of the full-size model on a GPU: alone, and in several processes at once."""
    import torch

    from common.errors import UserError
    from config import Config
    from training.step import synchronize
    from training.trial import prepare_torch

    if not torch.cuda.is_available():
        raise UserError("benchmark.py cuda needs CUDA, but PyTorch finds none here")
    prepare_torch(Config())
    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)

    def timed(function, count):
        synchronize("cuda")
        started = time.perf_counter()
        for _ in range(count):
            function()
        synchronize("cuda")
        return (time.perf_counter() - started) / count

    timed(lambda: matrix @ matrix, 5)
    peaks = np.array([2 * 8192**3 / timed(lambda: matrix @ matrix, 5) for _ in range(repeats)])
    yield {"gpu": torch.cuda.get_device_name(), "peak_tflops": quartiles(peaks / 1e12)}
    yield attention_times("cuda", Config(), repeats, timed)
    for dtype in ("bfloat16", "float32"):
        config = Config(dtype=dtype)
        torch.cuda.reset_peak_memory_stats()
        workload = Workload(config, "cuda")
        timed(workload.step, 5)
        steps = np.array([timed(workload.step, 10) for _ in range(repeats)])
        evaluations = np.array([timed(workload.evaluation, 1) for _ in range(repeats)])
        yield {
            f"{dtype}_step_ms": quartiles(steps * 1e3),
            f"{dtype}_tokens_per_s": quartiles(config.batch_size * config.block_size / steps),
            f"{dtype}_step_share_of_bfloat16_peak": quartiles(3 * forward_flops(config, 65) / steps / np.median(peaks)),
            f"{dtype}_evaluation_ms": quartiles(evaluations * 1e3),
            f"{dtype}_memory_gb": torch.cuda.max_memory_allocated() / 1e9,
        }
        del workload
        torch.cuda.empty_cache()
    for compiled in (True, False):
        yield from trials_per_hour("cuda", Config(), PROCESSES, compiled)


def attention_times(device, config, repeats, timed) -> dict:
    """Milliseconds of one layer's attention, forward and backward with dropout: plain, and PyTorch's fused kernel.

    This is the cost of addressed dropout: the fused kernel draws its own dropout, while the mask of the plain version is
    drawn beforehand and timed separately.
    """
    import torch
    from torch.nn import functional as F

    from kernels.attention import plain_attention
    from model import levels_on_device
    from randomness import dropout_threshold

    threshold, keep = dropout_threshold(config.dropout)
    heads, size = config.n_head, config.n_embd // config.n_head
    shape = (config.batch_size, heads, config.block_size, config.block_size)
    generator = torch.Generator(device).manual_seed(0)
    qkv = torch.randn(
        config.batch_size, config.block_size, 3 * config.n_embd, device=device, dtype=torch.bfloat16, requires_grad=True
    )

    def mask():
        return levels_on_device(shape, generator) >= threshold

    def library():
        parts = (part.unflatten(-1, (heads, size)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        F.scaled_dot_product_attention(*parts, dropout_p=1 - keep, is_causal=True).sum().backward()

    kept = mask()
    kinds = {
        "attention_mask": mask,
        "attention_written_out": lambda: plain_attention(qkv, heads, kept, keep).sum().backward(),
        "attention_of_pytorch": library,
    }
    rows = {}
    for name, function in kinds.items():
        timed(function, 3)
        rows[f"{name}_ms"] = quartiles(np.array([timed(function, 10) for _ in range(repeats)]) * 1e3)
    return rows


def trials_per_hour(device, config, counts, compiled, steps=60):
    """Yields whole trials per hour (training steps only) by the number of processes, until out of memory."""
    for count in counts:
        found = steps_together(config, device, count, steps, compiled)
        rate = "out of memory" if found is None else 3600 * count * steps / max(found) / config.max_iters
        yield {f"trials_per_hour_{count}_processes" + ("_compiled" if compiled else ""): rate}
        if found is None:
            break
