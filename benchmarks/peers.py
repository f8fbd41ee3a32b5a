"""Our training step compared with nanoGPT's: the same model size, data and batch, on the same cores, in one run.

nanoGPT (https://github.com/karpathy/nanoGPT) is a checkout given by the user; only its model.py is used, unchanged. The
step is that of its train.py on a CPU without gradient clipping and learning rate schedule, which ours does not have
either. In bfloat16 it runs under autocast, which its train.py enables on GPUs only.
"""

import contextlib
import importlib.util
import io
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.together import together
from common.errors import UserError
from common.provenance import native_bfloat16, usable_cpus
from config_cpu import ConfigCPU
from training.workload import Workload, quartiles, random_text

WARM_UP, STEPS = 5, 20  # compilation happens during the warm-up


def check_checkout(path) -> Path:
    """The model.py of a checkout of nanoGPT; raises UserError if there is none."""
    if path is None:
        raise UserError("benchmark.py peers needs --nanogpt PATH, a checkout of https://github.com/karpathy/nanoGPT")
    model_file = Path(path).resolve() / "model.py"
    if not model_file.is_file():
        raise UserError(f"--nanogpt {path} is not a checkout of nanoGPT: it has no model.py")
    return model_file


def benchmark_peers(repeats, size, nanogpt):
    """Yields, for each dtype, the step of each arrangement, tokens per second, and ours against nanoGPT's best.

    Parameters
    ----------
    repeats : int
        Rounds; in each one, every arrangement is started and measured once.
    size : dict
        Fields of ConfigCPU that differ from its defaults.
    nanogpt : Path or None
        A checkout of nanoGPT.
    """
    model_file = check_checkout(nanogpt)
    compiler = any(map(shutil.which, ("g++", "clang++")))
    for dtype in ("float32", "bfloat16"):
        if dtype == "bfloat16" and native_bfloat16("cpu") is None:
            yield {"bfloat16": "not applicable here: this CPU does not support it natively"}
            continue
        step_s = {name: [] for name in arrangements(usable_cpus(), compiler)}
        for _ in range(repeats):
            for name, (whose, processes, compiled) in arrangements(usable_cpus(), compiler).items():
                config = ConfigCPU(**size, dtype=dtype, threads_per_trial=usable_cpus() // processes)
                arguments = (config,) if whose == "ours" else (config, model_file, compiled)
                found = together(processes, our_steps if whose == "ours" else nanogpt_steps, *arguments)
                step_s[name].append(max(found) / processes)
        yield compared(dtype, step_s, ConfigCPU(**size))
    if not compiler:
        yield {"compiled": "skipped: there is no C++ compiler here"}


def arrangements(cores, compiler) -> dict[str, tuple[str, int, bool]]:
    """Name -> (whose, number of processes, compiled); the cores are divided among the processes."""
    found = {}
    for processes in sorted({1, cores}):
        where = f"{processes}_process{'es' if processes > 1 else ''}"
        found[f"ours_{where}"] = ("ours", processes, False)
        for compiled in (False, True) if compiler else (False,):
            found[f"nanogpt_{where}" + "_compiled" * compiled] = ("nanogpt", processes, compiled)
    return found


def compared(dtype, step_s, config) -> dict:
    """The rows of one dtype.

    Parameters
    ----------
    step_s : dict
        Arrangement -> seconds per step in each round, divided by the number of processes.
    config : Config
    """
    tokens = config.batch_size * config.block_size
    rows = {}
    for name, seconds in step_s.items():
        rows[f"{dtype}_{name}_ms"] = quartiles(1e3 * np.array(seconds))
        rows[f"{dtype}_{name}_tokens_per_s"] = quartiles(tokens / np.array(seconds))
    ours, theirs = (
        min((name for name in step_s if name.startswith(whose)), key=lambda name: np.median(step_s[name]))
        for whose in ("ours", "nanogpt")
    )
    rows[f"{dtype}_best"] = f"{ours} against {theirs}"
    rows[f"{dtype}_speedup"] = quartiles(np.array(step_s[theirs]) / np.array(step_s[ours]))
    return rows


def our_steps(config, gate) -> float:
    """Seconds of one of our steps: the median."""
    from common.memory import keep_freed_memory

    keep_freed_memory()
    return median_seconds(Workload(config).step, gate)


def nanogpt_steps(config, model_file, compiled, gate) -> float:
    """Seconds of one step of nanoGPT's model, of the size of `config`: the median."""
    import torch

    from common.memory import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(config.threads_per_trial)
    return median_seconds(nanogpt_step(config, model_file, compiled), gate)


def nanogpt_step(config, model_file, compiled):
    """A function that runs one training step of nanoGPT's model on random text."""
    import torch

    spec = importlib.util.spec_from_file_location("nanogpt_model", model_file)
    module = sys.modules["nanogpt_model"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    task = random_text()
    tokens = torch.from_numpy(task.corpus.train.astype(np.int64))
    length = config.block_size
    sizes = {name: getattr(config, name) for name in ("block_size", "n_layer", "n_head", "n_embd", "dropout")}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its parameter counts
        model = module.GPT(module.GPTConfig(vocab_size=task.n_classes, bias=False, **sizes)).train()
        optimizer = model.configure_optimizers(config.weight_decay, config.learning_rate, (0.9, 0.999), "cpu")
    forward = torch.compile(model) if compiled else model

    def step():
        starts = torch.randint(len(tokens) - length, (config.batch_size,))
        x = torch.stack([tokens[i : i + length] for i in starts])
        y = torch.stack([tokens[i + 1 : i + 1 + length] for i in starts])
        with torch.autocast("cpu", torch.bfloat16, enabled=config.dtype == "bfloat16"):
            _, loss = forward(x, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def median_seconds(step, gate) -> float:
    """The median time of a step after a warm-up, measured while all processes are measuring."""
    for _ in range(WARM_UP):
        step()
    gate.wait()
    times = [time.perf_counter()]
    for _ in range(STEPS):
        step()
        times.append(time.perf_counter())
    return float(np.median(np.diff(times)))
