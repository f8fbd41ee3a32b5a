"""The report's protocol, draw by draw, kept apart from the instrument that replaced it.

One generator, PyTorch's global one on the CPU, feeds initial weights, batches, dropout, evaluation and the
comparison of models, so the order of the draws is the protocol. Hence its flaws: evaluating more often trains
another model, and the two models of a pair never see the same context. Followed to the letter it gives the
report's own figures. Everything here is eager, float32 and on the CPU, for CharLM alone.

A trial seeds the generator itself and depends on nothing that ran before. The comparison of an activation's
models continues where its last trial left the generator. Both leave the caller's generators as they found them.

Shapes: B sequences, T = block_size characters, C channels, H heads, D = C / H, V characters.
"""

import math
import time
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from itertools import combinations

import numpy as np
import torch
from torch.nn import functional as F

import activations
from common.errors import UserError
from model import CharLM
from tasks.corpus import check_length

N_CONTEXTS = 1000  # single contexts per accuracy, and per model of a pair
INITIAL_SD = 0.02  # of the weights of every Linear and Embedding
FIELDS = (  # of a configuration, those that this protocol reads; whatever was added since has no meaning here
    *("n_layer", "n_head", "n_embd", "block_size", "dropout", "batch_size", "learning_rate", "weight_decay"),
    *("max_iters", "eval_interval", "eval_iters", "threads_per_trial"),
)
CONTEXTS_AT_ONCE = 100  # where contexts are not evaluated one by one


def check_published(config, corpus) -> None:
    """A UserError unless the report's protocol can run this configuration on this corpus."""
    if config.dtype != "float32":
        raise UserError(f"the published protocol computes in float32, but dtype is {config.dtype}")
    check_length(corpus, config.block_size)


# --- the model ----------------------------------------------------------------------------------------------


def build_published_model(activation, config, vocabulary_size) -> CharLM:
    """CharLM with initial weights from the global generator.

    Making each layer consumes PyTorch's default initialisation; then all weights are drawn again.
    """
    gated = activations.record(activation).gated
    model = CharLM(config, partial(activations.get_activation, activation), vocabulary_size, gated)
    return model.apply(_draw_weights)


def _draw_weights(module):
    if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
        torch.nn.init.normal_(module.weight, mean=0.0, std=INITIAL_SD)
    if isinstance(module, torch.nn.Linear) and module.bias is not None:
        torch.nn.init.zeros_(module.bias)


def published_forward(model, tokens, training) -> torch.Tensor:
    """CharLM on (B, T) tokens: (B, T, V) logits. Dropout draws from the global generator where `training`.

    Step by step: fused attention draws its dropout otherwise, and a fused product of key, query and value has
    other sums.
    """
    model.train(training)  # for activations that ask
    x = model.token_embedding(tokens) + model.position_embedding(torch.arange(tokens.shape[1]))
    for block in model.blocks:
        x = x + _attention(block.attention, block.norm1(x), training)
        x = x + _feed_forward(block.feed_forward, block.norm2(x), training)
    return model.head(model.norm(x))


def _attention(attention, x, training):  # (B, T, C) -> (B, T, C)
    length = x.shape[1]
    key, query, value = (
        layer(x).unflatten(-1, (attention.n_head, -1)).transpose(1, 2)  # (B, H, T, D)
        for layer in (attention.key, attention.query, attention.value)
    )
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (B, H, T, T)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(-1)
    weights = F.dropout(weights, attention.weight_dropout.probability, training)
    joined = (weights @ value).transpose(1, 2).flatten(-2)
    return F.dropout(attention.projection(joined), attention.output_dropout.probability, training)


def _feed_forward(layer, x, training):  # (B, T, C) -> (B, T, C)
    x = layer.contract(layer.activation(layer.expand(x)))
    return F.dropout(x, layer.dropout.probability, training)


# --- one trial ----------------------------------------------------------------------------------------------


