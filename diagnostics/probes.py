"""Probes: quantities of a model during training, measured at its curve points.

    python run_all_experiments.py --probes gradient_norm

A probe takes a model, a fixed batch and its own generator, and returns numbers by name. It does not affect the trial:
the model's mode, weights and gradients are restored, and its draws have their own addresses. To add a probe, write a
function here and add it to PROBES.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch

import randomness
from common.errors import UserError, unknown
from tasks.base import Task, autocast, cross_entropy, device_of


def gradient_norm(model, batch, generator: np.random.Generator, config) -> dict[str, float]:
    """The Euclidean norm of the loss's gradient, per layer and in total, without dropout.

    Parameters
    ----------
    model : nn.Module
    batch : (x, y)
        Inputs (B, ...) and targets (B, T) on the model's device.
    generator : numpy.random.Generator
        Not used.
    config : Config

    Returns
    -------
    dict
        "all", and the qualified name of each module with parameters -> norm over its own parameters, in nats per unit of
        the parameters.
    """
    x, y = batch
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with autocast(config, x.device):
        logits = model(x)
    gradients = torch.autograd.grad(cross_entropy(logits, y), list(parameters.values()), allow_unused=True)
    squares: dict[str, float] = {}
    for name, gradient in zip(parameters, gradients):
        layer = name.rpartition(".")[0]
        square = 0.0 if gradient is None else float(gradient.double().square().sum())
        squares[layer] = squares.get(layer, 0.0) + square
    return {"all": sum(squares.values()) ** 0.5, **{layer: square**0.5 for layer, square in squares.items()}}


PROBES: dict[str, Callable] = {"gradient_norm": gradient_norm}


def check_probes(names: Iterable[str], task: Task) -> None:
    """Raises UserError for an unknown probe, or a task without a fixed batch."""
    for name in names:
        if name not in PROBES:
            raise unknown("probe", name, PROBES)
        if not hasattr(task, "examples"):
            raise UserError(
                f"the task {task.name} has no fixed batch, which the probe {name} needs; leave out --probes"
            )


def measure_probes(names: Iterable[str], model, task, trial, step: int) -> dict[str, dict[str, float]]:
    """Probe -> its values for a trial's model at a step, on a fixed batch of the training split."""
    config, device = trial.config, device_of(model)
    x, y = task.examples("train", config, device)
    chosen = np.arange(min(config.batch_size, len(x))) * len(x) // min(config.batch_size, len(x))
    was_training = model.training
    model.eval()
    with torch.inference_mode(False), torch.enable_grad():
        found = {
            name: PROBES[name](
                model, (x[chosen], y[chosen]), randomness.generator(trial.seed, "probe", step, name), config
            )
            for name in names
        }
    model.train(was_training)
    return found
