"""The training step of a single trial: model, optimizer, learning rate."""

import time

import torch

import randomness
from architectures.registry import build_model, initialize
from model import address_dropout
from training.trial import Trial


def build(trial: Trial, model_sizes):
    """The model of a trial with its initial weights, on its device; `model_sizes` as in tasks.base.Task."""
    model = build_model(trial.architecture, trial.activation, trial.config, model_sizes)
    initialize(model, trial.seeds["init"], flip_bit_seed=trial.seeds["bit"])
    return model.to(trial.device)


def make_optimizer(parameters, config):
    """AdamW with PyTorch's defaults for everything but learning rate and weight decay."""
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def set_learning_rate(optimizer, config, step):
    """Sets the learning rate for a step (from 0) in every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate_at(step)


class SingleTrial:
    """One trial as the training loop sees it; compiled.CompiledTrial is the compiled version."""

    def __init__(self, trial, task):
        self.trial, self.task = trial, task
        self.model = build(trial, task.model_sizes).train()
        self.optimizer = make_optimizer(self.model.parameters(), trial.config)
        self.task_state = task.initial_state(trial.config)

    def update(self, step):
        """One training step; returns the loss before it."""
        trial = self.trial
        address_dropout(self.model, trial.seed_of("dropout", step), step)
        set_learning_rate(self.optimizer, trial.config, step)
        generator = randomness.generator(trial.seed_of("data", step), "data", step)
        return self.task.training_step(self, generator, trial.config)

    def minimize(self, loss):
        """Backward pass and one optimizer step."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def state(self):
        """What is needed to resume from here."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return state | ({"task": self.task_state} if self.task_state else {})

    def load(self, state):
        """Resumes from what `state` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.task_state = state.get("task", {})


def synchronize(device) -> float:
    """Waits until a device has finished all queued work; returns the seconds waited."""
    started = time.perf_counter()
    kind = torch.device(device).type
    if kind != "cpu":
        getattr(torch, kind).synchronize()
    return time.perf_counter() - started