def train_published_trial(
    activation, trial_index0, seed, config, corpus, report=None, start_state=None, one_by_one=True
) -> dict:
    """One trial from its seed to its accuracies.

    Args:
      activation: a name that activations.py knows.
      trial_index0: the trial's number, from 0.
      seed: from 0 to 2**32 - 1; in the report 42 + trial_index0.
      config: a Config of dtype float32; curve_windows is not used.
      corpus: a corpus.Corpus.
      report: called as report(step, loss, snapshot) after every update: how many updates are done, the loss
        of the batch, and a function that returns the whole state, fit for torch.save and for `start_state`.
      start_state: a snapshot of this same trial; training resumes from there, to the same bits.
      one_by_one: evaluate the accuracies' contexts one at a time, as the report's script did. Otherwise the
        same contexts go through the model many at once, which is faster and differs only by rounding.

    Returns:
      {trial (from 1), seed, status, train_loss, val_loss, train_accuracy, val_accuracy (fractions),
      training_time_s, evaluation_time_s, history: [{step, train_loss, val_loss}]}, plus "model", its
      state_dict, and "generator_state", a uint8 tensor: the generator as the trial left it. Losses are
      sampled estimates, in nats; history holds those made on the way, the trial's own is the one after the
      last update. A trial whose losses end non-finite runs on to the end as the report's would have; it is
      "diverged", its figures None.
    """
    check_published(config, corpus)
    with _own_surroundings(config.threads_per_trial):
        _seed_generators(seed)
        model = build_published_model(activation, config, corpus.vocabulary_size)
        splits = [_as_tensor(corpus.train), _as_tensor(corpus.validation)]
        history, training_time_s = _train(model, splits, config, report, start_state)
        began = time.perf_counter()
        losses = estimate_losses(model, splits, config)
        accuracies = [_accuracy(model, split, config, one_by_one) for split in splits]
        complete = None not in losses.values()
        return {
            "trial": trial_index0 + 1,
            "seed": seed,
            "status": "complete" if complete else "diverged",
            **(losses if complete else dict.fromkeys(losses)),
            "train_accuracy": accuracies[0] if complete else None,
            "val_accuracy": accuracies[1] if complete else None,
            "training_time_s": training_time_s,
            "evaluation_time_s": time.perf_counter() - began,
            "history": history,
            "model": model.state_dict(),
            "generator_state": torch.get_rng_state(),
        }


