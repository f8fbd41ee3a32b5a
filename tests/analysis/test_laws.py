"""Two laws of retrained classifiers hold where their assumptions do, and are refuted where they do not."""

import itertools

import numpy as np
import pytest
from own_predictions import place

from analysis.laws import laws, vote_variances
from analysis.predictions import compare
from analysis.results import Cell
from common.prediction_files import load

N_EXAMPLES = 2000


def runs(rng, n_runs, n_classes=4, shared=0.0, calibrated=True):
    """(labels (n, N), truth (N,)): classes drawn with each example's probabilities; `shared`: a random lapse of a whole run."""
    p = rng.dirichlet(np.full(n_classes, 0.3), N_EXAMPLES)
    draw = lambda: (p.cumsum(1) < rng.random((N_EXAMPLES, 1))).sum(1).clip(max=n_classes - 1)  # noqa: E731
    truth = draw() if calibrated else p.argmax(1)
    labels = np.stack([draw() for _ in range(n_runs)])
    for own in labels:
        wrong = rng.random(N_EXAMPLES) < shared * rng.random()
        own[wrong] = (truth[wrong] + 1) % n_classes
    return labels, truth


def found(folder, labels, truth):
    place(folder, {f"net/{k}.npy": own for k, own in enumerate(labels)}, truth)
    variants = compare(load(folder))
    return laws(variants.cells[0], variants.predictions.n_rows)


def test_both_variances_are_unbiased():
    """All 27 outcomes of three runs, weighted by their probabilities."""
    p, truth = np.array([0.5, 0.3, 0.2]), 1
    outcomes = np.array(list(itertools.product(range(3), repeat=3)))
    weights = p[outcomes].prod(1)
    independent, calibrated = vote_variances(outcomes.T, np.full(len(outcomes), truth), 3)
    assert weights @ independent == pytest.approx(p[truth] * (1 - p[truth]))
    assert weights @ calibrated == pytest.approx((p**2 * (1 - p)).sum())


def test_calibrated_independent_runs_obey_both_laws(tmp_path):
    law = found(tmp_path, *runs(np.random.default_rng(0), 40))
    assert law.disagreement_minus_error.mean == pytest.approx(0, abs=0.02)  # error is 0.4, its SE over examples 0.01
    assert law.sd_if_calibrated == pytest.approx(law.sd_if_independent, rel=0.05)
    assert law.sd.low < law.sd_if_independent < law.sd.high and law.p > 0.05


def test_two_classes_follow_the_closed_form(tmp_path):
    labels, truth = runs(np.random.default_rng(1), 30, n_classes=2)
    error = (labels != truth).mean()
    assert found(tmp_path, labels, truth).sd_if_calibrated == pytest.approx(np.sqrt(error / (2 * N_EXAMPLES)), rel=0.05)


def test_an_ensemble_that_is_better_than_its_members_disagrees_more_than_it_errs(tmp_path):
    law = found(tmp_path, *runs(np.random.default_rng(2), 10, calibrated=False))
    assert law.disagreement_minus_error.low > 0.05


def test_runs_with_lapses_of_their_own_vary_more_than_independent_errors(tmp_path):
    law = found(tmp_path, *runs(np.random.default_rng(3), 20, shared=0.2))
    assert law.sd.mean > 2 * law.sd_if_independent and law.p < 1e-6


def test_the_test_of_independence_keeps_its_level():
    rng = np.random.default_rng(4)
    p = rng.uniform(0.2, 0.95, 500)
    variance = float((p * (1 - p)).sum())
    found = []
    for accuracies in (rng.random((1000, 10, 500)) < p).mean(2):
        trials = [{"trial": k, "status": "complete", "accuracy": a} for k, a in enumerate(accuracies, 1)]
        found.append(laws(Cell({"trials": trials, "pairs": [], "vote_variances": [variance] * 2}), 500).p)
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize(("n_runs", "truth"), [(2, True), (5, False)])
def test_they_need_true_classes_and_three_runs(tmp_path, n_runs, truth):
    labels, classes = runs(np.random.default_rng(5), n_runs)
    assert found(tmp_path, labels, classes if truth else None) is None
