"""Claims about many activations at once: does the choice matter, how much, and who is on the Pareto frontier?"""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from simulated import simulated_pairs

from analysis import sensitivity as sen
from analysis.estimates import pair_interval
from analysis.significance import compare_means

VALUES = hnp.arrays(float, st.tuples(st.integers(2, 5), st.integers(2, 7)), elements=st.integers(-20, 20))


def grid(rng, groups, n, differences=0.0):
    return rng.standard_normal((groups, n)) + differences * np.arange(groups)[:, None] + rng.standard_normal(n)


# --- the standard deviation between activations ---


def test_the_sampling_variance_is_subtracted():
    # Means 2, 4, 9; M_g = 2 * 26 / 2 = 26. Residuals are all 1 or 0: rows (1, 3), (3, 5), (9, 9);
    # column means 13/3 and 17/3, so the residuals are -1/3, -1/3, 2/3 and their negatives: M_e = 12/9 / 2 = 2/3.
    estimate = sen.between_group_sd([[1, 3], [3, 5], [9, 9]])
    assert estimate.mean == pytest.approx(np.sqrt((26 - 2 / 3) / 2))
    assert (estimate.n, estimate.df) == (2, 2)


def test_the_interval_begins_at_zero_exactly_where_the_f_test_does_not_reject():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        values = grid(rng, 4, 5, rng.uniform(0, 0.8))
        centred = values - values.mean(0)
        ms_groups = 5 * values.mean(1).var(ddof=1)
        ms_error = (centred**2).sum() / 12 - ms_groups * 3 / 12
        rejects = stats.f.sf(ms_groups / ms_error, 3, 12) < 0.025
        assert (sen.between_group_sd(values).low > 0) == rejects
        seen.add(rejects)
    assert seen == {True, False}


@pytest.mark.parametrize("apart", [10.0, 1000.0])
def test_for_two_activations_far_apart_it_is_the_paired_t_interval(apart):
    """The standard deviation of two means is their difference over sqrt(2)."""
    x, y = np.random.default_rng(2).standard_normal((2, 5))
    expected = stats.ttest_rel(x + apart, y).confidence_interval(0.95)
    estimate = sen.between_group_sd([x + apart, y])
    assert (estimate.low, estimate.high) == pytest.approx(np.array(expected) / np.sqrt(2), rel=1e-3)


@pytest.mark.parametrize("truth", [0.0, 0.5, 5.0, 500.0])
def test_the_interval_covers_the_standard_deviation_between_activations(truth):
    rng = np.random.default_rng(1)
    effects = np.array([-1.0, 0.0, 0.0, 1.0]) * truth / np.sqrt(2 / 3)
    hits = []
    for _ in range(400):
        estimate = sen.between_group_sd(grid(rng, 4, 5) + effects[:, None])
        hits.append(estimate.low <= truth <= estimate.high)
    assert 0.91 <= np.mean(hits) <= 0.995


@given(VALUES)
def test_what_all_activations_share_in_a_trial_does_not_matter(values):
    one, other = sen.between_group_sd(values), sen.between_group_sd(values + 7 * np.arange(values.shape[1]))
    assert one.mean == pytest.approx(other.mean, abs=1e-6)
    moved = values + 8 * np.arange(values.shape[1])
    assert sen.equal_means_test(values, 99) == sen.equal_means_test(moved, 99)


# --- the permutation test ---


