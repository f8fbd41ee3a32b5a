"""Activations by name, with the properties by which the analysis groups them.

    get_activation("smelu_1")          # a new nn.Module each call
    resolve("silu")                    # 'swish': the canonical name
    ACTIVATIONS["gelu"].smoothness     # 'C-infinity'
    register("my_swish", lambda x: x * torch.sigmoid(2 * x), smoothness="C-infinity")

`smelu_<beta>`, `smelu_<beta>_centred` and `gsmelu_<alpha>_<beta>_<left slope>` are families; any member can be used by
name. Parameters of learnable activations start at fixed values, without random draws.
"""

import hashlib
import inspect
import re
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from common.errors import UserError, unknown

REPORT = ("smelu_05", "smelu_1", "relu", "gelu", "swish")  # the five of the report
ANSWER = ("relu", "gelu", "swish", "smelu_1", "smelu_1_centred")  # the five of the confirmatory study
SMOOTHNESS = ("C0", "C1", "C-infinity")  # continuous; with a continuous derivative; with all derivatives


@dataclass(frozen=True)
class Activation:
    """Metadata of an activation.

    name: canonical name, the only spelling in results.
    make: returns a new module; called through `get_activation`.
    smoothness: one of SMOOTHNESS, or None if a user did not specify it.
    monotone: whether it is nondecreasing for all values of its parameters; None as above, and for gated units.
    gated: whether it maps 2h channels to h.
    learnable: whether it has parameters.
    label, formula: for tables and figures.
    source_sha256: of the file of a user-defined activation.
    """

    name: str
    make: Callable[[], nn.Module]
    smoothness: str | None
    monotone: bool | None
    gated: bool
    learnable: bool
    label: str
    formula: str
    source_sha256: str | None = None


# --- functions that torch.nn lacks --------------------------------------------------------------------------


class _Smelu(torch.autograd.Function):
    """y = max(x, beta d^2) with d = clamp((x + beta) / (2 beta), 0, 1), which is also the derivative.

    (x + beta)^2 / (4 beta) is never less than x, so y is exactly x for x >= beta, and exactly 0 for x <= -beta. The input
    is saved for the backward pass, not d: recomputing d costs less than writing it to memory. 16-bit inputs are computed
    in float32.
    """

    @staticmethod
    def slope(x, beta):
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        return torch.add(wide.new_full((), 0.5), wide, alpha=0.5 / beta).clamp_(0, 1)

    @staticmethod
    def forward(ctx, x, beta):
        ctx.save_for_backward(x)
        ctx.beta = beta
        y = _Smelu.slope(x, beta)
        y.mul_(y).mul_(beta)
        return torch.maximum(y, x, out=y).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return _Smelu.slope(x, ctx.beta).mul_(grad).to(x.dtype), None


def _smelu(x, beta, written_out=False):
    """SmeLU; in plain operations for torch.compile, which fuses them, or if `written_out`, since the function above has
    no second derivative."""
    if written_out or torch.compiler.is_compiling():
        return torch.maximum(beta * (0.5 + x / (2 * beta)).clamp(0, 1).square(), x)
    return _Smelu.apply(x, beta)


class SmeLU(nn.Module):
    """Smooth ReLU (Shamir, Lin, Coviello 2020, arXiv 2010.09931): ReLU with a parabola between -beta and beta."""

    written_out = False  # True: in plain operations, which can be differentiated twice

    def __init__(self, beta=1.0):
        super().__init__()
        self.beta = beta

    def forward(self, x):
        return _smelu(x, self.beta, self.written_out)

    def extra_repr(self):
        return f"beta={self.beta}"


class CentredSmeLU(SmeLU):
    """SmeLU minus its value at 0, beta / 4, so that it is 0 at 0 like ReLU, GELU and Swish."""

    def forward(self, x):
        return _smelu(x, self.beta, self.written_out) - self.beta / 4


