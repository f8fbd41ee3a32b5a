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
from diagnostics import curvature as curvatures
from diagnostics import gradients, kernels, units
from diagnostics.alignment import observed_inputs
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


def noise_scale(model, batch, generator: np.random.Generator, config) -> dict[str, float]:
    """The simple gradient noise scale in sequences, and the two estimates of which it is the ratio.

    "variance" is tr(S), "squared_norm" |G|^2: average each over points or trials before dividing, since one batch is often
    too small to tell |G|^2 from 0; "noise_scale" is left out then (`gradients.noise_scale`).
    """
    seen = gradients.gradient_statistics(model, [batch], config)
    variance, squared_norm = gradients.noise_and_signal(seen.moments)
    found = gradients.noise_scale(seen.moments)
    return {"variance": variance, "squared_norm": squared_norm} | ({} if found is None else {"noise_scale": found})


def pre_activations(model, batch, generator: np.random.Generator, config) -> dict[str, float]:
    """Mean, SD and share within [-1, 1] of the activations' inputs, and the effective rank of their last layer's."""
    inputs, _ = observed_inputs(model, batch[0], config)
    return units.pre_activations(model, batch[0], config) | {"effective_rank": units.effective_rank(inputs[-1].numpy())}


def pre_activation_histogram(model, batch, generator: np.random.Generator, config) -> dict[str, float]:
    """Lower end of each bin of `units.EDGES` -> share of the activations' inputs in it; the outer bins hold all beyond."""
    shares = units.histogram(model, batch[0], config)
    return {f"{low:g}": float(share) for low, share in zip(units.EDGES, shares)}


def curvature(model, batch, generator: np.random.Generator, config) -> dict[str, float]:
    """Largest eigenvalue and trace (with its standard error) of the Hessian and of the Gauss-Newton matrix, in float64."""
    found: dict[str, float] = {}
    twin = curvatures.twice_differentiable(model)
    for kind in curvatures.KINDS:
        operator = curvatures.curvature(twin, *batch, kind)
        found[f"{kind}_largest"] = float(curvatures.largest_eigenvalues(operator, 1, generator)[0])
        found[f"{kind}_trace"], found[f"{kind}_trace_error"] = curvatures.trace(operator, TRACE_SAMPLES, generator)
    return found


def kernel_target(model, batch, generator: np.random.Generator, config) -> dict[str, float]:
    """Centred alignment of the empirical tangent kernel with the targets' kernel, which is 1 for positions of one class, else 0."""
    x, y = batch
    kernel = kernels.tangent_kernel(model, x, kernels.POSITIONS, config)
    classes = y.flatten()[kernels.chosen_positions(y.numel(), kernels.POSITIONS)].numpy(force=True)
    return {"alignment": kernels.kernel_alignment(kernel, (classes == classes[:, None]).astype(float))}


TRACE_SAMPLES = 10
PROBES: dict[str, Callable] = {
    "gradient_norm": gradient_norm,
    "noise_scale": noise_scale,
    "pre_activations": pre_activations,
    "pre_activation_histogram": pre_activation_histogram,
    "curvature": curvature,
    "kernel_target": kernel_target,
}
DRAWN = ("pre_activation_histogram",)  # probes with too many numbers for a table; `diagnose.py` draws them


def check_probes(names: Iterable[str], task: Task, config) -> None:
    """Raises UserError for an unknown probe, a task without a fixed batch, or a noise scale of a single sequence."""
    for name in names:
        if name not in PROBES:
            raise unknown("probe", name, PROBES)
        if name == "noise_scale" and config.batch_size < 2:
            raise UserError("the probe noise_scale needs a --batch-size of at least 2")
        if not hasattr(task, "examples"):
            raise UserError(
                f"the task {task.name} has no fixed batch, which the probe {name} needs; leave out --probes"
            )


def fixed_batch(task, config, device) -> tuple:
    """(x, y): batch_size examples of the training split, evenly spaced; the same for every model."""
    x, y = task.examples("train", config, device)
    count = min(config.batch_size, len(x))
    chosen = np.arange(count) * len(x) // count
    return x[chosen], y[chosen]


def measure_probes(names: Iterable[str], model, task, trial, step: int) -> dict[str, dict[str, float]]:
    """Name of each probe -> its numbers, for a trial's model at a step, on a fixed batch of the training split."""
    config = trial.config
    batch = fixed_batch(task, config, device_of(model))
    was_training = model.training
    model.eval()
    with torch.inference_mode(False), torch.enable_grad():
        found = {
            name: PROBES[name](model, batch, randomness.generator(trial.seed, "probe", step, name), config)
            for name in names
        }
    model.train(was_training)
    return found
