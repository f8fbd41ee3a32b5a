"""Curvature of the loss at a trained model: eigenvalues, trace and spectral density.

    twin = twice_differentiable(model)
    hessian = curvature(twin, x, y, "hessian")          # a scipy LinearOperator, (P, P); also "gauss_newton"
    largest_eigenvalues(hessian, 3, generator), trace(hessian, 20, generator), spectral_density(hessian, 20, generator)

The Hessian H of the mean cross-entropy is the generalised Gauss-Newton matrix G plus the sum over logits of (p - y) times the
Hessian of the logit. G is positive semidefinite. P: the number of parameters; everything is float64 and without dropout.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from diagnostics.gradients import trainable
from tasks.base import cross_entropy

KINDS = ("hessian", "gauss_newton")


def twice_differentiable(model):
    """A float64 copy of a model on the CPU in evaluation mode, built from operations that have a second derivative.

    The fused attention and SmeLU of this project have none; modules with an attribute `written_out` take plain operations.
    """
    twin = copy.deepcopy(model).cpu().double().eval()
    for module in twin.modules():
        if hasattr(module, "written_out"):
            module.written_out = True
    return twin


def curvature(model, x, y, kind: str = "hessian", preconditioner: torch.Tensor | None = None):
    """The curvature of a batch's mean loss in the parameters, as products with vectors.

    Parameters
    ----------
    model : nn.Module
        From `twice_differentiable`.
    x, y : tensors
        Inputs (B, ...) and targets (B, T).
    kind : {"hessian", "gauss_newton"}
    preconditioner : (P,) tensor, optional
        A positive diagonal D: the operator is then D^(1/2) C D^(1/2), whose eigenvalues are those of D C. For AdamW, one
        over the root of its second moment.

    Returns
    -------
    scipy.sparse.linalg.LinearOperator
        (P, P), symmetric. It keeps the graph of the batch in memory.

    References
    ----------
    Pearlmutter 1994, Fast exact multiplication by the Hessian.
    Schraudolph 2002, Fast curvature matrix-vector products for second-order gradient descent.
    """
    from scipy.sparse.linalg import LinearOperator

    x, y = x.cpu(), y.cpu()
    x = x.double() if x.is_floating_point() else x
    parameters = trainable(model)
    make = {"hessian": _hessian_product, "gauss_newton": _gauss_newton_product}[kind]
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        multiply = make(model, x, y, parameters)
    root = None if preconditioner is None else preconditioner.double().sqrt()
    sizes = [p.numel() for p in parameters]

    def product(vector):
        v = torch.from_numpy(np.array(vector, dtype=np.float64).reshape(-1))
        v = v if root is None else root * v
        found = multiply([part.view_as(p) for part, p in zip(v.split(sizes), parameters)])
        flat = torch.cat([part.flatten() for part in found])
        return (flat if root is None else root * flat).numpy()

    return LinearOperator((sum(sizes), sum(sizes)), matvec=product, dtype=np.float64)


def _gradient(outputs, inputs, weights=None, create_graph=False):
    return torch.autograd.grad(
        outputs,
        inputs,
        weights,
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )


def _hessian_product(model, x, y, parameters) -> Callable:
    """The gradient of gradient . v, the gradient's graph being kept."""
    gradients = _gradient(cross_entropy(model(x), y), parameters, create_graph=True)

    def multiply(v):
        return _gradient(sum((g * part).sum() for g, part in zip(gradients, v)), parameters)

    return multiply


def _gauss_newton_product(model, x, y, parameters) -> Callable:
    """J^T (diag(p) - p p^T) J v / N over N positions; J v is the derivative of J^T u . v in u."""
    logits = model(x).flatten(0, -2)
    p = logits.detach().softmax(-1)
    u = torch.zeros_like(logits, requires_grad=True)
    transposed = _gradient(logits, parameters, u, create_graph=True)

    def multiply(v):
        (jv,) = _gradient(sum((g * part).sum() for g, part in zip(transposed, v)), u)
        inner = (p * jv - p * (p * jv).sum(-1, keepdim=True)) / len(logits)
        return _gradient(logits, parameters, inner)

    return multiply


def largest_eigenvalues(operator, count: int, generator: np.random.Generator) -> np.ndarray:
    """The algebraically largest eigenvalues, in descending order, by Lanczos' method from a seeded start.

    Parameters
    ----------
    operator : LinearOperator
        (P, P), symmetric.
    count : int
        Fewer than P.
    generator : numpy.random.Generator
    """
    from scipy.sparse.linalg import eigsh

    start = generator.standard_normal(operator.shape[0])
    return np.sort(eigsh(operator, count, which="LA", v0=start, tol=1e-4, return_eigenvectors=False))[::-1]


def trace(operator, samples: int, generator: np.random.Generator) -> tuple[float, float]:
    """Hutchinson's unbiased estimate of the trace, and its standard error.

    Parameters
    ----------
    operator : LinearOperator
    samples : int
        Products with a vector of random signs, at least 2.
    generator : numpy.random.Generator

    References
    ----------
    Hutchinson 1990, A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines.
    """
    signs = 1.0 - 2.0 * generator.integers(0, 2, (samples, operator.shape[0]))
    values = np.array([v @ operator.matvec(v) for v in signs])
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(samples))


def spectral_density(
    operator, steps: int, generator: np.random.Generator, starts: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The density of the eigenvalues by stochastic Lanczos quadrature.

    Parameters
    ----------
    operator : LinearOperator
    steps : int
        Of Lanczos' method, with full reorthogonalisation; at most P.
    generator : numpy.random.Generator
    starts : int
        Random start vectors, averaged.

    Returns
    -------
    nodes, weights : arrays
        The density is the sum of weights at the nodes; weights sum to 1.

    References
    ----------
    Ghorbani, Krishnan & Xiao 2019, An investigation into neural net optimization via Hessian eigenvalue density (1901.10159).
    """
    nodes, weights = [], []
    for _ in range(starts):
        diagonal, off = _lanczos(operator, steps, generator.standard_normal(operator.shape[0]))
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
        nodes.append(values)
        weights.append(vectors[0] ** 2 / starts)
    return np.concatenate(nodes), np.concatenate(weights)


def _lanczos(operator, steps, start):
    """Diagonal and off-diagonal of the tridiagonal matrix."""
    basis, diagonal, off = [start / np.linalg.norm(start)], [], []
    for k in range(min(steps, len(start))):
        w = operator.matvec(basis[k])
        diagonal.append(basis[k] @ w)
        for _ in range(2):  # once loses orthogonality
            w = w - np.array(basis).T @ (np.array(basis) @ w)
        norm = np.linalg.norm(w)
        if norm < 1e-10 * max(1.0, abs(diagonal[0])) or k + 1 == min(steps, len(start)):
            break
        off.append(norm)
        basis.append(w / norm)
    return np.array(diagonal), np.array(off[: len(diagonal) - 1])