class GeneralizedSmeLU(nn.Module):
    """Generalized SmeLU (arXiv 2010.09931, equation 11): two straight lines joined smoothly by a parabola.

    It is determined by slope left_slope below -alpha, slope right_slope above beta, a continuous derivative, and the
    value `offset` at -alpha. By default the left line passes through the origin; alpha = beta and left_slope = 0 then give
    SmeLU. In general it is a shifted and scaled SmeLU plus a straight line.
    """

    written_out = False

    def __init__(self, alpha=1.0, beta=1.0, left_slope=0.0, right_slope=1.0, offset=None):
        super().__init__()
        self.alpha, self.beta, self.left_slope, self.right_slope = alpha, beta, left_slope, right_slope
        self.offset = -left_slope * alpha if offset is None else offset

    def forward(self, x):
        half_width, shift = (self.alpha + self.beta) / 2, (self.alpha - self.beta) / 2
        bend = (self.right_slope - self.left_slope) * _smelu(x + shift, half_width, self.written_out)
        return bend + self.left_slope * (x + self.alpha) + self.offset

    def extra_repr(self):
        values = (self.alpha, self.beta, self.left_slope, self.right_slope, self.offset)
        return "alpha={}, beta={}, left_slope={}, right_slope={}, offset={}".format(*values)


class SquaredReLU(nn.Module):
    """max(0, x)^2 (So et al. 2021, arXiv 2109.08668)."""

    def forward(self, x):
        return F.relu(x).square()


class APL(nn.Module):
    """Adaptive piecewise linear unit (Agostinelli et al. 2015, arXiv 1412.6830).

    max(0, x) + sum_s a_s max(0, b_s - x) with two hinges shared by the channels of a layer (like the slope of
    nn.PReLU()); initially close to a leaky ReLU.
    """

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([-0.125, -0.125]))  # a
        self.hinge = nn.Parameter(torch.tensor([-0.5, 0.5]))  # b

    def forward(self, x):
        y = F.relu(x)
        for a, b in zip(self.slope, self.hinge):
            y = y + a * F.relu(b - x)
        return y


class Gated(nn.Module):
    """A gated linear unit (Shazeer 2020, arXiv 2002.05202): one half of the channels gates the other."""

    def __init__(self, gate):
        super().__init__()
        self.gate = gate

    def forward(self, x):  # (..., 2h) -> (..., h)
        gate, value = x.chunk(2, dim=-1)
        return self.gate(gate) * value


class Elementwise(nn.Module):
    """A user's function of a tensor as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


# --- names --------------------------------------------------------------------------------------------------


class _Registry(dict):
    """Name -> record; records of family members are created on access."""

    def __missing__(self, name):
        record = _member(name)
        if record is None:
            raise unknown(
                "activation",
                name,
                [*self, "smelu_<beta>", "smelu_<beta>_centred", "gsmelu_<alpha>_<beta>_<left slope>"],
            )
        return record


ACTIVATIONS: dict[str, Activation] = _Registry()
ALIASES = {"silu": "swish"}


def _number(value):
    """The shortest decimal form of a number: 0.25, 2, 1e-05."""
    return repr(float(value)).removesuffix(".0").replace("e+", "e")


def _numbers(text):
    """The numbers in a family member's name, separated by underscores; None if one is invalid."""
    plain = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?(e-?\d+)?")  # not 025, which could mean 0.25 or 25
    parts = text.split("_")
    numbers = [float(part) for part in parts if plain.fullmatch(part)]
    within_float32 = all(number == 0 or 1e-30 < abs(number) < 1e30 for number in numbers)
    return numbers if len(numbers) == len(parts) and within_float32 else None


def _member(name):
    """The record of `smelu_...`, `smelu_..._centred` or `gsmelu_...`; None for other names."""
    family, _, text = name.partition("_")
    centred = family == "smelu" and text.endswith("_centred")
    text = text.removesuffix("_centred") if centred else text
    numbers = _numbers(text)
    if family == "smelu" and numbers and len(numbers) == 1 and numbers[0] > 0:
        (beta,) = numbers
        spelling = "smelu_05" if beta == 0.5 else f"smelu_{_number(beta)}"
        b = _number(beta)
        if centred:
            make, label = partial(CentredSmeLU, beta), f"SmeLU β={b}, centred"
            formula = f"SmeLU β={b} minus its value at 0, {_number(beta / 4)}"
            return Activation(f"smelu_{b}_centred", make, "C1", True, False, False, label, formula)
        formula = f"0 up to -{b}; (x + {b})^2 / {_number(4 * beta)}; x from {b} on"
        return Activation(spelling, partial(SmeLU, beta), "C1", True, False, False, f"SmeLU β={b}", formula)
    if family == "gsmelu" and numbers and 2 <= len(numbers) <= 3 and min(numbers[:2]) > 0:
        alpha, beta, slope = (*numbers, 0.0)[:3]
        a, b, g = map(_number, (alpha, beta, slope))
        if alpha == beta and slope == 0:
            return _member(f"smelu_{b}")
        spelling = f"gsmelu_{a}_{b}_{g}" if slope else f"gsmelu_{a}_{b}"
        formula = f"{g} x up to -{a}; a parabola; slope 1 from {b} on"
        make = partial(GeneralizedSmeLU, alpha, beta, slope)
        label = f"gSmeLU α={a} β={b}" + (f" g={g}" if slope else "")
        return Activation(spelling, make, "C1", slope >= 0, False, False, label, formula)
    return None


