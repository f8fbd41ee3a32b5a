"""Trials of a study stacked into one batched model: small models leave most of a large GPU idle, and a pack fills it.

A pack has a fixed number N of slots, and that number is part of the identity of its trials: the batched arithmetic
rounds otherwise than that of a trial alone, and otherwise for another N. Trial k sits in slot (k - 1) mod N of pack
(k - 1) // N. Where a study does not fill its last pack, the slots that are left train the trials that would come next,
and their results are discarded; so a trial has the same companions, and the same bits, however many trials the study
has. Each draw comes from its own trial's address, as everywhere, and no operation mixes slots: a trial that diverges
leaves its companions alone. torch.compile takes the same path: a trial alone whose step is compiled is a stack of one,
since masks that are drawn ahead leave a step that can be compiled whole.

Shapes: N slots, B sequences, T characters, V characters in the vocabulary. Parameters have a leading dimension N.
A module of its own because train.py's loop needs to know none of this: it trains a `SingleTrial` or a `Stack`.
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

MOST_ONE_HOT = 1024  # characters in a vocabulary that is written out as 0s and 1s


def pack_of(trial, seed_base, vary) -> tuple:
    """The trials of a trial's pack in the order of their slots, itself among them.

    Args:
      trial: a train.Trial whose `pack` is a number.
      seed_base, vary: of its study, which fix its companions.
    """

    def companion(number):
        seeds = stream_seeds(seed_base, number, vary)
        return replace(trial, number=number, seed=seed_base + number - 1, seeds=seeds)

    first = (trial.number - 1) // trial.pack * trial.pack + 1
    return tuple(trial if k == trial.number else companion(k) for k in range(first, first + trial.pack))


class Stack:
    """N trials as one batched model, as the training loop sees them; see step.SingleTrial."""

    def __init__(self, trials, task):
        self.trials, self.config, self.device = trials, trials[0].config, trials[0].device
        self.task = task
        models = [build(trial, task.model_sizes) for trial in trials]
        self.parameters, self.buffers = stack_module_state(models)
        self.single = models[0]  # takes the weights of any slot, to be evaluated as an ordinary model
        self.base, self.losses = stateless(models[0]), stacked_losses
        if trials[0].compiled:
            self.base, self.losses = _compiled(trials, task.model_sizes, self.base)
        self.shapes = mask_shapes(self.base, self.config, task)
        self.optimizer = make_optimizer(self.parameters.values(), self.config)

    @torch.no_grad()
    def model_of(self, slot):
        """The model of a slot as an ordinary one; valid until the next call."""
        for name, tensor in (*self.single.named_parameters(), *self.single.named_buffers()):
            tensor.copy_((self.parameters if name in self.parameters else self.buffers)[name][slot])
        return self.single

    def update(self, step):
        """One step of training of every slot; returns the losses before it, (N,)."""
        set_learning_rate(self.optimizer, self.config, step)
        generators = [randomness.generator(trial.seeds["data"], "data", step) for trial in self.trials]
        batches = [self.task.draw_batch(generator, self.config, self.device) for generator in generators]
        x, y = (torch.stack(part) for part in zip(*batches))  # (N, B, T)
        given = draw_masks(self.base, self.shapes, self.trials, step)
        losses = self.losses(self.base, self.config, self.device, self.parameters, self.buffers, given, x, y)
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()  # no slot's weights are in another's loss, so each gets its own gradient
        self.optimizer.step()
        return losses.detach()

    def state(self):
        """What the pack needs to resume from here."""
        return {
            "parameters": {name: tensor.detach() for name, tensor in self.parameters.items()},
            "buffers": self.buffers,
            "optimizer": self.optimizer.state_dict(),
        }

    @torch.no_grad()
    def load(self, state):
        """Resumes from what `state` gave."""
        for kind in ("parameters", "buffers"):
            for name, tensor in getattr(self, kind).items():
                tensor.copy_(state[kind][name])
        self.optimizer.load_state_dict(state["optimizer"])


_last_compiled = {}  # what a step depends on -> (base, function): one at a time


def _compiled(trials, model_sizes, base):
    """(base, a compiled `stacked_losses`); those of the stack before, where it differs in nothing but seeds.

    Compiling takes a minute, and a worker trains an activation's trials one after another. Deterministic, since
    train.prepare_torch asks all of PyTorch to be.
    """
    trial = trials[0]
    what = (trial.architecture, trial.activation, trial.config, trial.device, len(trials), model_sizes)
    if what not in _last_compiled:
        _last_compiled.clear()
        torch.compiler.reset()  # it would refuse the ninth function of a process
        _last_compiled[what] = base, torch.compile(stacked_losses, fullgraph=True, dynamic=False)
    return _last_compiled[what]


def stacked_losses(base, config, device, parameters, buffers, given, x, y):
    """Each slot's mean loss in nats per character on its own batch: (N,).

    Args:
      base: from `stateless`.
      parameters, buffers, given: name -> tensor (N, ...): the weights, and the dropout masks from `draw_masks`.
      x, y: (N, B, T) characters, and those that follow.
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

