"""Trials whose training step is compiled by torch.compile as a whole, forward and backward.

Compiled code cannot draw dropout masks by address, so the masks of a step are drawn before it and passed in. It rounds
differently from the plain step, so `compiled` is part of a trial's identity.

Shapes: B sequences, T characters, V characters in the vocabulary.
"""

import contextlib
import copy
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

import randomness
from architectures import networks
from architectures.registry import build_model
from common.errors import UserError
from model import Attention, Dropout, address_dropout
from tasks.base import SupervisedTask, Task, autocast, cross_entropy
from training.step import SingleTrial, set_learning_rate

MOST_ONE_HOT = 1024  # largest vocabulary that is one-hot encoded


class CompiledTrial(SingleTrial):
    """A trial with a compiled step."""

    def __init__(self, trial, task):
        super().__init__(trial, task)
        self.skeleton, self.loss = compiled_loss(trial, task.model_sizes)
        self.shapes = mask_shapes(self.skeleton, trial.config, task)
        self.tensors = dict(self.model.named_parameters()) | dict(self.model.named_buffers())

    def update(self, step):
        """One training step; returns the loss before it."""
        config, device = self.trial.config, self.trial.device
        address_dropout(self.model, self.trial.seed_of("dropout", step), step)
        set_learning_rate(self.optimizer, config, step)
        generator = randomness.generator(self.trial.seed_of("data", step), "data", step)
        x, y = self.task.draw_batch(generator, config, device)
        tensors = self.tensors | draw_masks(self.model, self.shapes, device)
        loss = self.loss(self.skeleton, config, device, tensors, x, y)
        self.minimize(loss)
        return loss.detach()


_last_compiled: dict = {}  # what the last compiled loss depends on, and what `compiled_loss` returned


def compiled_loss(trial, model_sizes):
    """(skeleton, compiled `mean_loss`); the same as for the previous trial if only the seeds differ.

    Compiling takes a minute on a CPU, and a worker trains an activation's trials one after another. The compiled step is
    deterministic because `prepare_torch` requires deterministic algorithms.
    """
    what = (trial.architecture, trial.activation, trial.config, trial.device, model_sizes)
    if _last_compiled.get("what") != what:
        torch.compiler.reset()  # else it would reject the ninth function of a process
        skeleton = skeleton_of(build_model(trial.architecture, trial.activation, trial.config, model_sizes))
        found = skeleton, torch.compile(mean_loss, fullgraph=True, dynamic=False)
        _last_compiled.update(what=what, found=found)
    return _last_compiled["found"]


def mean_loss(skeleton, config, device, tensors, x, y):
    """The mean loss of a batch, in nats per character.

    Parameters
    ----------
    skeleton : nn.Module
        From `skeleton_of`.
    tensors : dict
        Name -> tensor: weights, buffers and the dropout masks from `draw_masks`.
    x, y : (B, T) tensors
        Characters and next characters.
    """
    with autocast(config, device):
        logits = functional_call(skeleton, tensors, (x,))
    return one_hot_loss(logits, y) if logits.shape[-1] <= MOST_ONE_HOT else cross_entropy(logits, y)


# --- operations without a scatter-add ----------------------------------------------------------------------------------

# In a compiled step, PyTorch's backward passes of embedding and cross-entropy become scatter-adds. The deterministic
# ones add positions of the same character sequentially, which is slow for text. Products with one-hot matrices are
# equivalent and need no scatter-add.


def skeleton_of(model):
    """A copy of a model on the meta device (no weights), in training mode, built from operations to be compiled."""
    skeleton = copy.deepcopy(model).to("meta").train()
    for module in skeleton.modules():
        if isinstance(module, Attention):
            module.written_out = True
        elif type(module) is nn.Embedding and module.num_embeddings <= MOST_ONE_HOT:
            module.__class__ = OneHotEmbedding
    return skeleton


class OneHotEmbedding(nn.Embedding):
    """An embedding as a product with a one-hot matrix, in its weights' dtype, so that rows are copied exactly."""

    def forward(self, tokens):
        kind = self.weight.device.type
        with contextlib.nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False):
            return one_hot(tokens, self.num_embeddings, self.weight.dtype) @ self.weight


def one_hot(tokens, size, dtype):
    """One-hot encoding, (..., V)."""
    return (tokens[..., None] == torch.arange(size, device=tokens.device)).to(dtype)


def one_hot_loss(logits, targets):
    """tasks.base.cross_entropy without indexing: mean cross-entropy in nats; logits (B, T, V), targets (B, T)."""
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return -(log_p * one_hot(targets, logits.shape[-1], log_p.dtype)).sum(-1).mean()


# --- dropout -----------------------------------------------------------------------------------------------------------


def mask_shapes(skeleton, config, task) -> dict:
    """Name of each dropout that draws a mask -> its shape for one batch, found by a forward pass on the meta device."""
    probe, shapes = copy.deepcopy(skeleton), {}

    def note(name, shape, device):
        if shapes.setdefault(name, shape) != shape:
            raise UserError(
                f"the dropout {name} is applied to two shapes, which cannot be compiled; give --compile off"
            )
        return torch.empty(shape, dtype=torch.int16, device=device)

    for name, module in probe.named_modules():
        if isinstance(module, Dropout):
            module.levels = partial(note, name)
    x, _ = task.draw_batch(np.random.default_rng(0), config, "cpu")
    probe(x.to("meta"))
    return shapes


def draw_masks(model, shapes, device) -> dict:
    """Name of each dropout's `given` -> bool mask (True: value kept), drawn from the address set in the model."""
    dropouts = {name: model.get_submodule(name) for name in shapes}
    return {
        f"{name}.given": dropout.levels(shapes[name], torch.device(device)) >= dropout.threshold
        for name, dropout in dropouts.items()
    }


# --- what can be compiled ----------------------------------------------------------------------------------------------


def check_can_be_compiled(architecture, activation, config, task) -> None:
    """Raises UserError if the training step of a model cannot be compiled as a whole, or not in a reasonable time."""
    name = f"{architecture} with {activation}"
    if (
        type(task).training_loss is not SupervisedTask.training_loss
        or type(task).training_step is not Task.training_step
    ):
        raise UserError(
            f"the task {task.name} cannot be compiled, since it defines its own training step; give --compile off"
        )
    model = build_model(architecture, activation, config, task.model_sizes)
    if recurrent := [type(module).__name__ for module in model.modules() if isinstance(module, nn.RNNBase)]:
        raise UserError(
            f"{name} cannot be compiled: its {recurrent[0]} is a single PyTorch operation; give --compile off"
        )
    if any(isinstance(module, networks.ElmanLayer) for module in model.modules()):
        raise UserError(f"{name} unrolls one step per character, which takes too long to compile; give --compile off")
    try:
        mask_shapes(skeleton_of(model), config, task)
    except RuntimeError as error:  # such as a branch that depends on the data
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name} cannot be compiled ({reason}); give --compile off") from error
