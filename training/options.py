"""What the scripts share: options of the configuration, the choice of device, and how a mistake is reported.

A module of its own, so that every script names, checks and reports the same thing in the same way; it imports torch
only when a device has to be chosen, because `--help` must answer at once.
"""

import importlib.util
import math
import os
import re
import shutil
from dataclasses import fields
from pathlib import Path

from common.errors import UserError
from common.provenance import native_bfloat16
from config import Config
from config_cpu import ConfigCPU

DEVICES = ("auto", "cpu", "cuda", "mps")


def add_config_options(parser, several_rates=False):
    """--config and one option per field of the configuration.

    several_rates: whether --learning-rate also takes name=rate, for activations or architectures with their own.
    """
    parser.add_argument(
        "--config", choices=("auto", "cpu", "gpu"), default="auto", help="auto: gpu if CUDA is available, else cpu"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: cuda if available, else cpu")
    group = parser.add_argument_group("configuration fields", "defaults: config_cpu.py and config.py")
    for spec in fields(Config):
        kind = {"type": type(spec.default), "metavar": type(spec.default).__name__.upper()}
        text = f"{spec.metadata['help']} (cpu: {getattr(ConfigCPU, spec.name)}, gpu: {spec.default})"
        if spec.name == "learning_rate" and several_rates:
            kind = {"nargs": "+", "metavar": "RATE"}
            text += "; name=RATE gives an activation or architecture its own: --learning-rate 1e-3 gelu=2e-3"
        if spec.name == "dtype":
            text += "; auto: that of the study in the folder, else bfloat16 where the device computes it natively"
        group.add_argument(f"--{spec.name.replace('_', '-')}", default=None, help=text, **kind)


def add_compile_option(parser):
    """--compile."""
    parser.add_argument(
        "--compile",
        choices=("auto", "on", "off"),
        default="auto",
        help="make the training step with torch.compile; part of the identity, since it rounds otherwise (auto: on where"
        " the device is cuda and there is a compiler, else off)",
    )


def choose_compiled(args, device) -> bool:
    """Whether the training step is compiled; `auto` if CUDA, Triton and the C compiler that it needs are available."""
    names = [os.environ.get("CC"), "gcc", "clang"] if device == "cuda" else [os.environ.get("CXX"), "g++"]
    compiler = any(shutil.which(name) for name in names if name)
    if args.compile == "on" and not compiler:
        raise UserError("--compile on needs a C compiler, and there is none here; install one, or leave it out")
    ready = device == "cuda" and compiler and importlib.util.find_spec("triton") is not None
    return args.compile == "on" or (args.compile == "auto" and ready)


# --- a user-defined architecture or activation ----------------------------------------------------------------------


def add_file_options(parser):
    """--architecture-file and --activation-file."""
    for kind in ("architecture", "activation"):
        text = (
            f"a Python file with an {kind} of your own: one public class or function, whose name becomes the {kind}'s"
        )
        parser.add_argument(f"--{kind}-file", type=Path, metavar="FILE.py", help=text)


def load_user_files(args) -> tuple[tuple, dict[str, str]]:
    """(what a worker process needs to load the same files, kind -> name of what the files define)."""
    if args.architecture_file is None and args.activation_file is None:
        return (), {}
    if args.architecture_file is not None and getattr(args, "task", "text") != "text":
        raise UserError(
            f"--architecture-file is for the text task, not for {args.task}, whose architectures are added in"
            " architectures/registry.py (see docs/extending.md)"
        )
    from architectures import global_state, registry

    files = registry.read_user_files(args.architecture_file, args.activation_file)
    before, names = global_state.snapshot(), {}
    for file in files:
        names |= registry.load_user_files([file])
        if change := global_state.first_change(before):
            kind, path, _ = file
            raise UserError(f"the {kind} file {path} changes {change}, which every trial shares; leave that out of it")
    return files, names


def check_own_are_used(own, experiments) -> None:
    """A UserError where a file defines what no (architecture, activation) names: it would have no effect."""
    for kind, position in (("architecture", 0), ("activation", 1)):
        if kind in own and own[kind] not in [names[position] for names in experiments]:
            raise UserError(
                f"--{kind}-file defines {own[kind]}, which is not used here; name it, or leave the file out"
            )


def check_user_files(own, experiments, config) -> None:
    """A user-defined architecture or activation must pass the checks of architectures/checks.py before it trains: a UserError names the first problem."""
    if not own:
        return
    from architectures.checks import check
    from architectures.registry import architecture_record
    from training.trial import prepare_torch

    check_own_are_used(own, experiments)
    prepare_torch(config)  # the checks are made under the settings of a trial
    # The checks are made on text: an activation for another task's architecture is checked in CharLM.
    on_text = [(a if architecture_record(a).task == "text" else "charlm", b) for a, b in experiments]
    for names in dict.fromkeys(on_text):
        concerned = own.get("architecture") == names[0] or own.get("activation") == names[1]
        if concerned and (problems := check(*names, config)):
            more = f" (and {len(problems) - 1} more; test_cpu.py shows them all)" if len(problems) > 1 else ""
            raise UserError(f"{names[0]} with {names[1]} may not be trained: {problems[0]}{more}")


# --- the configuration ----------------------------------------------------------------------------------------------


def given_fields(args) -> dict:
    """The configuration fields that the user gave, by name."""
    values = {spec.name: getattr(args, spec.name) for spec in fields(Config)}
    return {name: value for name, value in values.items() if value is not None}


def split_rates(values) -> tuple[float | None, dict[str, float]]:
    """(the common learning rate or None, name -> its own rate) of the words given to --learning-rate."""
    common, own = None, {}
    for word in (word for value in values or () for word in re.split(r"[,\s]+", value) if word):
        name, given, rate = word.rpartition("=")
        try:
            number = float(rate)
        except ValueError:
            raise UserError(f"--learning-rate takes a number, or name=number, but not {word!r}") from None
        if not 0 < number < math.inf:
            raise UserError(f"learning_rate must be positive, but it is {rate}")
        if (given and name in own) or (not given and common is not None):
            raise UserError(f"--learning-rate gives {name or 'the common rate'} twice")
        if given:
            own[name] = number
        else:
            common = number
    return common, own


def choose_config(args, stored_dtype=None) -> tuple[Config, str]:
    """(configuration, device) from parsed options. `auto` becomes the GPU configuration if CUDA is available.

    stored_dtype: that of the study which the options continue, if any: what --dtype auto stands for there.
    """
    import torch

    cuda = torch.cuda.is_available()
    if args.config == "gpu" and not cuda and args.device in ("auto", "cuda"):
        raise UserError("--config gpu needs CUDA, and PyTorch finds none here; add --device cpu to run it on a CPU")
    check_device(args.device)
    device = args.device
    if device == "auto":
        device = "cuda" if cuda and args.config != "cpu" else "cpu"
    if args.eval_spacing == "log" and args.eval_interval is not None:
        raise UserError("--eval-interval has no effect with --eval-spacing log; leave it out")
    if args.dtype == "auto":
        args.dtype, why = resolve_dtype(device, stored_dtype)
        print(f"--dtype auto: {args.dtype} ({why})", flush=True)
    full_size = args.config == "gpu" or (args.config == "auto" and device == "cuda")
    return (Config if full_size else ConfigCPU)(**given_fields(args)), device


def resolve_dtype(device, stored_dtype=None) -> tuple[str, str]:
    """(dtype, why) of --dtype auto; a UserError for a study in bfloat16 that this device could only emulate."""
    unit = native_bfloat16(device)
    if stored_dtype == "bfloat16" and unit is None:
        raise UserError(
            f"the study in this folder is in bfloat16, which the {device} of this machine does not compute natively;"
            " give --dtype bfloat16 to continue it all the same, slowly, or choose another --results-dir"
        )
    if stored_dtype is not None:
        return stored_dtype, "that of the study in this folder"
    if unit is None:
        return "float32", f"the {device} of this machine does not compute bfloat16 natively"
    return "bfloat16", f"the {device} of this machine computes it natively: {unit}"


def check_device(device) -> None:
    """A UserError where this machine does not have the device."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: PyTorch finds no CUDA device here")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UserError("device mps: PyTorch finds no Apple GPU here")
