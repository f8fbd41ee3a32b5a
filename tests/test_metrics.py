"""The measures of two models' predictions: worked out by hand, edge cases, a slow reference, and laws."""

import itertools
import math
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon

import metrics

LN2 = math.log(2)
MEANS = ["relative_pd", "shamir_relative_pd", "top1_disagreement", "top3_overlap", "top5_overlap"]
MEANS += ["symmetric_kl", "js_divergence", "ensemble_gain"]
NAMES = [*MEANS[:3], "prediction_differences", "total_predictions", *MEANS[3:7]]
NAMES += ["perplexity_pearson", "perplexity_spearman", "ensemble_gain", "cohen_kappa", "error_consistency"]
NAMES += ["edit_distance"]
# What two identical models give.
ONES = ["top3_overlap", "top5_overlap", *NAMES[9:11], "cohen_kappa", "error_consistency"]
SAME = dict.fromkeys(NAMES[:-1], 0) | dict.fromkeys(ONES, 1)


def logs(*rows):
    """Probabilities (N, C), to log-probabilities of one window (1, N, C)."""
    with np.errstate(divide="ignore"):
        return np.log(np.array(rows, np.float32))[None]


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(axis=-1, keepdims=True)
    return (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))).astype(np.float32)


def random_pair(seed, w, t, v, scale=3.0, apart=0.5, ties=False):
    """Two models that agree more the smaller `apart` is, and targets."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(w, t, v)) * scale
    logits = [common + rng.normal(size=(w, t, v)) * scale * apart for _ in range(2)]
    if ties:
        logits = [np.round(x) for x in logits]
    return *map(log_softmax, logits), rng.integers(0, v, (w, t))


def bits(result):
    """Everything `compare` returns, comparable bit for bit."""
    values, per_window = result
    return values, {name: array.tobytes() for name, array in per_window.items()}


def close(value, expected, rel=1e-6):
    return np.testing.assert_allclose(value, expected, rtol=rel, atol=1e-7)


# --- by hand


def test_every_measure_of_one_position_as_worked_out_by_hand():
    log_p, log_q = logs([1 / 2, 1 / 4, 1 / 4]), logs([1 / 4, 1 / 4, 1 / 2])
    values, per_window = metrics.compare(log_p, log_q, np.array([[0]]))
    expected = {
        "relative_pd": 1 / 4,  # (1/4 + 0 + 1/4) / 2
        "shamir_relative_pd": 2 / 3,  # 2 (1/2 - 1/4) / (1/2 + 1/4)
        "top1_disagreement": 1,
        "prediction_differences": 1,
        "total_predictions": 1,
        "top3_overlap": 1,
        "top5_overlap": 1,  # of three classes: all of them
        "symmetric_kl": LN2 / 4,  # (1/4 ln 2 + 1/4 ln 2) / 2
        "js_divergence": math.log(4 / 3) / 2 + math.log(2 / 3) / 4,  # m = (3/8, 1/4, 3/8)
        "perplexity_pearson": None,  # one window
        "perplexity_spearman": None,
        "ensemble_gain": math.log(3 / 8) + 1.5 * LN2,  # (ln 2 + ln 4) / 2 against -ln(3/8)
        "cohen_kappa": 0,  # agreement 0, chance 0
        "error_consistency": 0,
    }
    assert list(values) == NAMES[:-1]
    for name, value in expected.items():
        if value is None:
            assert values[name] is None
        else:
            close(values[name], value)
    for name in MEANS:
        close(per_window[name], [expected[name]])


def test_the_functions_give_each_position_its_own_value():
    p = np.array([[1 / 2, 1 / 4, 1 / 4], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3]])
    q = np.array([[1 / 4, 1 / 4, 1 / 2], [0, 1, 0], [1 / 3, 1 / 3, 1 / 3]])
    with np.errstate(divide="ignore"):
        log_p, log_q = np.log(p), np.log(q)
    js = math.log(4 / 3) / 2 + math.log(2 / 3) / 4
    close(metrics.js_divergence(log_p, log_q), [js, LN2, 0])
    close(metrics.symmetric_kl(log_p, log_q), [LN2 / 4, np.inf, 0])
    close(metrics.shamir_difference(log_p[:, 0], log_q[:, 0]), [2 / 3, 2, 0])
    close(metrics.ensemble_gain(log_p[:, 0], log_q[:, 0]), [math.log(3 / 8) + 1.5 * LN2, np.inf, 0])


def test_relative_pd_is_the_mean_difference_over_the_sum_of_the_means():
    log_p, log_q, y = random_pair(0, 3, 5, 9)
    p, q = np.exp(log_p.astype(np.float64)), np.exp(log_q.astype(np.float64))
    values, _ = metrics.compare(log_p, log_q, y)
    close(values["relative_pd"], np.abs(p - q).mean() / (p.mean() + q.mean()))
    close(values["relative_pd"], (np.abs(p - q).sum(-1) / 2).mean())  # the mean total variation distance


def test_top_k_overlap_counts_classes_whatever_their_order():
    a = np.log(np.array([[7, 6, 5, 4, 3, 2, 1]]) / 28)
    b = np.log(np.array([[5, 7, 6, 1, 2, 3, 4]]) / 28)  # best first: 1 2 0 6 5 4 3
    top_a, top_b = metrics.top_indices(a, 5), metrics.top_indices(b, 5)
    assert top_a.tolist() == [[0, 1, 2, 3, 4]]
    assert top_b.tolist() == [[1, 2, 0, 6, 5]]
    assert metrics.topk_overlap(top_a, top_b, 1).tolist() == [0]
    assert metrics.topk_overlap(top_a, top_b, 2).tolist() == [1 / 2]
    assert metrics.topk_overlap(top_a, top_b, 3).tolist() == [1]
    assert metrics.topk_overlap(top_a, top_b, 5).tolist() == [3 / 5]


def test_kappa_of_the_textbook_table():
    # 20 times both yes, 15 both no, 5 and 10 apart: agreement 0.7, chance 0.5.
    a = np.repeat([0, 0, 1, 1], [20, 5, 10, 15])
    b = np.repeat([0, 1, 0, 1], [20, 5, 10, 15])
    assert metrics.cohen_kappa(a, b, 2) == pytest.approx(0.4)
    assert metrics.error_consistency(a == 0, b == 0) == pytest.approx(0.4)
    assert metrics.cohen_kappa([0, 1], [1, 0], 2) == -1


def test_kappa_is_1_where_identical_labels_leave_it_undefined_and_none_of_nothing():
    assert metrics.cohen_kappa([2, 2, 2], [2, 2, 2], 5) == 1
    assert metrics.error_consistency(np.zeros(4, bool), np.zeros(4, bool)) == 1
    assert metrics.cohen_kappa([2, 2, 2], [1, 1, 1], 5) == 0  # constant, but apart: defined
    assert metrics.cohen_kappa([], [], 5) is None


def test_error_consistency_is_of_correctness_and_kappa_of_predictions():
    # Both are wrong at the second position, each in its own way.
    log_p = logs([0.8, 0.1, 0.1], [0.8, 0.1, 0.1])
    log_q = logs([0.8, 0.1, 0.1], [0.1, 0.8, 0.1])
    values, _ = metrics.compare(log_p, log_q, np.array([[0, 2]]))
    assert values["error_consistency"] == 1
    assert values["cohen_kappa"] == 0  # agreement 1/2, chance 1/2


def test_perplexity_correlations_by_hand():
    r, rho = metrics.perplexity_correlations(np.log([1, 2, 3]), np.log([1, 2, 4]))
    assert r == pytest.approx(3 / math.sqrt(28 / 3))  # of perplexities, not of losses
    assert rho == 1
    _, rho = metrics.perplexity_correlations(np.array([1, 1, 2, 3.0]), np.array([1, 2, 3, 4.0]))
    assert rho == pytest.approx(math.sqrt(0.9))  # ranks 1.5 1.5 3 4 and 1 2 3 4
    assert metrics.perplexity_correlations(np.array([1, 2, 3.0]), np.array([6, 5, 4.0]))[1] == -1


def test_correlations_are_none_where_they_are_undefined():
    rising = np.array([1, 2, 3.0])
    assert metrics.perplexity_correlations(rising[:1], rising[:1]) == (None, None)
    assert metrics.perplexity_correlations(rising, np.full(3, 2.0)) == (None, None)
    assert metrics.perplexity_correlations(rising, np.array([1, 2, np.inf])) == (None, 1)
    assert metrics.perplexity_correlations(rising, np.array([1, 2, 1e4])) == (None, 1)  # e to it overflows
    r, rho = metrics.perplexity_correlations(np.array([600, 700, 709.0]), np.array([600, 700, 709.0]))
    assert (r, rho) == (1, 1)  # large, but finite


def test_edit_distance_is_levenshtein_over_the_longer_length():
    assert metrics.edit_distance(["kitten"], ["sitting"]) == 3 / 7
    texts_a, texts_b = ["kitten", "", "abc", "same"], ["sitting", "", "", "same"]
    assert metrics.edit_distance(texts_a, texts_b) == (3 / 7 + 0 + 1 + 0) / 4
    assert metrics.edit_distance([], []) is None
    with pytest.raises(ValueError, match="1 and of 2 prompts"):
        metrics.edit_distance(["a"], ["a", "b"])


def test_losses_and_accuracy_by_hand():
    log_p = np.concatenate([logs([1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 2, 1 / 4]), logs([1 / 3] * 3, [1, 0, 0])])
    y = np.array([[0, 0], [0, 1]])
    close(metrics.window_losses(log_p, y), [1.5 * LN2, np.inf])
    close(metrics.window_losses(log_p, np.array([[0, 0], [0, 0]])), [1.5 * LN2, math.log(3) / 2])
    assert metrics.accuracy(log_p, y) == 2 / 4  # of three equal classes the first is the prediction


# --- edge cases


@pytest.mark.parametrize("v", [1, 2, 3, 4, 5, 6, 65])
def test_identical_models_give_exactly_0_or_1(v):
    log_p, _, y = random_pair(1, 4, 7, v, scale=6)
    values, per_window = metrics.compare(log_p, log_p.copy(), y)
    if v == 1:  # every perplexity is 1
        assert values.pop("perplexity_pearson") is values.pop("perplexity_spearman") is None
    expected = SAME | {"total_predictions": 28}
    assert values == {name: expected[name] for name in values}
    for name, array in per_window.items():
        assert (array == SAME[name]).all()


def test_one_hot_models_that_agree_are_identical_and_that_disagree_are_as_far_apart_as_can_be():
    one_hot = np.eye(6, dtype=np.float32)
    log_p, log_q, y = logs(*one_hot[[0, 1, 2]]), logs(*one_hot[[3, 4, 5]]), np.array([[0, 4, 1]])
    values, _ = metrics.compare(log_p, log_p, y)
    assert {name: values[name] for name in MEANS} == {name: SAME[name] for name in MEANS}
    values, per_window = metrics.compare(log_p, log_q, y)
    assert values["relative_pd"] == values["top1_disagreement"] == 1
    close(values["js_divergence"], LN2)
    for name in ("symmetric_kl", "ensemble_gain"):  # y = 0 and y = 4 are possible for one model alone
        assert values[name] is None
        assert per_window[name] == np.inf
    assert values["shamir_relative_pd"] == pytest.approx(4 / 3)  # 2, 2 and, where y is 0 for both, 0
    assert values["cohen_kappa"] == 0
    assert values["error_consistency"] == pytest.approx(-1 / 2)  # agreement 1/3, chance 5/9
    # Of impossible classes the lower come first: 0 1 2 and 3 0 1, 1 0 2 and 4 0 1, 2 0 1 and 5 0 1.
    assert values["top3_overlap"] == pytest.approx(2 / 3)


def test_probabilities_that_underflow_give_finite_values():
    # As float32, e to -200 is 0: the formulas in p and q would give infinity or 0 / 0.
    log_p, log_q = np.array([[[0, -200, -300]]], np.float32), np.array([[[-200, 0, -300]]], np.float32)
    values, _ = metrics.compare(log_p, log_q, np.array([[0]]))
    assert values["symmetric_kl"] == 200
    close(values["js_divergence"], LN2)
    close(values["ensemble_gain"], 100 - LN2)
    assert (values["relative_pd"], values["shamir_relative_pd"]) == (1, 2)
    # A true character of e^-300 and e^-301 for the two models.
    close(metrics.shamir_difference([-300.0], [-301.0]), 2 * math.tanh(0.5))
    close(metrics.ensemble_gain([-300.0], [-301.0]), math.log(math.cosh(0.5)))
    close(metrics.ensemble_gain([-1e6], [0.0]), 5e5 - LN2)


def test_a_character_impossible_for_both_changes_nothing():
    log_p, log_q, y = random_pair(2, 2, 5, 6)
    nothing = np.full((2, 5, 1), -np.inf, np.float32)
    for name, value in metrics.compare(log_p, log_q, y)[0].items():
        longer = metrics.compare(np.append(log_p, nothing, 2), np.append(log_q, nothing, 2), y)[0]
        close(longer[name], value)


def test_a_character_impossible_for_one_makes_the_kl_infinite_in_its_window_alone():
    log_p, log_q, y = random_pair(3, 3, 4, 5)
    log_q[1, 2] = logs([0, 0.25, 0.25, 0.25, 0.25])
    log_p[1, 2] = [-200, *logs([0.25] * 4)[0, 0]]  # underflows, but is possible
    values, per_window = metrics.compare(log_p, log_q, np.minimum(y + 1, 4))
    assert np.isfinite(per_window["symmetric_kl"]).tolist() == [True, False, True]
    assert values["symmetric_kl"] is None
    assert all(np.isfinite(value) for name, value in values.items() if name != "symmetric_kl")


def test_a_true_character_impossible_for_both_costs_no_measure_but_its_window_s_perplexity():
    log_p, log_q, y = random_pair(4, 3, 4, 5)
    log_p[1, 2] = log_q[1, 2] = logs([0, 0.25, 0.25, 0.25, 0.25])
    y[1, 2] = 0
    values, _ = metrics.compare(log_p, log_q, y)
    assert [name for name, value in values.items() if value is None] == ["perplexity_pearson"]


def test_ties_go_to_the_lower_index():
    tied = np.log(np.array([[0.1, 0.2, 0.2, 0.1, 0.2, 0.2]], np.float32))
    assert metrics.top_indices(tied, 5).tolist() == [[1, 2, 4, 5, 0]]
    with np.errstate(divide="ignore"):
        rare = np.log(np.array([[0, 0, 0.5, 0, 0.5, 0]], np.float32))
    assert metrics.top_indices(rare, 5).tolist() == [[2, 4, 0, 1, 3]]
    values, _ = metrics.compare(logs([0.4, 0.4, 0.2]), logs([0.4, 0.3, 0.3]), np.array([[1]]))
    assert values["top1_disagreement"] == 0


@pytest.mark.parametrize(("v", "k"), [(2, 5), (4, 5), (5, 5), (9, 3), (65, 5)])
def test_top_indices_are_those_of_a_stable_sort(v, k):
    log_p, _, _ = random_pair(5, 1, 200, v, scale=1.5, ties=True)
    expected = np.argsort(-log_p[0], axis=1, kind="stable")[:, :k]
    assert np.array_equal(metrics.top_indices(log_p[0], k), expected)


def test_with_fewer_than_five_classes_the_top_five_are_all_of_them():
    log_p, log_q, y = random_pair(6, 3, 4, 4)
    values, _ = metrics.compare(log_p, log_q, y)
    assert values["top5_overlap"] == 1
    assert 2 / 3 <= values["top3_overlap"] < 1  # of three of four classes, at least two are shared


def test_models_that_hardly_differ_are_measured_to_a_thousandth():
    # Float32 would lose all of a JS divergence of 1e-9 as a difference of entropies.
    rng = np.random.default_rng(7)
    log_p = log_softmax(rng.normal(size=(4, 50, 65)) * 3)
    log_q = log_softmax(log_p + rng.normal(size=log_p.shape) * 1e-4)
    values, _ = metrics.compare(log_p, log_q, np.zeros((4, 50), int))
    slow, _, _ = positions(log_p, log_q, np.zeros((4, 50), int))
    assert 0 < values["js_divergence"] < 2e-9
    for name in ("relative_pd", "symmetric_kl", "js_divergence", "ensemble_gain"):
        close(values[name] / slow[name].mean(), 1, rel=1e-3)


def test_the_ensemble_gain_of_nearly_equal_probabilities_does_not_cancel():
    close(metrics.ensemble_gain([-3.0], [-3.0 - 1e-7])[0] / (1e-14 / 8), 1)  # log cosh(d / 2) ~ d^2 / 8


@pytest.mark.parametrize("t", [0.1, 0.2, 0.249, 0.251, 0.5, 0.99, 1 - 1e-9])
def test_the_js_divergence_is_exact_on_both_sides_of_where_its_series_takes_over(t):
    p = np.array([[(1 + t) / 2, (1 - t) / 2]])
    exact = ((1 + t) * math.log1p(t) + (1 - t) * math.log1p(-t)) / 2
    np.testing.assert_allclose(metrics.js_divergence(np.log(p), np.log(p[:, ::-1])), exact, rtol=3e-8)


def test_nan_and_what_is_no_log_probability_are_refused():
    log_p, log_q, y = random_pair(8, 3, 4, 5)
    broken = log_q.copy()
    broken[2, 1, 3] = np.nan
    for wrong in (broken, log_q + 1, log_q * 0, np.full_like(log_q, 100), np.full_like(log_q, np.inf)):
        for call in (lambda q: metrics.compare(log_p, q, y), lambda q: metrics.compare_brief(q, log_p)):
            with pytest.raises(ValueError, match="not log-probabilities"):
                call(wrong)


def test_log_probabilities_rounded_to_bfloat16_are_refused_and_say_what_to_do():
    """Cast before the softmax, logits give what is measured; after it, rows sum to 1 within 0.5 percent only."""
    torch = pytest.importorskip("torch")
    logits = torch.tensor(random_pair(1, 3, 8, 65)[0]).bfloat16()
    y = np.zeros((3, 8), np.int64)
    fine = logits.float().log_softmax(-1).numpy()
    metrics.compare(fine, fine, y)
    rounded = logits.log_softmax(-1).float().numpy()
    assert 1e-3 < np.abs(np.exp(rounded).sum(-1) - 1).max() < 0.01
    for function in (lambda p, q: metrics.compare(p, q, y), metrics.compare_brief):
        for pair in ((rounded, fine), (fine, rounded)):
            with pytest.raises(ValueError, match=r"sums to .* log-softmax of the logits in float32"):
                function(*pair)


def test_two_rows_that_miss_1_in_opposite_directions_are_refused():
    log_p = logs([0.5, 0.5])
    with pytest.raises(ValueError, match="sum to 1"):
        metrics.compare_brief(log_p + np.float32(0.003), log_p - np.float32(0.003))


def test_shapes_and_targets_that_do_not_fit_are_refused():
    log_p, log_q, y = random_pair(9, 3, 4, 5)
    for arguments in [(log_p, log_q[:2], y), (log_p[0], log_q[0], y[0]), (log_p[:0], log_q[:0], y[:0])]:
        with pytest.raises(ValueError, match=r"must both be \(W, T, C\)"):
            metrics.compare(*arguments)
    for targets in (y[:2], y.T, y.astype(float)):
        with pytest.raises(ValueError, match="targets must be integers"):
            metrics.compare(log_p, log_q, targets)
    for targets in (y - 5, y + 5):
        with pytest.raises(ValueError, match=r"targets must be in 0 \.\. 4"):
            metrics.window_losses(log_p, targets)


# --- against a slow reference


def positions(log_p, log_q, y):
    """Each mean's values per position by its textbook formula, in float64; and both models' choices."""
    v = log_p.shape[-1]
    a, b, y = log_p.reshape(-1, v).astype(float), log_q.reshape(-1, v).astype(float), y.ravel()
    p, q = np.exp(a), np.exp(b)
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    p_y, q_y = p[np.arange(len(y)), y], q[np.arange(len(y)), y]
    top_p, top_q = (np.argsort(-x, axis=1, kind="stable") for x in (a, b))

    def overlap(k):
        k = min(k, v)
        return [len({*s[:k]} & {*t[:k]}) / k for s, t in zip(top_p.tolist(), top_q.tolist())]

    values = {
        "relative_pd": np.abs(p - q).mean(1) / (p.mean(1) + q.mean(1)),
        "shamir_relative_pd": 2 * abs(p_y - q_y) / (p_y + q_y),
        "top1_disagreement": top_p[:, 0] != top_q[:, 0],
        "top3_overlap": overlap(3),
        "top5_overlap": overlap(5),
        "symmetric_kl": (stats.entropy(p, q, axis=1) + stats.entropy(q, p, axis=1)) / 2,
        "js_divergence": jensenshannon(p, q, axis=1) ** 2,
        "ensemble_gain": -(np.log(p_y) + np.log(q_y)) / 2 + np.log((p_y + q_y) / 2),
    }
    return {name: np.array(value, float) for name, value in values.items()}, top_p[:, 0], top_q[:, 0]


def textbook_kappa(a, b):
    chance = sum(np.mean(a == label) * np.mean(b == label) for label in set(a) | set(b))
    return (np.mean(a == b) - chance) / (1 - chance)


def reference(log_p, log_q, y):
    """Every measure, slowly."""
    values, top_p, top_q = positions(log_p, log_q, y)
    perplexities = [np.exp(metrics.window_losses(x.astype(float), y)) for x in (log_p, log_q)]
    return {name: value.mean() for name, value in values.items()} | {
        "prediction_differences": np.sum(top_p != top_q),
        "total_predictions": y.size,
        "perplexity_pearson": stats.pearsonr(*perplexities).statistic,
        "perplexity_spearman": stats.spearmanr(*perplexities).statistic,
        "cohen_kappa": textbook_kappa(top_p, top_q),
        "error_consistency": textbook_kappa(top_p == y.ravel(), top_q == y.ravel()),
    }


@pytest.mark.parametrize("v", [2, 4, 11, 65])
@pytest.mark.parametrize(("scale", "apart"), [(0.1, 1), (2, 0.02), (3, 0.3), (15, 1)])
def test_all_measures_agree_with_a_slow_float64_reference(v, scale, apart):
    log_p, log_q, y = random_pair(v, 6, 40, v, scale, apart, ties=scale == 3)
    values, per_window = metrics.compare(log_p, log_q, y, chunk_windows=4)
    slow = reference(log_p, log_q, y)
    assert set(slow) == set(values)
    for name, value in slow.items():
        close(values[name], value, rel=1e-4)
    for name, value in positions(log_p, log_q, y)[0].items():
        close(per_window[name], value.reshape(y.shape).mean(axis=1), rel=1e-4)


# --- laws

pairs = st.builds(
    random_pair,
    st.integers(0, 2**32),
    w=st.integers(1, 9),
    t=st.integers(1, 8),
    v=st.integers(1, 12),
    scale=st.sampled_from([0.01, 1.0, 5.0, 100.0, 1e5]),
    apart=st.sampled_from([0.0, 1e-6, 0.1, 1.0]),
    ties=st.booleans(),
)


@given(pairs)
def test_exchanging_the_models_changes_no_bit(pair):
    log_p, log_q, y = pair
    assert bits(metrics.compare(log_p, log_q, y)) == bits(metrics.compare(log_q, log_p, y))


@given(pairs, st.integers(1, 9))
def test_the_size_of_a_chunk_changes_no_bit(pair, chunk_windows):
    whole = metrics.compare(*pair, chunk_windows=100)
    assert bits(metrics.compare(*pair, chunk_windows=chunk_windows)) == bits(whole)
    assert metrics.compare_brief(*pair[:2]) == {name: whole[0][name] for name in ("relative_pd", "top1_disagreement")}


@given(st.integers(2, 5), st.integers(0, 2**32), st.integers(1, 3))
def test_pairs_measured_together_are_measured_alike(n, seed, chunk_windows):
    models = [random_pair(seed + k, 3, 4, 7)[0] for k in range(n)]
    y = random_pair(seed, 3, 4, 7)[2]
    keys = list(itertools.permutations(range(n), 2))
    together = metrics.compare_pairs(dict(enumerate(models)), keys, y, chunk_windows=chunk_windows)
    assert [bits(found) for found in together] == [bits(metrics.compare(models[a], models[b], y)) for a, b in keys]


@given(st.integers(2, 6), st.integers(0, 2**32), st.integers(1, 4000))
def test_pairs_are_measured_alike_in_passes_of_any_size(n, seed, most):
    models = {k: random_pair(seed + k, 3, 4, 7)[0] for k in range(n)}
    y = random_pair(seed, 3, 4, 7)[2]
    keys = list(itertools.combinations(range(n), 2))
    whole = [bits(found) for found in metrics.compare_pairs(models, keys, y)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "CHUNK_BYTES", most)
        assert [bits(found) for found in metrics.compare_pairs(models, keys, y)] == whole


def test_memory_does_not_grow_with_the_number_of_models_where_a_window_is_large():
    def peak(n):
        models = {k: np.full((2, 256, 2000), -math.log(2000), np.float32) for k in range(n)}
        y = np.zeros((2, 256), np.int64)
        tracemalloc.start()
        metrics.compare_pairs(models, list(itertools.combinations(range(n), 2)), y)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(5) < 1.2 * peak(2)


def test_no_pairs_are_no_work():
    assert metrics.compare_pairs({}, [], np.zeros((1, 1), int)) == []


@given(pairs)
def test_every_value_lies_in_the_range_that_its_record_states(pair):
    values, per_window = metrics.compare(*pair)
    for name, value in values.items():
        if value is None:
            assert name.startswith("perplexity")
        else:
            assert metrics.METRICS[name].low <= value <= metrics.METRICS[name].high + 1e-6
    for name, array in per_window.items():
        assert array.min() >= metrics.METRICS[name].low
        assert array.max() <= metrics.METRICS[name].high + 1e-6


@given(pairs)
def test_the_divergences_bound_each_other_as_theory_says(pair):
    log_p, log_q, _ = (x.reshape(-1, x.shape[-1]) for x in pair)
    tv = np.abs(np.exp(log_p) - np.exp(log_q)).sum(-1) / 2
    kl, js = metrics.symmetric_kl(log_p, log_q), metrics.js_divergence(log_p, log_q)
    rounding = 1e-5
    assert (tv <= np.sqrt(kl / 2) + rounding).all()  # Pinsker
    assert (tv**2 / 2 <= js + rounding).all()  # Pinsker, of p and q against (p + q) / 2
    assert (js <= LN2 * tv + rounding).all()  # Lin 1991
    assert (js <= kl / 2 + rounding).all()  # convexity


@given(pairs)
def test_the_ensemble_gain_is_what_averaging_the_probabilities_gains(pair):
    log_p, log_q, y = pair
    values, _ = metrics.compare(log_p, log_q, y)
    average = np.logaddexp(log_p.astype(float), log_q) - LN2
    loss_p, loss_q, loss = (metrics.window_losses(x, y).mean() for x in (log_p, log_q, average))
    np.testing.assert_allclose(values["ensemble_gain"], (loss_p + loss_q) / 2 - loss, rtol=1e-6, atol=1e-6)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.text("abé", max_size=9), st.text("abé", max_size=9)), min_size=1, max_size=5))
def test_the_edit_distance_is_symmetric_in_0_to_1_and_0_for_equal_texts_alone(texts):
    a, b = zip(*texts)
    assert metrics.edit_distance(a, b) == metrics.edit_distance(b, a)
    assert 0 <= metrics.edit_distance(a, b) <= 1
    assert (metrics.edit_distance(a, b) == 0) == (a == b)


# --- how it is used


def test_a_memory_mapped_file_gives_the_same_bits_as_an_array(tmp_path):
    log_p, log_q, y = random_pair(10, 5, 6, 7)
    np.save(tmp_path / "p.npy", log_p)
    mapped = np.load(tmp_path / "p.npy", mmap_mode="r")
    assert bits(metrics.compare(mapped, log_q, y)) == bits(metrics.compare(log_p, log_q, y))
    assert np.array_equal(metrics.window_losses(mapped, y), metrics.window_losses(log_p, y))
    assert metrics.accuracy(mapped, y) == metrics.accuracy(log_p, y)


def test_the_inputs_are_left_as_they_are():
    log_p, log_q, y = random_pair(11, 5, 6, 7)
    for array in (log_p, log_q, y):
        array.flags.writeable = False
    before = log_p.copy(), log_q.copy(), y.copy()
    metrics.compare(log_p, log_q, y)
    assert all(map(np.array_equal, before, (log_p, log_q, y)))


def test_memory_does_not_grow_with_the_number_of_windows():
    def peak(w):
        log_p = np.full((w, 64, 65), -math.log(65), np.float32)
        y = np.zeros((w, 64), np.int64)
        tracemalloc.start()
        metrics.compare(log_p, log_p, y)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    few, many = peak(200), peak(1000)
    assert few < 2 * metrics.CHUNK_BYTES
    assert many - few < 800 * 500  # 500 bytes a window, which itself takes 16,640


def test_the_registry_names_every_metric_of_the_design_in_its_order():
    assert list(metrics.METRICS) == NAMES
    assert metrics.PRIMARY == ("relative_pd", "top1_disagreement", "js_divergence")
    assert set(metrics.MEANS) == set(MEANS)
    for name, metric in metrics.METRICS.items():
        assert metric.better in ("lower", "higher") or name == "total_predictions"
        assert all((metric.label, metric.formula, metric.source))
        assert metric.low < metric.high


def test_what_is_measured_is_what_the_registry_names():
    """A new metric is a row of `_METRICS`, and its value in `_measure` or, if it is not a mean over positions, `_aggregate`."""
    log_p, log_q, y = random_pair(13, 4, 5, 7, apart=1)
    values, per_window = metrics.compare(log_p, log_q, y)
    assert list(values) == [name for name in metrics.METRICS if name != "edit_distance"]  # that one is of texts
    assert list(per_window) == list(metrics.MEANS)
    both = [
        metrics._predictions(x, y.ravel(), np.empty((20, 7), x.dtype), np.empty((20, 7), x.dtype))
        for x in (log_p, log_q)
    ]
    measured = metrics._measure(*both, np.empty((metrics.N_WORK, 20, 7), log_p.dtype))
    relative_pd_and_correlations = {"difference", "total", "loss_p", "loss_q"}
    assert set(measured) - relative_pd_and_correlations == set(metrics.MEANS) - {"relative_pd"}
    assert all(len(value) == 20 for value in measured.values())


def test_the_better_direction_is_the_one_in_which_a_closer_pair_lies():
    log_p, far, y = random_pair(13, 20, 30, 20, apart=1)
    near = log_softmax(0.9 * log_p + 0.1 * far)
    closer, farther = metrics.compare(log_p, near, y)[0], metrics.compare(log_p, far, y)[0]
    for name, value in closer.items():
        if name != "total_predictions":
            assert (value < farther[name]) == (metrics.METRICS[name].better == "lower"), name


def test_importing_metrics_imports_numpy_alone():
    program = "import sys, metrics; print([m for m in ('scipy', 'rapidfuzz', 'torch') if m in sys.modules])"
    folder = Path(metrics.__file__).parent
    run = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


# --- divergences against float64


def divergences_in_float64(log_p, log_q):
    """(symmetric KL, JS) per row, from the definitions, in float64 with 30 more digits where terms cancel."""
    from mpmath import mp

    mp.dps = 50
    kl, js = [], []
    for a, b in zip(log_p, log_q):
        p, q = ([mp.e ** mp.mpf(float(x)) for x in row] for row in (a, b))
        m = [(x + y) / 2 for x, y in zip(p, q)]
        pairs = list(zip(p, q, m, a, b))
        kl.append(float(sum((x - y) * (mp.mpf(float(i)) - mp.mpf(float(j))) for x, y, _, i, j in pairs) / 2))
        js.append(float(sum(x * mp.log(x / c) + y * mp.log(y / c) for x, y, c, _, _ in pairs) / 2))
    return np.array(kl), np.array(js)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([2, 5, 65]), st.floats(0.1, 30), st.floats(-7, 1.5))
def test_js_and_symmetric_kl_are_those_of_float64_to_a_thousandth(seed, v, scale, log10_apart):
    """Models as far apart as two one-hot ones or as near as float32 can tell."""
    rng = np.random.default_rng(seed)
    logits = scale * rng.standard_normal((4, v))
    rows = [log_softmax(x).astype(np.float32) for x in (logits, logits + 10**log10_apart * rng.standard_normal((4, v)))]
    kl, js = divergences_in_float64(*rows)
    assert metrics.symmetric_kl(*rows) == pytest.approx(kl, rel=1e-3, abs=1e-300)
    assert metrics.js_divergence(*rows) == pytest.approx(js, rel=1e-3, abs=1e-300)
    found, _ = metrics.compare(rows[0][None], rows[1][None], np.zeros((1, 4), np.int64))
    assert found["symmetric_kl"] == pytest.approx(kl.mean(), rel=1e-3, abs=1e-37)
    assert found["js_divergence"] == pytest.approx(min(js.mean(), metrics.LN2), rel=1e-3, abs=1e-37)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 65), st.floats(1, 1e4))
def test_no_js_divergence_is_above_ln_2(seed, v, scale):
    rng = np.random.default_rng(seed)
    log_p, log_q = log_softmax(scale * rng.standard_normal((2, 3, 5, v))).astype(np.float32)
    found, per_window = metrics.compare(log_p, log_q, np.zeros((3, 5), np.int64))
    assert found["js_divergence"] <= metrics.LN2
    assert per_window["js_divergence"].max() <= metrics.LN2
    assert metrics.js_divergence(log_p[0], log_q[0]).max() <= metrics.LN2
