"""Claims about labels: probabilities that are what they say, without the upward bias of the largest difference."""

import numpy as np
import pytest

from sensitivity.labels import (
    complete_blocks,
    effect_draws,
    largest_difference,
    loss_label,
    probability_matters,
    regret,
)

MARGIN = 0.02


def trials(effects, sd, n=4, seed=0):
    rng = np.random.default_rng(seed)
    block = rng.normal(2.5, 0.1, n)  # of the seeds that all activations share
    return np.array(effects)[:, None] + block + rng.normal(0, sd, (len(effects), n))


def test_clear_cases_are_clear():
    assert probability_matters(trials([0, 0, 0, 0.1], 0.003), MARGIN) > 0.99
    assert probability_matters(trials([0, 0, 0.002, 0.001], 0.002), MARGIN) < 0.01
    assert 0.2 < probability_matters(trials([0, 0, 0, 0], 0.5), MARGIN) < 0.8  # nothing seen: nothing known
    assert probability_matters(np.zeros((4, 3)), MARGIN) < 0.01


def test_labels_are_calibrated_where_the_largest_observed_difference_is_not():
    rng = np.random.default_rng(1)
    found, truth, observed = [], [], []
    for k in range(200):
        effects = rng.normal(0, abs(0.5 * MARGIN * np.tan(np.pi / 2 * rng.random())), 4)
        y = trials(effects, 0.012, seed=k)
        found.append(probability_matters(y, MARGIN))
        truth.append(np.ptp(effects) > MARGIN)
        observed.append(np.ptp(y.mean(1)) > MARGIN)
    found, truth = np.array(found), np.array(truth)
    for low, high in ((0, 0.25), (0.25, 0.6), (0.6, 1.01)):
        inside = (found >= low) & (found < high)
        assert abs(found[inside].mean() - truth[inside].mean()) < 0.15
    null = [np.ptp(trials([0] * 4, 0.012, seed=k).mean(1)) for k in range(200)]
    shrunk = [largest_difference(trials([0] * 4, 0.012, seed=k), MARGIN)[0] for k in range(40)]
    assert np.mean(shrunk) < 0.75 * np.mean(null)


def test_draws_are_of_the_shared_seed_model():
    y = trials([0, 0.05, 0.05, 0.05], 0.001)
    draws = effect_draws(y, MARGIN)
    assert np.allclose(draws.sum(1), 0)
    assert (draws[:, 1] - draws[:, 0]).mean() == pytest.approx(0.05, abs=0.003)
    assert regret(y, 1, MARGIN) == pytest.approx(0.05, abs=0.004) and regret(y, 0, MARGIN) < 0.001
    with pytest.raises(ValueError, match="two trials"):
        effect_draws(y[:, :1], MARGIN)


def test_a_diverged_trial_says_that_the_activation_matters_unless_all_diverge():
    sound, lost = [2.5, 2.5], [2.5, None]
    assert loss_label([sound, lost], MARGIN) == 1.0
    assert loss_label([lost, lost], MARGIN) is None
    assert complete_blocks([sound, lost]).shape == (2, 1)
