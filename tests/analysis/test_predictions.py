"""Statistics of somebody's own predictions: every number against formulas written down again, scipy's where it has one."""

import itertools
import tracemalloc

import numpy as np
import pytest
from own_predictions import made_logits, place, softmax
from scipy import spatial, stats

from analysis import predictions, significance, windows
from analysis.predictions import compare, error_over_examples
from analysis.results import Margins
from analysis.sensitivity import judge_sensitivity
from common.errors import UserError
from common.prediction_files import load

NOISE = {"relu": 0.5, "gelu": 0.4}
PAIRED = {name: ["1", "2", "3", "4"] for name in NOISE}


def folder_of(path, variants, labels=None, change=softmax):
    return place(path, {f"{v}/{t}.npy": change(x) for v, trials in variants.items() for t, x in trials.items()}, labels)


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    """({variant: {trial: probabilities}}, labels, what was found): two variants of four trials each, of the same seeds."""
    logits, labels = made_logits(NOISE, PAIRED)
    found = compare(load(folder_of(tmp_path_factory.mktemp("paired"), logits, labels)), reference="relu")
    return {v: {t: softmax(x) for t, x in trials.items()} for v, trials in logits.items()}, labels, found


def kappa(a, b):
    table = np.zeros((10, 10))
    np.add.at(table, (a.astype(int), b.astype(int)), 1 / len(a))
    by_chance = (table.sum(0) * table.sum(1)).sum()
    return (np.trace(table) - by_chance) / (1 - by_chance)


def top(p, k):
    return [set(row) for row in np.argsort(-p, axis=1, kind="stable")[:, :k]]


def by_hand(p, q, y):
    """Every measure of a pair, as its formula says."""
    at = np.arange(len(y))
    p_y, q_y = p[at, y], q[at, y]
    a, b = p.argmax(1), q.argmax(1)
    overlap = {k: np.mean([len(s & t) / k for s, t in zip(top(p, k), top(q, k))]) for k in (3, 5)}
    return {
        "relative_pd": np.abs(p - q).sum() / (p.sum() + q.sum()),
        "top1_disagreement": np.mean(a != b),
        "js_divergence": np.mean(spatial.distance.jensenshannon(p, q, axis=1) ** 2),
        "shamir_relative_pd": np.mean(2 * np.abs(p_y - q_y) / (p_y + q_y)),
        "top3_overlap": overlap[3],
        "top5_overlap": overlap[5],
        "symmetric_kl": np.mean(stats.entropy(p, q, axis=1) + stats.entropy(q, p, axis=1)) / 2,
        "ensemble_gain": np.mean(np.log((p_y + q_y) / 2) - (np.log(p_y) + np.log(q_y)) / 2),
        "cohen_kappa": kappa(a, b),
        "error_consistency": kappa(a == y, b == y),
    }


# --- measures -------------------------------------------------------------------------------------------------------


def test_every_measure_of_every_pair_is_its_formula(paired):
    probabilities, labels, found = paired
    for cell in found.cells:
        values = list(probabilities[cell.activation].values())
        for pair, (p, q) in zip(cell.result["pairs"], itertools.combinations(values, 2)):
            expected = by_hand(p, q, labels)
            assert set(expected) <= set(pair)
            assert {name: pair[name] for name in expected} == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_loss_and_accuracy_of_every_trial_are_their_formulas(paired):
    probabilities, labels, found = paired
    for cell in found.cells:
        for trial, p in zip(cell.result["trials"], probabilities[cell.activation].values()):
            assert trial["loss"] == pytest.approx(-np.log(p[np.arange(len(labels)), labels]).mean(), rel=1e-6)
            assert trial["accuracy"] == np.mean(p.argmax(1) == labels)


def test_losses_accuracies_and_kappas_are_scikit_learns(paired):
    sklearn = pytest.importorskip("sklearn.metrics")
    probabilities, labels, found = paired
    for cell in found.cells:
        values = list(probabilities[cell.activation].values())
        for trial, p in zip(cell.result["trials"], values):
            assert trial["loss"] == pytest.approx(sklearn.log_loss(labels, p, labels=range(p.shape[1])), rel=1e-6)
            assert trial["accuracy"] == pytest.approx(sklearn.accuracy_score(labels, p.argmax(1)))
        for pair, (p, q) in zip(cell.result["pairs"], itertools.combinations(values, 2)):
            assert pair["cohen_kappa"] == pytest.approx(sklearn.cohen_kappa_score(p.argmax(1), q.argmax(1)))


