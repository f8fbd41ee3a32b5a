"""Evaluation of a model on a whole split, and of pairs of models on the same examples.

Evaluation is exact and draws no random numbers: both models of a pair see the same examples, and evaluating more often
does not affect training. Shapes: W examples or windows of T positions, C classes.
"""

import itertools

import numpy as np
import torch

import metrics


def curve_examples(n_examples: int, count: int) -> np.ndarray:
    """Indices of the examples used for curves: `count` of them, evenly spaced (floor(j W / count)), at most all W."""
    count = min(count, n_examples)
    return np.arange(count) * n_examples // max(count, 1)


def loss_and_accuracy(model, task, split, config, chosen=None) -> tuple[np.ndarray, np.ndarray]:
    """Per example, each (W,) float64: the mean loss in nats over its positions, and the fraction predicted correctly."""
    targets = task.targets(split, config)
    targets = torch.from_numpy(targets if chosen is None else targets[chosen])
    losses, right, start = [], [], 0
    for log_p in task.log_probabilities(model, split, config, chosen):
        target = targets[start : start + len(log_p)].to(log_p.device)
        losses.append(-log_p.gather(-1, target[..., None])[..., 0].double().mean(-1).cpu().numpy())
        right.append((log_p.argmax(-1) == target).double().mean(-1).cpu().numpy())
        start += len(log_p)
    return np.concatenate(losses), np.concatenate(right)


def curve_point(model, task, config) -> tuple[float, float, np.ndarray]:
    """(training loss, validation loss, (Wc, T, C) validation log-probabilities) on the curve examples."""
    chosen = {
        split: curve_examples(task.n_examples(split, config), config.curve_windows) for split in ("train", "validation")
    }
    train_loss = float(loss_and_accuracy(model, task, "train", config, chosen["train"])[0].mean())
    log_p = task.predict(model, "validation", config, chosen["validation"])
    targets = task.targets("validation", config)[chosen["validation"]]
    return train_loss, float(metrics.window_losses(log_p, targets).mean()), log_p


def final_evaluation(model, task, config) -> dict:
    """The final measurements of a trained model.

    Returns
    -------
    dict
        train_loss, val_loss (nats), train_accuracy, val_accuracy (fractions), window_loss (W,) on the validation split,
        log_probabilities (W, T, C) float32 on the validation split.
    """
    train_losses, train_right = loss_and_accuracy(model, task, "train", config)
    log_p, targets = task.predict(model, "validation", config), task.targets("validation", config)
    window_loss = metrics.window_losses(log_p, targets)
    return {
        "train_loss": float(train_losses.mean()),
        "val_loss": float(window_loss.mean()),
        "train_accuracy": float(train_right.mean()),
        "val_accuracy": float(metrics.accuracy(log_p, targets)),
        "window_loss": window_loss,
        "log_probabilities": log_p,
    }


def compare_trials(targets, members: dict, pairs: list, last_position: bool = False) -> list[dict]:
    """Compares pairs of trials of one architecture and activation, each pair on the same contexts.

    Parameters
    ----------
    targets : (W, T) array
        True classes.
    members : dict
        Trial number -> {predictions: (W, T, C) log-probabilities, continuations: list of texts or None,
        curve: step -> function returning the (Wc, T, C) log-probabilities of that point}.
    pairs : list of (int, int)
        (trial_a, trial_b).
    last_position : bool
        Also measure the last position of each window alone, as the report does.

    Returns
    -------
    list of dict
        {trial_a, trial_b, the metrics by name, history, per_window: name -> (W,)}.
    """
    found = []
    models = {k: members[k]["predictions"] for k in dict.fromkeys(itertools.chain.from_iterable(pairs))}
    histories = _histories({k: members[k]["curve"] for k in models}, pairs)
    for (a, b), (values, per_window) in zip(pairs, metrics.compare_pairs(models, pairs, targets)):
        if members[a]["continuations"] is not None:
            values["edit_distance"] = metrics.edit_distance(members[a]["continuations"], members[b]["continuations"])
        if last_position:
            ends = metrics.compare_brief(models[a][:, -1:], models[b][:, -1:])
            values |= {f"{name}_last_position": value for name, value in ends.items()}
        found.append({"trial_a": a, "trial_b": b, **values, "history": histories[a, b], "per_window": per_window})
    return found


def _histories(curves, pairs):
    """Pair -> its history. Step by step over all pairs, so each curve point is read once and few are in memory."""
    found: dict[tuple, list] = {pair: [] for pair in pairs}
    steps = list(next(iter(curves.values())))
    if any(list(curve) != steps for curve in curves.values()):
        raise ValueError("the curves of these trials have different points")
    for step in steps:
        points = {number: curve[step]() for number, curve in curves.items()}
        for a, b in pairs:
            found[a, b].append({"step": step, **metrics.compare_brief(points[a], points[b])})
    return found
