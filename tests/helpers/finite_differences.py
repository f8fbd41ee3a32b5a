"""Products with the Hessian against finite differences of gradients, for the models of any task."""

import numpy as np
import torch

from architectures.registry import build_model, initialize
from diagnostics.curvature import curvature, twice_differentiable
from tasks.base import cross_entropy


def gradient(model, x, y, offset):
    """(P,) float64: the gradient of the loss at the model's weights plus an offset."""
    parameters = list(model.parameters())
    before = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, part in zip(parameters, torch.from_numpy(offset).split([p.numel() for p in parameters])):
            p += part.view_as(p)
    found = torch.autograd.grad(cross_entropy(model(x), y), parameters, allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        for p, old in zip(parameters, before):
            p.copy_(old)
    return torch.cat([g.flatten() for g in found]).numpy()


def away_from_the_start(architecture, activation, config, model_sizes):
    """A twice differentiable model with random offsets of its initial weights, of which many are zero."""
    model = initialize(build_model(architecture, activation, config, model_sizes), 1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn(p.shape, generator=generator)
    return twice_differentiable(model)


def hessian_error(model, x, y, step=1e-6) -> float:
    """How far the product with a random direction is from the central difference of gradients along it.

    The largest error of an entry, relative to the largest entry if that is above 1.
    """
    x = x.double() if x.is_floating_point() else x
    v = np.random.default_rng(1).standard_normal(sum(p.numel() for p in model.parameters()))
    v /= np.linalg.norm(v)
    expected = (gradient(model, x, y, step * v) - gradient(model, x, y, -step * v)) / (2 * step)
    return float(np.abs(curvature(model, x, y).matvec(v) - expected).max() / max(1.0, np.abs(expected).max()))


def hessian_error_of_task(architecture, task, config) -> float:
    """`hessian_error` with Swish, on two examples of a task."""
    x, y = task.examples("train", config, "cpu")
    return hessian_error(away_from_the_start(architecture, "swish", config, task.model_sizes), x[:2], y[:2])
