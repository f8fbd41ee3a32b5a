"""Claims about means and their intervals: hand-computed values, agreement with scipy, missing values, and coverage."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from simulated import simulated_pairs
from trials_and_pairs import HAND, SQUARES, close, symmetric

from analysis import significance
from analysis.estimates import (
    combined,
    complete_trials,
    mean_interval,
    pair_interval,
    pair_matrix,
    pair_mean_squares,
    pair_variance,
)

# --- means of trials ---


def test_the_interval_of_a_mean_is_scipys_t_interval():
    values = [1.0, 2.0, 4.0, 7.0]
    estimate = mean_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(expected))
    assert (estimate.mean, estimate.n, estimate.df) == (3.5, 4, 3)
    assert estimate.sd == pytest.approx(math.sqrt(21 / 3))  # 6.25 + 2.25 + 0.25 + 12.25 over n - 1
    wider = mean_interval(values, confidence=0.99)
    assert (wider.low, wider.high) == pytest.approx(tuple(stats.ttest_1samp(values, 0).confidence_interval(0.99)))
    assert "ci99" in wider.as_dict()


def test_missing_trials_are_left_out_and_not_counted():
    assert close(mean_interval([1.0, None, 2.0, float("nan"), 4.0]), mean_interval([1.0, 2.0, 4.0]))


@pytest.mark.parametrize("values", [[], [None], [1.5]])
def test_a_mean_of_fewer_than_two_trials_has_no_interval_and_says_why(values):
    content = mean_interval(values).as_dict()
    assert content["ci95"] is None
    assert content["sd"] is None
    assert content["reason"] == "fewer than two trials"
    assert content["mean"] == (1.5 if values == [1.5] else None)


def test_an_infinite_value_is_refused():
    with pytest.raises(ValueError, match="infinite"):
        mean_interval([1.0, math.inf])


# --- means of pairs ---


def test_the_variance_components_of_four_trials_are_those_computed_by_hand():
    # Means of the trials: 2, 10/3, 5, 17/3; U = 4. Effects 3/2 times the deviations: -3, -1, 3/2, 5/2.
    # M_a = 2 (9 + 1 + 2.25 + 6.25) / 3 = 37/3. Residuals h - U - a_i - a_j: 1, -1/2, -1/2, -1/2, -1/2, 1;
    # M_e = (1 + 4/4 + 1) / 2 = 3/2. Unbiased: 4 M_a / 8 - 2 M_e / 6 = 37/6 - 1/2 = 17/3.
    estimate = pair_interval(HAND)
    assert estimate.mean == pytest.approx(4)
    assert estimate.sd == pytest.approx(math.sqrt((9 + 4 + 1 + 0 + 1 + 25) / 5))  # ddof 1, over the 6 pairs
    assert estimate.standard_error**2 == pytest.approx(17 / 3)
    # Satterthwaite: (17/3)^2 / ((37/6)^2 / 3 + (1/2)^2 / 2) = 2.507, above the floor of (n + 1) / 2 = 2.5
    assert estimate.df == pytest.approx((17 / 3) ** 2 / ((37 / 6) ** 2 / 3 + 0.25 / 2))
    reach = stats.t.ppf(0.975, estimate.df) * math.sqrt(17 / 3)
    assert (estimate.low, estimate.high) == pytest.approx((4 - reach, 4 + reach))
    assert estimate.n == 4


def test_the_variance_is_the_jackknife_less_what_it_counts_twice():
    rng = np.random.default_rng(1)
    n = 6
    matrix = symmetric(rng.standard_normal((n, n)))
    left_out = [np.nanmean(np.delete(np.delete(matrix, k, 0), k, 1)) for k in range(n)]
    jackknife = (n - 1) / n * np.sum((np.array(left_out) - np.mean(left_out)) ** 2)
    _, _, ms_trials, ms_pairs = pair_mean_squares(matrix)
    assert 4 * ms_trials / (n * (n - 2)) == pytest.approx(jackknife)
    variance, _ = pair_variance(ms_trials, ms_pairs, n)
    floor = 2 * ms_pairs / (n * (n - 1))
    assert variance == pytest.approx(max(jackknife - 2 * ms_pairs / ((n - 1) * (n - 2)), floor))


def test_the_degrees_of_freedom_lie_between_half_and_all_of_the_trials():
    """Where the trials bring little, Satterthwaite's are fewer than the floor of (n + 1) / 2."""
    assert pair_variance(1.0, 1.0, 10)[1] == 5.5  # Satterthwaite: 1.6
    assert pair_variance(3.0, 1.0, 10)[1] == pytest.approx(5.923, abs=1e-3)
    assert pair_variance(1.0, 0.0, 10)[1] == 9


def test_pairs_that_are_sums_of_trials_have_the_interval_of_the_trials():
    """With s_e = 0 the mean over pairs is twice the mean over trials, exactly."""
    values = np.array([0.3, 1.1, 0.2, 2.5, 0.9])
    pairs, trials = pair_interval(values[:, None] + values), mean_interval(2 * values)
    assert (pairs.low, pairs.high) == pytest.approx((trials.low, trials.high))
    assert pairs.df == pytest.approx(4)


def test_three_trials_use_the_jackknife_with_two_degrees_of_freedom():
    estimate = pair_interval(pair_matrix([(0, 1, 1.0), (0, 2, 2.0), (1, 2, 6.0)], 3))
    assert estimate.df == 2  # the means that leave one trial out are 6, 2 and 1
    assert estimate.standard_error**2 == pytest.approx(2 / 3 * 14)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_trials_have_pairs_without_an_interval(n):
    content = pair_interval(np.full((n, n), 0.5)).as_dict()
    assert content["ci95"] is None
    assert content["reason"] == "fewer than three trials with all their pairs"
    assert content["mean"] == (0.5 if n == 2 else None)