# Under vmap, or in a compiled step, PyTorch's own ways back through an embedding and a cross-entropy become scattered
# sums. Those that are deterministic add one position after another where many are the same character, as in a text they
# are. Products with 0s and 1s say the same, and take no such sum.


def stateless(model):
    """A copy of a model that has no weights of its own and computes with operations that can be batched."""
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
    """An embedding as a product with 0s and 1s, in its weights' own type, so that it copies rows exactly."""

    def forward(self, tokens):
        kind = self.weight.device.type
        with contextlib.nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False):
            return one_hot(tokens, self.num_embeddings, self.weight.dtype) @ self.weight


class BatchedLinear(nn.Linear):
    """A linear layer that gives the type that it gives when it is not batched."""

    def forward(self, x):
        return linear_in_one_type(x, self.weight, self.bias)


def one_hot(tokens, size, dtype):
    """(..., V) with a 1 at each token."""
    return (tokens[..., None] == torch.arange(size, device=tokens.device)).to(dtype)


def one_hot_loss(logits, targets):
    """tasks.base.cross_entropy without an index: mean cross-entropy in nats; logits (B, T, V), targets (B, T)."""
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return -(log_p * one_hot(targets, logits.shape[-1], log_p.dtype)).sum(-1).mean()


# --- dropout ----------------------------------------------------------------------------------------------------------


def active_dropouts(base) -> dict:
    """Name -> Dropout, of those that act in training."""
    return {name: module for name, module in base.named_modules() if isinstance(module, Dropout) and module.active}


def mask_shapes(base, config, task) -> dict:
    """Name of each active dropout -> the shape of its mask for one batch; found without computing anything."""
    probe, shapes = copy.deepcopy(base), {}

    def note(name, shape, device):
        if shapes.setdefault(name, shape) != shape:
            raise UserError(f"the dropout {name} is used for two shapes, which a pack cannot do; leave out --pack")
        return torch.empty(shape, dtype=torch.int16, device=device)

    for name, module in active_dropouts(probe).items():
        module.levels = partial(note, name)
    x, _ = meta_batch(config, task)
    probe(x)
    return shapes


def meta_batch(config, task):
    """(x, y) of one batch on the meta device: shapes without numbers."""
    x, y = task.draw_batch(np.random.default_rng(0), config, "cpu")
    return x.to("meta"), y.to("meta")


def draw_masks(base, shapes, trials, step) -> dict:
    """Name of each dropout's `given` -> (N, ...) bool, True where a value is kept; each slot's from its own address."""
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
    """The bytes of memory that a slot needs at the least; a UserError where PyTorch cannot batch, or compile, the model.

    Weights, gradients and AdamW's two moments in float32, the dropout masks, and what a step keeps for its gradient:
    counted in a step on the meta device, which computes nothing. Under bfloat16 half of that last part is counted, as if
    all of it were kept in 16 bits. Temporaries and the allocator's waste come on top.
    """
    from architectures.registry import build_model

    name = f"{architecture} with {activation}"
    if (
        type(task).training_loss is not SupervisedTask.training_loss
        or type(task).training_step is not Task.training_step
    ):
        raise UserError(f"the task {task.name} cannot be packed or compiled: its training step is its own")
    model = build_model(architecture, activation, config, task.model_sizes)
    if recurrent := [type(module).__name__ for module in model.modules() if isinstance(module, nn.RNNBase)]:
        raise UserError(
            f"{name} cannot be packed or compiled: PyTorch runs its {recurrent[0]} as a whole; leave out"
            " --pack, and give --compile off"
        )
    if compiled and any(isinstance(module, networks.ElmanLayer) for module in model.modules()):
        raise UserError(f"{name} takes a step for each character, which is too long to compile; give --compile off")
    base = stateless(model)
    try:
        shapes = mask_shapes(base, config, task)
        kept = _bytes_kept(base, config, task, shapes)
    except RuntimeError as error:  # PyTorch's words for an operation that vmap does not have
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name} cannot be packed or compiled (--pack, --compile): {reason}") from error
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    masks = sum(math.prod(shape) for shape in shapes.values())
    return 16 * n_parameters + masks + kept // (2 if config.dtype == "bfloat16" else 1)


def _bytes_kept(base, config, task, shapes) -> int:
    """Bytes that autograd keeps of one slot's step in float32, weights and given masks aside."""
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
    """A UserError where a GPU's memory cannot hold a pack; it says what fits.

    Args:
      pack: the number of slots.
      slot_bytes: what a slot needs at the least, from `check`.
      memory_bytes: the GPU's memory.
      what: names the model in the sentence.
    """
    fits = int(memory_bytes // slot_bytes)
    if fits >= pack:
        return
    advice = f"--pack {fits} may fit" if fits > 1 else "leave out --pack" if fits else "take a smaller size"
    raise UserError(
        f"a pack of {pack} of {what} needs at least {pack * slot_bytes / 1e9:.1f} GB of memory, and the GPU has"
        f" {memory_bytes / 1e9:.1f} GB; {advice}"
    )
