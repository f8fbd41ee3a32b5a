"""Every architecture by name: built at CharLM's size, checked to be what its name says, with its initial weights.

    model = build_model("convlm", "gelu", ConfigCPU(), vocabulary_size=65)
    initialize(model, seed=42)
    logits = model(tokens)                                # (B, T) integers -> (B, T, V)
    register_architecture("my_model", MyModel)            # MyModel(config, make_activation, vocabulary_size)

Each architecture states where in it the activation acts, and how many activations its graph holds: `build_model` counts
them, so what was asked for is what runs. Architectures are compared at equal size: `solve_width` finds the width at
which one has as many parameters as CharLM at the same configuration, whose n_embd is CharLM's own width. It is the same
for every activation, so that activations are compared from the same initial weights.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

import activations
import model as parts
import randomness
from architectures import networks, variants
from common.errors import UserError, unknown
from config import Config


@dataclass(frozen=True)
class Architecture:
    """What is known of an architecture.

    make: (config, make_activation, vocabulary_size, gated) -> nn.Module; config.n_embd is its width.
    description: a few words.
    acts: where the activation acts.
    n_activations: configuration -> how many activations the graph holds; None: at least one (user-defined models).
    takes_gated: whether it can use an activation that halves its input.
    receptive_field: configuration -> how many characters an output can see, its own included; None: all so far.
    heads: whether its width must be a multiple of n_head.
    solved: whether its width is solved for CharLM's number of parameters; otherwise it is n_embd.
    source_sha256: of the file that a user-defined architecture came from.
    task: name of the task that it is trained on.
    """

    name: str
    make: Callable[..., nn.Module]
    description: str
    acts: str
    n_activations: Callable[[Config], int] | None
    takes_gated: bool = True
    receptive_field: Callable[[Config], int] | None = None
    heads: bool = False
    solved: bool = True
    source_sha256: str | None = None
    task: str = "text"


ARCHITECTURES: dict[str, Architecture] = {}


def _add(name, make, description, acts, n_activations, **more):
    ARCHITECTURES[name] = Architecture(name, make, description, acts, n_activations, **more)


def _single_head(config, make_activation, vocabulary_size, gated=False):
    return parts.CharLM(config.replace(n_head=1), make_activation, vocabulary_size, gated)


def _n_layer(config):
    return config.n_layer


def _one(config):
    return 1


_FEED_FORWARD = "between the two Linear layers of every feed-forward"
_OUTPUT = "in a hidden layer between the {} and the head"
_add("charlm", parts.CharLM, "the report's transformer", _FEED_FORWARD, _n_layer, heads=True, solved=False)
_add("minigpt", networks.MiniGPT, "GPT-2 in small, with a tied head", _FEED_FORWARD, _n_layer, heads=True)
_add(
    "nanotransformer",
    networks.NanoTransformer,
    "a transformer without dropout or biases, with fused attention",
    _FEED_FORWARD,
    _n_layer,
    heads=True,
)
_add(
    "hybridlm",
    networks.HybridLM,
    "an LSTM, then transformer blocks",
    _FEED_FORWARD,
    networks.hybrid_blocks,
    heads=True,
)
_add(
    "convlm",
    networks.ConvLM,
    "causal dilated convolutions",
    "after every convolution",
    lambda config: len(networks.dilations(config)),
    receptive_field=lambda config: 1 + (networks.KERNEL - 1) * sum(networks.dilations(config)),
)
_add("tinylstm", networks.RecurrentLM, "an LSTM", _OUTPUT.format("LSTM"), _one)
_add(
    "rnn",
    networks.RNN,
    "a plain recurrence",
    "as the recurrence's own nonlinearity, in every layer",
    _n_layer,
    takes_gated=False,
)
_add("gru", partial(networks.RecurrentLM, cell=nn.GRU), "a GRU", _OUTPUT.format("GRU"), _one)
_add(
    "mlp",
    networks.MLP,
    "feed-forward layers over a fixed window",
    _FEED_FORWARD,
    _n_layer,
    receptive_field=networks.mlp_window,
)
_add("charlm_single_head", _single_head, "CharLM with one head", _FEED_FORWARD, _n_layer, solved=False)
_add(
    "lstm_attention",
    networks.LSTMAttention,
    "an LSTM, then attention over its states",
    _OUTPUT.format("attention"),
    _one,
    heads=True,
)

# Some of these with a part taken away (variants.py). A table of its own: they are known by name, and none of `all`.
VARIANTS: dict[str, Architecture] = {}


def _add_variant(base, part, make, description):
    entry = ARCHITECTURES[base]
    VARIANTS[f"{base}_{part}"] = replace(entry, name=f"{base}_{part}", make=make, description=description)


_plain = variants.charlm_of(variants.BlockWithoutResidual)
_add_variant("charlm", "no_norm", variants.without_norm(parts.CharLM), "CharLM without normalisation")
_add_variant("charlm", "post_norm", variants.charlm_of(variants.PostNormBlock), "CharLM, normalised after the addition")
_add_variant("charlm", "no_residual", variants.keeping_size(_plain), "CharLM without a way past the feed-forward")
_add_variant("charlm", "plain", variants.without_norm(_plain), "CharLM without such a way and without normalisation")
for _base in ("convlm", "mlp", "rnn"):
    _make = ARCHITECTURES[_base].make
    _add_variant(_base, "no_norm", variants.without_norm(_make), f"{_base} without normalisation")
BUILT_IN = (*ARCHITECTURES, *VARIANTS)


def architecture_record(name: str) -> Architecture:
    """The record of an architecture; a UserError for a name that is none."""
    if name in VARIANTS:
        return VARIANTS[name]
    if name not in ARCHITECTURES:
        raise unknown("architecture", name, ARCHITECTURES)
    return ARCHITECTURES[name]


def architectures_of(task: str = "text") -> list[str]:
    """The names of the architectures that a task trains, in their order."""
    return [name for name, record in ARCHITECTURES.items() if record.task == task]


def supports(architecture: str, activation: str) -> str | None:
    """Why this architecture cannot take this activation; None where it can."""
    entry, kind = architecture_record(architecture), activations.record(activation)
    if kind.gated and not entry.takes_gated:
        return f"{kind.name} is gated, so it halves its input, but {entry.name} needs as many channels as it gives"
    return None


# --- equal size ------------------------------------------------------------------------------------------------------


@cache
def solve_width(architecture: str, config: Config, vocabulary_size: int) -> int:
    """The width at which an architecture's number of parameters is nearest to CharLM's at this configuration.

    Without a gated or learnable activation. CharLM's width, and that of a user-defined architecture, is n_embd.
    """
    entry = architecture_record(architecture)
    if not entry.solved:
        return config.n_embd
    target = _charlm_size(config, vocabulary_size)
    step = config.n_head if entry.heads else 4
    low, high = 0, 1  # in steps: too small, and large enough
    while count_parameters(architecture, config, vocabulary_size, high * step) < target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        small = count_parameters(architecture, config, vocabulary_size, middle * step) < target
        low, high = (middle, high) if small else (low, middle)
    candidates = [n * step for n in (low, high) if n]
    return min(candidates, key=lambda w: abs(count_parameters(architecture, config, vocabulary_size, w) - target))


def count_parameters(architecture, config, vocabulary_size, width=None) -> int:
    """The number of parameters, activations aside, at a width (n_embd where None); makes no numbers."""
    entry = architecture_record(architecture)
    with torch.device("meta"), _NothingDrawn():
        made = entry.make(_with_width(entry, config, width or config.n_embd), nn.Identity, vocabulary_size, False)
    return sum(parameter.numel() for parameter in made.parameters())


class _NothingDrawn(TorchFunctionMode):
    """Leaves normal_ out: on the meta device there is nothing to fill, yet PyTorch loads its compiler for it, 2 s long."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        return kwargs["tensor"] if function is nn.init.normal_ else function(*args, **kwargs)


