"""How long a training step takes with each activation: the timing run that the audit's speed claims need.

    python audit_timing.py                                      # about seven minutes; writes results/timing.json
    python audit_timing.py --repeats 10 --output results/reference/timing.json

A study's own times will not do: its trials run side by side, one activation after the other, while the machine warms
up or does something else. Here one process with one thread takes the activations in turn, again and again, and
compares them within a turn. Two steps are timed: the report's protocol (eager, its own dropout) and the one that
matched studies run. An evaluation batch is timed as well, since the report's training times contain loss estimates.
Then a few steps of the full-size model. Tokens are random: time does not depend on the text.
"""

import os
import time
from pathlib import Path

import numpy as np

import cli
from config import Config
from config_cpu import ConfigCPU
from errors import UserError

KIND = "timing"
VOCABULARY_SIZE = 65
N_TOKENS = 100_000
KINDS = ("published_step_s", "published_evaluation_s", "fast_step_s")


def parser():
    p = cli.Parser(prog="audit_timing.py", description="Time a training step with each of the report's activations.")
    p.add_argument("--repeats", type=int, default=5, help="turns through all activations (default: %(default)s)")
    p.add_argument("--steps", type=int, default=20, help="steps of each kind per turn (default: %(default)s)")
    p.add_argument("--full-steps", type=int, default=3, help="steps of the full-size model; 0: none (default: 3)")
    p.add_argument("--output", type=Path, default=Path("results/timing.json"), help="default: %(default)s")
    return p


# --- what is timed ----------------------------------------------------------------------------------------------------


def workloads(activation, config, tokens) -> dict:
    """Kind -> a function that does one step, or one evaluation batch; each goes on with a model of its own.

    tokens: (N,) int64 tensor.
    """
    return _published_workloads(activation, config, tokens) | {"fast_step_s": _fast_step(activation, config, tokens)}


def _published_workloads(activation, config, tokens):
    import torch
    from torch.nn import functional as F

    from published_protocol import build_published_model, published_forward

    torch.manual_seed(0)
    model = build_published_model(activation, config, VOCABULARY_SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)

    def loss(training):
        starts = torch.randint(len(tokens) - config.block_size, (config.batch_size,))
        places = starts[:, None] + torch.arange(config.block_size)
        logits = published_forward(model, tokens[places], training)
        return F.cross_entropy(logits.flatten(0, 1), tokens[places + 1].flatten())

    def step():
        value = loss(True)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    def evaluate():
        with torch.no_grad():
            loss(False).item()

    return {"published_step_s": step, "published_evaluation_s": evaluate}


def _fast_step(activation, config, tokens):
    """The step of train.py: batch, dropout masks from their address, forward, backward, AdamW."""
    import itertools

    import torch
    from torch.nn import functional as F

    import corpus
    import randomness
    import train
    from model import address_dropout

    trial = train.Trial("charlm", activation, config, 1, 42, train.stream_seeds(42, 1, ("init", "data", "dropout")))
    model = train.build(trial, VOCABULARY_SIZE).train()
    optimizer, numbers = train.make_optimizer(model.parameters(), config), itertools.count()

    def step():
        number = next(numbers)
        generator = randomness.generator(42, "data", number)
        starts = corpus.batch_starts(generator, len(tokens), config.block_size, config.batch_size)
        places = torch.from_numpy(starts)[:, None] + torch.arange(config.block_size)
        address_dropout(model, 42, number)
        value = F.cross_entropy(model(tokens[places]).float().flatten(0, 1), tokens[places + 1].flatten())
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()

    return step


def median_seconds(function, count: int) -> float:
    """The median time of `count` calls."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


# --- the run ----------------------------------------------------------------------------------------------------------


def interleaved(names, config, tokens, repeats: int, steps: int, say) -> dict:
    """Activation -> kind -> the median seconds of each turn; every turn begins with another activation."""
    work = {name: workloads(name, config, tokens) for name in names}
    found = {name: {kind: [] for kind in KINDS} for name in names}
    for kinds in work.values():  # the first calls allocate, and are slower
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


def spread(seconds) -> dict:
    """{median, low, high, n} of repeated measurements; low and high are the smallest and the largest."""
    return {"median": float(np.median(seconds)), "low": min(seconds), "high": max(seconds), "n": len(seconds)}


def measure(small: Config, full: Config, repeats: int, steps: int, full_steps: int, say=print) -> dict:
    """The content of the timing file. small: timed with every activation; full: a few steps with ReLU."""
    import torch

    from activations import REPORT
    from architectures import count_parameters
    from provenance import environment, program
    from storage import SCHEMA_VERSION
    from train import prepare_torch

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
        "summary": {name: {kind: spread(s) for kind, s in kinds.items()} for name, kinds in activations.items()},
        "environment": environment("cpu", small.threads_per_trial),
        "provenance": program(),
    }


# --- what follows from it ---------------------------------------------------------------------------------------------


def evaluation_batches(config: dict) -> int:
    """How many batches the report's protocol evaluates within its training time."""
    estimates = len({*range(0, config["max_iters"], config["eval_interval"]), config["max_iters"] - 1})
    return estimates * 2 * config["eval_iters"]


def trial_seconds(timing: dict, activation: str) -> np.ndarray:
    """(repeats,) what one trial's training takes by the report's protocol, its loss estimates included."""
    config, kinds = timing["config"], timing["activations"][activation]
    steps, evaluations = (np.array(kinds[kind]) for kind in ("published_step_s", "published_evaluation_s"))
    return config["max_iters"] * steps + evaluation_batches(config) * evaluations


def first_full_step_seconds(timing: dict) -> float:
    """A step of the full-size model and the loss estimate that precedes the first one."""
    large = timing["full_size"]
    estimate = 2 * timing["full_config"]["eval_iters"] * np.median(large["published_evaluation_s"])
    return float(np.median(large["published_step_s"]) + estimate)


def main(argv=None) -> int:
    args = parser().parse_args(argv)
    for name, least in (("repeats", 2), ("steps", 1), ("full_steps", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}, but it is {getattr(args, name)}")
    from storage import write_json

    content = measure(
        ConfigCPU(),
        Config(dtype="float32"),
        args.repeats,
        args.steps,
        args.full_steps,
        say=lambda text: print(text, flush=True),
    )
    for name in content["activations"]:
        seconds = trial_seconds(content, name)
        print(
            f"{name:10} {np.median(seconds):7.2f} s per trial of the report's protocol ({seconds.min():.2f} to"
            f" {seconds.max():.2f}), {content['summary'][name]['fast_step_s']['median'] * 1000:.1f} ms per fast step"
        )
    write_json(args.output, content)
    print(f"written: {args.output}")
    return 0


if __name__ == "__main__":
    cli.run(main)
