"""Comparisons: numbers about two trained models of one architecture, by name.

    python diagnose.py results --comparisons gradient_cosine barrier

A comparison takes two models, a fixed batch, a generator of its own, the configuration and the names of the two activations,
and returns numbers by name. It changes neither model. To add one, write a function here and name it in COMPARISONS.
"""

from collections.abc import Callable

import numpy as np
import torch

import metrics
from diagnostics import connectivity, kernels
from diagnostics.gradients import flat_gradient
from diagnostics.units import outputs_of_activations
from tasks.base import autocast, cross_entropy


def gradient_cosine(one, other, batch, generator, config, activations) -> dict[str, float]:
    """The cosine of the two models' gradients on the same batch."""
    g, h = (flat_gradient(model, *batch, config) for model in (one, other))
    norms = float(g.norm() * h.norm())
    return {"cosine": float(g @ h) / norms if norms > 0 else 0.0}


def representation_similarity(one, other, batch, generator, config, activations) -> dict[str, float]:
    """Debiased linear CKA of the outputs of each activation module, by its place; compares trials of equal depth."""
    outputs = [
        outputs_of_activations(m, batch[0], config, name) for m, name in zip((one, other), activations, strict=True)
    ]
    return {f"activation {k}": kernels.linear_cka(*pair) for k, pair in enumerate(zip(*outputs), 1)}


def tangent_kernel_alignment(one, other, batch, generator, config, activations) -> dict[str, float]:
    """Centred alignment of the two models' empirical tangent kernels."""
    found = (kernels.tangent_kernel(model, batch[0], kernels.POSITIONS, config) for model in (one, other))
    return {"alignment": kernels.kernel_alignment(*found)}


def barrier(one, other, batch, generator, config, activations) -> dict[str, float]:
    """The loss barrier on the straight line between the models, with relative PD to the first at its middle.

    Both ends, and all between, are evaluated with the first model's activation.
    """
    return _barrier(one, other, batch, config)


def barrier_after_matching(one, other, batch, generator, config, activations) -> dict[str, float]:
    """`barrier` once the second model's units are permuted to resemble the first's (transformers)."""
    return _barrier(one, connectivity.matched(other, one), batch, config)


def _barrier(one, other, batch, config):
    losses, predictions = [], []

    @torch.no_grad()
    def loss(model):
        with autocast(config, batch[0].device):
            logits = model(batch[0]).float()
        predictions.append(logits.log_softmax(-1).numpy())
        losses.append(float(cross_entropy(logits, batch[1])))
        return losses[-1]

    path = connectivity.along_line(one, other, loss)
    middle = metrics.compare_brief(predictions[0], predictions[len(path) // 2])["relative_pd"]
    return {"barrier": connectivity.barrier(path), "loss_first": path[0], "loss_second": path[-1], "pd_middle": middle}


COMPARISONS: dict[str, Callable] = {
    "gradient_cosine": gradient_cosine,
    "representation_similarity": representation_similarity,
    "tangent_kernel": tangent_kernel_alignment,
    "barrier": barrier,
    "barrier_after_matching": barrier_after_matching,
}


def compare_models(name: str, one, other, batch, generator: np.random.Generator, config, activations) -> dict:
    """A comparison's numbers as plain floats."""
    found = COMPARISONS[name](one, other, batch, generator, config, activations)
    return {key: float(value) for key, value in found.items()}