@cache
def _charlm_size(config, vocabulary_size):
    """What other architectures' sizes are solved for."""
    return count_parameters("charlm", config, vocabulary_size)


def _with_width(entry, config, width):
    """The configuration with n_embd = width; where there are no heads, any width will do."""
    return config.replace(n_embd=width) if entry.heads else config.replace(n_embd=width, n_head=1)


# --- building --------------------------------------------------------------------------------------------------------


def build_model(architecture: str, activation: str, config: Config, vocabulary_size: int, width=None) -> nn.Module:
    """A model whose graph is checked to hold the named activation; `initialize` gives it its weights.

    Args:
      architecture, activation: names.
      config: n_layer, n_head, n_embd, block_size and dropout are used; n_embd is CharLM's width.
      vocabulary_size: V.
      width: the architecture's own width; None: solved, so that the size is CharLM's.

    Returns:
      A module (B, T) integers -> (B, T, V), with `names` (architecture, activation) and `sizes`, a dictionary of width,
      n_parameters and n_parameters_charlm (of CharLM at this configuration, activations aside). It is in evaluation mode:
      a step of training needs `train()`, and an address for its dropout (`model.address_dropout`).
    """
    entry, kind = architecture_record(architecture), activations.record(activation)
    if reason := supports(architecture, activation):
        raise UserError(f"the architecture {entry.name} cannot take the activation {kind.name}: {reason}")
    width = solve_width(architecture, config, vocabulary_size) if width is None else width
    make_activation = partial(activations.get_activation, kind.name)
    sized = _with_width(entry, config, width)
    with torch.random.fork_rng(devices=[]):  # PyTorch initialises what it makes; no draw of ours depends on it
        torch.default_generator.manual_seed(0)
        model = entry.make(sized, make_activation, vocabulary_size, kind.gated)
    _check_activations(entry, kind.name, config, model)
    _replace_dropouts(entry, model)
    parts.number_dropouts(model)
    model.names = (entry.name, kind.name)
    model.sizes = {"width": width, "n_parameters": sum(parameter.numel() for parameter in model.parameters())}
    if entry.task == "text":
        model.sizes["n_parameters_charlm"] = _charlm_size(config, vocabulary_size)
    return model.eval()


