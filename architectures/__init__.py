"""Architectures by name, built at CharLM's size.

registry.py has the names below, architectures/networks.py the models, checks.py what a model must pass, sizes.py the sizes of a sweep.
PyTorch is imported with the first of these names, so that `--help` need not wait for it.
"""

import importlib

__all__ = ["ARCHITECTURES", "build_model", "initialize", "load_architecture_file", "register_architecture", "supports"]


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("architectures.registry"), name)
