"""Claims about the statistics: hand-computed values, agreement with scipy, rules at the edges, and coverage."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from simulated import simulated_pairs

from analysis import significance as sig

# --- helpers ---


def symmetric(array):
    array = array + array.T
    np.fill_diagonal(array, np.nan)
    return array


def close(estimate, other):
    """The same estimate, up to rounding."""
    fields = ("mean", "sd", "low", "high", "df", "standard_error")
    found, expected = ([getattr(e, name) for name in fields] for e in (estimate, other))
    return found == pytest.approx(expected, rel=1e-9, abs=1e-12) and estimate.n == other.n


def difference_of(mean, se, df, n=10):
    return sig.Estimate(mean, se * math.sqrt(n), n, None, None, df, se, "", variance_terms=(n * se**2, 0.0))


SPREAD = st.floats(-100, 100).map(lambda x: round(x, 6))
TRIALS = hnp.arrays(float, st.integers(3, 12), elements=SPREAD)
SQUARES = st.integers(4, 8).flatmap(lambda n: hnp.arrays(float, (n, n), elements=SPREAD)).map(symmetric)


# --- means of trials ---


def test_the_interval_of_a_mean_is_scipys_t_interval():
    values = [1.0, 2.0, 4.0, 7.0]
    estimate = sig.mean_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(expected))
    assert (estimate.mean, estimate.n, estimate.df) == (3.5, 4, 3)
    assert estimate.sd == pytest.approx(math.sqrt(21 / 3))  # 6.25 + 2.25 + 0.25 + 12.25 over n - 1
    wider = sig.mean_interval(values, confidence=0.99)
    assert (wider.low, wider.high) == pytest.approx(tuple(stats.ttest_1samp(values, 0).confidence_interval(0.99)))
    assert "ci99" in wider.as_dict()


def test_missing_trials_are_left_out_and_not_counted():
    assert close(sig.mean_interval([1.0, None, 2.0, float("nan"), 4.0]), sig.mean_interval([1.0, 2.0, 4.0]))


@pytest.mark.parametrize("values", [[], [None], [1.5]])
def test_a_mean_of_fewer_than_two_trials_has_no_interval_and_says_why(values):
    content = sig.mean_interval(values).as_dict()
    assert content["ci95"] is None
    assert content["sd"] is None
    assert content["reason"] == "fewer than two trials"
    assert content["mean"] == (1.5 if values == [1.5] else None)


def test_an_infinite_value_is_refused():
    with pytest.raises(ValueError, match="infinite"):
        sig.mean_interval([1.0, math.inf])


# --- means of pairs ---

HAND = sig.pair_matrix([(0, 1, 1), (0, 2, 2), (0, 3, 3), (1, 2, 4), (1, 3, 5), (2, 3, 9)], 4)


def test_the_variance_components_of_four_trials_are_those_computed_by_hand():
    # Means of the trials: 2, 10/3, 5, 17/3; U = 4. Effects 3/2 times the deviations: -3, -1, 3/2, 5/2.
    # M_a = 2 (9 + 1 + 2.25 + 6.25) / 3 = 37/3. Residuals h - U - a_i - a_j: 1, -1/2, -1/2, -1/2, -1/2, 1;
    # M_e = (1 + 4/4 + 1) / 2 = 3/2. Unbiased: 4 M_a / 8 - 2 M_e / 6 = 37/6 - 1/2 = 17/3.
    estimate = sig.pair_interval(HAND)
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
    _, _, ms_trials, ms_pairs = sig.pair_mean_squares(matrix)
    assert 4 * ms_trials / (n * (n - 2)) == pytest.approx(jackknife)
    variance, _ = sig.pair_variance(ms_trials, ms_pairs, n)
    floor = 2 * ms_pairs / (n * (n - 1))
    assert variance == pytest.approx(max(jackknife - 2 * ms_pairs / ((n - 1) * (n - 2)), floor))


def test_the_degrees_of_freedom_lie_between_half_and_all_of_the_trials():
    """Where the trials bring little, Satterthwaite's are fewer than the floor of (n + 1) / 2."""
    assert sig.pair_variance(1.0, 1.0, 10)[1] == 5.5  # Satterthwaite: 1.6
    assert sig.pair_variance(3.0, 1.0, 10)[1] == pytest.approx(5.923, abs=1e-3)
    assert sig.pair_variance(1.0, 0.0, 10)[1] == 9


