"""Several trials as one batched model: small models leave most of a large GPU idle, a pack of them fills it.

A pack has a fixed number N of slots. N is part of the identity of its trials, because batched arithmetic rounds
differently for each N. Trial k sits in slot (k - 1) mod N of pack (k - 1) // N. If a study does not fill its last pack,
the remaining slots train the trials that would come next and their results are discarded. So a trial has the same
companions, and is bit-identical, however many trials the study has. Each random draw uses its own trial's address, and
no operation mixes slots: a trial that diverges does not affect the others.

A compiled single trial is a stack of one: its dropout masks are drawn before the step, so the step can be compiled as a
whole. The training loop in train.py updates either a `SingleTrial` or a `Stack`.

Shapes: N slots, B sequences, T characters, V characters in the vocabulary. Parameters have a leading dimension N.
"""

import contextlib
import copy
import math
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.multiprocessing.reductions import StorageWeakRef

import randomness
from architectures import networks
from common.errors import UserError
from model import Attention, Dropout, linear_in_one_type
from tasks.base import SupervisedTask, Task, autocast, cross_entropy
from training.step import build, make_optimizer, set_learning_rate
from training.trial import stream_seeds

MOST_ONE_HOT = 1024  # largest vocabulary that is one-hot encoded


def pack_of(trial, seed_base, vary) -> tuple:
    """The trials of a trial's pack, in slot order.

    Parameters
    ----------
    trial : Trial
        Its `pack` is the number of slots.
    seed_base, vary
        Of the study; they determine the seeds of the other trials.
    """

    def companion(number):
        seeds = stream_seeds(seed_base, number, vary)
        return replace(trial, number=number, seed=seed_base + number - 1, seeds=seeds)

    first = (trial.number - 1) // trial.pack * trial.pack + 1
    return tuple(trial if k == trial.number else companion(k) for k in range(first, first + trial.pack))


class Stack:
    """N trials as one batched model, with the interface of step.SingleTrial."""

    def __init__(self, trials, task):
        self.trials, self.config, self.device = trials, trials[0].config, trials[0].device
        self.task = task
        models = [build(trial, task.model_sizes) for trial in trials]
        self.parameters, self.buffers = stack_module_state(models)
        self.single = models[0]  # receives the weights of any slot for evaluation
        self.base, self.losses = stateless(models[0]), stacked_losses
        if trials[0].compiled:
            self.base, self.losses = _compiled(trials, task.model_sizes, self.base)
        self.shapes = mask_shapes(self.base, self.config, task)
        self.optimizer = make_optimizer(self.parameters.values(), self.config)

    @torch.no_grad()
    def model_of(self, slot):
        """The model of one slot as an ordinary module; valid until the next call."""
        for name, tensor in (*self.single.named_parameters(), *self.single.named_buffers()):
            tensor.copy_((self.parameters if name in self.parameters else self.buffers)[name][slot])
        return self.single

    def update(self, step):
        """One training step of every slot; returns the (N,) losses before it."""
        set_learning_rate(self.optimizer, self.config, step)
        generators = [randomness.generator(trial.seeds["data"], "data", step) for trial in self.trials]
        batches = [self.task.draw_batch(generator, self.config, self.device) for generator in generators]
        x, y = (torch.stack(part) for part in zip(*batches))  # (N, B, T)
        given = draw_masks(self.base, self.shapes, self.trials, step)
        losses = self.losses(self.base, self.config, self.device, self.parameters, self.buffers, given, x, y)
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()  # a slot's loss depends on its own weights only, so this gives each its own gradient
        self.optimizer.step()
        return losses.detach()

    def state(self):
        """What is needed to resume from here."""
        return {
            "parameters": {name: tensor.detach() for name, tensor in self.parameters.items()},
            "buffers": self.buffers,
            "optimizer": self.optimizer.state_dict(),
        }

    @torch.no_grad()
    def load(self, state):
        """Resumes from what `state` returned."""
        for kind in ("parameters", "buffers"):
            for name, tensor in getattr(self, kind).items():
                tensor.copy_(state[kind][name])
        self.optimizer.load_state_dict(state["optimizer"])


_last_compiled = {}  # what a compiled step depends on -> (base, function); holds one entry


