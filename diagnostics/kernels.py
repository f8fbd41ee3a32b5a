"""The empirical neural tangent kernel of a model, and similarity of kernels and of representations."""

import numpy as np
import torch

from diagnostics.gradients import trainable
from tasks.base import autocast

POSITIONS = 64  # of which a kernel is computed


def chosen_positions(count: int, positions: int) -> np.ndarray:
    """Evenly spaced indices of `positions` of `count` positions."""
    return np.arange(positions) * count // positions


def tangent_kernel(model, x, positions: int, config) -> np.ndarray:
    """The kernel of the sum of a position's logits over classes: K_ij = grad f_i . grad f_j.

    The full kernel of 65 logits at 64 positions of a model of 430,000 parameters would need 14 GB; the sum of the logits,
    divided by the root of their number, stands in for it.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    x : (B, ...) tensor
        Inputs.
    positions : int
        How many positions, evenly spaced over all.

    Returns
    -------
    (positions, positions) float64 array, positive semidefinite

    References
    ----------
    Jacot, Gabriel & Hongler 2018, Neural tangent kernel (1806.07572).
    Mohamadi, Bae & Sutherland 2023, A fast, well-founded approximation to the empirical neural tangent kernel (2206.12543).
    """
    parameters = trainable(model)
    with autocast(config, x.device):
        logits = model(x)
    outputs = logits.flatten(0, -2).sum(-1) / logits.shape[-1] ** 0.5
    rows = []
    for k in chosen_positions(len(outputs), positions).tolist():
        found = torch.autograd.grad(
            outputs[k], parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        rows.append(torch.cat([g.flatten() for g in found]))
    jacobian = torch.stack(rows)
    return np.array([[float(a.double() @ b.double()) for b in jacobian] for a in jacobian])


def kernel_alignment(k: np.ndarray, m: np.ndarray) -> float:
    """Centred kernel alignment <HKH, HMH> / (|HKH| |HMH|), H = I - 11'/n, in [-1, 1]; 0 for a constant kernel.

    Parameters
    ----------
    k, m : (n, n) array
        On the same n points.

    References
    ----------
    Cortes, Mohri & Rostamizadeh 2012, Algorithms for learning kernels based on centered alignment.
    """
    k, m = (one - one.mean(0) - one.mean(1)[:, None] + one.mean() for one in (k, m))
    norms = np.linalg.norm(k) * np.linalg.norm(m)
    return float((k * m).sum() / norms) if norms > 0 else 0.0


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Debiased linear CKA of two representations of the same n points.

    It ignores rotations and the scale of a representation, and is dominated by its directions of largest variance; a high
    value does not show that two models compute the same function.

    Parameters
    ----------
    x, y : (n, features) array, n > 3

    References
    ----------
    Kornblith et al. 2019, Similarity of neural network representations revisited (1905.00414).
    Song et al. 2012, Feature selection via dependence maximization (the unbiased estimate of HSIC).
    """
    k, m = (z @ z.T for z in (x.astype(np.float64), y.astype(np.float64)))
    own = _hsic(k, k) * _hsic(m, m)
    return float(_hsic(k, m) / np.sqrt(own)) if own > 0 else 0.0


def _hsic(k, m):
    """The unbiased estimate of the Hilbert-Schmidt independence criterion."""
    n = len(k)
    k, m = (one - np.diag(np.diag(one)) for one in (k, m))
    product = k @ m
    total = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * product.sum() / (n - 2)
    return (np.trace(product) + total) / (n * (n - 3))