def _check_activations(entry, activation, config, model):
    """The graph holds the named activation as often as the architecture says, and no other."""
    found = [m.activation_name for m in model.modules() if getattr(m, "is_activation", False)]
    expected = entry.n_activations(config) if entry.n_activations else max(len(found), 1)
    if found != [activation] * expected:
        raise UserError(
            f"the architecture {entry.name} should use the activation {activation} "
            + ("at least once" if entry.n_activations is None else f"{expected} times")
            + f", but its graph holds: {', '.join(found) or 'none'}"
        )


def _replace_dropouts(entry, model):
    """PyTorch's plain dropouts become ours, whose masks have an address; whatever else would draw is refused."""
    for name, module in list(model.named_modules()):
        if type(module) is nn.Dropout:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, parts.Dropout(module.p))
        elif isinstance(module, _DropoutNd) or (
            isinstance(module, (nn.RNNBase, nn.MultiheadAttention)) and module.dropout > 0
        ):
            raise UserError(
                f"the architecture {entry.name} has a dropout inside {name} ({type(module).__name__}), which draws "
                "from PyTorch's global generator; use nn.Dropout instead"
            )


# --- initial weights -------------------------------------------------------------------------------------------------


@torch.no_grad()
def initialize(model: nn.Module, seed: int, flip_bit_seed: int | None = None) -> nn.Module:
    """Sets every parameter to its initial value, a function of the seed and the parameter's qualified name alone.

    Linear and Embedding weights: N(0, 0.02), or as architectures/networks.py says; biases 0. LayerNorm: 1 and 0. LSTM, GRU and RNN:
    U(-1/sqrt(C), 1/sqrt(C)). Convolutions: uniform, PyTorch's scale. Activations keep their fixed values. Others, in a
    reader's model: N(0, 0.02) where they have two dimensions or more, else as they were made.

    Args:
      flip_bit_seed: afterwards flip the lowest bit of one element of one weight matrix, both chosen by this seed.
    """
    activation = {id(p) for m in model.modules() if getattr(m, "is_activation", False) for p in m.parameters()}
    matrices = []
    for name, parameter in model.named_parameters():  # a tied parameter comes once, under its first name
        if id(parameter) in activation:
            continue
        prefix, _, own_name = name.rpartition(".")
        values = _initial_values(model.get_submodule(prefix), own_name, parameter, seed, name)
        if values is not None:
            parameter.copy_(values)
        if parameter.dim() >= 2:
            matrices.append(parameter)
    if flip_bit_seed is not None:
        generator = randomness.generator(flip_bit_seed, "bit")
        matrix = matrices[generator.integers(len(matrices))]
        bits = matrix.data.view(-1).view(torch.int32)
        bits[generator.integers(len(bits))] ^= 1
    return model


