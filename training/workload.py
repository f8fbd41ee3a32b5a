"""A training step and an evaluation on random text, as a trial runs them: what benchmarks and cost estimates time."""

from types import SimpleNamespace

import numpy as np


def forward_flops(config, vocabulary_size: int) -> float:
    """Floating-point operations of CharLM's forward pass over one batch, without embeddings."""
    width, length = config.n_embd, config.block_size
    per_token = config.n_layer * (24 * width**2 + 4 * length * width) + 2 * width * vocabulary_size
    return float(config.batch_size * length * per_token)


def quartiles(values) -> dict:
    """{median, q25, q75, n} of repeated measurements."""
    q25, median, q75 = np.quantile(values, (0.25, 0.5, 0.75))
    return {"median": float(median), "q25": float(q25), "q75": float(q75), "n": len(values)}


class Workload:
    """A model on random text: training steps and evaluations, exactly as a trial, or a pack of trials, runs them."""

    def __init__(
        self,
        config,
        device="cpu",
        activation="relu",
        vocabulary_size=65,
        architecture="charlm",
        pack=None,
        compiled=False,
    ):
        import torch

        from training import packed
        from training.step import Alone
        from training.trial import Trial, prepare_torch, stream_seeds

        prepare_torch(config)
        seeds = stream_seeds(0, 1, ("init", "data", "dropout"))
        trial = Trial(architecture, activation, config, 1, 0, seeds, device, pack=pack, compiled=compiled)
        trials = packed.pack_of(trial, 0, ("init", "data", "dropout")) if pack else (trial,)
        often = 1 / np.arange(1, vocabulary_size + 1)  # as unevenly as characters are in a text
        rng = np.random.default_rng(0)
        text = rng.choice(vocabulary_size, size=10**6, p=often / often.sum()).astype(np.uint8)
        corpus = SimpleNamespace(train=text, vocabulary_size=vocabulary_size)
        self.config, self.device = config, device
        self.learner = (packed.Stack if pack or compiled else Alone)(trials, corpus)
        windows = torch.from_numpy(text[: config.batch_size * (config.block_size + 1)].astype("int64")).to(device)
        windows = windows.view(config.batch_size, -1)
        self.x, self.y = windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
        self.number = 0

    def step(self):
        losses = self.learner.update(self.number)
        self.number += 1
        if self.device == "cpu":  # where a trial reads its loss, too
            losses[0].item()

    def evaluation(self):
        from training.evaluate import loss_and_accuracy

        return loss_and_accuracy(self.learner.model(0), self.x, self.y, self.config)