def test_pairs_that_are_sums_of_trials_have_the_interval_of_the_trials():
    """With s_e = 0 the mean over pairs is twice the mean over trials, exactly."""
    values = np.array([0.3, 1.1, 0.2, 2.5, 0.9])
    pairs, trials = sig.pair_interval(values[:, None] + values), sig.mean_interval(2 * values)
    assert (pairs.low, pairs.high) == pytest.approx((trials.low, trials.high))
    assert pairs.df == pytest.approx(4)


def test_three_trials_use_the_jackknife_with_two_degrees_of_freedom():
    estimate = sig.pair_interval(sig.pair_matrix([(0, 1, 1.0), (0, 2, 2.0), (1, 2, 6.0)], 3))
    assert estimate.df == 2  # the means that leave one trial out are 6, 2 and 1
    assert estimate.standard_error**2 == pytest.approx(2 / 3 * 14)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_trials_have_pairs_without_an_interval(n):
    content = sig.pair_interval(np.full((n, n), 0.5)).as_dict()
    assert content["ci95"] is None
    assert content["reason"] == "fewer than three trials with all their pairs"
    assert content["mean"] == (0.5 if n == 2 else None)


def test_a_diverged_trial_costs_one_trial_and_not_all():
    matrix = np.full((6, 6), np.nan)
    matrix[np.ix_([0, 1, 3, 5], [0, 1, 3, 5])] = HAND
    assert sig.complete_trials(matrix).tolist() == [0, 1, 3, 5]
    assert close(sig.pair_interval(matrix), sig.pair_interval(HAND))


def test_of_two_trials_that_lack_only_their_pair_the_later_is_left_out():
    matrix = sig.pair_matrix([(i, j, 1.0 + i * j) for i in range(5) for j in range(i) if (i, j) != (4, 1)], 5)
    assert sig.complete_trials(matrix).tolist() == [0, 1, 2, 3]
    assert sig.complete_trials(np.full((5, 5), np.nan)).tolist() == []


def test_a_pair_outside_the_trials_is_refused():
    for pair in [(0, 0, 1.0), (0, 4, 1.0), (-1, 2, 1.0)]:
        with pytest.raises(ValueError, match="no pair"):
            sig.pair_matrix([pair], 4)
    assert np.isnan(sig.pair_matrix([(0, 1, None)], 2)).all()


@settings(max_examples=50)
@given(SQUARES, st.randoms(use_true_random=False))
def test_the_order_of_the_trials_does_not_matter(matrix, random):
    order = list(range(len(matrix)))
    random.shuffle(order)
    found, expected = sig.pair_interval(matrix[np.ix_(order, order)]), sig.pair_interval(matrix)
    assert found.mean == pytest.approx(expected.mean, abs=1e-9)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-6, abs=1e-9)


@settings(max_examples=50)
@given(SQUARES, st.sampled_from([1e-6, 0.5, 3.0, 1e4]))
def test_another_unit_scales_every_number_and_changes_no_p(matrix, factor):
    one, other = sig.pair_interval(matrix), sig.pair_interval(matrix * factor)
    for name in ("mean", "sd", "low", "high", "standard_error"):
        value, scaled = getattr(one, name), getattr(other, name)
        assert (value is None) == (scaled is None)
        assert value is None or scaled == pytest.approx(value * factor, rel=1e-6, abs=1e-9 * factor)
    p, p_scaled = (sig.compare_pair_means(f * matrix, np.zeros_like(matrix)).p for f in (1, factor))
    assert p == pytest.approx(p_scaled, rel=1e-6, abs=1e-9)