def _initial_values(module, own_name, parameter, seed, name):
    """A float32 tensor on the CPU, or None where the parameter stays as it was made."""
    if isinstance(module, nn.LayerNorm):
        return torch.ones(parameter.shape) if own_name == "weight" else torch.zeros(parameter.shape)
    bound = getattr(module, "init_bound", None)
    if isinstance(module, nn.RNNBase):
        bound = 1 / math.sqrt(module.hidden_size)
    elif isinstance(module, nn.Conv1d):
        bound = 1 / math.sqrt(module.in_channels // module.groups * module.kernel_size[0])
    elif isinstance(module, (nn.Linear, nn.Embedding)) and own_name == "bias":
        return torch.zeros(parameter.shape)
    elif bound is None and parameter.dim() < 2:
        return None
    generator = randomness.generator(seed, "init", 0, name)
    if bound is not None:
        values = generator.random(parameter.shape, np.float32)  # in [0, 1)
        return torch.from_numpy((2 * values - 1) * np.float32(bound))
    values = generator.standard_normal(parameter.shape, np.float32)
    return torch.from_numpy(values * np.float32(getattr(module, "init_std", networks.INITIAL_SD)))


# --- user-defined --------------------------------------------------------------------------------------------------


def register_architecture(name: str, make: Callable, **facts) -> Architecture:
    """Adds a user-defined architecture under `name`; registering that name again replaces it.

    Args:
      name: lower-case letters, digits, underscores and dots, beginning with a letter.
      make: (config, make_activation, vocabulary_size) -> nn.Module; make_activation() gives a fresh activation.
      facts: any of description, acts, receptive_field, heads, source_sha256; see `Architecture`.
    """
    activations.check_new_name("architecture", name, BUILT_IN)

    def make_checked(config, make_activation, vocabulary_size, gated):
        try:
            model = make(config, make_activation, vocabulary_size)
        except (Exception, SystemExit) as error:
            raise UserError(f"the architecture {name} cannot be made: {type(error).__name__}: {error}") from error
        if not isinstance(model, nn.Module):
            raise UserError(f"the architecture {name} must give an nn.Module, not a {type(model).__name__}")
        return model

    defaults = {"description": "user-defined", "acts": "where its author put it", "heads": True}
    entry = {**defaults, **facts, "n_activations": None, "takes_gated": False, "solved": False}
    ARCHITECTURES[name] = Architecture(name, make_checked, **entry)
    return ARCHITECTURES[name]


def load_architecture_file(path, source: bytes | None = None) -> str:
    """Registers the class or function of a Python file as `register_architecture` does; returns its name.

    If the file defines several, it is the one with a parameter `make_activation`.

    The name is the definition's own in lower case: MyModel becomes my_model. `source`: the file's content, where it has
    been read before.
    """
    name, definition, _, digest = activations.load_definition(path, "architecture", source, parameter="make_activation")
    register_architecture(name, definition, source_sha256=digest)
    return name


def read_user_files(architecture_file, activation_file) -> tuple[tuple[str, str, bytes], ...]:
    """(kind, path, content) of a user's files, of those that are given: what a worker needs to load the same."""
    given = (("architecture", architecture_file), ("activation", activation_file))
    return tuple((kind, str(path), activations.read_source(path, kind)) for kind, path in given if path is not None)


def load_user_files(files) -> dict[str, str]:
    """Registers a user's files, as `read_user_files` gives them; returns kind -> name."""
    load = {"architecture": load_architecture_file, "activation": activations.load_activation_file}
    return {kind: load[kind](path, source) for kind, path, source in files}


def user_sources(architecture: str, activation: str) -> dict:
    """{"source_sha256": {kind: SHA-256 of the user's file}}, part of a trial's identity; {} where both are built in."""
    records = {"architecture": architecture_record(architecture), "activation": activations.record(activation)}
    found = {kind: entry.source_sha256 for kind, entry in records.items() if entry.source_sha256}
    return {"source_sha256": found} if found else {}


def check_user_sources(stored: dict) -> None:
    """A UserError unless a result or checkpoint was made with the very files that are loaded now."""
    before = stored.get("source_sha256", {})
    for kind, registry in (("architecture", ARCHITECTURES), ("activation", activations.ACTIVATIONS)):
        name = stored[kind]
        if kind in before and name not in registry:
            raise UserError(f"{name} is a user-defined {kind}; give its file with --{kind}-file")
        now = registry[name].source_sha256 if name in registry else None
        if before.get(kind) != now:
            was, is_now = (f"{digest[:12]}..." if digest else "none" for digest in (before.get(kind), now))
            raise UserError(
                f"the file of the {kind} {name} is another one than before (source_sha256.{kind}: {was} against "
                f"{is_now}); give the old file, or the new one another name"
            )