def resolve(name: str) -> str:
    """The canonical name of an activation, from any of its spellings.

    >>> resolve("silu"), resolve("smelu_0.5"), resolve("smelu_1.0"), resolve("smelu_0.250")
    ('swish', 'smelu_05', 'smelu_1', 'smelu_0.25')
    """
    name = name.strip().lower()
    return ACTIVATIONS[ALIASES.get(name, name)].name


def is_known(name: str) -> bool:
    """Whether `name` is the canonical name of an activation."""
    try:
        return ACTIVATIONS[name].name == name
    except UserError:
        return False


def record(name: str) -> Activation:
    """The record of an activation, by any spelling of its name."""
    return ACTIVATIONS[resolve(name)]


def get_activation(name: str) -> nn.Module:
    """A new module, tagged with `activation_name` and `is_activation`."""
    found = record(name)
    module = found.make()
    module.is_activation, module.activation_name = True, found.name
    return module


def _add(name, make, smoothness, monotone, label, formula, *, gated=False, learnable=False):
    ACTIVATIONS[name] = Activation(name, make, smoothness, monotone, gated, learnable, label, formula)


ACTIVATIONS["smelu_05"] = _member("smelu_0.5")
ACTIVATIONS["smelu_1"] = _member("smelu_1")
_add("relu", nn.ReLU, "C0", True, "ReLU", "max(0, x)")
_add("gelu", nn.GELU, "C-infinity", False, "GELU", "x Φ(x) (exact, by erf)")
_add("swish", nn.SiLU, "C-infinity", False, "Swish", "x / (1 + e^-x)")
_tanh = "x (1 + tanh(sqrt(2/π) (x + 0.044715 x^3))) / 2"
_add("gelu_tanh", partial(nn.GELU, approximate="tanh"), "C-infinity", False, "GELU (tanh)", _tanh)
_add("mish", nn.Mish, "C-infinity", False, "Mish", "x tanh(ln(1 + e^x))")
_add("elu", nn.ELU, "C1", True, "ELU", "x from 0 on; e^x - 1 below")
_add("selu", nn.SELU, "C0", True, "SELU", "1.0507 x from 0 on; 1.7581 (e^x - 1) below")
_add("leaky_relu", nn.LeakyReLU, "C0", True, "Leaky ReLU", "x from 0 on; 0.01 x below")
_add("squared_relu", SquaredReLU, "C1", True, "Squared ReLU", "max(0, x)^2")
_add("softplus", nn.Softplus, "C-infinity", True, "Softplus", "ln(1 + e^x)")
ACTIVATIONS["gsmelu_0.5_1"] = _member("gsmelu_0.5_1")
_add("prelu", nn.PReLU, "C0", False, "PReLU", "x from 0 on; a x below; a starts at 0.25", learnable=True)
_apl = "max(0, x) + a1 max(0, b1 - x) + a2 max(0, b2 - x); starts at a = (-0.125, -0.125), b = (-0.5, 0.5)"
_add("apl", APL, "C0", False, "APL", _apl, learnable=True)
for _name, _gate, _smooth, _label in (
    ("swiglu", nn.SiLU, "C-infinity", "SwiGLU"),
    ("geglu", nn.GELU, "C-infinity", "GEGLU"),
    ("reglu", nn.ReLU, "C0", "ReGLU"),
):
    _formula = f"{_gate.__name__.replace('SiLU', 'Swish')}(first half) x second half"
    _add(_name, lambda gate=_gate: Gated(gate()), _smooth, None, _label, _formula, gated=True)
BUILT_IN = tuple(ACTIVATIONS)


# --- user-defined -----------------------------------------------------------------------------------------


