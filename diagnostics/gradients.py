"""The gradient of the loss at a trained model: its norm, its noise scale, and the critical step along AdamW's direction.

    seen = gradient_statistics(model, batches, config)
    noise_scale(seen.moments), critical_rate(loss_along(model, adamw_direction(seen, ...), batches, config), 1e-3)

Everything is measured without dropout and leaves weights and gradients unchanged. P: number of parameters.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tasks.base import autocast, cross_entropy

EPSILON = 1e-8  # AdamW's, PyTorch's default
LARGEST_RATE = 1e6
HALVINGS = 10  # bisection steps


@dataclass(frozen=True)
class Moments:
    """Of a batch: |mean gradient|^2, the mean of |gradient|^2 over its sequences, and the number of sequences."""

    of_mean: float
    of_each: float
    n: int


@dataclass(frozen=True)
class GradientStatistics:
    """Statistics over batches at the same weights. mean, mean_square: (P,), of the batches' gradients."""

    mean: torch.Tensor
    mean_square: torch.Tensor
    moments: tuple[Moments, ...]

    @property
    def norm(self) -> float:
        """The Euclidean norm of the mean gradient."""
        return float(self.mean.norm())


def gradient_statistics(model, batches: Sequence[tuple], config) -> GradientStatistics:
    """Statistics of the gradients of single sequences and of batches.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    batches : sequence of (x, y)
        Inputs (B, ...) and targets (B, T); whole sequences are the independent units.

    Returns
    -------
    GradientStatistics
        Takes the memory of four models, independent of the number of sequences.
    """
    mean = mean_square = torch.zeros(())
    moments = []
    for x, y in batches:
        total, squares = torch.zeros(()), 0.0
        for k in range(len(x)):
            gradient = flat_gradient(model, x[k : k + 1], y[k : k + 1], config)
            total = total + gradient
            squares += float(gradient.square().sum())
        batch = total / len(x)
        moments.append(Moments(float(batch.square().sum()), squares / len(x), len(x)))
        mean, mean_square = mean + batch / len(batches), mean_square + batch.square() / len(batches)
    return GradientStatistics(mean, mean_square, tuple(moments))


def trainable(model) -> list[torch.Tensor]:
    """The parameters that training changes."""
    return [p for p in model.parameters() if p.requires_grad]


def flat_gradient(model, x, y, config) -> torch.Tensor:
    """(P,) float64: the gradient of the mean loss of a batch."""
    parameters = trainable(model)
    with autocast(config, x.device):
        logits = model(x)
    found = torch.autograd.grad(cross_entropy(logits, y), parameters, allow_unused=True)
    parts = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found)]
    return torch.cat([part.double().flatten() for part in parts])


def noise_and_signal(moments: Sequence[Moments]) -> tuple[float, float]:
    """tr(S), the variance of a sequence's gradient summed over parameters, and |G|^2, both estimated without bias.

    |G|^2 may come out negative. Means over the batches; raises ValueError if one has a single sequence.
    """
    if any(m.n < 2 for m in moments):
        raise ValueError("the noise scale needs at least two sequences in a batch; take a larger --batch-size")
    noise = [(m.of_each - m.of_mean) * m.n / (m.n - 1) for m in moments]
    signal = [m.of_mean - trace / m.n for m, trace in zip(moments, noise)]
    return sum(noise) / len(moments), sum(signal) / len(moments)


def noise_scale(moments: Sequence[Moments]) -> float | None:
    """The simple gradient noise scale tr(S) / |G|^2, in sequences: the batch size beyond which larger ones stop helping.

    Both are averaged over the batches before dividing, since a mean of noisy ratios is biased.

    Returns
    -------
    float or None
        None if there are too few batches to distinguish |G|^2 from 0.

    References
    ----------
    McCandlish et al. 2018, An empirical model of large-batch training (arXiv 1812.06162), appendix A.1.
    """
    noise, signal = noise_and_signal(moments)
    return noise / signal if signal > 0 else None


def adamw_direction(seen: GradientStatistics, parameters: torch.Tensor, weight_decay: float) -> torch.Tensor:
    """(P,) AdamW's step per unit of learning rate, with its moments estimated from these batches at these weights.

    A checkpoint does not contain the optimizer's moments.
    """
    return seen.mean / (seen.mean_square.sqrt() + EPSILON) + weight_decay * parameters


def loss_along(model, direction: torch.Tensor, batches: Sequence[tuple], config) -> Callable[[float], float]:
    """rate -> the mean loss of the batches at weights - rate * direction; the model is left as it was after each call."""
    parameters = trainable(model)
    steps = [part.view_as(p) for part, p in zip(direction.split([p.numel() for p in parameters]), parameters)]

    @torch.no_grad()
    def loss(rate: float) -> float:
        before = [p.clone() for p in parameters]
        try:
            for p, step in zip(parameters, steps):
                p.copy_(p.double() - rate * step)
            losses = []
            for x, y in batches:
                with autocast(config, x.device):
                    logits = model(x)
                losses.append(float(cross_entropy(logits, y)))
        finally:
            for p, old in zip(parameters, before):
                p.copy_(old)
        return sum(losses) / len(losses)

    return loss


def critical_rate(loss: Callable[[float], float], first: float) -> float:
    """The smallest step length at which the loss along a direction exceeds its value at 0, by forward passes only.

    Critical sharpness is 2 / this: for a quadratic loss and the gradient's direction g it is g'Hg / g'g.

    Parameters
    ----------
    loss : function
        Step length -> loss; a non-finite value counts as exceeding.
    first : float
        Start of the search, such as the learning rate. It doubles or halves from there, then bisects to 0.1%.

    Returns
    -------
    float
        0 if the loss rises for every step length, inf if it does not rise up to LARGEST_RATE.

    References
    ----------
    arXiv 2601.16979 (critical sharpness along the update direction).
    """
    start, low, high = loss(0.0), 0.0, first
    while not _rises(loss(high), start):
        low, high = high, 2 * high
        if high > LARGEST_RATE:
            return math.inf
    while low == 0.0:
        if high < 1e-12:
            return 0.0
        middle = high / 2
        low, high = (0.0, middle) if _rises(loss(middle), start) else (middle, high)
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _rises(loss(middle), start) else (middle, high)
    return math.sqrt(low * high)


def _rises(value, start):
    return not value <= start  # NaN rises
