"""Outlying runs are flagged at a known false-alarm rate."""

import numpy as np
import pytest
from scipy import stats
from simulated import simulated_pairs

from analysis import outlying


def test_a_deviation_is_studentised_without_the_run_itself():
    values = np.array([0.3, 1.1, 0.2, 2.5, 0.9])
    others = np.delete(values, 3)
    expected = (2.5 - others.mean()) / (others.std(ddof=1) * np.sqrt(1 + 1 / 4))
    assert outlying.studentised_deviations(values)[3] == pytest.approx(expected)


def test_a_deviation_is_the_outlier_test_of_statsmodels():
    from statsmodels.regression.linear_model import OLS

    values = np.random.default_rng(0).standard_t(3, 12)
    expected = OLS(values, np.ones(12)).fit().get_influence().resid_studentized_external
    assert outlying.studentised_deviations(values) == pytest.approx(expected)


def test_one_run_far_from_nine_is_flagged_and_missing_runs_are_not_counted():
    values = [1.0, 1.1, None, 0.9, 1.05, 0.95, 1.02, 9.0, 0.98]
    assert outlying.outlying_runs(np.array(values, dtype=float)).tolist() == [7]


@pytest.mark.parametrize("n", [3, 5, 10, 20])
def test_at_most_one_set_of_normal_runs_in_a_hundred_has_a_flag(n):
    values = np.random.default_rng(n).standard_normal((4000, n))
    rate = np.mean([len(outlying.outlying_runs(row)) > 0 for row in values])
    assert rate <= 0.01 + 3 * np.sqrt(0.01 * 0.99 / 4000)


def test_pairs_of_normal_runs_have_as_few_flags():
    matrices = simulated_pairs(np.random.default_rng(1), (2000,), 8, 0.5)
    rate = np.mean([len(outlying.outlying_runs_of_pairs(matrix)) > 0 for matrix in matrices])
    assert rate <= 0.01 + 3 * np.sqrt(0.01 * 0.99 / 2000)


def test_the_run_far_from_all_others_is_found_by_its_pairs():
    matrix = simulated_pairs(np.random.default_rng(2), (), 9, 0.5)
    matrix[4, :] += 30
    matrix[:, 4] += 30
    matrix[2, :] = matrix[:, 2] = np.nan
    assert outlying.outlying_runs_of_pairs(matrix).tolist() == [4]


def test_equal_runs_have_no_outlier_and_one_that_differs_from_equal_ones_is_one():
    assert outlying.outlying_runs(np.full(6, 0.1)).tolist() == []
    assert outlying.outlying_runs(np.array([0.1] * 5 + [0.2])).tolist() == [5]


def test_of_three_runs_two_equal_ones_do_not_make_the_third_an_outlier():
    """As with counts: three pairs that differ in 2, 1 and 1 examples."""
    assert outlying.outlying_runs(np.array([1.5, 1.5, 1.0])).tolist() == []


def test_two_runs_cannot_be_told_apart():
    assert outlying.outlying_runs(np.array([1.0, 100.0])).tolist() == []
    assert outlying.outlying_runs_of_pairs(np.full((2, 2), 0.5)).tolist() == []
    with pytest.raises(ValueError, match="three runs"):
        outlying.studentised_deviations(np.array([1.0, 2.0]))


def test_a_flag_is_a_bonferroni_corrected_t_test():
    values = np.array([0.0, 1.0, -1.0, 0.5, -0.5, 6.0])
    p = 2 * stats.t.sf(abs(outlying.studentised_deviations(values)[5]), 4)
    assert (len(outlying.outlying_runs(values, 6 * p * 1.001)), len(outlying.outlying_runs(values, 6 * p * 0.999))) == (
        1,
        0,
    )
