"""The interface of a task, which is all that training, evaluation and engines know of the data.

A task draws training batches, provides fixed examples for evaluation, and describes itself for results. Shapes: W
examples (or windows of a text) of T positions each (1 for classification), C classes; predictions are (W, T, C)
log-probabilities.

To add a task, subclass `SupervisedTask` in this package and add it to tasks/registry.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from common.errors import unknown

EXAMPLES_AT_ONCE = 32  # fixed, since rounding can depend on the number of rows computed together


class Task(ABC):
    """The interface.

    A task holds data and no state of a trial: it is shared by all trials of a study and sent to every worker once.

    Attributes
    ----------
    name : str
    label, sha256 : str
        Of the data, as shown in results and tables.
    n_classes : int
        C.
    model_sizes
        What an architecture needs to know of the data (for text the vocabulary size V); JSON-compatible.
    unused : tuple of str
        Configuration fields that have no effect on the task; giving one is an error.
    data_sets : dict
        Name -> function that reads the data set, for tasks that have several; the first is the default.
    """

    name: str
    label: str
    sha256: str
    n_classes: int
    model_sizes: object
    unused: ClassVar[tuple[str, ...]] = ()
    data_sets: ClassVar[dict[str, Callable]] = {}

    @classmethod
    def load(cls, data: str) -> "Task":
        """The task with the data that --data asks for: "auto" for the default, or a label as in `facts`."""
        return cls()

    @classmethod
    def data_set(cls, data: str) -> str:
        """The name of the one of `data_sets` that --data asks for."""
        if data == "auto":
            return next(iter(cls.data_sets))
        if data not in cls.data_sets:
            raise unknown(f"data set of the task {cls.name}", data, cls.data_sets)
        return data

    @classmethod
    def defaults(cls, data: str) -> dict:
        """Configuration fields whose defaults, for this task and data, differ from those in config.py."""
        return {}

    def facts(self) -> dict:
        """What results record of the task; a subclass adds sizes and constants. JSON-compatible."""
        names = ("name", "label", "sha256", "n_classes", "model_sizes")
        return {name: getattr(self, name) for name in names}

    def check(self, config) -> None:  # noqa: B027 - most tasks have nothing to check
        """Raises UserError if there are too few data for a configuration."""

    def training_loss(self, model, generator: np.random.Generator, config):
        """The mean loss (scalar tensor, nats) of one batch drawn with the generator, used by `training_step`."""
        raise NotImplementedError("a task has a training_loss, or a training_step of its own")

    def training_step(self, learner, generator: np.random.Generator, config):
        """One training step; returns its loss, detached.

        Override it if a step is more than one loss. State kept between steps belongs in `learner.task_state` (see
        `initial_state`), which is saved with the trial.

        Parameters
        ----------
        learner : training.step.SingleTrial
            Has `model`, in training mode, and `minimize(loss)`: backward pass and one optimizer step.
        generator : numpy.random.Generator
            For this trial and step only.
        """
        loss = self.training_loss(learner.model, generator, config)
        learner.minimize(loss)
        return loss.detach()

    def initial_state(self, config) -> dict:
        """The initial `learner.task_state`: numbers and tensors by name."""
        return {}

    def example_loss(self, model, x, y):
        """A loss on a few examples that every parameter takes part in, for architectures/checks.py."""
        return cross_entropy(model(x), y)

    @abstractmethod
    def log_probabilities(self, model, split: str, config, chosen=None) -> Iterator:
        """Yields (n, T, C) float32 tensors of log-probabilities of successive examples of a split.

        Parameters
        ----------
        split : {"train", "validation"}
        chosen : (K,) integers, optional
            Indices of examples; default: all W.
        """

    @abstractmethod
    def targets(self, split: str, config) -> np.ndarray:
        """(W, T) integers: the true classes of a split's examples."""

    def n_examples(self, split: str, config) -> int:
        """W, the number of examples of a split that are evaluated."""
        return len(self.targets(split, config))

    def predict(self, model, split: str, config, chosen=None) -> np.ndarray:
        """(W, T, C) float32 log-probabilities of a split's examples, or of the chosen ones."""
        return np.concatenate([part.cpu().numpy() for part in self.log_probabilities(model, split, config, chosen)])

    def score(self, model, config) -> dict | None:
        """{name, value, higher_is_better} of a trained model, for tasks where loss and accuracy are not enough."""
        return None

    def continuations(self, model, config) -> list[str] | None:
        """Texts generated by a trained model, compared by edit distance; None if it generates none."""
        return None

    def checkpoint_facts(self) -> dict:
        """What a checkpoint records of the task, sufficient to rebuild the model."""
        return {"task": self.facts()}

    def identity(self) -> dict:
        """The task's part of a study's identity."""
        return {"task": self.name, "data_sha256": self.sha256}

    def result_facts(self) -> dict:
        """The task's part of a result file."""
        return {"task": self.facts()}


class SupervisedTask(Task):
    """A task with inputs and targets: cross-entropy on batches from `draw_batch`, evaluated on `examples`."""

    @abstractmethod
    def draw_batch(self, generator: np.random.Generator, config, device):
        """(x, y): a batch of inputs (B, ...) and targets (B, T), on a device."""

    def example_batch(self, config):
        """(x, y): a few examples on the CPU, on which architectures/checks.py tests a model."""
        return self.draw_batch(np.random.default_rng(0), config, "cpu")

    @abstractmethod
    def examples(self, split: str, config, device):
        """(x, y): all fixed inputs (W, ...) and targets (W, T) of a split, on a device."""

    def training_loss(self, model, generator, config):
        device = device_of(model)
        x, y = self.draw_batch(generator, config, device)
        with autocast(config, device):
            logits = model(x)
        return cross_entropy(logits, y)

    def targets(self, split, config):
        return self.examples(split, config, "cpu")[1].numpy()

    def log_probabilities(self, model, split, config, chosen=None):
        x, _ = self.examples(split, config, device_of(model))
        yield from log_probabilities(model, x if chosen is None else x[chosen], config)


@torch.inference_mode()
def log_probabilities(model, x, config):
    """Yields (n, T, C) float32 log-probabilities of successive groups of the inputs x (W, ...)."""
    was_training = model.training
    model.eval()
    for part in x.split(EXAMPLES_AT_ONCE):
        with autocast(config, x.device):
            logits = model(part)
        yield F.log_softmax(logits.float(), dim=-1)
    model.train(was_training)


def autocast(config, device):
    """The autocast context for a configuration's dtype."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=config.dtype == "bfloat16")


def cross_entropy(logits, targets):
    """Mean cross-entropy in nats, computed in at least float32; logits (B, T, C), targets (B, T)."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide.flatten(0, 1), targets.flatten())


def device_of(model):
    """The device of a model's parameters."""
    return next(model.parameters()).device


def to_device_async(values: np.ndarray, device):
    """An array as a tensor on a device, copied asynchronously from pinned memory to a GPU."""
    tensor = torch.from_numpy(values)
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
