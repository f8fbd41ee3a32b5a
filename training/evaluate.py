"""A model on all windows of a split, pairs of models on the same windows, and text that a model writes.

Evaluation is exact and draws no random number: both models of a pair see the same contexts, and how often one evaluates
changes nothing in the training. Shapes: W windows of T characters, V characters in the vocabulary.
"""

import functools
import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

import metrics
from common import storage
from tasks import corpus as text

WINDOWS_AT_ONCE = 32  # fixed, since a sum's last bits can depend on how many rows are computed together

# Greedy continuations, compared by edit distance: T/2 characters after prompts of T/4 from across the validation split.
N_PROMPTS = 8


@dataclass(frozen=True)
class EvaluationData:
    """The windows that every trial of a study is evaluated on, on the trial's device."""

    train: tuple[torch.Tensor, torch.Tensor]  # x, y, each (W, T)
    validation: tuple[torch.Tensor, torch.Tensor]
    curve: np.ndarray  # which of the W windows the curves use
    prompts: torch.Tensor  # (N_PROMPTS, T // 4)


def evaluation_data(corpus, config, device="cpu") -> EvaluationData:
    """Gathers the windows of a corpus for a configuration."""

    def split(name):
        return tuple(
            torch.from_numpy(part).to(device) for part in text.evaluation_windows(corpus, name, config.block_size)
        )

    validation = split("validation")
    n_windows = len(validation[0])
    prompts = validation[0][text.spread(n_windows, min(N_PROMPTS, n_windows))]
    return EvaluationData(
        train=split("train"),
        validation=validation,
        curve=text.curve_windows(n_windows, config.curve_windows),
        prompts=prompts[:, : max(config.block_size // 4, 1)],
    )


def autocast(config, device):
    """The context in which a model of this configuration computes."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=config.dtype == "bfloat16")


@torch.inference_mode()
def log_probabilities(model, x, config):
    """Yields (n, T, V) float32 log-probabilities of successive groups of the windows x (W, T)."""
    was_training = model.training
    model.eval()
    for part in x.split(WINDOWS_AT_ONCE):
        with autocast(config, x.device):
            logits = model(part)
        yield F.log_softmax(logits.float(), dim=-1)
    model.train(was_training)


def predict(model, x, config) -> np.ndarray:
    """(W, T, V) float32 log-probabilities of the windows x (W, T)."""
    return np.concatenate([part.cpu().numpy() for part in log_probabilities(model, x, config)])


def loss_and_accuracy(model, x, y, config) -> tuple[np.ndarray, np.ndarray]:
    """Per window, each (W,) float64: the mean loss in nats per character, and the share of right top-1 predictions."""
    losses, right = [], []
    for log_p, target in zip(log_probabilities(model, x, config), y.split(WINDOWS_AT_ONCE)):
        losses.append(-log_p.gather(-1, target[..., None])[..., 0].double().mean(-1).cpu().numpy())
        right.append((log_p.argmax(-1) == target).double().mean(-1).cpu().numpy())
    return np.concatenate(losses), np.concatenate(right)


def curve_point(model, data: EvaluationData, config) -> tuple[float, float, np.ndarray]:
    """(training loss, validation loss, (Wc, T, V) validation log-probabilities) on the curve windows."""
    x, y = (part[data.curve] for part in data.train)
    train_loss = float(loss_and_accuracy(model, x, y, config)[0].mean())
    x, y = (part[data.curve] for part in data.validation)
    log_p = predict(model, x, config)
    return train_loss, float(metrics.window_losses(log_p, y.cpu().numpy()).mean()), log_p


def final_evaluation(model, data: EvaluationData, config) -> dict:
    """Everything that a trial reports of its trained model.

    Returns: train_loss, val_loss (nats per character), train_accuracy, val_accuracy (fractions), window_loss (W,)
      on the validation split, log_probabilities (W, T, V) float32 on the validation split.
    """
    train_losses, train_right = loss_and_accuracy(model, *data.train, config)
    x, y = data.validation
    log_p = predict(model, x, config)
    targets = y.cpu().numpy()
    window_loss = metrics.window_losses(log_p, targets)
    return {
        "train_loss": float(train_losses.mean()),
        "val_loss": float(window_loss.mean()),
        "train_accuracy": float(train_right.mean()),
        "val_accuracy": float(metrics.accuracy(log_p, targets)),
        "window_loss": window_loss,
        "log_probabilities": log_p,
    }


@torch.inference_mode()
def greedy_continuations(model, prompts, length, config) -> np.ndarray:
    """(P, length) tokens: each of the prompts (P, T0) continued by its most probable character, again and again."""
    tokens = prompts
    was_training = model.training
    model.eval()
    for _ in range(length):
        with autocast(config, tokens.device):
            logits = model(tokens[:, -config.block_size :])
        tokens = torch.cat([tokens, logits[:, -1].float().argmax(-1, keepdim=True)], dim=1)
    model.train(was_training)
    return tokens[:, prompts.shape[1] :].cpu().numpy()


def continuation_texts(model, data: EvaluationData, corpus, config) -> list[str]:
    """The greedy continuation of each prompt, T/2 characters long."""
    tokens = greedy_continuations(model, data.prompts, max(config.block_size // 2, 1), config)
    return [corpus.decode(row) for row in tokens]


@torch.inference_mode()
def sample_text(model, corpus, config, prompt, length, temperature, seed, device="cpu") -> str:
    """`prompt` and `length` characters after it, each drawn from the model's distribution at this temperature."""
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


def compare_trials(targets, members: dict, pairs: list, last_position: bool = False) -> list[dict]:
    """Pairs of trials of one architecture and activation, each pair on the same contexts.

    Args:
      targets: (W, T) the true next characters.
      members: trial number -> {predictions: (W, T, V) log-probabilities or the path of their .npy,
        curve: list of (step, (Wc, T, V)) or the path of the checkpoint that holds it, continuations: list of texts}.
      pairs: list of (trial_a, trial_b).
      last_position: also measure the last position of each window alone, as the report does.

    Returns:
      A list of {trial_a, trial_b, the metrics by name, history, per_window: name -> (W,)}.
    """
    found = []
    curve = functools.lru_cache(2)(lambda number: _curve(members[number]["curve"]))  # few at a time: they are large
    models = {k: _array(members[k]["predictions"]) for k in dict.fromkeys(itertools.chain.from_iterable(pairs))}
    for (a, b), (values, per_window) in zip(pairs, metrics.compare_pairs(models, pairs, targets)):
        values["edit_distance"] = metrics.edit_distance(members[a]["continuations"], members[b]["continuations"])
        if last_position:
            ends = metrics.compare_brief(models[a][:, -1:], models[b][:, -1:])
            values |= {f"{name}_last_position": value for name, value in ends.items()}
        history = [
            {"step": step, **metrics.compare_brief(_array(log_a), _array(log_b))}
            for (step, log_a), (_, log_b) in zip(curve(a), curve(b), strict=True)
        ]
        found.append({"trial_a": a, "trial_b": b, **values, "history": history, "per_window": per_window})
    return found


def _array(source):
    if isinstance(source, np.ndarray):
        return source
    if isinstance(source, torch.Tensor):
        return source.numpy()
    return np.load(source, mmap_mode="r", allow_pickle=False)


def _curve(source):
    if isinstance(source, list):
        return source
    return storage.read_checkpoint(source)["curve"]
