"""One training step: the model, its optimizer, the loss and the batch."""

import time

import randomness
from training.trial import Trial


def build(trial: Trial, vocabulary_size: int):
    """The model of a trial with its initial weights, on its device."""
    from architectures.registry import build_model, initialize

    model = build_model(trial.architecture, trial.activation, trial.config, vocabulary_size)
    initialize(model, trial.seeds["init"], flip_bit_seed=trial.seeds["bit"])
    return model.to(trial.device)


def make_optimizer(parameters, config):
    """AdamW with PyTorch's other defaults."""
    import torch

    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def loss_of(logits, targets):
    """Mean cross-entropy in nats, computed in float32 at least; logits (B, T, V), targets (B, T)."""
    import torch
    from torch.nn import functional as F

    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide.flatten(0, 1), targets.flatten())


class Alone:
    """What the training loop trains where a trial is trained alone; packed.Stack is its counterpart for several."""

    def __init__(self, trials, corpus):
        (self.trial,) = trials
        self.tokens, self.offsets = training_text(self.trial, corpus)
        self._model = build(self.trial, corpus.vocabulary_size).train()
        self.optimizer = make_optimizer(self._model.parameters(), self.trial.config)

    def model(self, slot):
        """The model of the trial in a slot."""
        return self._model

    def update(self, step):
        """One step of training; returns each trial's loss before it."""
        from model import address_dropout
        from training import evaluate

        trial = self.trial
        index = without_waiting(batch_starts(trial, step, self.tokens), trial.device)[:, None] + self.offsets
        address_dropout(self._model, trial.seeds["dropout"], step)
        with evaluate.autocast(trial.config, trial.device):
            logits = self._model(self.tokens[index])
        loss = loss_of(logits, self.tokens[index + 1])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return (loss.detach(),)

    def state(self):
        """What the learner needs to go on from here."""
        return {"model": self._model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state):
        """Goes on from what `state` gave."""
        self._model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def training_text(trial, corpus):
    """(the training split's characters, the offsets 0 to T - 1), int64, on the trial's device."""
    import torch

    tokens = torch.from_numpy(corpus.train.astype("int64")).to(trial.device)
    return tokens, torch.arange(trial.config.block_size, device=trial.device)


def batch_starts(trial, step, tokens):
    """(B,) int64 on the CPU: where the sequences of a trial's batch start."""
    from tasks import corpus as text

    generator = randomness.generator(trial.seeds["data"], "data", step)
    return text.batch_starts(generator, len(tokens), trial.config.block_size, trial.config.batch_size)


def without_waiting(values, device):
    """A numpy array on a device; a GPU takes it from pinned memory when it gets there, and nobody waits."""
    import torch

    tensor = torch.from_numpy(values)
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def wait_for(device) -> float:
    """Seconds until a device has done all it was given: a GPU is handed its steps faster than it computes them."""
    import torch

    started = time.perf_counter()
    kind = torch.device(device).type
    if kind != "cpu":
        getattr(torch, kind).synchronize()
    return time.perf_counter() - started
