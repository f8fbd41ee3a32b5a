"""Architectures by name, built at CharLM's size.

registry.py: the registry and building; networks.py: the models; checks.py: checks that every model must pass; sizes.py:
CharLM at other sizes. PyTorch is imported with the first of the names below, so that `--help` is fast.
"""

import importlib

__all__ = ["ARCHITECTURES", "build_model", "initialize", "load_architecture_file", "register_architecture", "supports"]


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("architectures.registry"), name)
