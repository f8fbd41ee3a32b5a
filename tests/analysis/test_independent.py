"""The shipped studies' numbers, computed again by independent code: scipy, statsmodels, and published formulas."""

import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance
from statsmodels.regression.linear_model import OLS
from statsmodels.stats import inter_rater, multitest, power, weightstats

import metrics
from analysis import significance
from analysis.estimates import pair_mean_squares, pair_variance
from analysis.power import trials_for_power
from analysis.results import (
    PRIMARY,
    Margins,
    activation_sensitivity,
    compare_cells,
    comparisons,
    estimate,
    matrix,
    outlying,
    primary_comparisons,
    values,
    window_errors,
)
from analysis.windows import window_standard_error
from analyze_results import read_study

REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference"
OTHERS = ["smelu_05", "smelu_1", "gelu", "swish"]


@functools.cache
def cells():
    """Activation -> cell of the matched study: ten trials each."""
    return {cell.activation: cell for cell in read_study(REFERENCE / "matched").cells}


def losses(activation):
    return np.array(values(cells()[activation], "val_loss"))


# --- trials ---


@pytest.mark.parametrize("activation", OTHERS)
def test_a_difference_of_losses_is_scipys_paired_t_test(activation):
    found = compare_cells(cells()[activation], cells()["relu"], "val_loss")
    expected = stats.ttest_rel(losses(activation), losses("relu"))
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    interval = expected.confidence_interval(0.95)
    assert [found.difference.low, found.difference.high] == pytest.approx(list(interval), rel=1e-9)


@pytest.mark.parametrize("activation", OTHERS)
def test_equivalence_of_losses_is_statsmodels_paired_tost(activation):
    difference = compare_cells(cells()[activation], cells()["relu"], "val_loss").difference
    p, _, _ = weightstats.ttost_paired(losses(activation), losses("relu"), -0.01, 0.01)
    assert significance.equivalence(difference, 0.01) == pytest.approx(p, rel=1e-6, abs=1e-12)


def test_the_corrections_of_the_primary_family_are_statsmodels():
    found = list(primary_comparisons(list(cells().values()), Margins()).values())
    assert len(found) == 16
    holm = multitest.multipletests([c.p for c in found], method="holm")[1]
    assert [c.p_adjusted for c in found] == pytest.approx(list(holm))
    tost = [significance.equivalence(c.difference, c.margin) for c in found]
    bonferroni = multitest.multipletests(tost, method="bonferroni")[1]
    assert [c.equivalence_p for c in found] == pytest.approx(list(bonferroni))


def test_a_verdict_follows_from_statsmodels_p_values():
    """SmeLU with beta = 1 against ReLU in loss: beyond the margin. GELU: within it."""
    found = primary_comparisons(list(cells().values()), Margins())
    assert found["smelu_1", "val_loss"].verdict == "different"
    assert found["gelu", "val_loss"].verdict == "equivalent"
    for activation in OTHERS:
        x, y = losses(activation), losses("relu")
        equivalent = 16 * weightstats.ttost_paired(x, y, -0.01, 0.01)[0] < 0.05
        assert (found[activation, "val_loss"].verdict == "equivalent") == equivalent


def test_the_seeds_needed_for_a_loss_are_statsmodels_power():
    terms = compare_cells(cells()["swish"], cells()["relu"], "val_loss").difference.variance_terms
    expected = power.TTestPower().solve_power(effect_size=0.002 / np.sqrt(terms[0]), power=0.8, alpha=0.05)
    assert trials_for_power(terms, 0.002) == np.ceil(expected)


def test_sensitivity_of_the_loss_rests_on_scipys_tails():
    found = activation_sensitivity(list(cells().values()), Margins())["val_loss"]
    p_beyond, p_within = [], []
    for one, other in itertools.combinations(cells(), 2):
        difference = losses(one) - losses(other)
        size, error = abs(difference.mean()), stats.sem(difference)
        p_beyond.append(stats.t.sf((size - 0.01) / error, 9) + stats.t.sf((size + 0.01) / error, 9))
        p_within.append(weightstats.ttost_paired(losses(one), losses(other), -0.01, 0.01)[0])
    assert found.minimum_effect_p == pytest.approx(multitest.multipletests(p_beyond, method="holm")[1].min())
    assert found.equivalence_p == pytest.approx(max(p_within))
    assert found.verdict == "sensitive"