def register(name: str, factory, **facts) -> Activation:
    """Registers a user-defined activation under `name`, replacing an earlier one of that name.

    Parameters
    ----------
    name : str
        Lower-case letters, digits, underscores and dots, starting with a letter.
    factory : callable
        An nn.Module class without required arguments, or a function of a tensor.
    **facts
        Any of smoothness, monotone, gated, label, formula, source_sha256; see `Activation`.
    """
    check_new_name("activation", name, BUILT_IN)
    if name in ALIASES or _member(name):
        raise UserError(f"the activation {name!r} exists already; choose another name")
    _check_facts(name, facts)
    make = factory if isinstance(factory, type) else partial(Elementwise, factory)
    try:
        with torch.random.fork_rng(devices=[]):
            module = make()
    except (Exception, SystemExit) as error:
        raise UserError(f"the activation {name!r} cannot be created: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"the activation {name!r} must be an nn.Module class or a function of a tensor")
    defaults = {"smoothness": None, "monotone": None, "gated": False, "label": name, "formula": ""}
    learnable = any(True for _ in module.parameters())
    ACTIVATIONS[name] = Activation(name, make, learnable=learnable, **{**defaults, **facts})
    return ACTIVATIONS[name]


def _check_facts(name, facts):
    """Raises UserError if the metadata of a user-defined activation are invalid."""
    if facts.get("smoothness") not in (None, *SMOOTHNESS):
        raise unknown("smoothness", str(facts["smoothness"]), SMOOTHNESS)
    for fact in ("monotone", "gated"):
        if facts.get(fact) not in (None, True, False):
            raise UserError(f"{fact.upper()} of the activation {name!r} must be True or False, not {facts[fact]!r}")
    for fact in ("label", "formula"):
        text = facts.get(fact, name)
        if not isinstance(text, str) or not text.isprintable() or (fact == "label" and not text.strip()):
            raise UserError(f"{fact.upper()} of the activation {name!r} must be a string of one line, not {text!r}")


def load_activation_file(path, source: bytes | None = None) -> str:
    """Registers the nn.Module class or function of a tensor defined in a Python file; returns its name.

    The name is that of the definition in snake case: MySwish becomes my_swish. The file may also set SMOOTHNESS,
    MONOTONE, GATED, LABEL and FORMULA. Names starting with an underscore are ignored. `source`: the file's content, if
    already read.
    """
    name, definition, everything, digest = load_definition(path, "activation", source)
    facts = {fact: everything[fact.upper()] for fact in _FACTS if fact.upper() in everything}
    register(name, definition, source_sha256=digest, **facts)
    return name


_FACTS = ("smoothness", "monotone", "gated", "label", "formula")


def check_new_name(kind, name, built_in):
    """Raises UserError unless `name` is valid for a user definition; it becomes part of file names."""
    if not re.fullmatch(r"[a-z][a-z0-9_.]*", name):
        raise UserError(
            f"{name!r} is not a valid {kind} name; use lower-case letters, digits, underscores and dots, "
            "starting with a letter"
        )
    if name in built_in:
        raise UserError(f"the {kind} {name!r} exists already; choose another name")


def read_source(path, kind) -> bytes:
    """The bytes of a user's file."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the {kind} file {path}: {error.strerror}") from error


def _takes(definition, parameter):
    """Whether a class or function has a parameter of this name."""
    try:
        return parameter in inspect.signature(definition).parameters
    except (TypeError, ValueError):
        return False


def load_definition(path, kind, source=None, parameter=None):
    """Runs a Python file with one public class or function: (its name, the definition, all names, SHA-256).

    parameter: of several definitions, the one that has a parameter of this name is used.
    """
    source = read_source(path, kind) if source is None else source
    digest = hashlib.sha256(source).hexdigest()
    module = types.ModuleType(f"user_file_{kind}_{digest[:16]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    everything = vars(module)
    try:
        exec(compile(source, str(path), "exec"), everything)
    except (Exception, SystemExit) as error:
        raise UserError(f"the {kind} file {path} does not run: {type(error).__name__}: {error}") from error
    public = {
        name: value
        for name, value in everything.items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    }
    if len(public) > 1 and parameter is not None:
        public = {name: value for name, value in public.items() if _takes(value, parameter)} or public
    if len(public) != 1:
        names = ", ".join(public) or "none"
        hint = "; start the names of the others with an underscore" if public else ""
        raise UserError(f"the {kind} file {path} must define one public class or function; it has: {names}{hint}")
    ((name, definition),) = public.items()
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower(), definition, everything, digest
