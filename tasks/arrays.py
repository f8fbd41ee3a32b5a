"""Tasks whose examples are arrays in memory: inputs and classes of a training and a validation split.

A subclass names its data sets and reads each of them; see tasks/images.py.
"""

import hashlib
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from common.errors import UserError
from tasks.base import SupervisedTask, to_device_async


class Split(NamedTuple):
    """inputs: (n, ...), of any type; targets: (n, T) int64 classes, T = 1 for classification."""

    inputs: np.ndarray
    targets: np.ndarray


class ArrayTask(SupervisedTask):
    """Training batches are examples drawn independently; all validation examples are evaluated, and as many of the
    training split.

    Attributes
    ----------
    data_sets : dict
        Name -> function that reads the data set: () -> (train, validation), each a Split.
    """

    data_sets: ClassVar[dict[str, Callable[[], tuple[Split, Split]]]]
    unused = ("block_size",)

    def __init__(self, label: str, train: Split, validation: Split, n_classes: int):
        for name, split in (("training", train), ("validation", validation)):
            _check(label, name, *split, n_classes)
        self.label, self.splits, self.n_classes = label, {"train": train, "validation": validation}, n_classes
        self.sha256 = digest(*train, *validation)
        self.model_sizes = {"shape": list(train.inputs.shape[1:]), "n_classes": n_classes}

    @classmethod
    def load(cls, data):
        label = cls.data_set(data)
        train, validation = cls.data_sets[label]()
        return cls(label, train, validation, int(train.targets.max()) + 1)

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        """Stored inputs (B, ...) as a model receives them."""
        return x.float()

    def facts(self):
        return super().facts() | {f"n_{name}": len(split.targets) for name, split in self.splits.items()}

    def draw_batch(self, generator, config, device):
        x, y = self.splits["train"]
        chosen = generator.integers(len(y), size=config.batch_size)
        return self.prepare(to_device_async(x[chosen], device)), to_device_async(y[chosen], device)

    def examples(self, split, config, device):
        x, y = self.splits[split]
        chosen = self._evaluated(split)
        return self.prepare(torch.from_numpy(x[chosen]).to(device)), torch.from_numpy(y[chosen]).to(device)

    def targets(self, split, config):
        return self.splits[split].targets[self._evaluated(split)]

    def _evaluated(self, split):
        """Indices of the examples of a split that are evaluated, evenly spaced: floor(i n / count)."""
        n = len(self.splits[split].targets)
        count = min(n, len(self.splits["validation"].targets))
        return np.arange(count) * n // max(count, 1)


def _check(label, name, inputs, targets, n_classes):
    """Raises UserError unless a split has the form that models and metrics expect."""
    problem = None
    if targets.ndim != 2 or targets.dtype != np.int64:
        problem = f"targets must be an (n, T) array of int64, not {targets.shape} of {targets.dtype}"
    elif len(inputs) != len(targets):
        problem = f"there are {len(inputs)} inputs but {len(targets)} targets"
    elif not len(targets):
        problem = "it is empty"
    elif targets.min() < 0 or targets.max() >= n_classes:
        problem = f"classes must be from 0 to {n_classes - 1}, but they are from {targets.min()} to {targets.max()}"
    elif np.issubdtype(inputs.dtype, np.floating) and not np.isfinite(inputs).all():
        problem = "inputs are not all finite"
    if problem:
        raise UserError(f"the {name} split of {label} cannot be used: {problem}")


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 of the types, shapes and bytes of arrays."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
