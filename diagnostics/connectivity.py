"""The straight line between two trained models: loss and disagreement along it, its barrier, and weight matching.

path = losses_along(model_a, model_b, loss_of)
barrier(path)
aligned = matched(model_b, model_a)     # model_b with its units permuted to resemble model_a
"""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch

POINTS = 11
ROUNDS = 20  # of coordinate descent at most


def interpolated(model_a, model_b, a: float):
    """A model with weights (1 - a) w_a + a w_b; everything else is model_a's."""
    model = copy.deepcopy(model_a)
    with torch.no_grad():
        for p, other in zip(model.parameters(), model_b.parameters(), strict=True):
            p.lerp_(other.to(p.dtype), a)
    return model


def along_line(model_a, model_b, measure: Callable, points: int = POINTS) -> np.ndarray:
    """Values of a function of a model at evenly spaced points of the line, both ends included.

    Parameters
    ----------
    model_a, model_b : nn.Module
        Of one architecture and size.
    measure : function
        Model -> number: its loss, or its disagreement with an end.

    Returns
    -------
    (points,) array
    """
    return np.array([measure(interpolated(model_a, model_b, a)) for a in np.linspace(0, 1, points)])


def barrier(losses: Sequence[float]) -> float:
    """The maximum over a of L(a) - [(1 - a) L(0) + a L(1)]; 0 if no point lies above the line between both ends.

    Parameters
    ----------
    losses : (n,) sequence
        At evenly spaced a from 0 to 1, ends included; at least 11 points are customary.

    References
    ----------
    Frankle et al. 2020, Linear mode connectivity and the lottery ticket hypothesis (1912.05671).
    """
    losses = np.asarray(losses, dtype=np.float64)
    a = np.linspace(0, 1, len(losses))
    return float((losses - (1 - a) * losses[0] - a * losses[-1]).max())


# --- weight matching --------------------------------------------------------------------------------------------------


def matched(model, reference):
    """A copy of a transformer whose heads, hidden units and residual channels are permuted to resemble a reference.

    The copy computes the same function. Coordinate descent: each permutation in turn maximises the inner product of all
    weights that it touches, the others being fixed, until none changes.

    Parameters
    ----------
    model, reference : CharLM, MiniGPT or NanoTransformer
        Of one class and size, ungated.

    Returns
    -------
    nn.Module

    Raises
    ------
    ValueError
        Another architecture, or a gated activation: its symmetries are not known here.

    References
    ----------
    Ainsworth, Hayase & Srinivasa 2023, Git re-basin (2209.04836).
    Theus et al. 2025, Generalized linear mode connectivity for transformers (2506.22712).
    """
    from architectures.networks import MiniGPT, NanoTransformer
    from model import CharLM

    if type(model) not in (CharLM, MiniGPT, NanoTransformer) or type(reference) is not type(model):
        raise ValueError(
            f"weight matching knows the symmetries of CharLM, MiniGPT and NanoTransformer, not those of {type(model).__name__}"
        )
    feed_forward = model.blocks[0].feed_forward
    if feed_forward.expand.weight.shape[0] != feed_forward.contract.weight.shape[1]:
        raise ValueError("weight matching does not know the symmetries of gated activations")
    model = copy.deepcopy(model)
    symmetries = _symmetries_of(model)
    own, target = (dict(m.named_parameters()) for m in (model, reference))
    with torch.no_grad():
        for _ in range(ROUNDS):
            changed = [_improve(own, target, places, size) for places, size in symmetries]
            if not any(changed):
                break
    return model


def _symmetries_of(model):
    """[(places, number of units)]: the (parameter, axis, block) that one permutation acts on; block: entries per unit.

    MiniGPT has no head of its own, NanoTransformer no biases.
    """
    width = model.token_embedding.weight.shape[1]
    residual = [("token_embedding.weight", 1, 1), ("position_embedding.weight", 1, 1), ("head.weight", 1, 1)]
    residual += [(f"norm.{kind}", 0, 1) for kind in ("weight", "bias")]
    found = []
    for k, block in enumerate(model.blocks):
        name, n_head = f"blocks.{k}", block.attention.n_head
        residual += [(f"{name}.{norm}.{kind}", 0, 1) for norm in ("norm1", "norm2") for kind in ("weight", "bias")]
        inputs = [f"{name}.attention.{kind}" for kind in ("query", "key", "value")]
        residual += [(f"{layer}.weight", 1, 1) for layer in (*inputs, f"{name}.feed_forward.expand")]
        outputs = (f"{name}.attention.projection", f"{name}.feed_forward.contract")
        residual += [(f"{layer}.{kind}", 0, 1) for layer in outputs for kind in ("weight", "bias")]
        size = width // n_head
        heads = [(f"{layer}.{kind}", 0, size) for layer in inputs for kind in ("weight", "bias")]
        found.append(([*heads, (f"{outputs[0]}.weight", 1, size)], n_head))
        hidden = [(f"{name}.feed_forward.expand.{kind}", 0, 1) for kind in ("weight", "bias")]
        units = block.feed_forward.expand.weight.shape[0]
        found.append(([*hidden, (f"{outputs[1]}.weight", 1, 1)], units))
    own = dict(model.named_parameters())
    return [([place for place in places if place[0] in own], n) for places, n in [(residual, width), *found]]


def _improve(own, target, places, units):
    """Permutes the units that resemble the target's best into place; whether anything changed."""
    from scipy.optimize import linear_sum_assignment

    gain = torch.zeros(units, units, dtype=torch.float64)
    for name, axis, block in places:
        a, b = (_by_unit(p[name], axis, units, block).double() for p in (target, own))
        gain += a @ b.T
    _, order = linear_sum_assignment(gain.numpy(), maximize=True)
    if gain[range(units), order].sum() <= gain.trace() + 1e-9 * gain.abs().sum():
        return False
    for name, axis, block in places:
        index = (torch.as_tensor(order)[:, None] * block + torch.arange(block)).flatten()
        own[name].copy_(own[name].index_select(axis, index))
    return True


def _by_unit(parameter, axis, units, block):
    """(units, rest): a parameter with the entries of each unit in a row."""
    return parameter.detach().movedim(axis, 0).reshape(units, -1)
