"""Two laws of retrained classifiers hold where their assumptions do, and are refuted where they do not."""

import itertools

import numpy as np
import pytest
from own_predictions import place

from analysis.laws import laws
from analysis.predictions import _vote_variances, compare
from analysis.words import with_interval
from common.prediction_files import load

N_EXAMPLES = 1500


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
    return laws(variants, variants.cells[0])


def test_both_variances_are_unbiased():
    """All 27 outcomes of three runs, weighted by their probabilities."""
    p, truth = np.array([0.5, 0.3, 0.2]), 1
    outcomes = np.array(list(itertools.product(range(3), repeat=3)))
    weights = p[outcomes].prod(1)
    independent, calibrated = _vote_variances(outcomes.T, np.full(len(outcomes), truth), 3).values()
    assert weights @ independent == pytest.approx(p[truth] * (1 - p[truth]))
    assert weights @ calibrated == pytest.approx((p**2 * (1 - p)).sum())


def test_calibrated_independent_runs_obey_both_laws(tmp_path):
    law = found(tmp_path, *runs(np.random.default_rng(0), 40))
    assert law.disagreement_minus_error.low < 0 < law.disagreement_minus_error.high
    assert law.sd_if_calibrated == pytest.approx(law.sd_if_independent, rel=0.05)
    assert law.sd.low < law.sd_if_independent < law.sd.high and law.p > 0.05


def test_the_interval_of_disagreement_minus_error_covers_zero_for_calibrated_runs(tmp_path):
    """Over runs and examples; over runs alone it covers in about 70% of studies."""
    rng = np.random.default_rng(6)
    intervals = [found(tmp_path / str(k), *runs(rng, 8)).disagreement_minus_error for k in range(60)]
    assert np.mean([each.low < 0 < each.high for each in intervals]) >= 0.9


def test_runs_whose_pairs_happen_to_be_alike_keep_the_interval_over_examples(tmp_path):
    """Each run errs on one example of its own: every pair disagrees on two, so that no error over runs is seen."""
    truth = np.arange(N_EXAMPLES) % 4
    labels = np.stack([np.where(np.arange(N_EXAMPLES) == k, (truth + 1) % 4, truth) for k in range(3)])
    difference = found(tmp_path, labels, truth).disagreement_minus_error
    assert difference.mean == pytest.approx(1 / N_EXAMPLES) and difference.reason is None
    assert difference.low < 0 < difference.high and "[" in with_interval(difference, 4)


@pytest.mark.parametrize("calibrated", [True, False])
def test_two_classes_have_one_variance_and_the_closed_form_if_calibrated(tmp_path, calibrated):
    labels, truth = runs(np.random.default_rng(1), 30, n_classes=2, calibrated=calibrated)
    law, closed = found(tmp_path, labels, truth), np.sqrt((labels != truth).mean() / (2 * N_EXAMPLES))
    assert law.sd_if_calibrated == pytest.approx(law.sd_if_independent)
    assert (law.sd_if_calibrated == pytest.approx(closed, rel=0.05)) == calibrated


def test_an_ensemble_that_is_better_than_its_members_disagrees_more_than_it_errs(tmp_path):
    law = found(tmp_path, *runs(np.random.default_rng(2), 10, calibrated=False))
    assert law.disagreement_minus_error.low > 0.05


def test_runs_with_lapses_of_their_own_vary_more_than_independent_errors(tmp_path):
    law = found(tmp_path, *runs(np.random.default_rng(3), 20, shared=0.2))
    assert law.sd.mean > 2 * law.sd_if_independent and law.p < 1e-6


def test_the_test_of_independence_keeps_its_level(tmp_path):
    rng = np.random.default_rng(4)
    p = np.array([found(tmp_path / str(k), *runs(rng, 8, n_classes=3)).p for k in range(120)])
    assert np.mean(p < 0.05) <= 0.09 and 0.3 < np.median(p) < 0.7


@pytest.mark.parametrize(("n_runs", "truth"), [(2, True), (5, False)])
def test_they_need_true_classes_and_three_runs(tmp_path, n_runs, truth):
    labels, classes = runs(np.random.default_rng(5), n_runs)
    assert found(tmp_path, labels, classes if truth else None) is None
