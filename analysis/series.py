"""Values and training curves from stored results, with intervals."""

from dataclasses import replace

import numpy as np

import metrics
from analysis.estimates import Estimate, mean_interval, pair_interval, pair_matrix


def truncated(estimate: Estimate, name: str) -> Estimate:
    """The estimate of a measure with its interval clipped to the range of the measure."""
    low, high = metrics.truncated(name, estimate.low, estimate.high)
    return replace(estimate, low=low, high=high)


def trial_curves(trials: list[dict], name: str) -> tuple[np.ndarray, np.ndarray]:
    """A measure of trials along training: steps (S,) and values (n, S), NaN if missing."""
    histories = [{entry["step"]: entry.get(name) for entry in trial["history"]} for trial in trials]
    return _curves(histories)


def pair_curves(result: dict, name: str) -> tuple[np.ndarray, np.ndarray, list]:
    """A pair metric along training: steps (S,), values (P, S), NaN if missing, and S Estimates of their mean."""
    pairs = result["pairs"]
    steps, values = _curves([{entry["step"]: entry.get(name) for entry in p["history"]} for p in pairs])
    numbers = sorted({pair[key] for pair in pairs for key in ("trial_a", "trial_b")})
    ends = [(numbers.index(pair["trial_a"]), numbers.index(pair["trial_b"])) for pair in pairs]
    matrices = [pair_matrix([(i, j, v) for (i, j), v in zip(ends, column)], len(numbers)) for column in values.T]
    return steps, values, [truncated(pair_interval(matrix), name) for matrix in matrices]


def trained(steps: np.ndarray, values: np.ndarray, estimates: list) -> tuple[np.ndarray, np.ndarray, list]:
    """The result of `pair_curves` without the untrained models of step 0, if at least two later steps remain."""
    if len(steps) < 3 or steps[0] != 0:
        return steps, values, estimates
    return steps[1:], values[:, 1:], estimates[1:]


def _curves(histories):
    steps = sorted({step for history in histories for step in history})
    values = [[np.nan if history.get(s) is None else history[s] for s in steps] for history in histories]
    return np.array(steps), np.array(values, dtype=float).reshape(len(histories), len(steps))


def mean_curve(values: np.ndarray, name: str | None = None) -> list:
    """S Estimates of the mean over trials of values (n, S); name: of the measure, None for differences."""
    found = [mean_interval(column) for column in values.T]
    return found if name is None else [truncated(estimate, name) for estimate in found]
