"""Text: next-character prediction on a corpus (corpus.py), the task of the 2025 report.

Batches are random windows of the training split; evaluation uses fixed consecutive windows, so every model sees the same
contexts and evaluation draws no random numbers.
"""

import functools

import numpy as np
import torch

from tasks import corpus as corpora
from tasks.base import SupervisedTask, autocast, device_of, to_device_async

# Greedy continuations, compared by edit distance: T/2 characters after prompts of T/4 from across the validation split.
N_PROMPTS = 8


class Text(SupervisedTask):
    """Next-character prediction on a corpus.Corpus."""

    name = "text"

    def __init__(self, corpus):
        self.corpus = corpus
        self.label, self.sha256 = corpus.label, corpus.text_sha256
        self.n_classes = self.model_sizes = corpus.vocabulary_size
        self._on_device = functools.lru_cache(8)(self._tensors)

    @classmethod
    def load(cls, data):
        return cls(corpora.load_corpus(data))

    def __getstate__(self):
        return {"corpus": self.corpus}

    def __setstate__(self, state):
        self.__dict__.update(Text(state["corpus"]).__dict__)

    def facts(self):
        return {"name": self.name, **self.result_facts()["corpus"]}

    def identity(self):
        return {"corpus_sha256": self.sha256}  # a stored identity without a task is text

    def result_facts(self):
        facts = {"label": self.label, "sha256": self.sha256, "characters": len(self.corpus.tokens)}
        facts |= {"vocabulary_size": self.corpus.vocabulary_size}
        return {"corpus": facts | ({"path": self.corpus.path} if self.corpus.path else {})}

    def checkpoint_facts(self):
        return {"vocabulary": self.corpus.vocabulary, "corpus": {"label": self.label, "sha256": self.sha256}}

    def check(self, config):
        corpora.check_length(self.corpus, config.block_size)

    def draw_batch(self, generator, config, device):
        tokens, offsets = self._on_device("batches", config.block_size, str(device))
        starts = corpora.batch_starts(generator, len(tokens), config.block_size, config.batch_size)
        index = to_device_async(starts, device)[:, None] + offsets  # (B, T)
        return tokens[index], tokens[index + 1]

    def examples(self, split, config, device):
        return self._on_device(split, config.block_size, str(device))

    def _tensors(self, what, block_size, device):
        """Tensors on a device: (training tokens, offsets 0 to T - 1) for "batches", else (x, y) of a split's windows."""
        if what == "batches":
            tokens = torch.from_numpy(self.corpus.train.astype("int64")).to(device)
            return tokens, torch.arange(block_size, device=device)
        windows = corpora.evaluation_windows(self.corpus, what, block_size)
        return tuple(torch.from_numpy(part).to(device) for part in windows)

    def n_examples(self, split, config):
        return len(corpora.evaluation_starts(self.corpus, split, config.block_size))

    def continuations(self, model, config):
        """The greedy continuation of each prompt, T/2 characters."""
        x, _ = self.examples("validation", config, device_of(model))
        prompts = x[corpora.evenly_spaced(len(x), min(N_PROMPTS, len(x)))][:, : max(config.block_size // 4, 1)]
        tokens = greedy_continuations(model, prompts, max(config.block_size // 2, 1), config)
        return [self.corpus.decode(row) for row in tokens]


@torch.inference_mode()
def greedy_continuations(model, prompts, length, config) -> np.ndarray:
    """(P, length) tokens: the greedy continuation of each of the prompts (P, T0)."""
    tokens = prompts
    was_training = model.training
    model.eval()
    for _ in range(length):
        with autocast(config, tokens.device):
            logits = model(tokens[:, -config.block_size :])
        tokens = torch.cat([tokens, logits[:, -1].float().argmax(-1, keepdim=True)], dim=1)
    model.train(was_training)
    return tokens[:, prompts.shape[1] :].cpu().numpy()


@torch.inference_mode()
def sample_text(model, corpus, config, prompt, length, temperature, seed, device="cpu") -> str:
    """`prompt` followed by `length` characters sampled from the model at this temperature."""
    generator = np.random.default_rng(seed)
    tokens = torch.from_numpy(corpus.encode(prompt).astype(np.int64)).to(device)[None]
    model.eval()
    for _ in range(length):
        with autocast(config, device):
            logits = model(tokens[:, -config.block_size :])[0, -1].double().cpu().numpy()
        if temperature == 0:
            choice = int(logits.argmax())
        else:
            scaled = (logits - logits.max()) / temperature
            weights = np.exp(scaled)
            choice = int(generator.choice(len(weights), p=weights / weights.sum()))
        tokens = torch.cat([tokens, tokens.new_tensor([[choice]])], dim=1)
    return corpus.decode(tokens[0].cpu().numpy())