def test_hard_labels_have_the_measures_of_labels_and_the_same_numbers(paired, tmp_path):
    probabilities, labels, found = paired
    hard = compare(load(folder_of(tmp_path, probabilities, labels, lambda p: p.argmax(1))), reference="relu")
    assert predictions.measures_of(hard.predictions) == [
        "accuracy",
        "top1_disagreement",
        "cohen_kappa",
        "error_consistency",
    ]
    assert predictions.primary_of(hard.predictions) == ["accuracy", "top1_disagreement"]
    for soft_cell, hard_cell in zip(found.cells, hard.cells):
        assert [t["accuracy"] for t in hard_cell.result["trials"]] == [
            t["accuracy"] for t in soft_cell.result["trials"]
        ]
        for soft, pair in zip(soft_cell.result["pairs"], hard_cell.result["pairs"]):
            assert soft.items() >= pair.items()


def test_texts_as_hard_labels_give_what_their_numbers_give(paired, tmp_path):
    probabilities, labels, _ = paired
    words = np.array(["zero", "one", "two", "three", "four", "five", "six"])
    found = [
        compare(load(folder_of(tmp_path / kind, probabilities, change(labels), lambda p, c=change: c(p.argmax(1)))))
        for kind, change in (("numbers", np.asarray), ("texts", words.__getitem__))
    ]
    assert [cell.result for cell in found[0].cells] == [cell.result for cell in found[1].cells]


@pytest.mark.parametrize("change", [lambda x: x, lambda x: np.log(softmax(x)), lambda x: x + 50])
def test_logits_and_log_probabilities_give_what_probabilities_give(paired, tmp_path, change):
    logits, labels = made_logits(NOISE, PAIRED)
    found = compare(load(folder_of(tmp_path, logits, labels, change), logits=True), reference="relu")
    for cell, expected in zip(found.cells, paired[2].cells):
        for key in ("trials", "pairs"):
            for record, like in zip(cell.result[key], expected.result[key]):
                numbers = {name: value for name, value in like.items() if name != "status"}
                assert {name: record[name] for name in numbers} == pytest.approx(numbers, rel=1e-9, abs=1e-12)


def test_windows_give_what_their_positions_give_as_examples(paired, tmp_path):
    probabilities, labels, found = paired
    place(tmp_path, {f"{v}/{t}.npy": p.reshape(60, 10, 7) for v, ts in probabilities.items() for t, p in ts.items()})
    np.save(tmp_path / "labels.npy", labels.reshape(60, 10))
    in_windows = compare(load(tmp_path), reference="relu")
    assert [cell.result for cell in in_windows.cells] == [cell.result for cell in found.cells]


def test_rounded_probabilities_count_as_what_they_are_rounded_from(paired, tmp_path):
    probabilities, labels, found = paired
    rounded = compare(load(folder_of(tmp_path, probabilities, labels, lambda p: p.round(4))), reference="relu")
    for cell, like in zip(rounded.cells, found.cells):
        for pair, expected in zip(cell.result["pairs"], like.result["pairs"]):
            assert pair["relative_pd"] == pytest.approx(expected["relative_pd"], abs=1e-4)


def test_without_the_truth_there_is_what_needs_none(paired, tmp_path):
    found = compare(load(folder_of(tmp_path, paired[0], None, np.asarray)), reference="relu")
    without = {"loss", "accuracy", "shamir_relative_pd", "ensemble_gain", "error_consistency"}
    assert (
        set(predictions.measures_of(found.predictions)) == set(predictions.measures_of(paired[2].predictions)) - without
    )
    assert predictions.primary_of(found.predictions) == ["relative_pd", "top1_disagreement", "js_divergence"]
    for name in predictions.measures_of(found.predictions):
        assert found.cells[1].result["pairs"][0][name] == paired[2].cells[1].result["pairs"][0][name]


def test_sets_of_the_most_likely_are_compared_only_where_they_can_differ(tmp_path):
    logits, _ = made_logits(NOISE, PAIRED, n_classes=4)
    measures = predictions.measures_of(load(folder_of(tmp_path, logits)))
    assert "top3_overlap" in measures and "top5_overlap" not in measures


def test_a_true_class_of_probability_0_leaves_no_mean_over_a_selection(paired, tmp_path):
    probabilities, labels, _ = paired
    certain = {v: dict(trials) for v, trials in probabilities.items()}
    certain["gelu"]["2"] = np.eye(7)[(labels + 1) % 7]
    found = compare(load(folder_of(tmp_path, certain, labels, np.asarray)), reference="relu")
    gelu = found.cells[1].result
    assert gelu["infinite"] == {"loss": 1, "symmetric_kl": 3, "ensemble_gain": 3}
    assert [trial["loss"] for trial in gelu["trials"]] == [None] * 4
    loss = found.comparisons["gelu", "loss"]
    assert loss.difference.mean is None and loss.verdict == "inconclusive"
    assert loss.reason == "infinite in 1 trial of gelu, where a probability is 0"
    assert found.comparisons["gelu", "relative_pd"].p is not None


