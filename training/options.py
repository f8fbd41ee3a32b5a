"""Command-line options that several scripts share: configuration fields, device, dtype, compilation, user files.

torch is imported only when a device is chosen, so that `--help` is fast.
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
    """Adds --config, --device and one option per configuration field.

    several_rates: whether --learning-rate also accepts name=rate for single activations or architectures.
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
            text += "; name=RATE sets it for one activation or architecture: --learning-rate 1e-3 gelu=2e-3"
        if spec.name == "dtype":
            text += "; auto: that of the existing study, else bfloat16 if the device supports it natively"
        group.add_argument(f"--{spec.name.replace('_', '-')}", default=None, help=text, **kind)


def add_task_options(parser):
    """--task and --data; --corpus is the name of the latter for text."""
    parser.add_argument("--task", default="text", metavar="NAME", help="what models are trained on (default: text)")
    text = "auto, shakespeare, pydoc or a text file; for another task one of its data sets (default: auto)"
    parser.add_argument("--corpus", "--data", default="auto", help=text)


def add_compile_option(parser):
    """--compile."""
    parser.add_argument(
        "--compile",
        choices=("auto", "on", "off"),
        default="auto",
        help="compile the training step with torch.compile; part of the identity, since it rounds differently (auto: on"
        " if the device is cuda and a compiler is available, else off)",
    )


def choose_compiled(args, device) -> bool:
    """Whether the training step is compiled; for `auto`: if CUDA, Triton and a C compiler are available."""
    names = [os.environ.get("CC"), "gcc", "clang"] if device == "cuda" else [os.environ.get("CXX"), "g++"]
    compiler = any(shutil.which(name) for name in names if name)
    if args.compile == "on" and not compiler:
        raise UserError("--compile on needs a C compiler, but none was found; install one, or leave it out")
    ready = device == "cuda" and compiler and importlib.util.find_spec("triton") is not None
    return args.compile == "on" or (args.compile == "auto" and ready)


# --- a user-defined architecture or activation ----------------------------------------------------------------------


def add_file_options(parser):
    """--architecture-file and --activation-file."""
    for kind in ("architecture", "activation"):
        text = (
            f"a Python file that defines an {kind}: one public class or function, whose name becomes the {kind}'s name"
        )
        parser.add_argument(f"--{kind}-file", type=Path, metavar="FILE.py", help=text)


def load_user_files(args) -> tuple[tuple, dict[str, str]]:
    """(the files as worker processes load them, kind -> name of what they define)."""
    if args.architecture_file is None and args.activation_file is None:
        return (), {}
    from architectures import global_state, registry

    files = registry.read_user_files(args.architecture_file, args.activation_file)
    before, names = global_state.snapshot(), {}
    for file in files:
        names |= registry.load_user_files([file])
        if change := global_state.first_change(before):
            kind, path, _ = file
            raise UserError(f"the {kind} file {path} changes {change}, which all trials share; remove that from it")
    return files, names


def check_user_files_are_used(defined, experiments) -> None:
    """Raises UserError if a user file defines a name that no (architecture, activation) uses."""
    for kind, position in (("architecture", 0), ("activation", 1)):
        if kind in defined and defined[kind] not in [names[position] for names in experiments]:
            raise UserError(
                f"--{kind}-file defines {defined[kind]}, which is not used here; name it, or leave the file out"
            )


def check_user_files(defined, experiments, config, task) -> None:
    """Raises UserError with the first problem that architectures/checks.py finds in a user-defined model."""
    if not defined:
        return
    from architectures.checks import check
    from training.trial import prepare_torch

    check_user_files_are_used(defined, experiments)
    prepare_torch(config)  # check under the settings of a trial
    for names in experiments:
        concerned = defined.get("architecture") == names[0] or defined.get("activation") == names[1]
        if concerned and (problems := check(*names, config, task)):
            more = f" (and {len(problems) - 1} more; test_cpu.py lists them all)" if len(problems) > 1 else ""
            raise UserError(f"{names[0]} with {names[1]} cannot be trained: {problems[0]}{more}")


# --- the configuration ----------------------------------------------------------------------------------------------


def given_fields(args) -> dict:
    """The configuration fields that the user gave, by name."""
    values = {spec.name: getattr(args, spec.name) for spec in fields(Config)}
    return {name: value for name, value in values.items() if value is not None}


def split_rates(values) -> tuple[float | None, dict[str, float]]:
    """(common learning rate or None, name -> rate) from the values of --learning-rate."""
    common, rates = None, {}
    for word in (word for value in values or () for word in re.split(r"[,\s]+", value) if word):
        name, given, rate = word.rpartition("=")
        try:
            number = float(rate)
        except ValueError:
            raise UserError(f"--learning-rate takes a number, or name=number, but not {word!r}") from None
        if not 0 < number < math.inf:
            raise UserError(f"learning_rate must be positive, but it is {rate}")
        if (given and name in rates) or (not given and common is not None):
            raise UserError(f"--learning-rate gives {name or 'the common rate'} twice")
        if given:
            rates[name] = number
        else:
            common = number
    return common, rates


def choose_config(args, stored_dtype=None) -> tuple[Config, str]:
    """(configuration, device) from parsed options; `auto` means the GPU configuration if CUDA is available.

    stored_dtype: the dtype of the study to be resumed, if any; --dtype auto then means this one.
    """
    import torch

    from tasks.registry import task_class

    task, given = task_class(getattr(args, "task", "text")), given_fields(args)
    for name in task.unused:
        if name in given:
            raise UserError(f"--{name.replace('_', '-')} has no effect on the task {task.name}; leave it out")
    cuda = torch.cuda.is_available()
    if args.config == "gpu" and not cuda and args.device in ("auto", "cuda"):
        raise UserError("--config gpu needs CUDA, but PyTorch finds none here; add --device cpu to run it on a CPU")
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
    data = getattr(args, "corpus", "auto")
    return (Config if full_size else ConfigCPU)(**{**task.defaults(data), **given_fields(args)}), device


def resolve_dtype(device, stored_dtype=None) -> tuple[str, str]:
    """(dtype, reason) of --dtype auto; raises UserError for a bfloat16 study that this device could only emulate."""
    unit = native_bfloat16(device)
    if stored_dtype == "bfloat16" and unit is None:
        raise UserError(
            f"the study in this folder uses bfloat16, which this machine's {device} does not support natively;"
            " give --dtype bfloat16 to resume it anyway, slowly, or choose another --results-dir"
        )
    if stored_dtype is not None:
        return stored_dtype, "that of the study in this folder"
    if unit is None:
        return "float32", f"this machine's {device} does not support bfloat16 natively"
    return "bfloat16", f"this machine's {device} supports it natively: {unit}"


def check_device(device) -> None:
    """Raises UserError if this machine lacks the device."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: PyTorch finds no CUDA device here")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UserError("device mps: PyTorch finds no Apple GPU here")
