"""Claims about comparisons: agreement with scipy, corrections, and the rule for verdicts."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from trials_and_pairs import HAND, SPREAD, SQUARES, TRIALS, close, difference_of

from analysis import significance
from analysis.estimates import mean_interval, pair_interval

# --- comparisons ---


def test_a_comparison_of_means_is_scipys_paired_t_test():
    x, y = [1.2, 3.4, 2.2, 5.0], [1.0, 3.9, 1.1, 4.2]
    comparison, expected = significance.compare_means(x, y), stats.ttest_rel(x, y)
    assert comparison.p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert (comparison.difference.low, comparison.difference.high) == pytest.approx((low, high))
    # Hedges' correction with 3 degrees of freedom: G(3/2) / (sqrt(3/2) G(1)) = 0.7236
    d_z = np.mean(np.subtract(x, y)) / np.std(np.subtract(x, y), ddof=1)
    assert comparison.effect_size == pytest.approx(d_z * 0.7236012545582676)


def test_trials_missing_in_either_are_left_out_of_a_comparison():
    full = significance.compare_means([1.0, 2.0, 4.0], [1.5, 1.0, 2.0])
    gaps = significance.compare_means([1.0, None, 2.0, 9.0, 4.0], [1.5, 3.0, 1.0, None, 2.0])
    assert close(full.difference, gaps.difference)
    matrix = HAND.copy()
    matrix[1, :] = matrix[:, 1] = np.nan
    assert significance.compare_pair_means(HAND * 1.1, matrix).difference.n == 3


def test_series_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="in pairs"):
        significance.compare_means([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="in pairs"):
        significance.compare_pair_means(HAND, HAND[:3, :3])


@given(SQUARES)
def test_exchanging_the_two_changes_the_sign_and_nothing_else(matrix):
    other = np.abs(matrix) ** 0.5
    one, two = significance.compare_pair_means(matrix, other), significance.compare_pair_means(other, matrix)
    assert one.p == two.p
    assert one.difference.mean == -two.difference.mean


@given(TRIALS)
def test_no_difference_without_spread_is_p_one_and_equivalent(values):
    comparison = significance.compare_means(values, values)
    assert comparison.p == 1.0
    assert (comparison.difference.low, comparison.difference.high) == (0.0, 0.0)
    assert significance.verdicts([comparison], [0.01])[0].verdict == "equivalent"
    assert comparison.effect_size is None


@given(TRIALS, st.floats(0.001, 10))
def test_the_same_difference_everywhere_is_not_testable(values, shift):
    comparison = significance.compare_means(values + shift, values)  # equal up to rounding
    assert comparison.p is None
    assert comparison.difference.low is None
    (judged,) = significance.verdicts([comparison], [0.01])
    assert judged.verdict == "inconclusive"
    assert judged.reason == "not testable: all values are equal"


def test_identical_pairs_differ_by_nothing():
    assert significance.compare_pair_means(HAND, HAND).p == 1.0
    identical = pair_interval(np.zeros((5, 5)))
    assert identical.as_dict()["ci95"] == [0.0, 0.0]
    assert significance.compare_pair_means(HAND + 1, HAND).p is None


def test_one_trial_gives_a_difference_without_a_test():
    (judged,) = significance.verdicts([significance.compare_means([2.0], [1.5])], [0.01])
    assert judged.difference.mean == 0.5
    assert (judged.p, judged.verdict, judged.reason) == (None, "inconclusive", "fewer than two trials")


# --- equivalence, sign flips, Holm ---


def test_equivalence_is_the_larger_p_of_scipys_two_one_sided_tests():
    x, margin = np.array([0.01, -0.02, 0.03, 0.015, -0.01]), 0.05
    above = stats.ttest_1samp(x, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(x, margin, alternative="less").pvalue
    difference = significance.compare_means(x, np.zeros(5)).difference
    assert significance.equivalence(difference, margin) == pytest.approx(max(above, below))


@given(st.floats(-2, 2), st.floats(0.1, 2), st.floats(1.5, 50), st.floats(0.05, 3))
def test_equivalence_at_5_percent_means_that_the_90_percent_interval_is_within_the_margin(mean, se, df, margin):
    p = significance.equivalence(difference_of(mean, se, df), margin)
    reach = stats.t.ppf(0.95, df) * se
    if abs(p - 0.05) > 1e-9:
        assert (p < 0.05) == (mean - reach > -margin and mean + reach < margin)


@pytest.mark.parametrize("test", [significance.equivalence, significance.minimum_effect])
def test_a_margin_of_nothing_is_refused(test):
    for margin in (0, -1, math.nan):
        with pytest.raises(ValueError, match="margin"):
            test(difference_of(0.1, 0.1, 4), margin)


def test_the_minimum_effect_test_of_almost_no_margin_is_the_paired_t_test():
    x, y = [1.2, 3.4, 2.2, 5.0], [1.0, 3.9, 1.1, 4.2]
    comparison = significance.compare_means(x, y)
    assert significance.minimum_effect(comparison.difference, 1e-12) == pytest.approx(comparison.p)


@given(st.floats(-3, 3), st.floats(0.1, 2), st.floats(1.5, 50), st.floats(0.05, 3))
def test_the_minimum_effect_test_is_two_tails_at_the_edge_of_the_margin(mean, se, df, margin):
    p = significance.minimum_effect(difference_of(mean, se, df), margin)
    above = stats.t.sf((abs(mean) - margin) / se, df) + stats.t.sf((abs(mean) + margin) / se, df)
    assert p == pytest.approx(above)


@given(st.floats(-3, 3), st.floats(0.1, 2), st.floats(1.5, 50), st.floats(0.05, 3))
def test_no_difference_is_both_beyond_the_margin_and_within(mean, se, df, margin):
    difference = difference_of(mean, se, df)
    assert significance.minimum_effect(difference, margin) >= 0.5 or significance.equivalence(difference, margin) >= 0.5


def test_identical_trials_do_not_exceed_a_margin():
    assert significance.minimum_effect(significance.compare_means([1.0, 2.0], [1.0, 2.0]).difference, 0.1) == 1.0
    assert significance.minimum_effect(significance.compare_means([2.0, 3.0], [1.0, 2.0]).difference, 0.1) is None


@given(hnp.arrays(float, st.integers(2, 7), elements=SPREAD))
def test_the_sign_flip_test_is_scipys_permutation_test(differences):
    found = significance.sign_flip_test(differences)
    expected = stats.permutation_test(
        (differences,),
        lambda x, axis: np.sum(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert found.p == pytest.approx(expected.pvalue)


def test_the_sign_flip_test_says_how_small_its_p_can_get():
    extreme = significance.sign_flip_test([1.0, 2.0, 3.0, 4.0, 5.0])
    assert extreme.p == extreme.smallest_p == 2 / 2**5
    assert significance.sign_flip_test(np.arange(1.0, 21.0)).p == 2 / 2**20
    assert significance.sign_flip_test(np.arange(1.0, 22.0)).p is None
    assert significance.sign_flip_test([]) == significance.SignFlip(None, 1.0, 0)
    assert significance.sign_flip_test([0.0, 0.0, 0.0]).p == 1.0


def test_holm_multiplies_by_the_number_of_hypotheses_still_standing():
    assert significance.holm([0.01, 0.04, 0.03, None, 0.005]) == pytest.approx([0.03, 0.06, 0.06, None, 0.02])
    assert significance.holm([]) == []
    assert significance.holm([None]) == [None]


@given(st.lists(st.none() | st.floats(0, 1), max_size=12))
def test_holm_keeps_the_order_and_lies_between_the_raw_p_and_bonferroni(p_values):
    adjusted = significance.holm(p_values)
    counted = [(p, q) for p, q in zip(p_values, adjusted) if p is not None]
    assert [q for p, q in zip(p_values, adjusted) if p is None] == [None] * p_values.count(None)
    assert all(p <= q <= min(1, len(counted) * p) for p, q in counted)
    by_p = [q for _, q in sorted(counted)]
    assert by_p == sorted(by_p)


# --- the verdict ---


def comparison_of(mean, se, df=9):
    return significance.Comparison(difference_of(mean, se, df), float(2 * stats.t.sf(abs(mean) / se, df)), None)


def judged(mean, se, margin=1.0, others=0):
    """The verdict on one comparison of a family with `others` that show nothing."""
    family = [comparison_of(mean, se), *[comparison_of(0.5, 1.0)] * others]
    return significance.verdicts(family, [margin] * len(family))[0]


def test_the_three_verdicts():
    assert judged(5.0, 1.0).verdict_text == "different"
    assert judged(0.1, 0.2).verdict_text == "equivalent"
    inconclusive = judged(0.5, 1.0)
    assert inconclusive.verdict_text == f"inconclusive ({inconclusive.trials_needed} seeds needed)"
    assert inconclusive.trials_needed > 10


def test_equivalent_comes_first_and_the_sign_of_a_significant_difference_is_kept():
    small = judged(-0.5, 0.1)
    assert (small.verdict, small.sign, small.verdict_text) == ("equivalent", "lower", "equivalent (lower)")
    assert small.p_adjusted < 0.05
    assert judged(0.1, 0.2).sign is None
    assert judged(5.0, 1.0).sign == "higher"


def test_a_family_is_corrected_by_holm_for_differences_and_by_bonferroni_for_equivalence():
    alone, among_ten = judged(2.5, 1.0), judged(2.5, 1.0, others=9)
    assert (alone.verdict, among_ten.verdict) == ("different", "inconclusive")
    assert among_ten.p_adjusted == pytest.approx(10 * alone.p_adjusted)
    alone, among_ten = judged(0.1, 0.4), judged(0.1, 0.4, others=9)
    assert (alone.verdict, among_ten.verdict) == ("equivalent", "inconclusive")
    assert among_ten.equivalence_p == pytest.approx(10 * alone.equivalence_p)


def test_a_comparison_without_a_test_does_not_count_in_its_family():
    without = significance.compare_means([1.0], [2.0])
    assert significance.verdicts([comparison_of(2.5, 1.0), without], [1.0, 1.0])[0] == judged(2.5, 1.0)


def test_a_larger_family_needs_more_trials():
    assert judged(0.5, 1.0, others=15).trials_needed > judged(0.5, 1.0).trials_needed


def test_enough_trials_without_a_verdict_promise_no_number():
    close_to_margin = judged(0.6, 0.3)
    assert (close_to_margin.verdict_text, close_to_margin.trials_needed) == ("inconclusive", None)
    assert "between the two" in close_to_margin.reason


@pytest.mark.parametrize("margin", [None, 0.0])
def test_without_a_margin_a_comparison_can_only_be_different(margin):
    assert judged(5.0, 1.0, margin).verdict == "different"
    assert judged(0.1, 1.0, margin).verdict == "inconclusive"


def test_results_are_json_without_nan():
    pairs = significance.compare_pair_means(HAND, HAND * 1.1)
    for comparison in (
        judged(0.5, 1.0),
        *significance.verdicts([pairs], [0.1]),
        significance.compare_means([None, None], [1.0, 2.0]),
        significance.compare_means([2.0, 3.0], [1.0, 2.0]),
    ):
        content = json.loads(json.dumps(comparison.as_dict(), allow_nan=False))
        assert set(content) >= {"difference", "p", "p_adjusted", "effect_size", "margin", "verdict"}
        assert set(content["difference"]) >= {"mean", "sd", "n", "ci95", "method"}


# --- trials that are not paired ---


def test_means_of_different_trials_are_compared_by_scipys_welch_test():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=5), rng.normal(0.3, 2, size=9)
    found = significance.compare_independent(mean_interval(x), mean_interval(y))
    expected = stats.ttest_ind(x, y, equal_var=False)
    assert (found.p, found.difference.df) == pytest.approx((expected.pvalue, expected.df))
    assert found.difference.n == 5 and found.effect_size is None


def test_means_without_an_interval_are_not_compared_and_say_why():
    one, none = mean_interval([1.0, 2.0]), mean_interval([1.0])
    found = significance.compare_independent(one, none)
    assert (found.difference.mean, found.p, found.difference.reason) == (0.5, None, "fewer than two trials")


def test_means_without_spread_differ_by_nothing_or_are_not_testable():
    same, other = mean_interval([1.0, 1.0]), mean_interval([2.0, 2.0])
    assert significance.compare_independent(same, same).p == 1.0
    assert significance.compare_independent(same, other).difference.reason == "not testable: all values are equal"
