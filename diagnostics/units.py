"""What activations receive and give in a trained model: pre-activations, dead and saturated units, effective rank."""

import numpy as np
import torch

from activations import get_activation
from diagnostics.alignment import observed_inputs

EDGES = np.linspace(-6, 6, 49)  # of the histogram; values beyond lie in its outer bins
CURVED = 1.0  # |x| up to which SmeLU with beta = 1 is curved
FLAT = 1e-3  # slope below which a unit passes no gradient on
STRAIGHT = 1e-3  # how near to 1 the slope of a saturated unit is


def pre_activations(model, x, config) -> dict[str, float]:
    """Mean, SD and share within [-CURVED, CURVED] of the inputs of every activation in the model."""
    z = torch.cat([part.flatten() for part in observed_inputs(model, x, config)[0]])
    return {
        "mean": float(z.mean()),
        "sd": float(z.std()),
        "share_curved": float((z.abs() <= CURVED).double().mean()),
    }


def histogram(model, x, config) -> np.ndarray:
    """(48,) shares of the pre-activations in the bins of EDGES."""
    z = torch.cat([part.flatten() for part in observed_inputs(model, x, config)[0]]).numpy()
    counts, _ = np.histogram(np.clip(z, EDGES[0], EDGES[-1]), EDGES)
    return counts / counts.sum()


def unit_shares(model, x, config, activation: str) -> dict[str, float]:
    """The shares of units that pass no gradient on (dead) or act as the identity up to a constant (linear), on all inputs.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    x : (B, ...) tensor
    activation : str
        Its activation, ungated.
    """
    dead, linear = [], []
    for z in observed_inputs(model, x, config)[0]:
        z = z.clone().requires_grad_()
        (slope,) = torch.autograd.grad(get_activation(activation)(z).sum(), z)
        dead.append((slope.abs() < FLAT).all(0))
        linear.append(((slope - 1).abs() < STRAIGHT).all(0))
    return {name: float(torch.cat(parts).double().mean()) for name, parts in (("dead", dead), ("linear", linear))}


def effective_rank(outputs: np.ndarray) -> float:
    """exp of the entropy of the normalised singular values of centred outputs (n, features): 1 to min(n - 1, features).

    References
    ----------
    Roy & Vetterli 2007, The effective rank: a measure of effective dimensionality.
    """
    values = np.linalg.svd(outputs - outputs.mean(0), compute_uv=False)
    if values.sum() <= 0:
        return 1.0
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def outputs_of_activations(model, x, config, activation: str) -> list[np.ndarray]:
    """(N, C) outputs of every activation module, of the inputs that it receives."""
    return [get_activation(activation)(z).detach().numpy() for z in observed_inputs(model, x, config)[0]]