@pytest.mark.parametrize("name", PRIMARY)
@pytest.mark.parametrize("activation", ["relu", "smelu_05"])
def test_flagged_runs_are_those_of_statsmodels_outlier_test(activation, name):
    cell = cells()[activation]
    x = losses(activation) if name == "val_loss" else np.nanmean(matrix(cell, name), axis=0)
    influence = OLS(x, np.ones(10)).fit().outlier_test(alpha=0.01, method="bonf")
    assert outlying(cell, name) == [k + 1 for k in np.flatnonzero(np.asarray(influence)[:, 2] < 0.01)]


# --- pairs ---


@pytest.mark.parametrize("name", metrics.PRIMARY)
@pytest.mark.parametrize("activation", cells())
def test_the_mean_squares_of_pairs_are_those_of_a_regression_on_their_trials(activation, name):
    """A pair's value on the indicators of its two trials: what the trials explain, and what is left."""
    found = matrix(cells()[activation], name)
    pairs = list(itertools.combinations(range(10), 2))
    design = np.zeros((45, 10))
    for row, pair in enumerate(pairs):
        design[row, pair] = 1
    fit = OLS([found[pair] for pair in pairs], design).fit()
    _, _, ms_trials, ms_pairs = pair_mean_squares(found)
    assert ms_pairs == pytest.approx(fit.mse_resid)
    assert ms_trials == pytest.approx((fit.centered_tss - fit.ssr) / 9)
    variance, _ = pair_variance(ms_trials, ms_pairs, 10)
    s_a2 = (ms_trials - ms_pairs) / 8
    if s_a2 > 0:  # Hoeffding 1948
        assert variance == pytest.approx(4 * s_a2 / 10 + 2 * ms_pairs / 90)


@pytest.mark.parametrize("activation", cells())
def test_the_interval_of_pairs_is_as_wide_as_a_bootstrap_over_trials(activation):
    """Trials drawn with replacement, no trial paired with its copy: independent of any variance formula, and rough."""
    found = matrix(cells()[activation], "relative_pd")
    rng, means = np.random.default_rng(0), []
    for _ in range(4000):
        drawn = rng.integers(10, size=10)
        apart = drawn[:, None] != drawn[None, :]
        means.append(found[np.ix_(drawn, drawn)][apart].mean())
    assert estimate(cells()[activation], "relative_pd").standard_error == pytest.approx(np.std(means), rel=0.3)


# --- the text ---


def test_trials_and_text_together_are_the_multi_bootstrap():
    """Sellam et al. 2022, The MultiBERTs (arXiv 2106.16163): seeds and test examples resampled independently.

    Over S seeds and X examples its variance is s_seed^2 / S + s_example^2 / X + s_rest^2 / (S X), all with the divisors S
    and X. Window by window, as if windows were independent, so that the formula applies.
    """
    loss = np.array([cells()["relu"].arrays[f"trial_{k}_loss"] for k in range(1, 11)], dtype=np.float64)
    seeds, windows = loss.shape
    rest = loss - loss.mean(1, keepdims=True) - loss.mean(0) + loss.mean()
    of_seeds, of_text = loss.mean(1).var() / seeds, loss.mean(0).var() / windows
    formula = np.sqrt(of_seeds + of_text + (rest**2).mean() / (seeds * windows))
    rng = np.random.default_rng(1)
    seed_counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=5000)
    window_counts = rng.multinomial(windows, np.full(windows, 1 / windows), size=5000)
    resampled = np.einsum("bs,sx,bx->b", seed_counts, loss, window_counts, optimize=True) / loss.size
    assert resampled.std() == pytest.approx(formula, rel=0.04)
    trials = estimate(cells()["relu"], "val_loss").standard_error
    text = window_standard_error(loss.mean(0), block=1)
    ours = np.sqrt(trials**2 * (seeds - 1) / seeds + text**2 * (windows - 1) / windows)
    assert ours == pytest.approx(formula, rel=1e-2)


