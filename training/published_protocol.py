"""The protocol of the 2025 report, reproduced draw by draw.

A single generator, PyTorch's global one on the CPU, supplies initial weights, batches, dropout, evaluation and the
comparison of models, so the order of the draws is part of the protocol. This is the source of its flaws: evaluating
more often changes the trained model, and the two models of a pair never see the same context. Followed exactly, it
reproduces the report's numbers. Everything is eager, float32, on the CPU, and for CharLM only.

A trial seeds the generator itself and is independent of what ran before. The comparison of an activation's models
continues from the generator state after its last trial. Both restore the caller's generators.

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

N_CONTEXTS = 1000  # contexts per accuracy, and per model of a pair
INITIAL_SD = 0.02  # of the weights of every Linear and Embedding
FIELDS = (  # configuration fields that this protocol uses
    *("n_layer", "n_head", "n_embd", "block_size", "dropout", "batch_size", "learning_rate", "weight_decay"),
    *("max_iters", "eval_interval", "eval_iters", "threads_per_trial"),
)
CONTEXTS_AT_ONCE = 100  # batch size if contexts are not evaluated one by one


def check_published(config, corpus) -> None:
    """Raises UserError if the report's protocol cannot run this configuration on this corpus."""
    if config.dtype != "float32":
        raise UserError(f"the published protocol computes in float32, but dtype is {config.dtype}")
    check_length(corpus, config.block_size)


# --- the model ----------------------------------------------------------------------------------------------


def build_published_model(activation, config, vocabulary_size) -> CharLM:
    """CharLM with initial weights from the global generator.

    Constructing each layer draws PyTorch's default initialisation first; then all weights are redrawn.
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
    """CharLM on (B, T) tokens: (B, T, V) logits. If `training`, dropout draws from the global generator.

    Nothing is fused: fused attention draws its dropout differently, and a fused product of key, query and value rounds
    differently.
    """
    model.train(training)  # for activations that depend on it
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
    """Trains and evaluates one trial as the report did.

    Parameters
    ----------
    activation : str
        A name known to activations.py.
    trial_index0 : int
        The trial's number, from 0.
    seed : int
        From 0 to 2**32 - 1; in the report 42 + trial_index0.
    config : Config
        Of dtype float32; curve_windows is not used.
    corpus : tasks.corpus.Corpus
    report : callable, optional
        Called as report(step, loss, snapshot) after every step: the number of finished steps, the batch loss, and a
        function that returns the whole state (for torch.save and for `start_state`).
    start_state : dict, optional
        A snapshot of this trial; training resumes from it, bit-identically.
    one_by_one : bool
        Evaluate the contexts of the accuracies one at a time, as the report's script did, or in batches, which is
        faster and differs only by rounding.

    Returns
    -------
    dict
        trial (from 1), seed, status, train_loss, val_loss, train_accuracy, val_accuracy (fractions), training_time_s,
        evaluation_time_s, history: [{step, train_loss, val_loss}], model (state_dict), and generator_state (uint8
        tensor, after the trial). Losses are sampled estimates in nats. A trial whose loss stops being finite runs to
        the end, as the report's would have; its status is "diverged" and its losses and accuracies are None.
    """
    check_published(config, corpus)
    with _global_state_restored(config.threads_per_trial):
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
    """The training loop, from the start or from a snapshot; returns the history and the seconds it took."""
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
    """A copy of everything that the rest of a trial depends on after `step` steps."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": history}
    seconds = time.perf_counter() - began
    return deepcopy(state) | {
        "step": step,
        "generator_state": torch.get_rng_state(),
        "training_time_s": seconds,
    }


def _restore(snapshot, model, optimizer):
    model.load_state_dict(snapshot["model"])
    optimizer.load_state_dict(deepcopy(snapshot["optimizer"]))  # else training would modify the snapshot's tensors
    torch.set_rng_state(snapshot["generator_state"])
    return snapshot["step"], deepcopy(snapshot["history"]), snapshot["training_time_s"]


# --- batches and estimates ----------------------------------------------------------------------------------


def _draw_start(split, config, count):
    """`count` random offsets of contexts with a next character, from the global generator."""
    return torch.randint(len(split) - config.block_size, (count,))


def _draw_batch(split, config):
    """(x, y), each (B, T): contexts at random offsets, and the same shifted by one character."""
    positions = _draw_start(split, config, config.batch_size)[:, None] + torch.arange(config.block_size)
    return split[positions], split[positions + 1]


def _loss(logits, y):
    return F.cross_entropy(logits.flatten(0, 1), y.flatten())


@torch.no_grad()
def estimate_losses(model, splits, config) -> dict:
    """Mean loss of eval_iters random batches of the training split, then of the validation split; None: not finite."""
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
    """Predictions after N = 1,000 random contexts: (N, V) logits, and the (N,) true next characters.

    All offsets are drawn first, in the report's order. Its script drew and evaluated one context at a time, which is
    equivalent, since evaluation draws nothing. If the model is None, only the draws are made.
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
    """Compares the models of one activation as the report did: each model of a pair on 1,000 contexts of its own.

    Parameters
    ----------
    models : list of CharLM or None
        In trial order; None: diverged (its draws are still made).
    generator_state : uint8 tensor
        Generator state after the last of these trials.
    config, corpus, one_by_one
        As for `train_published_trial`.

    Returns
    -------
    list of dict
        {trial_a, trial_b (from 1), relative_pd, prediction_differences, total_predictions}, a < b in order;
        relative_pd and prediction_differences are None if a model diverged. All values depend on the number of trials,
        since the generator continues from the last one.
    """
    check_published(config, corpus)
    split = _as_tensor(corpus.validation)
    pairs = []
    with _global_state_restored(config.threads_per_trial):
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


# --- global state -------------------------------------------------------------------------------------------


@contextmanager
def _global_state_restored(threads):
    """Sets the number of threads; restores it and the global generators (PyTorch, NumPy) afterwards."""
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