# --- comparisons ----------------------------------------------------------------------------------------------------


def test_trials_of_the_same_names_are_compared_by_scipys_paired_t_test(paired):
    _, _, found = paired
    relu, gelu = ([trial["loss"] for trial in cell.result["trials"]] for cell in found.cells)
    assert found.paired == {"gelu": True}
    assert found.comparisons["gelu", "loss"].p == pytest.approx(stats.ttest_rel(gelu, relu).pvalue)


def test_trials_without_a_common_name_are_compared_by_scipys_welch_test(paired, tmp_path):
    logits, labels = made_logits(NOISE, {"relu": ["1", "2", "3", "4"], "gelu": ["a", "b", "c", "d", "e", "f"]})
    found = compare(load(folder_of(tmp_path, logits, labels)), reference="relu")
    relu, gelu = ([trial["loss"] for trial in cell.result["trials"]] for cell in found.cells)
    expected = stats.ttest_ind(gelu, relu, equal_var=False)
    loss = found.comparisons["gelu", "loss"]
    assert found.paired == {"gelu": False}
    assert (loss.p, loss.difference.df) == pytest.approx((expected.pvalue, expected.df))
    interval = expected.confidence_interval()
    assert (loss.difference.low, loss.difference.high) == pytest.approx((interval.low, interval.high))
    assert loss.difference.n == 4 and "not paired" in loss.difference.method
    churn = found.comparisons["gelu", "top1_disagreement"].difference
    errors = [predictions.results.estimate(cell, "top1_disagreement").standard_error for cell in found.cells]
    assert churn.standard_error == pytest.approx(np.hypot(*errors))


def test_the_verdicts_are_those_of_the_one_rule_in_the_family_of_the_primary_measures(paired):
    _, _, found = paired
    names = predictions.primary_of(found.predictions)
    assert names == ["loss", "relative_pd", "top1_disagreement", "js_divergence"]
    compared = [
        predictions.difference(found.cells[1], found.cells[0], name, {("relu", "gelu"): True}) for name in names
    ]
    margins = [0.01, *(0.05 * predictions.results.estimate(found.cells[0], name).mean for name in names[1:])]
    assert significance.verdicts(compared, margins) == [found.comparisons["gelu", name] for name in names]


def test_three_variants_together_are_judged_over_all_their_pairs(tmp_path):
    logits, labels = made_logits({"a": 0.5, "b": 0.1, "c": 0.5}, {name: list("12345") for name in "abc"})
    found = compare(load(folder_of(tmp_path, logits, labels)))
    share = dict.fromkeys(itertools.combinations("abc", 2), True)
    for name, judged in found.together.items():
        margin = predictions.results.margin_of(name, found.reference, Margins())
        pairs = itertools.combinations(found.cells, 2)
        differences = [predictions.difference(y, x, name, share).difference for x, y in pairs]
        assert judged == judge_sensitivity(differences, margin)
    assert found.together["relative_pd"][0] == "sensitive"
    alike = compare(found.predictions, margins=Margins(loss=1.0, pairs=2.0))
    assert {verdict for verdict, _, _ in alike.together.values()} == {"insensitive"}


def test_choices_that_an_example_does_not_have_are_minus_infinity(tmp_path):
    logits, labels = made_logits(NOISE, PAIRED, n_classes=4)
    padded = {
        v: {t: np.pad(x, ((0, 0), (0, 2)), constant_values=-np.inf) for t, x in ts.items()} for v, ts in logits.items()
    }
    found = [
        compare(load(folder_of(tmp_path / kind, x, labels, np.asarray), logits=True))
        for kind, x in (("plain", logits), ("padded", padded))
    ]
    for one, other in zip(*(f.cells[0].result["pairs"] for f in found)):
        assert {name: other[name] for name in one} == pytest.approx(one, rel=1e-9)


def test_wider_margins_make_variants_equivalent(paired):
    found = compare(paired[2].predictions, "relu", Margins(loss=1.0, pairs=0.9))
    verdicts = {found.comparisons["gelu", name].verdict for name in predictions.primary_of(found.predictions)}
    assert verdicts == {"equivalent"}


