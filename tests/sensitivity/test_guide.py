"""Claims about docs/guide.md: it is what the ground truth says, on a simulated truth too; a predictor ships only if it is better."""

import numpy as np
import pytest
from simulated_truth import simulated_truth

from common.errors import RunError
from sensitivity import cases, guide, truth
from sensitivity.predictor import log_score
from sensitivity.validation import choices, shipped, validate


@pytest.fixture(scope="module")
def known():
    return simulated_truth()


def test_labels_find_the_simulated_truth(known):
    matters = [k // 5 % 2 == 0 for k in range(len(known))]
    for outcome in cases.OUTCOMES:
        q = truth.table(known, outcome).q
        assert all((label > 0.8) == true for label, true in zip(q, matters))
    with pytest.raises(RunError, match="only 5 cases"):
        truth.table(dict(list(known.items())[:5]), "loss")


def test_the_better_of_predictor_and_training_briefly_ships(known):
    table = truth.table(known, "loss")
    test = shipped(table)
    report = validate(table, permutations=9)
    scored = {name: values["log score"][0] for name, values in report["rivals"].items()}
    assert (
        log_score(test.out_of_fold.p, table.q) <= min(scored["predictor"], scored["train all briefly, rescaled"]) + 1e-9
    )
    assert scored[test.kind if test.kind == "predictor" else "train all briefly, rescaled"] < scored["prevalence"] - 0.1
    assert report["permutation_p"] == 0.1 and 0 < report["error_limit_cases"] < report["error_limit_families"] < 1


def test_without_a_signal_nothing_is_decided_with_confidence():
    report = validate(truth.table(simulated_truth(signal=False), "loss"), permutations=9)
    gain = report["rivals"]["prevalence"]["log score"][0] - report["rivals"]["predictor"]["log score"][0]
    assert gain < 0.1 and report["decided"] < 0.5 * report["n"]


def test_regret_and_saving_are_those_of_each_way_to_choose(known):
    table = truth.table(known, "loss")
    found = choices(known, table, table.q < 0.5)
    regret, saved = zip(*found.values())
    assert found["full comparison"][1] == 0 and found["ReLU without comparing"][1] == 1
    assert found["best of the quick trials"][1] == pytest.approx(1 - 3 / 24) and min(regret) >= 0
    follow = found["quick test, full comparison unless it says no"]
    assert follow[0] < 0.005 and follow[1] == pytest.approx(0.5 - 3 / 24)
    assert max(saved) <= 1


def test_the_guide_says_what_the_truth_says(known, tmp_path):
    text, figure = guide.write(known, tmp_path, permutations=4)
    page = text.read_text(encoding="utf-8")
    assert figure.stat().st_size > 5000 and "(figures/guide_tree.png)" in page and "nan" not in page.lower().split()
    assert all(f"| {name} |" in page or f"| {name} * |" in page for name in known)
    assert "from 30 cases in 5 families" in page and "| attention | loss | 3 | 3 | 0 | 0 | 6 |" in page
    assert "- for loss: no evidence against ReLU" in page  # ReLU is best by construction
    again = guide.write(known, tmp_path / "again", permutations=4)[0].read_text(encoding="utf-8")
    assert again == page


def test_the_shipped_guide_is_that_of_the_shipped_truth(tmp_path):
    known = truth.load()
    if len(known) < truth.FEWEST_CASES:
        pytest.skip("no ground truth is shipped yet")
    text, _ = guide.write(known, tmp_path)
    assert text.read_text(encoding="utf-8") == (guide.DOCS / "guide.md").read_text(encoding="utf-8")
    assert np.mean([truth.well_trained(case) for case in known.values()]) > 0.5