def test_a_diverged_trial_costs_one_trial_and_not_all():
    matrix = np.full((6, 6), np.nan)
    matrix[np.ix_([0, 1, 3, 5], [0, 1, 3, 5])] = HAND
    assert complete_trials(matrix).tolist() == [0, 1, 3, 5]
    assert close(pair_interval(matrix), pair_interval(HAND))


def test_of_two_trials_that_lack_only_their_pair_the_later_is_left_out():
    matrix = pair_matrix([(i, j, 1.0 + i * j) for i in range(5) for j in range(i) if (i, j) != (4, 1)], 5)
    assert complete_trials(matrix).tolist() == [0, 1, 2, 3]
    assert complete_trials(np.full((5, 5), np.nan)).tolist() == []


def test_a_pair_outside_the_trials_is_refused():
    for pair in [(0, 0, 1.0), (0, 4, 1.0), (-1, 2, 1.0)]:
        with pytest.raises(ValueError, match="not a pair"):
            pair_matrix([pair], 4)
    assert np.isnan(pair_matrix([(0, 1, None)], 2)).all()


@settings(max_examples=50)
@given(SQUARES, st.randoms(use_true_random=False))
def test_the_order_of_the_trials_does_not_matter(matrix, random):
    order = list(range(len(matrix)))
    random.shuffle(order)
    found, expected = pair_interval(matrix[np.ix_(order, order)]), pair_interval(matrix)
    assert found.mean == pytest.approx(expected.mean, abs=1e-9)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-6, abs=1e-9)


@settings(max_examples=50)
@given(SQUARES, st.sampled_from([1e-6, 0.5, 3.0, 1e4]))
def test_another_unit_scales_every_number_and_changes_no_p(matrix, factor):
    one, other = pair_interval(matrix), pair_interval(matrix * factor)
    for name in ("mean", "sd", "low", "high", "standard_error"):
        value, scaled = getattr(one, name), getattr(other, name)
        assert (value is None) == (scaled is None)
        assert value is None or scaled == pytest.approx(value * factor, rel=1e-6, abs=1e-9 * factor)
    p, p_scaled = (significance.compare_pair_means(f * matrix, np.zeros_like(matrix)).p for f in (1, factor))
    assert p == pytest.approx(p_scaled, rel=1e-6, abs=1e-9)


@settings(max_examples=50)
@given(SQUARES, st.floats(-50, 50))
def test_a_constant_moves_the_interval_and_leaves_its_width(matrix, shift):
    one, other = pair_interval(matrix), pair_interval(matrix + shift)
    if one.low is not None and other.low is not None:
        assert other.high - other.low == pytest.approx(one.high - one.low, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("share", [0, 0.25, 0.5, 1])
@pytest.mark.parametrize("n", [4, 5, 10])
def test_the_interval_of_pairs_covers_the_truth(n, share):
    """At least 93 % everywhere, at most 97 % where trials dominate; an interval over pairs covers far less."""
    matrices = simulated_pairs(np.random.default_rng([n, int(100 * share)]), (8000,), n, share)
    mean, _, ms_trials, ms_pairs = pair_mean_squares(matrices)
    variance, df = pair_variance(ms_trials, ms_pairs, n)
    covered = np.mean(np.abs(mean) <= stats.t.ppf(0.975, df) * np.sqrt(variance))
    assert covered >= 0.94
    if share == 1:
        assert covered <= 0.96
        over_pairs = matrices[:, *np.triu_indices(n, 1)]
        naive = np.mean(stats.ttest_1samp(over_pairs, 0, axis=1).pvalue > 0.05)
        assert naive < 0.70


# --- groups of trials ---


def test_groups_are_combined_by_their_numbers_of_trials():
    """By hand, and the degrees of freedom by Welch's formula as statsmodels has it, for groups of equal weight."""
    one, other = mean_interval([1.0, 2.0, 4.0, 7.0]), mean_interval([3.0, 5.0])
    both = combined([one, other])
    assert both.mean == pytest.approx((1 + 2 + 4 + 7 + 3 + 5) / 6) and both.n == 6
    variance = (4 / 6) ** 2 * 7 / 4 + (2 / 6) ** 2 * 2 / 2
    assert both.standard_error == pytest.approx(math.sqrt(variance))
    assert both.df == pytest.approx(variance**2 / (((4 / 6) ** 2 * 7 / 4) ** 2 / 3 + ((2 / 6) ** 2 * 2 / 2) ** 2 / 1))
    reach = stats.t.ppf(0.975, both.df) * both.standard_error
    assert (both.low, both.high) == pytest.approx((both.mean - reach, both.mean + reach))
    x, y = [1.0, 2.0, 4.0], [3.0, 5.0, 9.0]
    equal = combined([mean_interval(x), mean_interval(y)])
    assert equal.df == pytest.approx(stats.ttest_ind(x, y, equal_var=False).df)
    assert combined([one]) is one


def test_a_group_without_an_interval_leaves_none():
    found = combined([mean_interval([1.0, 2.0, 3.0]), mean_interval([5.0])])
    assert found.mean == pytest.approx(2.75) and found.low is None and found.reason == "fewer than two trials"


def test_the_interval_over_two_groups_of_pairs_covers_as_that_of_one():
    rng = np.random.default_rng(6)
    covered = []
    for _ in range(600):
        found = combined([pair_interval(simulated_pairs(rng, (), n, 0.5)) for n in (12, 8)])
        covered.append(found.low <= 0 <= found.high)
    assert 0.93 <= np.mean(covered) <= 0.99