def _train(model, splits, config, report, start_state):
    """The training loop, from the start or from a snapshot: the history, and the seconds it took."""
    rates = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    optimizer = torch.optim.AdamW(model.parameters(), **rates)
    first, history, seconds = 0, [], 0.0
    if start_state is not None:
        first, history, seconds = _restore(start_state, model, optimizer)
    began = time.perf_counter() - seconds
    for step in range(first, config.max_iters):
        if step % config.eval_interval == 0 or step == config.max_iters - 1:
            history.append({"step": step, **estimate_losses(model, splits, config)})
        x, y = _draw_batch(splits[0], config)
        loss = _loss(published_forward(model, x, training=True), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if report is not None:
            report(step + 1, loss.item(), partial(_snapshot, step + 1, model, optimizer, history, began))
    return history, time.perf_counter() - began


def _snapshot(step, model, optimizer, history, began):
    """Everything that the rest of a trial depends on after `step` updates, in copies of its own."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": history}
    seconds = time.perf_counter() - began
    return deepcopy(state) | {
        "step": step,
        "generator_state": torch.get_rng_state(),
        "training_time_s": seconds,
    }


def _restore(snapshot, model, optimizer):
    model.load_state_dict(snapshot["model"])
    optimizer.load_state_dict(deepcopy(snapshot["optimizer"]))  # or training would change the snapshot's own tensors
    torch.set_rng_state(snapshot["generator_state"])
    return snapshot["step"], deepcopy(snapshot["history"]), snapshot["training_time_s"]


# --- batches and estimates ----------------------------------------------------------------------------------


def _draw_start(split, config, count):
    """`count` offsets of contexts that have a next character, from the global generator."""
    return torch.randint(len(split) - config.block_size, (count,))


def _draw_batch(split, config):
    """(x, y), each (B, T): contexts at random offsets, and the same one character further on."""
    places = _draw_start(split, config, config.batch_size)[:, None] + torch.arange(config.block_size)
    return split[places], split[places + 1]


def _loss(logits, y):
    return F.cross_entropy(logits.flatten(0, 1), y.flatten())


@torch.no_grad()
def estimate_losses(model, splits, config) -> dict:
    """The mean loss of eval_iters random batches of the training split, then of the validation split.

    None stands for a mean that is not finite.
    """
    means = []
    for split in splits:
        losses = []
        for _ in range(config.eval_iters):
            x, y = _draw_batch(split, config)
            losses.append(_loss(published_forward(model, x, training=False), y).item())
        mean = sum(losses) / len(losses)
        means.append(mean if math.isfinite(mean) else None)
    return {"train_loss": means[0], "val_loss": means[1]}


@torch.no_grad()
def _last_logits(model, split, config, one_by_one):
    """What a model predicts after 1,000 single contexts: (N, V) logits, and the (N,) true next characters.

    All offsets are drawn first, in the report's order. Its script evaluated each context before it drew the
    next, which is the same, since evaluating draws nothing. Where the model is None, only the draws are made.
    """
    starts = torch.cat([_draw_start(split, config, 1) for _ in range(N_CONTEXTS)])
    if model is None:
        return None, None
    contexts = split[starts[:, None] + torch.arange(config.block_size)]
    logits = [
        published_forward(model, some, training=False)[:, -1]
        for some in contexts.split(1 if one_by_one else CONTEXTS_AT_ONCE)
    ]
    return torch.cat(logits), split[starts + config.block_size]


def _accuracy(model, split, config, one_by_one):
    logits, y = _last_logits(model, split, config, one_by_one)
    return (logits.argmax(-1) == y).sum().item() / N_CONTEXTS


# --- pairs of models, and summaries -------------------------------------------------------------------------


def compare_published(models, generator_state, config, corpus, one_by_one=True) -> list[dict]:
    """How often the models of one activation disagree: the report's way, each on 1,000 contexts of its own.

    Args:
      models: CharLM in the order of their trials; None for one that diverged, whose draws are still made.
      generator_state: the generator as the last of these trials left it (uint8 tensor).
      config, corpus, one_by_one: as for train_published_trial.

    Returns:
      A list of {trial_a, trial_b (from 1), relative_pd, prediction_differences, total_predictions}, a < b in
      order; the two figures are None where a model diverged. All of them change with the number of trials,
      since the generator continues where the last one ended.
    """
    check_published(config, corpus)
    split = _as_tensor(corpus.validation)
    pairs = []
    with _own_surroundings(config.threads_per_trial):
        torch.set_rng_state(generator_state)
        for a, b in combinations(range(len(models)), 2):
            logits_a, _ = _last_logits(models[a], split, config, one_by_one)
            logits_b, _ = _last_logits(models[b], split, config, one_by_one)
            pairs.append({"trial_a": a + 1, "trial_b": b + 1, **_disagreement(logits_a, logits_b)})
    return pairs


def _disagreement(logits_a, logits_b):
    none = {"relative_pd": None, "prediction_differences": None, "total_predictions": N_CONTEXTS}
    if logits_a is None or logits_b is None:
        return none
    p, q = logits_a.softmax(-1).double(), logits_b.softmax(-1).double()  # (N, V)
    relative_pd = ((p - q).abs().mean() / (p.mean() + q.mean())).item()
    if not math.isfinite(relative_pd):
        return none
    differences = (p.argmax(-1) != q.argmax(-1)).sum().item()
    return none | {"relative_pd": relative_pd, "prediction_differences": differences}


# --- surroundings -------------------------------------------------------------------------------------------


@contextmanager
def _own_surroundings(threads):
    """Gives the caller's global generators (PyTorch's, NumPy's) and number of threads back afterwards."""
    threads_before, numpy_before = torch.get_num_threads(), np.random.get_state()  # noqa: NPY002
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        np.random.set_state(numpy_before)  # noqa: NPY002
        torch.set_num_threads(threads_before)


def _seed_generators(seed):
    if not 0 <= seed < 2**32:
        raise UserError(f"the published protocol's seeds are from 0 to {2**32 - 1}, but this one is {seed}")
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  as the report did, though nothing draws from it


def _as_tensor(tokens):
    return torch.from_numpy(tokens.astype(np.int64))
