"""Results as a study writes them, with made-up numbers of a plausible size: for tests of figures and of the analysis."""

import functools
import itertools

import numpy as np

import metrics
from config_cpu import ConfigCPU
from study.summaries import summarize

STEPS = (0, 50, 100)


@functools.cache
def make_result(activation="relu", n=10, protocol="matched", seed=0):
    """A result as a study writes it, with made-up numbers of a plausible size."""
    rng = np.random.default_rng([seed, len(activation), sum(map(ord, activation))])
    level = 2.63 + 0.01 * rng.normal()
    trials = []
    for k in range(1, n + 1):
        end = level + 0.006 * rng.normal()
        losses = {0: 4.17 + 0.01 * rng.normal(), 50: 3.0 + 0.01 * rng.normal(), 100: end}
        history = [{"step": s, "train_loss": x - 0.005, "val_loss": x} for s, x in losses.items()]
        record = {"trial": k, "seed": 41 + k, "status": "complete", "train_loss": end - 0.005, "val_loss": end}
        record |= {
            "training_time_s": 10.0,
            "evaluation_time_s": 1.0,
            "train_accuracy": 0.27 + 0.002 * rng.normal(),
            "val_accuracy": 0.265 + 0.002 * rng.normal(),
        }
        trials.append(record | {"history": history})
    far = 0.09 + 0.004 * rng.normal()
    pairs = [make_pair(a, b, far, rng, protocol) for a, b in itertools.combinations(range(1, n + 1), 2)]
    result = {"architecture": "charlm", "activation": activation, "trials": trials, "pairs": pairs}
    result |= {"corpus": {"label": "shakespeare", "sha256": "0" * 64, "characters": 1_115_394}, "n_parameters": 429_824}
    identity = {"protocol": protocol, "device": "cpu", "vary": ["init", "data", "dropout"]}
    result["identity"] = identity | {"seed_base": 42, "numerics_version": 1, "config": ConfigCPU().as_dict()}
    return summarized(result)


def make_pair(a, b, far, rng, protocol):
    pair = {"trial_a": a, "trial_b": b}
    for name, metric in metrics.METRICS.items():
        pair[name] = far * rng.uniform(0.9, 1.1) if metric.better == "lower" else 1 - far * rng.uniform(0.9, 1.1)
    pair |= {"prediction_differences": 9000, "total_predictions": 111488}
    share = zip(STEPS, (0.7, 1.3, 1), (0.98, 0.3, 0.1))
    history = [{"step": s, "relative_pd": pair["relative_pd"] * x, "top1_disagreement": y} for s, x, y in share]
    return pair | {"history": history if protocol == "matched" else []}


def summarized(result):
    return {**result, "summary": summarize(result)}


def damaged(result):
    """The same study after bad luck: a diverged trial, a failed one, values that are missing."""
    trials, pairs = [dict(t) for t in result["trials"]], [dict(p) for p in result["pairs"]]
    empty = dict.fromkeys(("train_loss", "val_loss", "train_accuracy", "val_accuracy"))
    trials[0] |= {"status": "diverged", **empty}
    trials[0]["history"] = [
        {"step": 0, "train_loss": 4.2, "val_loss": 4.2},
        {"step": 50, "train_loss": 90, "val_loss": 95},
    ]
    trials[-1] |= {"status": "failed", "history": [], **empty}
    lost = {1, len(trials)}
    pairs = [p for p in pairs if not {p["trial_a"], p["trial_b"]} & lost]
    if pairs:
        pairs[0] |= {"symmetric_kl": None, "edit_distance": None, "history": pairs[0]["history"][:2]}
    for trial in trials[1:-1]:
        trial["history"] = [dict(entry) for entry in trial["history"]]
        trial["history"][1]["train_loss"] = None
    return summarized({**result, "trials": trials, "pairs": pairs})
