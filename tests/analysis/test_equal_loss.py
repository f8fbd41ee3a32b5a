"""At equal loss: read off a curve only where it has enough points, and right where the truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import equal_loss
from analysis.equal_loss import NOT_REACHED, TOO_COARSE, value_at_loss
from analysis.estimates import pair_interval

LOSSES = np.linspace(3.0, 2.0, 21)  # 0.05 nats from point to point


def test_a_straight_line_is_read_exactly():
    reading = value_at_loss(LOSSES, 0.5 - 0.1 * LOSSES, 2.47, bandwidth=0.2)
    assert reading.value == pytest.approx(0.5 - 0.247)
    assert reading.points == 8


@given(st.floats(2.2, 2.8), st.floats(-1, 1), st.floats(-1, 1))
def test_a_line_is_read_exactly_at_every_loss(loss, level, slope):
    assert value_at_loss(LOSSES, level + slope * LOSSES, loss, 0.15).value == pytest.approx(
        level + slope * loss, abs=1e-9
    )


def test_fewer_than_five_points_are_too_coarse_and_no_number():
    reading = value_at_loss(LOSSES, LOSSES, 2.5, bandwidth=0.08)
    assert (reading.value, reading.points, reading.reason) == (None, 3, TOO_COARSE)
    assert value_at_loss([4.2, 2.9, 2.65], [0.13, 0.09, 0.08], 2.8).reason == TOO_COARSE


def test_a_loss_beyond_the_last_point_is_not_reached():
    assert value_at_loss(LOSSES, LOSSES, 1.99).reason == NOT_REACHED
    assert value_at_loss([], [], 1.99).reason == NOT_REACHED


def test_points_on_one_side_only_are_too_coarse():
    losses = [2.60, 2.59, 2.58, 2.57, 2.56, 2.55, 2.0]
    assert value_at_loss(losses, losses, 2.52).reason == TOO_COARSE


def test_a_model_that_overfits_is_read_on_its_way_down():
    down = np.linspace(3.0, 2.0, 21)
    losses, values = np.r_[down, down[-2::-1]], np.r_[np.full(21, 0.1), np.full(20, 0.9)]
    assert value_at_loss(losses, values, 2.5, 0.2).value == pytest.approx(0.1)


def test_a_kernel_weighs_near_points_more():
    """Against statsmodels' weighted least squares."""
    from statsmodels.api import WLS, add_constant

    rng = np.random.default_rng(0)
    values = rng.standard_normal(21)
    near = np.abs(LOSSES - 2.47) < 0.2
    weights = 1 - ((LOSSES[near] - 2.47) / 0.2) ** 2
    fit = WLS(values[near], add_constant(LOSSES[near] - 2.47), weights).fit()
    assert value_at_loss(LOSSES, values, 2.47, 0.2).value == pytest.approx(fit.params[0])


# --- the endpoint ---


def positive_pairs(rng, n):
    values = np.exp(rng.normal(0, 0.1, (n, n)))
    return (values + values.T) / 2


def test_the_log_ratio_is_the_mean_over_pairs_with_the_interval_over_trials():
    rng = np.random.default_rng(1)
    a, b = positive_pairs(rng, 6), positive_pairs(rng, 6)
    found = equal_loss.log_ratio(a, b).difference
    upper = np.triu_indices(6, 1)
    assert found.mean == pytest.approx(np.mean(np.log(a[upper] / b[upper])))
    assert found == pair_interval(np.log(a) - np.log(b))


def test_a_common_factor_is_its_logarithm():
    a = positive_pairs(np.random.default_rng(2), 6)
    assert equal_loss.log_ratio(1.05 * a, a).difference.mean == pytest.approx(equal_loss.LOG_MARGIN)
    assert pytest.approx(math.log(1.05)) == equal_loss.LOG_MARGIN


def test_a_ratio_of_nothing_is_refused():
    a = positive_pairs(np.random.default_rng(3), 4)
    with pytest.raises(ValueError, match="positive"):
        equal_loss.log_ratio(a, np.zeros_like(a))
