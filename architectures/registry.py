"""Architectures by name: building them at CharLM's size, checking their activations, initializing their weights.

    model = build_model("convlm", "gelu", ConfigCPU(), vocabulary_size=65)
    initialize(model, seed=42)
    logits = model(tokens)                                # (B, T) integers -> (B, T, V)
    register_architecture("my_model", MyModel)            # MyModel(config, make_activation, vocabulary_size)

Each architecture declares how many activation modules it contains; `build_model` counts them, so that the requested
activation is the one that is used. Architectures are compared at equal size: `solve_width` finds the width at which one
has as many parameters as CharLM at the same configuration (n_embd is CharLM's width). The width is the same for every
activation, so that activations are compared from the same initial weights.
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
from architectures import graphs, images, networks, policies, recordings, sequences, variants
from common.errors import UserError, unknown
from config import Config


@dataclass(frozen=True)
class Architecture:
    """Metadata of an architecture.

    make: (config, make_activation, vocabulary_size, gated) -> nn.Module; config.n_embd is its width.
    description: short, for tables.
    acts: where the activation is applied.
    n_activations: configuration -> number of activation modules; None: at least one (user-defined models).
    takes_gated: whether it supports activations that halve their input.
    receptive_field: configuration -> number of characters that an output depends on; None: all so far.
    heads: whether its width must be a multiple of n_head.
    solved: whether its width is solved for CharLM's number of parameters; otherwise it is n_embd.
    source_sha256: of the file of a user-defined architecture.
    task: name of its task.
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


def _n_convolutions(config):
    return len(networks.dilations(config))


