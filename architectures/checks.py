"""Checks that an architecture with an activation works correctly, made before training.

    problems = check("my_model", "relu", ConfigCPU())      # sentences; [] if all checks pass
    problems = check("cnn", "relu", ConfigCPU(), load_task("images"))

Tests apply them to every built-in architecture and activation; scripts and the notebook to user-defined ones. A check
is a function of a `Case` that returns a sentence describing the problem, or None. All run at tiny sizes (`tiny_config`),
on random characters or on a few examples of another task.
"""

import math
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import activations
import randomness
from architectures import global_state, registry
from architectures.registry import build_model, initialize
from common import checkpoint_files
from common.errors import UserError
from config import Config
from model import address_dropout

VOCABULARY = 11
TOLERANCE = 1e-5  # relative to the largest logit: above float32 rounding, below any effect that a check looks for
WIDEST = 100.0  # activations are checked from -WIDEST to WIDEST
LIVELINESS = 0.1  # gain of the noise added to every parameter
OVERFIT_STEPS = 250
OVERFITTED = 0.1  # loss, as a fraction of ln V


@dataclass(frozen=True)
class Case:
    """An architecture with an activation, by name, at a tiny configuration."""

    architecture: str
    activation: str
    config: Config
    task: Any = None  # a tasks.base.Task; None: text

    @property
    def n_classes(self) -> int:
        return self.task.n_classes if self.task else VOCABULARY

    def batch(self, size=2):
        """(x, y): inputs and targets (B, T); of text, `size` sequences of random characters."""
        if self.task:
            return self.task.example_batch(self.config)
        return self.tokens(size), self.tokens(size, site="targets")

    def loss(self, model, size=2) -> torch.Tensor:
        """A loss of a batch that the whole model takes part in."""
        return (self.task.example_loss if self.task else loss_of)(model, *self.batch(size))

    def model(self, seed=1, activation=None, dropout=0.0) -> nn.Module:
        """A model with its initial weights."""
        config = self.config.replace(dropout=dropout)
        model = build_model(
            self.architecture, activation or self.activation, config, self.task.model_sizes if self.task else VOCABULARY
        )
        initialize(model, seed)
        address_dropout(model, seed, 0)  # a user-defined model may have a dropout rate of its own
        return model

    def lively_model(self, **options) -> nn.Module:
        """A model with noise added to every parameter, so that every connection has a visible effect."""
        model = self.model(**options)
        fixed, generator = activation_parameters(model), torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name not in fixed:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter += LIVELINESS * noise / math.sqrt(max(parameter[:1].numel(), 4))
        return model

    def tokens(self, batch=2, site="tokens") -> torch.Tensor:
        """(batch, T) random characters; the first characters of the sequences differ."""
        shape = (batch, self.config.block_size)
        found = torch.from_numpy(randomness.generator(3, "init", 0, site).integers(0, VOCABULARY, shape))
        found[:, 0] = torch.arange(batch) % VOCABULARY
        return found


def tiny_config(config: Config) -> Config:
    """The configuration at a tiny size, so that a check is fast."""
    sizes = {"n_head": 2, "n_embd": 16, "block_size": 20, "batch_size": 8, "dtype": "float32"}
    return config.replace(n_layer=min(config.n_layer, 2), **sizes)


def activation_parameters(model) -> set[str]:
    """Names of the parameters that belong to activations."""
    prefixes = [name for name, module in model.named_modules() if getattr(module, "is_activation", False)]
    names = [name for name, _ in model.named_parameters()]
    return {name for name in names if any(name.startswith(f"{prefix}.") for prefix in prefixes)}


# --- an activation alone ---------------------------------------------------------------------------------------------


