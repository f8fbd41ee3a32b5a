"""Distance of activations on the inputs that they receive in a model, and the share of parameters behind them.

The next layer's weights and bias can absorb an affine map a x + b of an activation's output per channel, so distances
are measured up to such maps. Scaling of the *input* is not absorbed.
"""

import math

import torch

from activations import get_activation
from tasks.base import autocast, cross_entropy

MOST_ROWS = 2048  # of an activation's inputs


def aligned_distance(u: torch.Tensor, v: torch.Tensor) -> float:
    """sqrt(1 - R^2) of two activations' outputs (N, C) after the best affine map per channel; 0 to 1, symmetric.

    Its square is the fraction of variance that the other output does not explain, averaged over the two directions, with
    channels weighted by their variance. 0 for constant outputs.
    """
    u, v = u - u.mean(0), v - v.mean(0)
    uu, vv, uv = u.square().sum(0), v.square().sum(0), (u * v).sum(0)
    explained = torch.where(uu * vv > 0, uv.square() / (uu * vv).clamp_min(1e-300), torch.ones_like(uu)).clamp(max=1)
    shares = [float((var * (1 - explained)).sum() / var.sum()) if var.sum() > 0 else 0.0 for var in (uu, vv)]
    return math.sqrt(sum(shares) / 2)


@torch.no_grad()
def observed_inputs(model, x, config) -> tuple[list[torch.Tensor], int]:
    """([(N, C) float64 inputs of each activation module], number of activation calls) in one forward pass."""
    seen: dict[str, list[torch.Tensor]] = {}

    def note(name):
        return lambda module, inputs: seen.setdefault(name, []).append(inputs[0].double().flatten(0, -2).cpu())

    modules = [(name, m) for name, m in model.named_modules() if getattr(m, "is_activation", False)]
    handles = [m.register_forward_pre_hook(note(name)) for name, m in modules]
    try:
        with autocast(config, x.device):
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    rows = [torch.cat(parts) for parts in seen.values()]
    return [part[:: math.ceil(len(part) / MOST_ROWS)] for part in rows], sum(map(len, seen.values()))


@torch.no_grad()
def largest_distance(inputs: list[torch.Tensor], names: list[str]) -> float | None:
    """The largest `aligned_distance` of any two of the activations, averaged over the modules' inputs.

    None if two cannot be compared because only one of them is gated.
    """
    distances = []
    outputs = [[get_activation(name)(z).double() for z in inputs] for name in names]
    for i, one in enumerate(outputs):
        for other in outputs[:i]:
            if any(a.shape != b.shape for a, b in zip(one, other)):
                return None
            distances.append(sum(aligned_distance(a, b) for a, b in zip(one, other)) / len(inputs))
    return max(distances)


def share_behind(model, x, y, config) -> float:
    """The fraction of a model's parameters whose gradient flows only through activations."""
    modules = [m for m in model.modules() if getattr(m, "is_activation", False)]
    handles = [m.register_forward_hook(lambda module, inputs, output: output.detach()) for m in modules]
    parameters = [p for p in model.parameters() if p.requires_grad]
    try:
        with autocast(config, x.device):
            loss = cross_entropy(model(x), y)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    behind = sum(p.numel() for p, g in zip(parameters, gradients) if g is None)
    return behind / sum(p.numel() for p in parameters)