def test_the_permutation_test_of_two_activations_is_the_sign_flip_test():
    values = np.random.default_rng(3).standard_normal((2, 6)) + np.array([[0.8], [0.0]])
    exact = stats.permutation_test(
        (values[0] - values[1],),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert sen.equal_means_test(values, 20_000) == pytest.approx(exact.pvalue, abs=0.01)


def test_the_permutation_test_depends_on_its_seed_only():
    values = grid(np.random.default_rng(4), 5, 6, 0.2)
    p = [sen.equal_means_test(values, 500, seed) for seed in (1, 1, 2)]
    assert p[0] == p[1] != p[2]


@pytest.mark.parametrize("share", [None, 0.25, 0.5, 1.0])
def test_the_permutation_test_rejects_at_most_5_percent_where_nothing_differs(share):
    rng = np.random.default_rng(5)
    rejected = []
    for _ in range(1000):
        if share is None:
            values = grid(rng, 5, 5)
        else:
            values = sen.pseudo_values(simulated_pairs(rng, (5,), 5, share))
        rejected.append(sen.equal_means_test(values, 99) <= 0.05)
    assert 0.015 <= np.mean(rejected) <= 0.065


def test_a_clear_difference_is_found():
    values = grid(np.random.default_rng(6), 5, 5, 3.0)
    assert sen.equal_means_test(values, 999) <= 0.005


@pytest.mark.parametrize(("groups", "n"), [(2, 2), (2, 4), (3, 2), (3, 3)])
def test_the_smallest_p_is_the_share_of_arrangements_as_extreme_as_the_most_extreme(groups, n):
    """All permutations of A values within each of n trials, counted one by one."""
    values = np.random.default_rng(20).standard_normal((n, groups))
    orders = [list(itertools.permutations(row)) for row in values]
    arrangements = np.array(list(itertools.product(*orders))).transpose(0, 2, 1)
    largest = sen._largest_t(arrangements, 1e-12)
    assert np.isclose(largest, largest.max()).mean() == pytest.approx(sen.smallest_p(groups, n))


def test_no_p_is_smaller_than_the_permutations_drawn_allow():
    assert sen.smallest_p(5, 20, 999) == 1e-3
    assert sen.smallest_p(2, 3, 999) == 1 / 4


# --- pseudo-values ---


def test_pseudo_values_average_to_the_mean_over_pairs():
    matrices = simulated_pairs(np.random.default_rng(7), (4,), 6, 0.5)
    expected = [pair_interval(matrix).mean for matrix in matrices]
    assert sen.pseudo_values(matrices).mean(1) == pytest.approx(expected)


def test_pseudo_values_of_sums_of_trials_are_the_trials():
    trials = np.random.default_rng(8).standard_normal((3, 5))
    assert sen.pseudo_values(trials[:, :, None] + trials[:, None, :]) == pytest.approx(2 * trials)


def test_a_trial_missing_in_one_activation_is_left_out_of_all():
    matrices = simulated_pairs(np.random.default_rng(9), (3,), 6, 0.5)
    matrices[1, 2, :] = matrices[1, :, 2] = np.nan
    kept = [0, 1, 3, 4, 5]
    assert sen.pseudo_values(matrices) == pytest.approx(sen.pseudo_values(matrices[:, kept][:, :, kept]))
    with pytest.raises(ValueError, match="three trials"):
        sen.pseudo_values(matrices[:, :2, :2])


# --- the verdict ---


def test_the_three_verdicts():
    rng = np.random.default_rng(10)
    assert sen.sensitivity_of_means(grid(rng, 5, 6, 3.0), margin=0.5).verdict_text == "sensitive"
    assert sen.sensitivity_of_means(grid(rng, 5, 6), margin=20.0).verdict_text == "insensitive"
    inconclusive = sen.sensitivity_of_means(grid(rng, 5, 6), margin=0.5)
    assert inconclusive.verdict_text == f"inconclusive ({inconclusive.trials_needed} seeds needed)"
    assert inconclusive.trials_needed > 6


def test_the_verdict_of_a_pair_metric():
    rng = np.random.default_rng(15)
    matrices = simulated_pairs(rng, (5,), 6, 0.5)
    assert sen.sensitivity_of_pairs(matrices, margin=50.0).verdict == "insensitive"
    assert sen.sensitivity_of_pairs(matrices, margin=0.5).trials_needed > 6
    apart = matrices + 20 * np.arange(5)[:, None, None]
    assert sen.sensitivity_of_pairs(apart, margin=0.5).verdict == "sensitive"


def test_differences_below_the_margin_are_insensitive_however_significant():
    rng = np.random.default_rng(16)
    values = grid(rng, 4, 10, 3.0)
    found = sen.sensitivity_of_means(values, margin=30.0)
    assert (found.verdict, found.equal_means_p) == ("insensitive", 1e-4)
    assert sen.sensitivity_of_means(values, margin=1.0).verdict == "sensitive"


def test_the_tests_behind_a_verdict_are_those_of_the_single_pairs():
    values = grid(np.random.default_rng(17), 3, 6, 1.0)
    differences = [compare_means(x, y).difference for x, y in itertools.combinations(values, 2)]
    verdict, exceeds, within = sen.judge_sensitivity(differences, 0.4)
    assert exceeds == pytest.approx(3 * min(sen.minimum_effect(d, 0.4) for d in differences))
    assert within == pytest.approx(max(sen.equivalence(d, 0.4) for d in differences))
    found = sen.sensitivity_of_means(values, 0.4)
    assert (found.verdict, found.minimum_effect_p, found.equivalence_p) == (verdict, exceeds, within)


def test_equal_results_whatever_the_activation_are_insensitive():
    """What the report's four architectures gave, whose activation was ReLU whatever was asked."""
    result = sen.sensitivity_of_means(np.tile([2.1, 2.3, 2.2], (5, 1)), margin=0.01)
    assert (result.verdict, result.equal_means_p, result.between_sd.mean) == ("insensitive", 1.0, 0.0)
    assert result.range_over_minimum == 0


def test_the_reports_range_over_minimum_is_given_too():
    assert sen.sensitivity_of_means([[2.0, 2.2], [3.0, 3.3]], 0.01).range_over_minimum == pytest.approx(0.5)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_trials_are_inconclusive_and_say_so(n):
    pairs = sen.sensitivity_of_pairs(np.full((3, n, n), 0.5), margin=0.01)
    assert (pairs.verdict, pairs.equal_means_p) == ("inconclusive", None)
    assert "fewer than three trials" in pairs.reason
    if n < 2:
        assert sen.sensitivity_of_means(np.ones((3, n)), margin=0.01).reason == "fewer than two trials"
    json.dumps(pairs.as_dict(), allow_nan=False)


def test_one_activation_cannot_be_sensitive():
    with pytest.raises(ValueError, match="two activations"):
        sen.sensitivity_of_means([[1.0, 2.0]], margin=0.01)


def test_results_are_json_without_nan():
    result = sen.sensitivity_of_means(grid(np.random.default_rng(12), 3, 5), margin=None)
    content = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert content["between_sd"]["ci95"] is not None
    assert content["verdict"] == "inconclusive"


# --- the Pareto frontier ---


def test_the_frontier_is_who_nobody_beats():
    loss, pd = [1.0, 2.0, 3.0, 2.0, 2.5], [3.0, 2.0, 1.0, 2.0, 2.0]
    assert sen.pareto_front(loss, pd).tolist() == [True, True, True, True, False]  # equals stay together
    assert sen.pareto_front([1.0, np.nan], [1.0, 0.5]).tolist() == [True, False]


@given(hnp.arrays(float, (2, 6), elements=st.integers(0, 4)))
def test_everyone_off_the_frontier_is_beaten_by_someone_on_it(points):
    loss, pd = points
    front = sen.pareto_front(loss, pd)
    assert front.any()
    for i in np.flatnonzero(~front):
        assert any(loss[j] <= loss[i] and pd[j] <= pd[i] for j in np.flatnonzero(front))


def test_shares_of_the_frontier_follow_the_uncertainty():
    rng = np.random.default_rng(13)
    n = 6
    losses = rng.standard_normal((3, n)) * 0.1 + np.array([[1.0], [1.0], [5.0]])
    matrices = 0.01 * simulated_pairs(rng, (3,), n, 0.5) + np.array([1.0, 1.001, 5.0])[:, None, None]
    shares = sen.pareto_shares(losses, matrices, 2000, seed=1)
    assert shares[2] == 0
    assert 0.05 < shares[1] < 0.999
    assert (shares == sen.pareto_shares(losses, matrices, 2000, seed=1)).all()
    assert sen.pareto_shares(losses[:, :2], matrices[:, :2, :2], 10) is None


def test_a_resampled_trial_is_never_paired_with_its_copy():
    """The diagonal holds whatever it likes."""
    rng = np.random.default_rng(14)
    losses, matrices = rng.standard_normal((3, 5)), simulated_pairs(rng, (3,), 5, 0.5)
    other = matrices.copy()
    other[:, np.arange(5), np.arange(5)] = np.nan
    assert (sen.pareto_shares(losses, matrices, 500) == sen.pareto_shares(losses, other, 500)).all()
