"""Claims about power: agreement with the noncentral t distribution and with simulations, and the number of trials needed."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from simulated import simulated_pairs

from analysis import significance
from analysis.estimates import pair_mean_squares, pair_variance
from analysis.power import predicted_power, trials_for_power


@pytest.mark.parametrize("n", [2, 3, 5, 10, 60])
@pytest.mark.parametrize("margin", [0.1, 0.5, 1.0])
def test_the_power_of_a_paired_test_is_the_noncentral_t(n, margin):
    t = stats.t.ppf(0.975, n - 1)
    nct = stats.nct(n - 1, margin * math.sqrt(n) / 0.7)
    assert predicted_power((0.7**2, 0.0), n, margin) == pytest.approx(nct.sf(t) + nct.cdf(-t), abs=2e-4)


def test_34_pairs_give_80_percent_power_at_half_a_standard_deviation():
    """Cohen 1988, and every table of paired t tests since."""
    assert trials_for_power((1.0, 0.0), 0.5) == 34
    assert predicted_power((1.0, 0.0), 34, 0.5) >= 0.8 > predicted_power((1.0, 0.0), 33, 0.5)


def test_no_number_of_trials_that_matters_shows_a_tiny_margin():
    assert trials_for_power((1.0, 0.0), 0.001) is None


@pytest.mark.parametrize("share", [0, 0.25, 1])
@pytest.mark.parametrize("test", ["difference", "equivalence", "minimum effect"])
def test_the_predicted_power_of_a_pair_comparison_is_the_simulated_one(share, test):
    n, margin = 6, 1.4
    terms = (2 * share, 2 * (1 - share))
    matrices = simulated_pairs(np.random.default_rng(3), (20_000,), n, share)
    mean, _, ms_trials, ms_pairs = pair_mean_squares(matrices)
    variance, df = pair_variance(ms_trials, ms_pairs, n)
    if test == "difference":
        hits = np.abs(mean + margin) > stats.t.ppf(0.975, df) * np.sqrt(variance)
    elif test == "minimum effect":  # of twice the margin
        t = [(np.abs(mean + 2 * margin) - sign * margin) / np.sqrt(variance) for sign in (1, -1)]
        hits = stats.t.sf(t[0], df) + stats.t.sf(t[1], df) < 0.05
    else:
        hits = np.abs(mean) + stats.t.ppf(0.95, df) * np.sqrt(variance) < margin
    assert predicted_power(terms, n, margin, test=test) == pytest.approx(hits.mean(), abs=0.012)


@settings(max_examples=25)
@given(
    st.floats(0, 2),
    st.floats(0, 2),
    st.floats(0.2, 3),
    st.sampled_from(["difference", "equivalence", "minimum effect"]),
)
def test_the_trials_needed_are_the_first_with_enough_power(first, second, margin, test):
    terms = (first, second + 1e-3)
    n = trials_for_power(terms, margin, test=test)
    assert predicted_power(terms, n, margin, test=test) >= 0.8
    assert n == 3 or predicted_power(terms, n - 1, margin, test=test) < 0.8


def test_power_does_not_depend_on_the_observed_difference():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 8))
    needed = [
        significance.verdicts([significance.compare_means(x + shift, y)], [0.3])[0].trials_needed
        for shift in (0, 1e-3, 1e-2)
    ]
    assert needed[0] == needed[1] == needed[2]