def _compiled(trials, model_sizes, base):
    """(base, compiled `stacked_losses`); reused from the previous stack if only the seeds differ.

    Compiling takes a minute, and a worker trains an activation's trials one after another. The compiled step is
    deterministic because `prepare_torch` requests deterministic algorithms.
    """
    trial = trials[0]
    what = (trial.architecture, trial.activation, trial.config, trial.device, len(trials), model_sizes)
    if what not in _last_compiled:
        _last_compiled.clear()
        torch.compiler.reset()  # else it would reject the ninth function of a process
        _last_compiled[what] = base, torch.compile(stacked_losses, fullgraph=True, dynamic=False)
    return _last_compiled[what]


def stacked_losses(base, config, device, parameters, buffers, given, x, y):
    """(N,) mean loss of each slot on its own batch, in nats per character.

    Parameters
    ----------
    base : nn.Module
        From `stateless`.
    parameters, buffers, given : dict
        Name -> tensor (N, ...): weights, buffers and the dropout masks from `draw_masks`.
    x, y : (N, B, T) tensors
        Characters and next characters.
    """

    def loss(parameters, buffers, given, x, y):
        with autocast(config, device):
            logits = functional_call(base, {**parameters, **buffers, **given}, (x,))
        return one_hot_loss(logits, y) if logits.shape[-1] <= MOST_ONE_HOT else cross_entropy(logits, y)

    if len(x) == 1:  # nothing to batch
        alone = [{name: t.squeeze(0) for name, t in tensors.items()} for tensors in (parameters, buffers, given)]
        return loss(*alone, x[0], y[0])[None]
    return vmap(loss)(parameters, buffers, given, x, y)


# --- operations that can be batched and compiled ----------------------------------------------------------------------

# Under vmap, or in a compiled step, PyTorch's backward passes of embedding and cross-entropy become scatter-adds. The
# deterministic ones add positions of the same character sequentially, which is slow for text. Products with one-hot
# matrices are equivalent and need no scatter-add.


def stateless(model):
    """A copy of a model on the meta device (no weights), built from operations that can be batched."""
    base = copy.deepcopy(model).to("meta").train()
    for module in base.modules():
        if isinstance(module, Attention):
            module.written_out = True
        elif type(module) is nn.Linear:
            module.__class__ = BatchedLinear
        elif type(module) is nn.Embedding and module.num_embeddings <= MOST_ONE_HOT:
            module.__class__ = OneHotEmbedding
    return base


class OneHotEmbedding(nn.Embedding):
    """An embedding as a product with a one-hot matrix, in its weights' dtype, so that rows are copied exactly."""

    def forward(self, tokens):
        kind = self.weight.device.type
        with contextlib.nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False):
            return one_hot(tokens, self.num_embeddings, self.weight.dtype) @ self.weight


class BatchedLinear(nn.Linear):
    """A linear layer whose output dtype is the same as without batching."""

    def forward(self, x):
        return linear_in_one_type(x, self.weight, self.bias)


def one_hot(tokens, size, dtype):
    """One-hot encoding, (..., V)."""
    return (tokens[..., None] == torch.arange(size, device=tokens.device)).to(dtype)


def one_hot_loss(logits, targets):
    """tasks.base.cross_entropy without indexing: mean cross-entropy in nats; logits (B, T, V), targets (B, T)."""
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return -(log_p * one_hot(targets, logits.shape[-1], log_p.dtype)).sum(-1).mean()


# --- dropout ----------------------------------------------------------------------------------------------------------


def active_dropouts(base) -> dict:
    """Name -> Dropout module, for those with a nonzero probability."""
    return {name: module for name, module in base.named_modules() if isinstance(module, Dropout) and module.active}


def mask_shapes(base, config, task) -> dict:
    """Name of each active dropout -> shape of its mask for one batch, found on the meta device."""
    probe, shapes = copy.deepcopy(base), {}

    def note(name, shape, device):
        if shapes.setdefault(name, shape) != shape:
            raise UserError(f"the dropout {name} is applied to two shapes, which cannot be packed; leave out --pack")
        return torch.empty(shape, dtype=torch.int16, device=device)

    for name, module in active_dropouts(probe).items():
        module.levels = partial(note, name)
    x, _ = meta_batch(config, task)
    probe(x)
    return shapes


def meta_batch(config, task):
    """(x, y) of one batch on the meta device."""
    x, y = task.draw_batch(np.random.default_rng(0), config, "cpu")
    return x.to("meta"), y.to("meta")


