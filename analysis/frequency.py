"""Disagreement by how frequent the true class is: do models agree on frequent characters first? (exploratory)

Classes are grouped by their frequency among the targets, so that each group has about as many positions.
"""

import numpy as np

import metrics

GROUPS = 4


def frequency_groups(targets: np.ndarray, n_classes: int, groups: int = GROUPS) -> np.ndarray:
    """The group of each class, 0 for the most frequent ones.

    Parameters
    ----------
    targets : array of int
        True classes, of any shape.
    n_classes : int
    groups : int

    Returns
    -------
    (n_classes,) array of int
        In descending order of frequency, a class is in group g if the middle of its positions lies in the (g + 1)-th of
        `groups` equal shares of all positions.
    """
    counts = np.bincount(np.ravel(targets), minlength=n_classes)
    order = np.argsort(-counts, kind="stable")
    middles = (np.cumsum(counts[order]) - counts[order] / 2) / max(1, counts.sum())
    found = np.empty(n_classes, int)
    found[order] = np.minimum((middles * groups).astype(int), groups - 1)
    return found


def by_group(log_p: np.ndarray, log_q: np.ndarray, group_of_position: np.ndarray) -> dict[str, np.ndarray]:
    """Mean disagreement of two models over all positions, and over those of each group.

    Parameters
    ----------
    log_p, log_q : (N, C) array
        Log-probabilities.
    group_of_position : (N,) array of int
        0 .. G - 1.

    Returns
    -------
    dict
        "relative_pd" (mean total variation distance) and "js_divergence" (nats) -> (1 + G,) array, all positions first;
        NaN for a group without a position.
    """
    distance = np.abs(np.exp(log_p) - np.exp(log_q)).sum(1, dtype=np.float64) / 2
    values = {"relative_pd": distance, "js_divergence": metrics.js_divergence(log_p, log_q)}
    count = np.bincount(group_of_position)
    with np.errstate(invalid="ignore"):
        return {
            name: np.array([value.mean(), *(np.bincount(group_of_position, value) / count)])
            for name, value in values.items()
        }