def test_names_that_pair_only_partly_are_refused_before_anything_is_measured(tmp_path, monkeypatch):
    logits, labels = made_logits(NOISE, {"relu": ["1", "2", "3"], "gelu": ["2", "3", "4"]})
    monkeypatch.setattr(predictions, "_measured", None)
    with pytest.raises(UserError, match=r"gelu and relu are paired only in part: only .*gelu has a trial '4'"):
        compare(load(folder_of(tmp_path, logits, labels)))


def test_a_reference_that_is_no_variant_is_named(paired):
    with pytest.raises(UserError, match=r"unknown variant 'rely'; did you mean 'relu'\? known: gelu, relu"):
        compare(paired[2].predictions, "rely")


def test_one_variant_has_its_measures_and_no_comparison(tmp_path):
    logits, labels = made_logits({"relu": 0.5}, PAIRED)
    found = compare(load(folder_of(tmp_path, logits, labels)))
    assert len(found.cells) == 1 and found.comparisons == {}


# --- another set of examples ----------------------------------------------------------------------------------------


def test_the_error_over_independent_examples_is_that_of_a_mean(paired):
    probabilities, labels, found = paired
    losses = {
        v: np.mean([-np.log(p[np.arange(len(labels)), labels]) for p in trials.values()], axis=0)
        for v, trials in probabilities.items()
    }
    assert error_over_examples(found, "loss", "relu") == pytest.approx(stats.sem(losses["relu"]), rel=1e-5)
    paired_error = stats.sem(losses["gelu"] - losses["relu"])
    assert error_over_examples(found, "loss", "gelu", "relu") == pytest.approx(paired_error, rel=1e-5)
    assert error_over_examples(found, "cohen_kappa", "relu") is None  # no mean over examples


def test_the_error_over_groups_is_that_of_the_ratio_estimator(paired, tmp_path):
    probabilities, labels, _ = paired
    groups = np.random.default_rng(1).integers(0, 40, len(labels))
    folder_of(tmp_path, probabilities, labels, np.asarray)
    np.save(tmp_path / "groups.npy", groups)
    found = compare(load(tmp_path, groups=tmp_path / "groups.npy"), reference="relu")
    right = np.mean([p.argmax(1) == labels for p in probabilities["relu"].values()], axis=0)
    deviations = [(right[groups == g] - right.mean()).sum() for g in range(40)]
    expected = np.sqrt(40 / 39 * np.sum(np.square(deviations))) / len(labels)  # Cochran 1977, 6.4
    assert error_over_examples(found, "accuracy", "relu") == pytest.approx(expected)


def test_windows_are_neighbours_and_few_groups_have_no_error(paired, tmp_path):
    probabilities, labels, _ = paired
    place(tmp_path, {f"{v}/{t}.npy": p.reshape(60, 10, 7) for v, ts in probabilities.items() for t, p in ts.items()})
    np.save(tmp_path / "labels.npy", labels.reshape(60, 10))
    right = (
        np.mean([p.argmax(1) == labels for p in probabilities["relu"].values()], axis=0).reshape(60, 10).mean(axis=1)
    )
    found = compare(load(tmp_path), reference="relu")
    assert error_over_examples(found, "accuracy", "relu") == pytest.approx(windows.window_standard_error(right, 10))
    np.save(tmp_path / "groups.npy", np.arange(60) % 9)
    few = compare(load(tmp_path, groups=tmp_path / "groups.npy"), reference="relu")
    assert error_over_examples(few, "accuracy", "relu") is None


# --- memory and processes -------------------------------------------------------------------------------------------


def test_no_bit_depends_on_the_number_of_processes(paired, monkeypatch):
    monkeypatch.setattr(predictions, "MOST_ROWS", 200)
    one, two = (compare(paired[2].predictions, "relu", workers=n) for n in (1, 2))
    assert [cell.result for cell in one.cells] == [cell.result for cell in two.cells]
    assert one.comparisons == two.comparisons


def test_chunks_of_examples_add_up_to_the_whole(paired, monkeypatch):
    monkeypatch.setattr(predictions, "MOST_ROWS", 77)
    monkeypatch.setattr(predictions, "MOST_PAIRS", 4)
    found = compare(paired[2].predictions, "relu")
    for cell, expected in zip(found.cells, paired[2].cells):
        for pair, like in zip(cell.result["pairs"], expected.result["pairs"]):
            assert pair == pytest.approx(like, rel=1e-12)


def test_memory_does_not_grow_with_the_number_of_examples(tmp_path):
    peaks = []
    for n in (8_000, 24_000):
        logits, labels = made_logits({"relu": 0.5}, {"relu": list("123")}, n=n, n_classes=12)
        found = load(folder_of(tmp_path / str(n), logits, labels))
        del logits
        tracemalloc.start()
        compare(found)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 4e6  # the larger one's arrays are 6.9 MB