def draw_masks(base, shapes, trials, step) -> dict:
    """Name of each dropout's `given` -> (N, ...) bool, True: value kept; each slot's drawn from its own address."""
    device, given = torch.device(trials[0].device), {}
    for name, module in active_dropouts(base).items():
        masks = torch.empty((len(trials), *shapes[name]), dtype=torch.bool, device=device)
        for mask, trial in zip(masks, trials):
            module.seed, module.step = trial.seeds["dropout"], step
            torch.ge(module.levels(shapes[name], device), module.threshold, out=mask)
        given[f"{name}.given"] = masks
    return given


# --- what can be packed, and what fits ----------------------------------------------------------------------------------


def check_can_be_packed(architecture, activation, config, task, compiled=False) -> int:
    """A lower bound on a slot's memory in bytes; raises UserError if PyTorch cannot batch or compile the model.

    Counts weights, gradients and AdamW's two moments in float32, dropout masks, and the tensors saved for the backward
    pass (found by a step on the meta device; half of them under bfloat16, as if all were 16-bit). Temporaries and
    fragmentation are not counted.
    """
    from architectures.registry import build_model

    name = f"{architecture} with {activation}"
    if (
        type(task).training_loss is not SupervisedTask.training_loss
        or type(task).training_step is not Task.training_step
    ):
        raise UserError(f"the task {task.name} cannot be packed or compiled: it defines its own training step")
    model = build_model(architecture, activation, config, task.model_sizes)
    if recurrent := [type(module).__name__ for module in model.modules() if isinstance(module, nn.RNNBase)]:
        raise UserError(
            f"{name} cannot be packed or compiled: its {recurrent[0]} is a single PyTorch operation; leave out --pack and"
            " give --compile off"
        )
    if compiled and any(isinstance(module, networks.ElmanLayer) for module in model.modules()):
        raise UserError(f"{name} unrolls one step per character, which takes too long to compile; give --compile off")
    base = stateless(model)
    try:
        shapes = mask_shapes(base, config, task)
        kept = _bytes_kept(base, config, task, shapes)
    except RuntimeError as error:  # an operation that vmap does not support
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name} cannot be packed or compiled (--pack, --compile): {reason}") from error
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    masks = sum(math.prod(shape) for shape in shapes.values())
    return 16 * n_parameters + masks + kept // (2 if config.dtype == "bfloat16" else 1)


def _bytes_kept(base, config, task, shapes) -> int:
    """Bytes that autograd saves in one slot's step in float32, besides weights and masks."""
    slots = 2
    parameters = {
        name: torch.empty((slots, *p.shape), device="meta", requires_grad=True) for name, p in base.named_parameters()
    }
    buffers = {name: torch.empty((slots, *b.shape), dtype=b.dtype, device="meta") for name, b in base.named_buffers()}
    given = {
        f"{name}.given": torch.empty((slots, *shape), dtype=torch.bool, device="meta") for name, shape in shapes.items()
    }
    x, y = (part.expand(slots, *part.shape).clone() for part in meta_batch(config, task))
    batch = (x, y)
    known = {
        StorageWeakRef(t.untyped_storage()) for t in (*parameters.values(), *buffers.values(), *given.values(), *batch)
    }
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if StorageWeakRef(storage) not in known:
            kept[StorageWeakRef(storage)] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = stacked_losses(base, config.replace(dtype="float32"), "cpu", parameters, buffers, given, x, y)
    losses.sum().backward()
    return sum(kept.values()) // slots


def check_fits(pack, slot_bytes, memory_bytes, what) -> None:
    """Raises UserError if a pack does not fit into a GPU's memory; the message says how many slots do.

    Parameters
    ----------
    pack : int
        Number of slots.
    slot_bytes : int
        From `check_can_be_packed`.
    memory_bytes : int
        Of the GPU.
    what : str
        Name of the model, for the message.
    """
    fits = int(memory_bytes // slot_bytes)
    if fits >= pack:
        return
    advice = f"--pack {fits} may fit" if fits > 1 else "leave out --pack" if fits else "take a smaller size"
    raise UserError(
        f"a pack of {pack} of {what} needs at least {pack * slot_bytes / 1e9:.1f} GB of memory, and the GPU has"
        f" {memory_bytes / 1e9:.1f} GB; {advice}"
    )