@pytest.mark.parametrize("name", PRIMARY)
def test_windows_are_correlated_so_that_blocks_give_the_larger_error(name):
    """Lag-1 autocorrelation of 0.1 to 0.3, and standard errors of means 1.3 to 1.6 times those of independent windows."""
    cell = cells()["relu"]
    numbers = range(1, 11)
    keys = [f"pair_{a}_{b}_{name}" for a, b in itertools.combinations(numbers, 2)]
    keys = [f"trial_{k}_loss" for k in numbers] if name == "val_loss" else keys
    series = np.mean([cell.arrays[key] for key in keys], axis=0, dtype=np.float64)
    lag = np.corrcoef(series[:-1], series[1:])[0, 1]
    ratio = window_errors(cell, None, name) / (series.std(ddof=1) / np.sqrt(len(series)))
    assert 0.1 < lag < 0.35
    assert 1.3 < ratio < 1.65


# --- metrics ---


@functools.cache
def predictions():
    rng = np.random.default_rng(2)
    common = 2 * rng.standard_normal((6, 20, 65))
    logits = [common + 0.5 * rng.standard_normal(common.shape) for _ in range(2)]
    log_p, log_q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in logits)
    return log_p.astype(np.float32), log_q.astype(np.float32), rng.integers(65, size=(6, 20))


def test_metrics_are_those_of_scipy_and_statsmodels():
    log_p, log_q, y = predictions()
    found, _ = metrics.compare(log_p, log_q, y)
    rows = [np.exp(x.astype(np.float64)).reshape(-1, 65) for x in (log_p, log_q)]
    p, q = (x / x.sum(1, keepdims=True) for x in rows)
    pairs = list(zip(p, q))
    assert found["relative_pd"] == pytest.approx(distance.braycurtis(p.ravel(), q.ravel()), rel=1e-5)
    jensen_shannon = np.mean([distance.jensenshannon(a, b) ** 2 for a, b in pairs])
    assert found["js_divergence"] == pytest.approx(jensen_shannon, rel=1e-4)
    symmetric_kl = np.mean([(stats.entropy(a, b) + stats.entropy(b, a)) / 2 for a, b in pairs])
    assert found["symmetric_kl"] == pytest.approx(symmetric_kl, rel=1e-4)
    table = np.zeros((65, 65))
    np.add.at(table, (p.argmax(1), q.argmax(1)), 1)
    assert found["cohen_kappa"] == pytest.approx(inter_rater.cohens_kappa(table).kappa)


def test_shamirs_pd_is_the_published_symmetric_prediction_difference():
    """|p - q| over the mean of the two predictions, for the label that occurred, averaged over examples.

    Shamir, Lin & Coviello 2020 (arXiv 2010.09931): the predictions' distance relative to their expectation over models,
    which the mean of the two estimates, and which treats both alike.
    """
    log_p, log_q, y = predictions()
    total = 0.0
    for window, position in itertools.product(range(6), range(20)):
        label = y[window, position]
        one, other = (float(np.exp(x[window, position, label].astype(np.float64))) for x in (log_p, log_q))
        total += abs(one - other) / ((one + other) / 2)
    assert metrics.compare(log_p, log_q, y)[0]["shamir_relative_pd"] == pytest.approx(total / 120, rel=1e-6)


# --- one comparison, one verdict ---


def test_the_audit_and_the_table_give_one_verdict():
    from claims.comparisons import Evidence, judged
    from report.answer import comparisons as section
    from report.document import Table
    from report.view import View

    members = list(cells().values())
    found = primary_comparisons(members, Margins())
    evidence = Evidence({"matched": cells()})
    table = {(row[0], row[1]): row[-1] for row in section(View(None, members, Margins())).all(Table)[0].rows}
    for (activation, name), comparison in found.items():
        label = metrics.METRICS[name].label if name in metrics.METRICS else "Validation loss"
        audit = judged(evidence, "matched", activation, "relu", name)
        texts = {comparison.verdict_text, audit.verdict_text, table[label, cells()[activation].label]}
        assert texts == {comparison.verdict_text}
        assert comparisons(members, name, Margins())["relu", activation].verdict == comparison.verdict
