"""The features of the quick test, as listed in the protocol (results/reference/sensitivity/protocol.md).

None depends on an architecture's name. All come from quick trials, whose seeds are not used for labels.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

import metrics
from analysis.sensitivity import between_group_sd

EARLY = ("early_sd",)
DIAGNOSTICS = (*EARLY, "pd_ratio", "activation_distance", "gradient_ratio", "noise_scale_ratio", "rate_over_critical")
PROPERTIES = ("parameters", "activation_calls", "share_behind", "normalised", "learning_rate")
FEATURES = (*DIAGNOSTICS, *PROPERTIES)
SETS = {"early": EARLY, "diagnostics": DIAGNOSTICS, "properties": PROPERTIES, "all": FEATURES}

SMALLEST_SD = 1e-4  # nats
BATCHES = 4  # training batches on which gradients are measured


def early_sd(losses: np.ndarray) -> float:
    """log10 of the between-activation SD of the losses (A, n), with noise subtracted; at least SMALLEST_SD."""
    return math.log10(max(between_group_sd(losses).mean, SMALLEST_SD))


def pd_ratio(log_p: Mapping[tuple[int, int], np.ndarray]) -> float:
    """log of (relative PD between activations at the same seed / relative PD between seeds of the same activation).

    Parameters
    ----------
    log_p : (activation, seed), by position -> (W, T, C) log-probabilities
    """
    across: list[float] = []
    within: list[float] = []
    for (one, p), (other, q) in itertools.combinations(log_p.items(), 2):
        if (one[0] == other[0]) != (one[1] == other[1]):
            kind = within if one[0] == other[0] else across
            kind.append(metrics.compare_brief(p, q)["relative_pd"])
    return math.log(max(np.mean(across), 1e-9) / max(np.mean(within), 1e-9))


def spread(table: Sequence[Sequence[float | None]]) -> float | None:
    """log of (largest / smallest geometric mean) of a positive quantity (A, n); None if a row has no value."""
    logs = [[math.log(v) for v in row if v is not None and 0 < v < math.inf] for row in table]
    return float(np.ptp([np.mean(row) for row in logs])) if all(logs) else None


def measure(models: Mapping[tuple[str, int], object], losses: np.ndarray, task, config) -> dict[str, float | None]:
    """All features of a case, by name.

    Parameters
    ----------
    models : (activation, trial number) -> trained nn.Module in evaluation mode
        The quick trials.
    losses : (A, n) array
        Their final validation losses, nats.
    config : Config
        Of the quick trials.
    """
    from diagnostics.alignment import largest_distance, observed_inputs, share_behind
    from training.evaluate import curve_examples

    activations, numbers = (list(dict.fromkeys(key[i] for key in models)) for i in (0, 1))
    chosen = curve_examples(task.n_examples("validation", config), config.curve_windows)
    log_p = {
        (activations.index(a), numbers.index(k)): task.predict(model, "validation", config, chosen)
        for (a, k), model in models.items()
    }
    batches = training_batches(task, config)
    x, y = batches[0]
    distances, statistics = [], []
    for model in models.values():
        inputs, calls = observed_inputs(model, x, config)
        distances.append(largest_distance(inputs, activations))
        statistics.append(gradient_features(model, batches, config))
    norm, noise, over = (
        [[statistics[i * len(numbers) + k][name] for k in range(len(numbers))] for i in range(len(activations))]
        for name in ("norm", "noise_scale", "rate_over_critical")
    )
    first = next(iter(models.values()))
    known = [value for row in over for value in row if value is not None]
    distance = None if None in distances else float(np.mean(distances))
    return {
        "early_sd": early_sd(losses),
        "pd_ratio": pd_ratio(log_p),
        "activation_distance": None if distance is None else math.log10(max(distance, 1e-6)),
        "gradient_ratio": spread(norm),
        "noise_scale_ratio": spread(noise),
        "rate_over_critical": float(np.mean(known)) if known else None,
        "parameters": math.log10(sum(p.numel() for p in first.parameters())),
        "activation_calls": math.log10(calls),
        "share_behind": share_behind(first, x, y, config),
        "normalised": float(any("norm" in type(m).__name__.lower() for m in first.modules())),
        "learning_rate": math.log10(config.learning_rate),
    }


def training_batches(task, config) -> list[tuple]:
    """[(x, y)]: BATCHES batches of the training split, evenly spaced and the same for every model."""
    x, y = task.examples("train", config, "cpu")
    count = min(config.batch_size, len(x) // BATCHES)
    chosen = np.arange(BATCHES * count) * len(x) // (BATCHES * count)
    return [(x[part], y[part]) for part in chosen.reshape(count, BATCHES).T]


def gradient_features(model, batches, config) -> dict[str, float | None]:
    """norm of the gradient, its noise scale (sequences), and log10 of learning rate over critical rate."""
    import torch

    from diagnostics.gradients import adamw_direction, critical_rate, gradient_statistics, loss_along, noise_scale

    seen = gradient_statistics(model, batches, config)
    weights = torch.cat([p.detach().double().flatten() for p in model.parameters() if p.requires_grad])
    loss = loss_along(model, adamw_direction(seen, weights, config.weight_decay), batches[:1], config)
    critical = critical_rate(loss, config.learning_rate)
    over = math.log10(config.learning_rate / critical) if 0 < critical < math.inf else None
    return {"norm": seen.norm, "noise_scale": noise_scale(seen.moments), "rate_over_critical": over}
