"""What a model is trained on: the interface that training, evaluation and engines know, and nothing more.

A task draws training batches, has fixed examples to evaluate on, and says how results name it. Shapes: W examples (or
windows of a text) of T positions each (1 for classification), C classes; predictions are (W, T, C) log-probabilities.

To add a task, subclass `SupervisedTask` in a file of this folder and name it in tasks/registry.py.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional as F

EXAMPLES_AT_ONCE = 32  # fixed, since a sum's last bits can depend on how many rows are computed together


class Task:
    """The interface.

    Attributes
    ----------
    name : str
    label, sha256 : str
        Of the data, as results and tables show them.
    n_classes : int
        C.
    model_sizes
        What an architecture must know of the data to be built (for text the vocabulary's size V); ready for JSON.

    A task holds data and no state of a trial: it is shared by all trials of a study and sent to every worker once.
    """

    name: str
    label: str
    sha256: str
    n_classes: int
    model_sizes: object

    def facts(self) -> dict:
        """What results record of the task: name, label, sha256, sizes, constants; ready for JSON."""
        raise NotImplementedError

    def check(self, config) -> None:
        """A UserError if the data do not suffice for a configuration."""

    def training_loss(self, model, generator: np.random.Generator, config):
        """The mean loss (a scalar tensor, nats) of one batch, drawn by the generator; the shared training step's loss."""
        raise NotImplementedError

    def training_step(self, learner, generator: np.random.Generator, config):
        """One training step; returns its loss, detached.

        Override it if a step is more than one loss. What it must remember from step to step lies in `learner.task_state`
        (see `initial_state`), which is saved and resumed with the trial.

        Parameters
        ----------
        learner : training.step.SingleTrial
            Has `model`, in training mode, and `minimize(loss)`, which does backward and one step of the optimizer.
        generator : numpy.random.Generator
            Belongs to this trial and step alone.
        """
        loss = self.training_loss(learner.model, generator, config)
        learner.minimize(loss)
        return loss.detach()

    def initial_state(self, config) -> dict:
        """What `training_step` remembers before the first step: plain numbers and tensors by name."""
        return {}

    def log_probabilities(self, model, split: str, config, chosen=None) -> Iterator:
        """Yields (n, T, C) float32 tensors of log-probabilities of successive examples of a split.

        Parameters
        ----------
        split : {"train", "validation"}
        chosen : (K,) integers, optional
            Which of the W examples; all by default.
        """
        raise NotImplementedError

    def targets(self, split: str, config) -> np.ndarray:
        """(W, T) integers: the true classes of a split's examples."""
        raise NotImplementedError

    def n_examples(self, split: str, config) -> int:
        """W, the number of examples of a split that an evaluation uses."""
        return len(self.targets(split, config))

    def predict(self, model, split: str, config, chosen=None) -> np.ndarray:
        """(W, T, C) float32 log-probabilities of a split's examples, or of the chosen ones."""
        return np.concatenate([part.cpu().numpy() for part in self.log_probabilities(model, split, config, chosen)])

    def score(self, model, config) -> dict | None:
        """{name, value, higher_is_better} of a trained model, if loss and accuracy do not say how good it is."""
        return None

    def continuations(self, model, config) -> list[str] | None:
        """Texts that a trained model writes, to be compared by edit distance; None if it writes none."""
        return None

    def checkpoint_facts(self) -> dict:
        """What a checkpoint records of the task, enough to rebuild the model."""
        return {"task": self.facts()}

    def identity(self) -> dict:
        """What a study's identity says of the task."""
        return {"task": self.name, "data_sha256": self.sha256}

    def result_facts(self) -> dict:
        """How a result file records `facts`."""
        return {"task": self.facts()}


class SupervisedTask(Task):
    """A task with inputs and targets: cross-entropy on batches drawn by `draw_batch`, evaluated on `examples`."""

    def draw_batch(self, generator: np.random.Generator, config, device):
        """(x, y): a batch of inputs (B, ...) and targets (B, T), on a device."""
        raise NotImplementedError

    def examples(self, split: str, config, device):
        """(x, y): all fixed inputs (W, ...) and targets (W, T) of a split, on a device."""
        raise NotImplementedError

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
    """The context in which a model of this configuration computes."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=config.dtype == "bfloat16")


def cross_entropy(logits, targets):
    """Mean cross-entropy in nats, computed in float32 at least; logits (B, T, C), targets (B, T)."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide.flatten(0, 1), targets.flatten())


def device_of(model):
    """The device of a model's parameters."""
    return next(model.parameters()).device


def to_device_async(values: np.ndarray, device):
    """An array as a tensor on a device; to a GPU it is copied asynchronously from pinned memory."""
    tensor = torch.from_numpy(values)
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