def keeps_the_shape(case: Case) -> str | None:
    """(..., C) -> (..., C), or (..., C / 2) if gated."""
    kind = activations.record(case.activation)
    for shape in ((3, 5, 8), (4, 6)):
        expected = (*shape[:-1], shape[-1] // 2) if kind.gated else shape
        found = activations.get_activation(kind.name)(torch.linspace(-2, 2, math.prod(shape)).view(shape))
        if not isinstance(found, torch.Tensor):
            return f"the activation {kind.name} returns a {type(found).__name__} instead of a tensor"
        if found.shape != expected:
            return f"the activation {kind.name} turns the shape {shape} into {tuple(found.shape)}, not {expected}"
    return None


def stays_finite(case: Case) -> str | None:
    """Value and derivative are finite from -WIDEST to WIDEST, including 0."""
    kind = activations.record(case.activation)
    x = torch.arange(-1000, 1001)[:, None] * (WIDEST / 1000)  # a gated activation gets the same value in both halves
    x = x.expand(-1, 2 if kind.gated else 1).contiguous().requires_grad_()
    y = activations.get_activation(kind.name)(x)
    if not y.requires_grad:
        return f"the activation {kind.name} has no derivative: its result does not depend on its input"
    (slope,) = torch.autograd.grad(y.sum(), x)
    for what, values in (("", y), ("derivative ", slope)):
        bad = ~values.isfinite().all(dim=-1)
        if bad.any():
            row = int(bad.nonzero()[0])
            value = next(v for v in values[row].tolist() if not math.isfinite(v))
            return f"the {what}{'of ' if what else ''}activation {kind.name} is {value} at {x[row, 0].item():g}"
    return None


# --- an architecture with an activation ------------------------------------------------------------------------------


def gives_logits(case: Case) -> str | None:
    """(B, T) -> (B, T, V), finite, for any B and any T up to block_size."""
    model = case.lively_model().eval()
    for batch, length in ((2, case.config.block_size), (1, 1), (3, 5)):
        logits = model(case.tokens(batch)[:, :length])
        if not isinstance(logits, torch.Tensor):
            return f"the model returns a {type(logits).__name__} instead of a tensor of logits"
        if logits.shape != (batch, length, VOCABULARY):
            return (
                f"for {batch} sequences of {length} characters and a vocabulary of {VOCABULARY} the model returns the "
                f"shape {tuple(logits.shape)}, not {(batch, length, VOCABULARY)}"
            )
        if not logits.isfinite().all():
            return f"the logits of {batch} sequences of {length} characters are not all finite"
    return None


def classifies(case: Case) -> str | None:
    """(B, ...) -> (B, T, C), finite, for a batch of the task."""
    x, y = case.batch()
    logits, expected = case.lively_model().eval()(x), (*y.shape, case.n_classes)
    if not isinstance(logits, torch.Tensor):
        return f"the model returns a {type(logits).__name__} instead of a tensor of logits"
    if logits.shape != expected:
        return f"for a batch of the task {case.task.name} the model returns the shape {tuple(logits.shape)}, not {expected}"
    if not logits.isfinite().all():
        return "the logits of a batch are not all finite"
    return None


def is_causal(case: Case) -> str | None:
    """Another character at position t changes no output before t, and some output from t on (positions from 1)."""
    model = case.lively_model(dropout=0.2)
    last = case.config.block_size - 1
    for training, positions in ((False, range(last + 1)), (True, (0, last // 2, last))):
        model.train(training)  # training mode may use other code, and batch statistics
        for t, changed in zip(positions, _changes(case, model, positions)):
            if changed[:t].any():
                seer = int(changed[:t].nonzero()[-1]) + 1
                return f"position {seer} sees position {t + 1}{' in training' * training}: the model looks ahead"
            if not changed[t:].any():
                return f"the character at position {t + 1} changes no output: the model does not see it"
    return None


def _changes(case, model, positions) -> torch.Tensor:
    """(positions, T) booleans: whether changing the character at a position changes the output at another."""
    one = case.tokens()
    others = one.repeat(len(positions), 1, 1)  # (positions, B, T)
    for row, t in enumerate(positions):
        others[row, :, t] = (others[row, :, t] + 1) % VOCABULARY
    address_dropout(model, 4, 0)
    with torch.set_grad_enabled(model.training):
        before = model(one).detach()
        if model.training:  # one by one: the same dropout masks, and batch normalization cannot hide a change
            after = torch.stack([model(other).detach() for other in others])
        else:
            after = model(others.flatten(0, 1)).unflatten(0, (len(positions), -1))
    return (after - before).abs().amax(dim=(1, 3)) > TOLERANCE * before.abs().max()


def activation_acts(case: Case) -> str | None:
    """Every activation module is called, and another activation with the same weights changes the outputs."""
    model, (x, _) = case.lively_model().eval(), case.batch()
    called = set()
    modules = {name: m for name, m in model.named_modules() if getattr(m, "is_activation", False)}
    for name, module in modules.items():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    logits = model(x)
    case.loss(model)  # calls what a forward pass leaves out: the value function of a policy
    if idle := [name for name in modules if name not in called]:
        return f"the activation {case.activation} at {idle[0]} is created but never used"
    weights = {name: p for name, p in model.state_dict().items() if name not in activation_parameters(model)}
    gated = activations.record(case.activation).gated
    for other in ("swiglu", "reglu") if gated else ("softplus", "relu"):
        if other != case.activation:
            twin = case.model(activation=other).eval()
            twin.load_state_dict(weights, strict=False)
            if (twin(x) - logits).abs().max() > TOLERANCE * logits.abs().max():
                return None
    return f"the activation has no effect: {other} in place of {case.activation} gives the same outputs"


def learns_everywhere(case: Case) -> str | None:
    """A gradient reaches every parameter."""
    model = case.lively_model().train()
    case.loss(model, 4).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is None or not parameter.grad.any():
            return f"no gradient reaches the parameter {name}"
        if not parameter.grad.isfinite().all():
            return f"the gradient of the parameter {name} is not finite"
    return None


def starts_ignorant(case: Case) -> str | None:
    """The loss at initialization is within 10% of that of equal probabilities for all classes, ln C."""
    loss = loss_of(case.model().eval(), *case.batch(16)).item()
    expected = math.log(case.n_classes)
    if abs(loss - expected) <= 0.1 * expected:
        return None
    name = "V" if case.task is None else "C"
    return f"the loss at initialization is {loss:.3f}, not within 10% of ln {name} = {expected:.3f}"


def can_overfit(case: Case) -> str | None:
    """Trained on one batch, the loss falls to a tenth of ln C, C classes."""
    for learning_rate in (0.03, 0.003):  # a recurrence with an unbounded activation diverges at the larger one
        loss = _overfitted_loss(case, learning_rate)
        if loss < OVERFITTED * math.log(case.n_classes):
            return None
    return f"the model cannot overfit one batch: after {OVERFIT_STEPS} steps its loss is still {loss:.3f}"


def _overfitted_loss(case, learning_rate):
    """The loss on one batch after training on it for OVERFIT_STEPS steps or until it is low enough."""
    model = case.model().train()
    x, y = case.batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0, fused=True)
    for _ in range(OVERFIT_STEPS):
        loss = loss_of(model, x, y)
        if loss < OVERFITTED * math.log(case.n_classes) or not loss.isfinite():
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def survives_storage(case: Case) -> str | None:
    """A model restored from a checkpoint gives bit-identical outputs."""
    model, (x, _) = case.lively_model().eval(), case.batch()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint_files.write_checkpoint(Path(folder) / "model.pt", {"model": model.state_dict()})
        stored = checkpoint_files.read_checkpoint(Path(folder) / "model.pt")
    twin = case.model(seed=5).eval()
    twin.load_state_dict(stored["model"])
    if torch.equal(twin(x), model(x)):
        return None
    return "a checkpoint does not restore the model: part of its state is neither a parameter nor a buffer"


def repeats(case: Case) -> str | None:
    """The same seeds give bit-identical weights, whatever the state of the global generators."""
    with torch.random.fork_rng(devices=[]):
        state = random.getstate()
        first, drew = _train_twice_drawn(case, 1)
        second, _ = _train_twice_drawn(case, 2)
        random.setstate(state)
    if drew:
        return "the model draws from PyTorch's global generator, so its seeds do not determine it; use nn.Dropout"
    if first != second:
        return "the same seeds do not give the same weights: the model draws random numbers of its own"
    return None


def _train_twice_drawn(case, global_seed):
    """(hash of the weights after two steps, whether PyTorch's global generator was used)."""
    torch.manual_seed(global_seed)
    random.seed(global_seed)
    model = case.model(dropout=0.2).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    before = torch.get_rng_state()
    for step in range(2):
        address_dropout(model, 6, step)
        optimizer.zero_grad()
        loss_of(model, *case.batch()).backward()
        optimizer.step()
    return checkpoint_files.weights_sha256(model.state_dict()), not torch.equal(before, torch.get_rng_state())


def loss_of(model, x, y) -> torch.Tensor:
    """Mean cross-entropy in nats per prediction."""
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


# --- all of them -----------------------------------------------------------------------------------------------------

ACTIVATION_CHECKS = (keeps_the_shape, stays_finite)
MODEL_CHECKS = (activation_acts, learns_everywhere, starts_ignorant, can_overfit, survives_storage, repeats)


def stages(task=None) -> tuple[tuple, ...]:
    """The checks for text, or for another task, in stages: a failure in one implies failures in the next."""
    if task is None or task.name == "text":
        return ACTIVATION_CHECKS, (gives_logits,), (is_causal, *MODEL_CHECKS)
    return ACTIVATION_CHECKS, (classifies,), MODEL_CHECKS


def check(architecture: str, activation: str, config: Config, task=None) -> list[str]:
    """Runs all checks of an architecture with an activation.

    Parameters
    ----------
    architecture, activation : str
        Names.
    config : Config
        Made tiny; only its number of layers (at most 2) matters.
    task : tasks.base.Task, optional
        Of the architecture; default: text.

    Returns
    -------
    list of str
        One sentence per problem; [] if all checks pass.
    """
    of_text = task is None or task.name == "text"
    case = Case(architecture, activations.resolve(activation), tiny_config(config), None if of_text else task)
    before = None if _is_built_in(case) else global_state.snapshot()
    problems: list[str] = []
    for stage in stages(task):
        problems = problems or [problem for one in stage if (problem := _outcome(one, case))]
    if before and (change := global_state.first_change(before)):
        return [f"running it changes {change}, which all trials share"]
    return problems


def _is_built_in(case):
    """Whether both the architecture and the activation are built in."""
    custom = case.activation in activations.ACTIVATIONS and case.activation not in activations.BUILT_IN
    return case.architecture in registry.BUILT_IN and not custom


def _outcome(one, case):
    """The result of a check; an error inside the model is a problem, too."""
    try:
        return one(case)
    except UserError as error:
        return str(error)
    except (Exception, SystemExit) as error:  # from user code
        text = (str(error).strip() or "no message").splitlines()[0]
        return f"{case.architecture} with {case.activation} raises {type(error).__name__}: {text}"


def describe_sizes(config: Config) -> str:
    """The sizes at which the checks run."""
    tiny = tiny_config(config)
    return ", ".join(f"{name} {getattr(tiny, name)}" for name in ("n_layer", "n_head", "n_embd", "block_size"))