_FEED_FORWARD = "between the two Linear layers of every feed-forward"
_OUTPUT = "in a hidden layer between the {} and the head"
_add("charlm", parts.CharLM, "the report's transformer", _FEED_FORWARD, _n_layer, heads=True, solved=False)
_add("minigpt", networks.MiniGPT, "a small GPT-2, with a tied head", _FEED_FORWARD, _n_layer, heads=True)
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
    _n_convolutions,
    receptive_field=lambda config: 1 + (networks.KERNEL - 1) * sum(networks.dilations(config)),
)
_add("tinylstm", networks.RecurrentLM, "an LSTM", _OUTPUT.format("LSTM"), _one)
_add(
    "rnn",
    networks.RNN,
    "a plain RNN",
    "as the nonlinearity of every recurrent layer",
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


def _add_of(task, name, make, description, acts, n_activations=_n_layer, **more):
    _add(name, make, description, acts, n_activations, solved=False, task=task, **more)


_add_of("images", "cnn", images.CNN, "residual convolutions", "between the two convolutions of every block")
_add_of("images", "vit", images.ViT, "a vision transformer", _FEED_FORWARD, heads=True)
_add_of("images", "image_mlp", images.ImageMLP, "feed-forward layers over all pixels", _FEED_FORWARD)
_add_of(
    "audio", "audio_cnn", recordings.audio_cnn, "residual convolutions", "between the two convolutions of every block"
)
_add_of(
    "audio", "audio_transformer", recordings.audio_transformer, "a transformer over frames", _FEED_FORWARD, heads=True
)
_add_of(
    "audio",
    "audio_wave",
    recordings.audio_wave,
    "dilated convolutions over the raw wave",
    "after the first and every dilated convolution",
    lambda config: 1 + _n_convolutions(config),
)
_add_of("series", "tcn", sequences.tcn, "dilated convolutions", "after every convolution", _n_convolutions)
_add_of("series", "series_lstm", sequences.series_lstm, "an LSTM", _OUTPUT.format("LSTM"), _one)
_add_of("series", "series_transformer", sequences.series_transformer, "a transformer", _FEED_FORWARD, heads=True)
for _name, _times, _what in (
    ("policy_mlp", 1, "hidden layers"),
    ("policy_mlp_wide", policies.WIDE, "wider hidden layers"),
):
    _make, _acts = partial(policies.PolicyMLP, times=_times), "after every hidden layer of policy and value function"
    _add_of("control", _name, _make, _what, _acts, lambda config: 2 * config.n_layer)
_HIDDEN = "after every hidden layer"
_add_of("graph", "gcn", graphs.GraphNetwork, "graph convolutions", _HIDDEN)
_gat = partial(graphs.GraphNetwork, layer=graphs.GraphAttention)
_add_of("graph", "gat", _gat, "attention over neighbours", _HIDDEN, heads=True)

# Ablations of these (variants.py): available by name, not part of `all`.
VARIANTS: dict[str, Architecture] = {}


def _add_variant(base, part, make, description):
    entry = ARCHITECTURES[base]
    VARIANTS[f"{base}_{part}"] = replace(entry, name=f"{base}_{part}", make=make, description=description)


_plain = variants.charlm_of(variants.BlockWithoutResidual)
_add_variant("charlm", "no_norm", variants.without_norm(parts.CharLM), "CharLM without normalization")
_add_variant("charlm", "post_norm", variants.charlm_of(variants.PostNormBlock), "CharLM with post-norm blocks")
_add_variant("charlm", "no_residual", variants.keeping_size(_plain), "CharLM without the feed-forward's residual")
_add_variant("charlm", "plain", variants.without_norm(_plain), "CharLM without this residual and normalization")
for _base in ("convlm", "mlp", "rnn"):
    _make = ARCHITECTURES[_base].make
    _add_variant(_base, "no_norm", variants.without_norm(_make), f"{_base} without normalization")
BUILT_IN = (*ARCHITECTURES, *VARIANTS)


def architecture_record(name: str) -> Architecture:
    """The record of an architecture; raises UserError for an unknown name."""
    if name in VARIANTS:
        return VARIANTS[name]
    if name not in ARCHITECTURES:
        raise unknown("architecture", name, ARCHITECTURES)
    return ARCHITECTURES[name]


def architectures_of(task: str = "text") -> list[str]:
    """The names of a task's architectures, in order."""
    return [name for name, record in ARCHITECTURES.items() if record.task == task]


def default_architecture(task: str) -> str:
    """The first architecture of a task."""
    return next(iter(architectures_of(task)), "charlm")


def check_task(architecture: str, task: str) -> None:
    """Raises UserError unless there is such an architecture and it can be trained on the task."""
    known = architectures_of(task)
    if architecture not in ARCHITECTURES and architecture not in VARIANTS:
        raise unknown("architecture", architecture, known)
    if architecture_record(architecture).task != task:
        record = architecture_record(architecture)
        if record.source_sha256 is not None:
            advice = f'its task is {record.task}, and a line TASK = "{task}" in its file says otherwise'
        else:
            advice = f"its task is {record.task} (--task); those of {task}: {', '.join(known) or 'none'}"
        raise UserError(f"{architecture} cannot be trained on {task}; {advice}")


def supports(architecture: str, activation: str) -> str | None:
    """Why this architecture cannot use this activation; None if it can."""
    entry, kind = architecture_record(architecture), activations.record(activation)
    if kind.gated and not entry.takes_gated:
        return (
            f"{kind.name} is gated, so it halves its input, but {entry.name} needs an activation that keeps the width"
        )
    return None


# --- equal size ------------------------------------------------------------------------------------------------------


def solve_width(architecture: str, config: Config, vocabulary_size) -> int:
    """The width at which an architecture's number of parameters is closest to CharLM's at this configuration.

    Parameters of activations are not counted. The width of CharLM, and of architectures that are user-defined or of other
    tasks than text, is n_embd.
    """
    solved = architecture_record(architecture).solved
    return _solved_width(architecture, config, vocabulary_size) if solved else config.n_embd


@cache
def _solved_width(architecture, config, vocabulary_size):
    entry = architecture_record(architecture)
    target = _charlm_size(config, vocabulary_size)
    step = config.n_head if entry.heads else 4
    low, high = 0, 1  # in steps: too small, large enough
    while count_parameters(architecture, config, vocabulary_size, high * step) < target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        small = count_parameters(architecture, config, vocabulary_size, middle * step) < target
        low, high = (middle, high) if small else (low, middle)
    candidates = [n * step for n in (low, high) if n]
    return min(candidates, key=lambda w: abs(count_parameters(architecture, config, vocabulary_size, w) - target))


def count_parameters(architecture, config, vocabulary_size, width=None) -> int:
    """The number of parameters, without activations, at a width (default: n_embd); allocates no memory."""
    entry = architecture_record(architecture)
    with torch.device("meta"), _NothingDrawn():
        made = entry.make(_with_width(entry, config, width or config.n_embd), nn.Identity, vocabulary_size, False)
    return sum(parameter.numel() for parameter in made.parameters())


class _NothingDrawn(TorchFunctionMode):
    """Skips normal_: on the meta device it has no effect, but PyTorch would load its compiler for it, which takes 2 s."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        return kwargs["tensor"] if function is nn.init.normal_ else function(*args, **kwargs)


@cache
def _charlm_size(config, vocabulary_size):
    """CharLM's number of parameters, the target of `solve_width`."""
    return count_parameters("charlm", config, vocabulary_size)


def _with_width(entry, config, width):
    """The configuration with n_embd = width; without heads, any width is allowed."""
    return config.replace(n_embd=width) if entry.heads else config.replace(n_embd=width, n_head=1)


# --- building --------------------------------------------------------------------------------------------------------


def build_model(architecture: str, activation: str, config: Config, vocabulary_size: int, width=None) -> nn.Module:
    """Builds a model and checks that it contains the named activation; `initialize` sets its weights.

    Parameters
    ----------
    architecture, activation : str
        Names.
    config : Config
        n_layer, n_head, n_embd, block_size and dropout are used; n_embd is CharLM's width.
    vocabulary_size : int
        V.
    width : int, optional
        The architecture's width; default: solved for CharLM's size.

    Returns
    -------
    nn.Module
        (B, T) integers -> (B, T, V) logits, in evaluation mode. It has `names` (architecture, activation) and `sizes`, a
        dictionary of width, n_parameters and n_parameters_charlm (CharLM at this configuration, without activations).
        Training needs `train()` and an address for dropout (`model.address_dropout`).
    """
    entry, kind = architecture_record(architecture), activations.record(activation)
    if reason := supports(architecture, activation):
        raise UserError(f"the architecture {entry.name} cannot use the activation {kind.name}: {reason}")
    width = solve_width(architecture, config, vocabulary_size) if width is None else width
    make_activation = partial(activations.get_activation, kind.name)
    sized = _with_width(entry, config, width)
    with torch.random.fork_rng(devices=[]):  # PyTorch's default initialization is overwritten by `initialize`
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
    """Raises UserError unless the model contains the named activation, as often as declared, and no other."""
    found = [m.activation_name for m in model.modules() if getattr(m, "is_activation", False)]
    expected = entry.n_activations(config) if entry.n_activations else max(len(found), 1)
    if found != [activation] * expected:
        raise UserError(
            f"the architecture {entry.name} should use the activation {activation} "
            + ("at least once" if entry.n_activations is None else f"{expected} times")
            + f", but it contains: {', '.join(found) or 'none'}"
        )


def _replace_dropouts(entry, model):
    """Replaces nn.Dropout by addressed dropout; raises UserError for other modules that draw random numbers."""
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
    """Sets every parameter to its initial value, a function of the seed and the parameter's qualified name only.

    Linear and Embedding weights: N(0, 0.02), or as in architectures/networks.py; biases: 0. LayerNorm and GroupNorm: 1 and 0. LSTM, GRU
    and RNN: U(-1/sqrt(C), 1/sqrt(C)). Convolutions: uniform with PyTorch's scale. Activations keep their fixed values.
    Other parameters of user-defined models: N(0, 0.02) if they have two or more dimensions, else unchanged.

    Parameters
    ----------
    model : nn.Module
    seed : int
    flip_bit_seed : int, optional
        Then flip the lowest bit of one element of one weight matrix, both chosen by this seed.

    Returns
    -------
    nn.Module
        The same model.
    """
    activation = {id(p) for m in model.modules() if getattr(m, "is_activation", False) for p in m.parameters()}
    matrices = []
    for name, parameter in model.named_parameters():  # a tied parameter appears once, under its first name
        if id(parameter) in activation:
            continue
        prefix, _, local_name = name.rpartition(".")
        values = _initial_values(model.get_submodule(prefix), local_name, parameter, seed, name)
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


def _initial_values(module, local_name, parameter, seed, name):
    """A float32 tensor on the CPU, or None if the parameter stays unchanged."""
    if isinstance(module, nn.LayerNorm):
        return torch.ones(parameter.shape) if local_name == "weight" else torch.zeros(parameter.shape)
    bound = getattr(module, "init_bound", None)
    if isinstance(module, nn.RNNBase):
        bound = 1 / math.sqrt(module.hidden_size)
    elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
        bound = 1 / math.sqrt(module.weight[0].numel())
    elif isinstance(module, (nn.Linear, nn.Embedding)) and local_name == "bias":
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
    """Registers a user-defined architecture under `name`, replacing an earlier one of that name.

    Parameters
    ----------
    name : str
        Lower-case letters, digits, underscores and dots, starting with a letter.
    make : callable
        (config, make_activation, model_sizes) -> nn.Module; make_activation() returns a new activation module, and
        model_sizes is the task's, for text the vocabulary size.
    **facts
        Any of description, acts, receptive_field, heads, source_sha256, task; see `Architecture`.
    """
    activations.check_new_name("architecture", name, BUILT_IN)

    def make_checked(config, make_activation, vocabulary_size, gated):
        try:
            model = make(config, make_activation, vocabulary_size)
        except (Exception, SystemExit) as error:
            raise UserError(f"the architecture {name} cannot be built: {type(error).__name__}: {error}") from error
        if not isinstance(model, nn.Module):
            raise UserError(f"the architecture {name} must return an nn.Module, not a {type(model).__name__}")
        return model

    defaults = {"description": "user-defined", "acts": "where its author put it", "heads": True}
    entry = {**defaults, **facts, "n_activations": None, "takes_gated": False, "solved": False}
    ARCHITECTURES[name] = Architecture(name, make_checked, **entry)
    return ARCHITECTURES[name]


def load_architecture_file(path, source: bytes | None = None) -> str:
    """Registers the class or function defined in a Python file as an architecture; returns its name.

    If the file defines several, the one with a parameter `make_activation` is used. Its name becomes the architecture's in
    snake case: MyModel becomes my_model. A constant TASK in the file names its task, if it is not text. `source`: the
    file's content, if already read.
    """
    name, definition, everything, digest = activations.load_definition(
        path, "architecture", source, parameter="make_activation"
    )
    register_architecture(name, definition, source_sha256=digest, task=everything.get("TASK", "text"))
    return name


def read_user_files(architecture_file, activation_file) -> tuple[tuple[str, str, bytes], ...]:
    """(kind, path, content) of the given user files, for loading the same files in worker processes."""
    given = (("architecture", architecture_file), ("activation", activation_file))
    return tuple((kind, str(path), activations.read_source(path, kind)) for kind, path in given if path is not None)


def load_user_files(files) -> dict[str, str]:
    """Registers the user files from `read_user_files`; returns kind -> name."""
    load = {"architecture": load_architecture_file, "activation": activations.load_activation_file}
    return {kind: load[kind](path, source) for kind, path, source in files}


def user_sources(architecture: str, activation: str) -> dict:
    """{"source_sha256": {kind: SHA-256 of the user's file}}, part of a trial's identity; {} if both are built in."""
    records = {"architecture": architecture_record(architecture), "activation": activations.record(activation)}
    found = {kind: entry.source_sha256 for kind, entry in records.items() if entry.source_sha256}
    return {"source_sha256": found} if found else {}


def check_user_sources(stored: dict) -> None:
    """Raises UserError unless a result or checkpoint was made with the same user files that are loaded now."""
    before = stored.get("source_sha256", {})
    for kind, registry in (("architecture", ARCHITECTURES), ("activation", activations.ACTIVATIONS)):
        name = stored[kind]
        if kind in before and name not in registry:
            raise UserError(f"{name} is a user-defined {kind}; give its file with --{kind}-file")
        now = registry[name].source_sha256 if name in registry else None
        if before.get(kind) != now:
            was, is_now = (f"{digest[:12]}..." if digest else "none" for digest in (before.get(kind), now))
            raise UserError(
                f"the file of the {kind} {name} has changed (source_sha256.{kind}: {was} against {is_now}); give the"
                " old file, or rename the new definition"
            )
