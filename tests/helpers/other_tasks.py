"""Two small tasks that are no text, with an architecture each: what shows that nothing above a task assumes text."""

import hashlib

import numpy as np
import torch
from torch import nn

from architectures.registry import ARCHITECTURES, register_architecture
from tasks import registry
from tasks.base import SupervisedTask


class Points(SupervisedTask):
    """Which of three sectors a point of the plane lies in: one position per example, three classes."""

    name, label = "points", "points in the plane"

    def __init__(self, n=120):
        self.points = np.random.default_rng(0).standard_normal((2 * n, 2)).astype("float32")
        angles = np.arctan2(self.points[:, 1], self.points[:, 0])
        self.sectors = ((angles + np.pi) / (2 * np.pi) * 3).astype("int64").clip(max=2)[:, None]
        self.n, self.n_classes, self.model_sizes = n, 3, 3
        self.sha256 = hashlib.sha256(self.points.tobytes()).hexdigest()

    def draw_batch(self, generator, config, device):
        chosen = generator.integers(self.n, size=config.batch_size)
        return torch.from_numpy(self.points[chosen]).to(device), torch.from_numpy(self.sectors[chosen]).to(device)

    def examples(self, split, config, device):
        part = slice(None, self.n) if split == "train" else slice(self.n, None)
        return torch.from_numpy(self.points[part]).to(device), torch.from_numpy(self.sectors[part]).to(device)


class Walk(Points):
    """The same, but each step trains twice on the batch that follows the last one: it remembers where it was."""

    name, label = "walk", "points in their order"
    unused = ("block_size",)

    @classmethod
    def defaults(cls, data):
        return {"max_iters": 7, "eval_interval": 7, "learning_rate": 0.01}

    def initial_state(self, config):
        return {"next": 0, "losses": torch.zeros(0)}

    def training_step(self, learner, generator, config):
        state = learner.task_state
        chosen = (state["next"] + np.arange(config.batch_size)) % self.n
        x, y = torch.from_numpy(self.points[chosen]), torch.from_numpy(self.sectors[chosen])
        for _ in range(2):
            loss = nn.functional.cross_entropy(learner.model(x).flatten(0, 1), y.flatten())
            learner.minimize(loss)
        state["next"] = int(chosen[-1]) + 1
        state["losses"] = torch.cat([state["losses"], loss.detach()[None]])
        return loss.detach()

    def score(self, model, config):
        x, y = self.examples("validation", config, "cpu")
        with torch.no_grad():
            right = (model(x).argmax(-1) == y).float().mean()
        return {"name": "sectors found", "value": float(right), "higher_is_better": True}


class Sectors(nn.Module):
    """(B, 2) -> (B, 1, 3)."""

    def __init__(self, config, make_activation, n_classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, config.n_embd),
            make_activation(),
            nn.Dropout(config.dropout),
            nn.Linear(config.n_embd, n_classes),
        )

    def forward(self, x):
        return self.layers(x)[:, None]


def register():
    """Makes the tasks and their architectures known in this process."""
    for task in (Points, Walk):
        registry.TASKS[task.name] = task
        register_architecture(f"sectors_{task.name}", Sectors, task=task.name)


def forget():
    """Undoes `register`."""
    for task in (Points, Walk):
        del registry.TASKS[task.name], ARCHITECTURES[f"sectors_{task.name}"]
