"""Claims about the predictor and its validation: a planted signal is found, noise is not, and nothing leaks."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from sensitivity import predictor, scores
from sensitivity.predictor import fit, fit_chosen, leave_one_family_out, log_score, prevalence, rescaled, thresholds

SETS = {"signal": (0,), "noise": (1, 2), "both": (0, 1, 2)}
FAMILIES = np.repeat(["a", "b", "c", "d", "e"], 8)


def simulated(signal, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(len(FAMILIES), 3))
    q = expit(signal * x[:, 0] + rng.normal(0, 0.5, len(x))) if signal else rng.beta(0.5, 0.5, len(x))
    return x, q


def test_the_fit_minimises_the_penalised_loss():
    x, q = simulated(2.0)
    found = fit(x, q, (0, 2), 3.0)
    z = (x[:, [0, 2]] - x[:, [0, 2]].mean(0)) / x[:, [0, 2]].std(0)

    def loss(beta):
        p = expit(beta[0] + z @ beta[1:])
        return -(q * np.log(p) + (1 - q) * np.log(1 - p)).sum() + 1.5 * (beta[1:] ** 2).sum()

    assert np.allclose([found.intercept, *found.weights], minimize(loss, np.zeros(3)).x, atol=1e-3)
    holes = x.copy()
    holes[0, 0] = np.nan
    assert 0 < fit(holes, q, (0, 2), 3.0).predict(holes)[0] < 1


def test_a_planted_signal_is_found_and_beats_the_baselines():
    x, q = simulated(4.0)
    found = leave_one_family_out(x, q, FAMILIES, SETS)
    assert log_score(found.p, q) < log_score(prevalence(q, FAMILIES), q) - 0.1
    assert scores.auroc(found.p, q) > 0.85 and {name for name, _ in found.chosen.values()} <= {"signal", "both"}
    known, error = scores.decided(found.answers, q)
    assert known.mean() > 0.4 and error[known].mean() < 0.2
    assert scores.permutation_p(x, q, FAMILIES, SETS, n=19) == 0.05
    low, high = scores.over_families(lambda k: scores.auroc(found.p[k], q[k]), FAMILIES, 200)
    assert low < scores.auroc(found.p, q) < high


def test_noise_is_not_taken_for_a_signal():
    gains = []
    for seed in range(6):
        x, q = simulated(0, seed)
        gains.append(log_score(prevalence(q, FAMILIES), q) - log_score(leave_one_family_out(x, q, FAMILIES, SETS).p, q))
    assert np.mean(gains) < 0.01
    assert scores.permutation_p(*simulated(0), FAMILIES, SETS, n=19) > 0.05


def test_a_familys_own_labels_change_nothing_in_its_prediction():
    x, q = simulated(2.0)
    other = np.where(FAMILIES == "c", 1 - q, q)
    one, two = (leave_one_family_out(x, labels, FAMILIES, SETS) for labels in (q, other))
    inside = FAMILIES == "c"
    assert np.array_equal(one.p[inside], two.p[inside]) and not np.array_equal(one.p[~inside], two.p[~inside])
    assert [a for a, i in zip(one.answers, inside) if i] == [a for a, i in zip(two.answers, inside) if i]


def test_thresholds_keep_their_error_or_decide_nothing():
    p = np.array([0.05, 0.1, 0.15, 0.5, 0.85, 0.9, 0.95])
    assert thresholds(p, np.array([0, 0, 0, 0.5, 1, 1, 1.0])) == (0.15, 0.85)
    assert thresholds(p, np.array([0, 0, 1, 0.5, 0, 1, 1.0])) == (predictor.NEVER_LOW, predictor.NEVER_HIGH)
    fitted = fit_chosen(*simulated(0, 3), FAMILIES, SETS)
    assert fitted.answer(0.5) == "inconclusive"


def test_scores_on_small_examples():
    q = np.array([1.0, 1.0, 0.0])
    assert scores.auroc(np.array([0.9, 0.2, 0.5]), q) == 0.5 and scores.auroc(np.ones(3) / 2, np.ones(3)) is None
    assert scores.brier(np.array([0.5, 0.5, 0.5]), q) == 0.25
    assert log_score(np.array([0.5, 0.5, 0.5]), q) == pytest.approx(np.log(2))
    assert [n for n, _, _ in scores.reliability(np.array([0.1, 0.4, 1.0]), q)] == [1, 1, 1]
    assert scores.error_limit(0, 10) == pytest.approx(0.2589, abs=1e-4)
    assert scores.error_limit(0, 30) == pytest.approx(0.095, abs=1e-3) and scores.error_limit(2, 2) == 1.0
    assert scores.over_families(lambda k: 0.0, ["a", "b"]) is None
    assert list(predictor.family_mean(q, ["a", "a", "b"])) == [1.0, 1.0, 1.0]
    x, labels = simulated(3.0)
    assert log_score(rescaled(expit(x[:, 0]), labels, FAMILIES), labels) < log_score(
        prevalence(labels, FAMILIES), labels
    )
