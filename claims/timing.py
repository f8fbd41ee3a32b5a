"""Times a training step with each activation, for the audit's speed claims."""

import os

import numpy as np

from config import Config
from training.workload import Workload, quartiles, seconds

KIND = "timing"
VOCABULARY_SIZE = 65
N_TOKENS = 100_000
KINDS = ("published_step_s", "published_evaluation_s", "fast_step_s")


def workloads(activation, config, tokens) -> dict:
    """Kind -> a function that runs one step or one evaluation batch, each on its own model.

    tokens: (N,) int64 tensor. The fast step is the one in benchmark.py.
    """
    return _published_workloads(activation, config, tokens) | {"fast_step_s": Workload(config, "cpu", activation).step}


def _published_workloads(activation, config, tokens):
    import torch
    from torch.nn import functional as F

    from training.published_protocol import build_published_model, published_forward

    torch.manual_seed(0)
    model = build_published_model(activation, config, VOCABULARY_SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)

    def loss(training):
        starts = torch.randint(len(tokens) - config.block_size, (config.batch_size,))
        positions = starts[:, None] + torch.arange(config.block_size)
        logits = published_forward(model, tokens[positions], training)
        return F.cross_entropy(logits.flatten(0, 1), tokens[positions + 1].flatten())

    def step():
        value = loss(True)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    def evaluate():
        with torch.no_grad():
            loss(False).item()

    return {"published_step_s": step, "published_evaluation_s": evaluate}


def median_seconds(function, count: int) -> float:
    """The median time of `count` calls."""
    return float(np.median([seconds(function) for _ in range(count)]))


def interleaved(names, config, tokens, repeats: int, steps: int, say) -> dict:
    """Activation -> kind -> median seconds in each cycle; every cycle starts with another activation."""
    work = {name: workloads(name, config, tokens) for name in names}
    found = {name: {kind: [] for kind in KINDS} for name in names}
    for kinds in work.values():  # warm-up
        for function in kinds.values():
            median_seconds(function, 2)
    for turn in range(repeats):
        for kind in KINDS:
            for name in (*names[turn % len(names) :], *names[: turn % len(names)]):
                found[name][kind].append(median_seconds(work[name][kind], steps))
        say(f"turn {turn + 1} of {repeats}")
    return found


def full_size(config, tokens, steps: int, say) -> dict:
    """A few steps of each kind with the full-size model and ReLU: kind -> seconds of each."""
    found = {}
    for kind, function in workloads("relu", config, tokens).items():
        function()
        found[kind] = [median_seconds(function, 1) for _ in range(steps)]
        say(f"full size, {kind}: {np.median(found[kind]):.2f} s")
    return found


def measure(small: Config, full: Config, repeats: int, steps: int, full_steps: int, say=print) -> dict:
    """The content of the timing file. small: timed with every activation; full: a few steps with ReLU."""
    import torch

    from activations import REPORT
    from architectures.registry import count_parameters
    from common.json_files import SCHEMA_VERSION
    from common.provenance import environment, program
    from training.trial import prepare_torch

    prepare_torch(small)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    tokens = torch.from_numpy(np.random.default_rng(0).integers(VOCABULARY_SIZE, size=N_TOKENS))
    activations = interleaved(REPORT, small, tokens, repeats, steps, say)
    large = full_size(full, tokens, full_steps, say) if full_steps else None
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "config": small.as_dict(),
        "full_config": full.as_dict(),
        "n_parameters": {
            "config": count_parameters("charlm", small, VOCABULARY_SIZE),
            "full_config": count_parameters("charlm", full, VOCABULARY_SIZE),
        },
        "repeats": repeats,
        "steps": steps,
        "load_before": load,
        "activations": activations,
        "full_size": large,
        "summary": {name: {kind: quartiles(s) for kind, s in kinds.items()} for name, kinds in activations.items()},
        "environment": environment("cpu", small.threads_per_trial),
        "provenance": program(),
    }


def evaluation_batches(config: dict) -> int:
    """The number of batches that the report's protocol evaluates within its training time."""
    estimates = len({*range(0, config["max_iters"], config["eval_interval"]), config["max_iters"] - 1})
    return estimates * 2 * config["eval_iters"]


def trial_seconds(timing: dict, activation: str) -> np.ndarray:
    """(repeats,) seconds of training one trial by the report's protocol, including its loss estimates."""
    config, kinds = timing["config"], timing["activations"][activation]
    steps, evaluations = (np.array(kinds[kind]) for kind in ("published_step_s", "published_evaluation_s"))
    return config["max_iters"] * steps + evaluation_batches(config) * evaluations


def first_full_step_seconds(timing: dict) -> float:
    """Seconds of the full-size model's first step, including the loss estimate before it."""
    large = timing["full_size"]
    estimate = 2 * timing["full_config"]["eval_iters"] * np.median(large["published_evaluation_s"])
    return float(np.median(large["published_step_s"]) + estimate)
