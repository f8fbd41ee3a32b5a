"""Claims about contrasts: a known ratio is found at both endpoints, an outlying run is named, nothing is read past the end."""

import itertools
import math

import numpy as np
import pytest

from analysis.contrasts import contrasts, percent
from analysis.curves import CommonLoss
from analysis.equal_loss import LOG_MARGIN
from analysis.results import Cell

N, STEPS, LOSSES = 8, range(0, 410, 10), np.linspace(4, 2, 41)


def activation(name, factor, rng, outlying=None, first_seed=42):
    """A cell of N trials whose PD is a tenth of the loss times a factor, and each trial's own; one may lie far away."""
    own = np.exp(0.01 * rng.standard_normal(N))
    if outlying is not None:
        own[outlying - 1] *= 2
    history = [{"step": step, "val_loss": loss} for step, loss in zip(STEPS, LOSSES)]
    trials = [
        {"trial": k, "seed": first_seed + k - 1, "status": "complete", "val_loss": 2.0, "history": history}
        for k in range(1, N + 1)
    ]
    pairs = []
    for a, b in itertools.combinations(range(1, N + 1), 2):
        values = factor * math.sqrt(own[a - 1] * own[b - 1]) * LOSSES / 10
        course = [{"step": step, "relative_pd": value} for step, value in zip(STEPS, values)]
        pairs.append({"trial_a": a, "trial_b": b, "relative_pd": values[-1], "history": course})
    identity = {"config": {"learning_rate": 1e-3}}
    content = {"architecture": "charlm", "activation": name, "identity": identity, "trials": trials, "pairs": pairs}
    return Cell(content)


@pytest.mark.parametrize("common", [None, CommonLoss(3.0, 0.2)])
def test_a_known_ratio_is_found_and_judged_in_its_family(common):
    rng = np.random.default_rng(1)
    relu, same, more = activation("relu", 1, rng), activation("gelu", 1, rng), activation("swish", 1.2, rng)
    equal, higher = contrasts([[(same, relu)], [(more, relu)]], "relative_pd", LOG_MARGIN, common)
    assert (equal.comparison.verdict, higher.comparison.verdict) == ("equivalent", "different")
    assert percent(higher.comparison.difference)[0] == pytest.approx(20, abs=1.5)
    assert higher.comparison.p_adjusted >= higher.comparison.p
    assert higher.names == ("Swish", "ReLU") and higher.outlying == () and higher.without_outlying is None


def test_an_outlying_run_is_named_and_the_ratio_without_it_is_the_true_one():
    rng = np.random.default_rng(2)
    relu, gelu = activation("relu", 1, rng), activation("gelu", 1, rng, outlying=3)
    (found,) = contrasts([[(gelu, relu)]], "relative_pd", LOG_MARGIN)
    assert found.outlying == (44,) and found.without_outlying.n == N - 1
    assert found.comparison.difference.mean > 0.05
    assert found.without_outlying.mean == pytest.approx(0, abs=0.02)


def test_a_loss_that_was_not_reached_leaves_a_contrast_without_a_number():
    rng = np.random.default_rng(3)
    relu, gelu = activation("relu", 1, rng), activation("gelu", 1, rng)
    (found,) = contrasts([[(gelu, relu)]], "relative_pd", LOG_MARGIN, CommonLoss(2.5, 0.2, last_step=200))
    assert found.comparison.verdict == "loss not reached" and percent(found.comparison.difference)[0] is None


def test_two_groups_of_trials_give_one_contrast_without_pairs_between_them():
    rng = np.random.default_rng(4)
    first, second = (
        (activation("gelu", 1.1, rng, first_seed=seed), activation("relu", 1, rng, first_seed=seed))
        for seed in (42, 50)
    )
    (alone,), (both,) = (contrasts([groups], "relative_pd", LOG_MARGIN) for groups in ([first], [first, second]))
    assert both.comparison.difference.n == 2 * alone.comparison.difference.n == 2 * N
    assert percent(both.comparison.difference)[0] == pytest.approx(10, abs=1.5)
    assert both.comparison.difference.standard_error < alone.comparison.difference.standard_error


def test_an_outlying_run_of_a_later_group_is_named_by_its_seed():
    rng = np.random.default_rng(5)
    groups = [
        (activation("gelu", 1, rng, outlying, seed), activation("relu", 1, rng, first_seed=seed))
        for outlying, seed in ((None, 42), (2, 50))
    ]
    (found,) = contrasts([groups], "relative_pd", LOG_MARGIN)
    assert found.outlying == (51,) and found.without_outlying.n == 2 * N - 1