@settings(max_examples=50)
@given(SQUARES, st.floats(-50, 50))
def test_a_constant_moves_the_interval_and_leaves_its_width(matrix, shift):
    one, other = sig.pair_interval(matrix), sig.pair_interval(matrix + shift)
    if one.low is not None and other.low is not None:
        assert other.high - other.low == pytest.approx(one.high - one.low, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("share", [0, 0.25, 0.5, 1])
@pytest.mark.parametrize("n", [4, 5, 10])
def test_the_interval_of_pairs_covers_the_truth(n, share):
    """At least 93 % everywhere, at most 97 % where trials dominate; an interval over pairs covers far less."""
    matrices = simulated_pairs(np.random.default_rng([n, int(100 * share)]), (8000,), n, share)
    mean, _, ms_trials, ms_pairs = sig.pair_mean_squares(matrices)
    variance, df = sig.pair_variance(ms_trials, ms_pairs, n)
    covered = np.mean(np.abs(mean) <= stats.t.ppf(0.975, df) * np.sqrt(variance))
    assert covered >= 0.94
    if share == 1:
        assert covered <= 0.96
        over_pairs = matrices[:, *np.triu_indices(n, 1)]
        naive = np.mean(stats.ttest_1samp(over_pairs, 0, axis=1).pvalue > 0.05)
        assert naive < 0.70


# --- comparisons ---


def test_a_comparison_of_means_is_scipys_paired_t_test():
    x, y = [1.2, 3.4, 2.2, 5.0], [1.0, 3.9, 1.1, 4.2]
    comparison, expected = sig.compare_means(x, y), stats.ttest_rel(x, y)
    assert comparison.p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert (comparison.difference.low, comparison.difference.high) == pytest.approx((low, high))
    # Hedges' correction with 3 degrees of freedom: G(3/2) / (sqrt(3/2) G(1)) = 0.7236
    d_z = np.mean(np.subtract(x, y)) / np.std(np.subtract(x, y), ddof=1)
    assert comparison.effect_size == pytest.approx(d_z * 0.7236012545582676)


def test_trials_missing_in_either_are_left_out_of_a_comparison():
    full = sig.compare_means([1.0, 2.0, 4.0], [1.5, 1.0, 2.0])
    gaps = sig.compare_means([1.0, None, 2.0, 9.0, 4.0], [1.5, 3.0, 1.0, None, 2.0])
    assert close(full.difference, gaps.difference)
    matrix = HAND.copy()
    matrix[1, :] = matrix[:, 1] = np.nan
    assert sig.compare_pair_means(HAND * 1.1, matrix).difference.n == 3


def test_series_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="in pairs"):
        sig.compare_means([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="in pairs"):
        sig.compare_pair_means(HAND, HAND[:3, :3])


@given(SQUARES)
def test_exchanging_the_two_changes_the_sign_and_nothing_else(matrix):
    other = np.abs(matrix) ** 0.5
    one, two = sig.compare_pair_means(matrix, other), sig.compare_pair_means(other, matrix)
    assert one.p == two.p
    assert one.difference.mean == -two.difference.mean


@given(TRIALS)
def test_no_difference_without_spread_is_p_one_and_equivalent(values):
    comparison = sig.compare_means(values, values)
    assert comparison.p == 1.0
    assert (comparison.difference.low, comparison.difference.high) == (0.0, 0.0)
    assert sig.verdicts([comparison], [0.01])[0].verdict == "equivalent"
    assert comparison.effect_size is None


@given(TRIALS, st.floats(0.001, 10))
def test_the_same_difference_everywhere_is_not_testable(values, shift):
    comparison = sig.compare_means(values + shift, values)  # equal up to rounding
    assert comparison.p is None
    assert comparison.difference.low is None
    (judged,) = sig.verdicts([comparison], [0.01])
    assert judged.verdict == "inconclusive"
    assert judged.reason == "not testable: all values are equal"


def test_identical_pairs_differ_by_nothing():
    assert sig.compare_pair_means(HAND, HAND).p == 1.0
    identical = sig.pair_interval(np.zeros((5, 5)))
    assert identical.as_dict()["ci95"] == [0.0, 0.0]
    assert sig.compare_pair_means(HAND + 1, HAND).p is None


def test_one_trial_gives_a_difference_without_a_test():
    (judged,) = sig.verdicts([sig.compare_means([2.0], [1.5])], [0.01])
    assert judged.difference.mean == 0.5
    assert (judged.p, judged.verdict, judged.reason) == (None, "inconclusive", "fewer than two trials")


# --- equivalence, sign flips, Holm ---


def test_equivalence_is_the_larger_p_of_scipys_two_one_sided_tests():
    x, margin = np.array([0.01, -0.02, 0.03, 0.015, -0.01]), 0.05
    above = stats.ttest_1samp(x, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(x, margin, alternative="less").pvalue
    difference = sig.compare_means(x, np.zeros(5)).difference
    assert sig.equivalence(difference, margin) == pytest.approx(max(above, below))


@given(st.floats(-2, 2), st.floats(0.1, 2), st.floats(1.5, 50), st.floats(0.05, 3))
def test_equivalence_at_5_percent_means_that_the_90_percent_interval_is_within_the_margin(mean, se, df, margin):
    p = sig.equivalence(difference_of(mean, se, df), margin)
    reach = stats.t.ppf(0.95, df) * se
    if abs(p - 0.05) > 1e-9:
        assert (p < 0.05) == (mean - reach > -margin and mean + reach < margin)


@pytest.mark.parametrize("test", [sig.equivalence, sig.minimum_effect])
def test_a_margin_of_nothing_is_refused(test):
    for margin in (0, -1, math.nan):
        with pytest.raises(ValueError, match="margin"):
            test(difference_of(0.1, 0.1, 4), margin)


def test_the_minimum_effect_test_of_almost_no_margin_is_the_paired_t_test():
    x, y = [1.2, 3.4, 2.2, 5.0], [1.0, 3.9, 1.1, 4.2]
    comparison = sig.compare_means(x, y)
    assert sig.minimum_effect(comparison.difference, 1e-12) == pytest.approx(comparison.p)


@given(st.floats(-3, 3), st.floats(0.1, 2), st.floats(1.5, 50), st.floats(0.05, 3))
def test_the_minimum_effect_test_is_two_tails_at_the_edge_of_the_margin(mean, se, df, margin):
    p = sig.minimum_effect(difference_of(mean, se, df), margin)
    above = stats.t.sf((abs(mean) - margin) / se, df) + stats.t.sf((abs(mean) + margin) / se, df)
    assert p == pytest.approx(above)


@given(st.floats(-3, 3), st.floats(0.1, 2), st.floats(1.5, 50), st.floats(0.05, 3))
def test_no_difference_is_both_beyond_the_margin_and_within(mean, se, df, margin):
    difference = difference_of(mean, se, df)
    assert sig.minimum_effect(difference, margin) >= 0.5 or sig.equivalence(difference, margin) >= 0.5


def test_identical_trials_do_not_exceed_a_margin():
    assert sig.minimum_effect(sig.compare_means([1.0, 2.0], [1.0, 2.0]).difference, 0.1) == 1.0
    assert sig.minimum_effect(sig.compare_means([2.0, 3.0], [1.0, 2.0]).difference, 0.1) is None


@given(hnp.arrays(float, st.integers(2, 7), elements=SPREAD))
def test_the_sign_flip_test_is_scipys_permutation_test(differences):
    found = sig.sign_flip_test(differences)
    expected = stats.permutation_test(
        (differences,),
        lambda x, axis: np.sum(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert found.p == pytest.approx(expected.pvalue)


def test_the_sign_flip_test_says_how_small_its_p_can_get():
    extreme = sig.sign_flip_test([1.0, 2.0, 3.0, 4.0, 5.0])
    assert extreme.p == extreme.smallest_p == 2 / 2**5
    assert sig.sign_flip_test(np.arange(1.0, 21.0)).p == 2 / 2**20
    assert sig.sign_flip_test(np.arange(1.0, 22.0)).p is None
    assert sig.sign_flip_test([]) == sig.SignFlip(None, 1.0, 0)
    assert sig.sign_flip_test([0.0, 0.0, 0.0]).p == 1.0


def test_holm_multiplies_by_the_number_of_hypotheses_still_standing():
    assert sig.holm([0.01, 0.04, 0.03, None, 0.005]) == pytest.approx([0.03, 0.06, 0.06, None, 0.02])
    assert sig.holm([]) == []
    assert sig.holm([None]) == [None]


@given(st.lists(st.none() | st.floats(0, 1), max_size=12))
def test_holm_keeps_the_order_and_lies_between_the_raw_p_and_bonferroni(p_values):
    adjusted = sig.holm(p_values)
    counted = [(p, q) for p, q in zip(p_values, adjusted) if p is not None]
    assert [q for p, q in zip(p_values, adjusted) if p is None] == [None] * p_values.count(None)
    assert all(p <= q <= min(1, len(counted) * p) for p, q in counted)
    by_p = [q for _, q in sorted(counted)]
    assert by_p == sorted(by_p)


# --- power ---


@pytest.mark.parametrize("n", [2, 3, 5, 10, 60])
@pytest.mark.parametrize("margin", [0.1, 0.5, 1.0])
def test_the_power_of_a_paired_test_is_the_noncentral_t(n, margin):
    t = stats.t.ppf(0.975, n - 1)
    nct = stats.nct(n - 1, margin * math.sqrt(n) / 0.7)
    assert sig.predicted_power((0.7**2, 0.0), n, margin) == pytest.approx(nct.sf(t) + nct.cdf(-t), abs=2e-4)


def test_34_pairs_give_80_percent_power_at_half_a_standard_deviation():
    """Cohen 1988, and every table of paired t tests since."""
    assert sig.trials_for_power((1.0, 0.0), 0.5) == 34
    assert sig.predicted_power((1.0, 0.0), 34, 0.5) >= 0.8 > sig.predicted_power((1.0, 0.0), 33, 0.5)


def test_no_number_of_trials_that_matters_shows_a_tiny_margin():
    assert sig.trials_for_power((1.0, 0.0), 0.001) is None


@pytest.mark.parametrize("share", [0, 0.25, 1])
@pytest.mark.parametrize("test", ["difference", "equivalence", "minimum effect"])
def test_the_predicted_power_of_a_pair_comparison_is_the_simulated_one(share, test):
    n, margin = 6, 1.4
    terms = (2 * share, 2 * (1 - share))
    matrices = simulated_pairs(np.random.default_rng(3), (20_000,), n, share)
    mean, _, ms_trials, ms_pairs = sig.pair_mean_squares(matrices)
    variance, df = sig.pair_variance(ms_trials, ms_pairs, n)
    if test == "difference":
        hits = np.abs(mean + margin) > stats.t.ppf(0.975, df) * np.sqrt(variance)
    elif test == "minimum effect":  # of twice the margin
        t = [(np.abs(mean + 2 * margin) - sign * margin) / np.sqrt(variance) for sign in (1, -1)]
        hits = stats.t.sf(t[0], df) + stats.t.sf(t[1], df) < 0.05
    else:
        hits = np.abs(mean) + stats.t.ppf(0.95, df) * np.sqrt(variance) < margin
    assert sig.predicted_power(terms, n, margin, test=test) == pytest.approx(hits.mean(), abs=0.012)


@settings(max_examples=25)
@given(
    st.floats(0, 2),
    st.floats(0, 2),
    st.floats(0.2, 3),
    st.sampled_from(["difference", "equivalence", "minimum effect"]),
)
def test_the_trials_needed_are_the_first_with_enough_power(first, second, margin, test):
    terms = (first, second + 1e-3)
    n = sig.trials_for_power(terms, margin, test=test)
    assert sig.predicted_power(terms, n, margin, test=test) >= 0.8
    assert n == 3 or sig.predicted_power(terms, n - 1, margin, test=test) < 0.8


def test_power_does_not_depend_on_the_observed_difference():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 8))
    needed = [sig.verdicts([sig.compare_means(x + shift, y)], [0.3])[0].trials_needed for shift in (0, 1e-3, 1e-2)]
    assert needed[0] == needed[1] == needed[2]


# --- the verdict ---


def comparison_of(mean, se, df=9):
    return sig.Comparison(difference_of(mean, se, df), float(2 * stats.t.sf(abs(mean) / se, df)), None)


def judged(mean, se, margin=1.0, others=0):
    """The verdict on one comparison of a family with `others` that show nothing."""
    family = [comparison_of(mean, se), *[comparison_of(0.5, 1.0)] * others]
    return sig.verdicts(family, [margin] * len(family))[0]


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
    without = sig.compare_means([1.0], [2.0])
    assert sig.verdicts([comparison_of(2.5, 1.0), without], [1.0, 1.0])[0] == judged(2.5, 1.0)


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
    pairs = sig.compare_pair_means(HAND, HAND * 1.1)
    for comparison in (
        judged(0.5, 1.0),
        *sig.verdicts([pairs], [0.1]),
        sig.compare_means([None, None], [1.0, 2.0]),
        sig.compare_means([2.0, 3.0], [1.0, 2.0]),
    ):
        content = json.loads(json.dumps(comparison.as_dict(), allow_nan=False))
        assert set(content) >= {"difference", "p", "p_adjusted", "effect_size", "margin", "verdict"}
        assert set(content["difference"]) >= {"mean", "sd", "n", "ci95", "method"}


# --- trials that are not paired ---


def test_means_of_different_trials_are_compared_by_scipys_welch_test():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=5), rng.normal(0.3, 2, size=9)
    found = sig.compare_independent(sig.mean_interval(x), sig.mean_interval(y))
    expected = stats.ttest_ind(x, y, equal_var=False)
    assert (found.p, found.difference.df) == pytest.approx((expected.pvalue, expected.df))
    assert found.difference.n == 5 and found.effect_size is None


def test_means_without_an_interval_are_not_compared_and_say_why():
    one, none = sig.mean_interval([1.0, 2.0]), sig.mean_interval([1.0])
    found = sig.compare_independent(one, none)
    assert (found.difference.mean, found.p, found.difference.reason) == (0.5, None, "fewer than two trials")


def test_means_without_spread_differ_by_nothing_or_are_not_testable():
    same, other = sig.mean_interval([1.0, 1.0]), sig.mean_interval([2.0, 2.0])
    assert sig.compare_independent(same, same).p == 1.0
    assert sig.compare_independent(same, other).difference.reason == "not testable: all values are equal"
