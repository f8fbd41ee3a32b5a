"""A training step and an evaluation on random text, as a trial runs them, for benchmarks and cost estimates."""

import time

import numpy as np


def forward_flops(config, vocabulary_size: int) -> float:
    """Floating-point operations of CharLM's forward pass on one batch, without embeddings."""
    width, length = config.n_embd, config.block_size
    per_token = config.n_layer * (24 * width**2 + 4 * length * width) + 2 * width * vocabulary_size
    return float(config.batch_size * length * per_token)


def seconds(function) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def quartiles(values) -> dict:
    """{median, q25, q75, n} of repeated measurements."""
    q25, median, q75 = np.quantile(values, (0.25, 0.5, 0.75))
    return {"median": float(median), "q25": float(q25), "q75": float(q75), "n": len(values)}


def random_text(vocabulary_size=65, length=10**6):
    """A text task on random characters with a Zipf distribution; the time does not depend on the text."""
    from tasks.corpus import Corpus
    from tasks.text import Text

    weights = 1 / np.arange(1, vocabulary_size + 1)
    tokens = np.random.default_rng(0).choice(vocabulary_size, size=length, p=weights / weights.sum()).astype(np.uint8)
    vocabulary = "".join(map(chr, range(vocabulary_size)))
    return Text(Corpus("random", "", vocabulary, tokens, length * 9 // 10))


class Workload:
    """Training steps and one-batch evaluations of a model, exactly as a trial runs them.

    task: default: random text.
    """

    def __init__(self, config, device="cpu", activation="relu", architecture="charlm", task=None, compiled=False):
        from training.compiled import CompiledTrial
        from training.step import SingleTrial
        from training.trial import Trial, prepare_torch, stream_seeds

        prepare_torch(config)
        seeds = stream_seeds(0, 1, ("init", "data", "dropout"))
        trial = Trial(architecture, activation, config, 1, 0, seeds, device, compiled=compiled)
        self.config, self.device, self.task = config, device, task or random_text()
        self.learner = (CompiledTrial if compiled else SingleTrial)(trial, self.task)
        self.examples = np.arange(min(config.batch_size, self.task.n_examples("train", config)))
        self.number = 0

    def step(self):
        loss = self.learner.update(self.number)
        self.number += 1
        if self.device == "cpu":  # a trial reads its loss there, too
            loss.item()

    def evaluation(self):
        from training.evaluate import loss_and_accuracy

        return loss_and_accuracy(self.learner.model, self.task, "train", self.config, self.examples)
