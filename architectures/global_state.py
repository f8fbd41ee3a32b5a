"""Detects changes of global state, which all trials of a process share, by a user's file.

    before = snapshot()
    ...                                  # load a file, or run its model
    change = first_change(before)        # 'the default dtype (torch.float32 before, torch.float64 now)', or None

Compared are PyTorch's settings; the functions, classes and constants of this program and of its numeric libraries; and
the outputs of the built-in activations and of a tiny CharLM, bit for bit.
"""

import random
import sys
import types
from pathlib import Path

import numpy as np
import torch
from torch import nn

import activations
from architectures.registry import build_model, initialize
from common.checkpoint_files import weights_sha256
from config import Config

ROOT = Path(__file__).resolve().parent.parent
TINY = Config(n_layer=1, n_head=2, n_embd=8, block_size=8, dropout=0.0, batch_size=2, dtype="float32")
SETTINGS = {
    "the default dtype": torch.get_default_dtype,
    "the default device": torch.get_default_device,
    "the precision of float32 matrix products": torch.get_float32_matmul_precision,
    "the number of threads": torch.get_num_threads,
    "whether algorithms are deterministic": torch.are_deterministic_algorithms_enabled,
    "whether gradients are recorded": torch.is_grad_enabled,
    "whether autocast is on": lambda: torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"),
    "whether oneDNN is used": lambda: torch.backends.mkldnn.enabled,  # type: ignore[attr-defined]
    "whether TF32 is used": lambda: (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
    "how cuDNN chooses algorithms": lambda: (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
    "whether small numbers are flushed to zero": lambda: torch.tensor([1e-40]).mul(1.0).item() == 0,
    "the hooks of every module": lambda: [len(hooks) for hooks in _hooks()],
    "the folder that the program works in": Path.cwd,
}
DEFINITIONS = (types.FunctionType, types.BuiltinFunctionType, type, int, float, str, tuple)
LIBRARIES = (torch, torch.Tensor, nn.functional, nn.init, torch.optim.AdamW, np, np.random, random)


def snapshot() -> dict[str, dict]:
    """Kind -> name -> value of everything that is compared; takes 0.1 s."""
    computed = _computed()  # first: PyTorch replaces torch.manual_seed when the first optimizer is created
    return {"setting": _settings(), "definition": _definitions(), "computed": computed}


def first_change(before: dict[str, dict]) -> str | None:
    """A description of the first change since `before`; None if nothing changed."""
    for kind, find in (("setting", _settings), ("definition", _definitions), ("computed", _computed)):
        now = find()
        for name, value in before[kind].items():
            same = name in now and (now[name] is value or (not callable(value) and now[name] == value))
            if not same:
                return f"{name} ({value} before, {now[name]} now)" if kind == "setting" else name
    return None


def _settings():
    return {name: setting() for name, setting in SETTINGS.items()}


def _definitions():
    """Qualified name -> each function, class and constant of this program and of the libraries."""
    layers = (value for value in vars(nn).values() if isinstance(value, type))
    found = {}
    for owner in (*LIBRARIES, *layers, *_program_modules()):
        prefix = owner.__name__ if isinstance(owner, types.ModuleType) else f"{owner.__module__}.{owner.__qualname__}"
        for name, value in vars(owner).items():
            if isinstance(value, DEFINITIONS) and (name == "__call__" or not name.startswith("__")):
                found[f"{prefix}.{name}"] = value
    return found


def _program_modules():
    """The imported modules of this program, and their classes."""
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path is None or name.startswith("user_file_") or not Path(path).is_relative_to(ROOT):
            continue
        if (ROOT / name.replace(".", "/")).with_suffix(".py").exists():  # excludes packages in venv/
            yield module
            yield from (
                value for value in vars(module).values() if isinstance(value, type) and value.__module__ == name
            )


def _hooks():
    """The hooks that PyTorch runs around every module."""
    module = sys.modules[nn.Module.__module__]
    return [value for name, value in vars(module).items() if name.startswith("_global_") and isinstance(value, dict)]


def _computed():
    """The outputs of the built-in activations for fixed inputs, and the weights of a tiny CharLM after one step."""
    with torch.random.fork_rng(devices=[]):
        found = {f"what {name} computes": _bits_of_activation(name) for name in activations.BUILT_IN}
        return found | {"what a small CharLM learns": _bits_of_step()}


def _bits_of_activation(name):
    """The bytes of an activation's values and derivatives."""
    x = torch.linspace(-3, 3, 62).view(-1, 2).requires_grad_()
    y = activations.get_activation(name)(x)
    y.sum().backward()
    return y.detach().numpy().tobytes(), x.grad.numpy().tobytes()  # type: ignore[union-attr]


def _bits_of_step():
    """SHA-256 of the weights of a CharLM after one training step."""
    model = initialize(build_model("charlm", "relu", TINY, 5), seed=1).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    tokens = torch.arange(2 * TINY.block_size).view(2, -1) % 5
    nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten().flip(0)).backward()
    optimizer.step()
    return weights_sha256(model.state_dict())
