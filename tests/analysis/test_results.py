"""The analysis turns results into numbers: hand-made values, and the reference study against its own files."""

import functools
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from made_results import damaged, make_result, summarized

import analyze_results
from analysis import curves, significance
from analysis.equal_loss import LOG_MARGIN
from analysis.results import (
    MEASURES,
    PRIMARY,
    Cell,
    Margins,
    compare_cells,
    comparisons,
    disagreeing_measures,
    estimate,
    frontier,
    in_percent,
    margin_of,
    outlying,
    primary_comparisons,
    reference_of,
    share_of,
    source_label,
    window_errors,
    without,
)
from analysis.windows import window_standard_error
from analysis.words import course
from report.answer import MEANS, answer
from report.document import Table
from report.view import View

REFERENCE_STUDY = Path(__file__).resolve().parents[2] / "results" / "reference" / "matched"


def cell_of(losses, pds, activation="relu", histories=None):
    """A cell of hand-made trials: a loss each, a relative PD per pair (in the order of combinations), curves per trial."""
    n = len(losses)
    histories = histories or [[]] * n
    trials = [
        {"trial": k, "seed": 41 + k, "status": "complete", "val_loss": loss, "history": history}
        for k, (loss, history) in enumerate(zip(losses, histories), 1)
    ]
    pairs = [
        {"trial_a": a, "trial_b": b, "relative_pd": pd, "top1_disagreement": pd, "js_divergence": pd, "history": []}
        for (a, b), pd in zip(itertools.combinations(range(1, n + 1), 2), pds)
    ]
    return Cell({"architecture": "charlm", "activation": activation, "trials": trials, "pairs": pairs})


def curve(*losses):
    return [{"step": 10 * i, "val_loss": loss} for i, loss in enumerate(losses)]


def with_pair_history(cell, *values):
    for pair in cell.result["pairs"]:
        pair["history"] = [{"step": 10 * i, "relative_pd": v, "top1_disagreement": v} for i, v in enumerate(values)]
    return cell


# --- the reference study --------------------------------------------------------------------------------------------


@functools.cache
def reference_study():
    return analyze_results.read_study(REFERENCE_STUDY)


@pytest.mark.parametrize("activation", ["smelu_05", "smelu_1", "relu", "gelu", "swish"])
def test_the_tables_hold_the_means_of_the_result_files(activation):
    result = json.loads((REFERENCE_STUDY / f"charlm_{activation}.json").read_text())
    (cell,) = (cell for cell in reference_study().cells if cell.activation == activation)
    study = reference_study()
    (table,) = answer(View(study, study.cells, Margins())).all(Table)
    (row,) = (row for row in table.rows if row[0] == cell.label)
    expected = {
        "val_loss": np.mean([trial["val_loss"] for trial in result["trials"]]),
        "relative_pd": np.mean([pair["relative_pd"] for pair in result["pairs"]]),
        "top1_disagreement": np.mean([pair["top1_disagreement"] for pair in result["pairs"]]),
    }
    assert tuple(expected) == MEANS
    for (name, mean), text in zip(expected.items(), row[2:]):
        assert text.startswith(f"{mean:.{MEASURES[name].decimals}f} [")
    assert row[1] == "10" == str(len(result["trials"]))
    for name in ("val_loss", "relative_pd"):
        stored = result["summary"][name]
        found = estimate(cell, name)
        assert [found.low, found.high] == pytest.approx(stored["ci95"], rel=1e-12)


def test_the_order_of_the_study_is_that_of_its_summary():
    assert [cell.activation for cell in reference_study().cells] == ["smelu_05", "smelu_1", "relu", "gelu", "swish"]


# --- values, comparisons --------------------------------------------------------------------------------------------


def test_trials_that_diverged_or_failed_are_in_no_mean_and_no_pair():
    cell = Cell(damaged(make_result("relu", 5)))  # the first diverged, the last failed
    assert cell.numbers == [2, 3, 4]
    assert estimate(cell, "val_loss").n == 3 and estimate(cell, "relative_pd").n == 3
    losses = [t["val_loss"] for t in cell.result["trials"] if t["status"] == "complete"]
    assert estimate(cell, "val_loss").mean == pytest.approx(np.mean(losses))


def test_a_trial_that_either_side_lacks_is_left_out_of_both():
    one = cell_of([1.0, 2.0, 4.0], [0.1, 0.2, 0.3])
    other = cell_of([0.5, 9.0, 3.0], [0.3, 0.2, 0.1])
    other.result["trials"][1]["status"] = "diverged"
    found = compare_cells(one, other, "val_loss").difference
    assert found.mean == pytest.approx((0.5 + 1.0) / 2) and found.n == 2
    pairs = compare_cells(one, other, "relative_pd").difference
    assert pairs.mean == pytest.approx(0.2 - 0.2) and pairs.n == 2 and pairs.low is None


def test_relu_is_the_reference_or_else_the_first():
    cells = [cell_of([1.0], [], name) for name in ("gelu", "relu", "swish")]
    assert reference_of(cells) is cells[1]
    assert reference_of(cells[::2]) is cells[0]
    assert reference_of([]) is None


def test_margins_are_nats_for_the_loss_and_a_share_of_the_reference_for_pairs():
    relu = cell_of([1.0, 2.0], [0.2])
    assert margin_of("val_loss", relu, Margins(0.5, 0.1)) == 0.5
    assert margin_of("relative_pd", relu, Margins(0.5, 0.1)) == pytest.approx(0.02)
    assert margin_of("relative_pd", cell_of([1.0], []), Margins()) is None


def test_holms_family_is_every_activation_times_the_four_primary_measures():
    cells = [Cell(make_result(name, 6)) for name in ("relu", "gelu", "swish")]
    found = primary_comparisons(cells, Margins())
    assert set(found) == {(a, m) for a in ("gelu", "swish") for m in PRIMARY} and len(found) == 8
    adjusted = significance.holm([comparison.p for comparison in found.values()])
    assert [comparison.p_adjusted for comparison in found.values()] == adjusted


def test_a_large_margin_makes_equivalent_what_a_small_one_does_not():
    cells = [cell_of([2.0, 2.1, 2.2, 2.3], [0.1] * 6), cell_of([2.05, 2.14, 2.26, 2.35], [0.1] * 6, "gelu")]
    small, large = (primary_comparisons(cells, Margins(m, 0.02))["gelu", "val_loss"] for m in (0.01, 1.0))
    assert small.verdict == "different"
    assert (large.verdict, large.sign) == ("equivalent", "higher")


def test_two_activations_have_one_verdict_whoever_asks_and_in_whichever_order():
    cells = [Cell(make_result(name, 6)) for name in ("relu", "gelu", "swish")]
    primary = primary_comparisons(cells, Margins())
    found = comparisons(cells, "relative_pd", Margins())
    assert len(found) == 6
    assert found["gelu", "relu"] == primary["gelu", "relative_pd"]
    forth, back = found["swish", "gelu"], found["gelu", "swish"]
    assert forth.verdict == back.verdict and forth.difference.mean == -back.difference.mean
    alone = significance.verdicts([compare_cells(cells[1], cells[2], "relative_pd")], [forth.margin])[0]
    assert back == alone  # what is not against the reference is a family of its own, here of one


def test_another_measure_is_a_family_of_all_pairs_of_activations():
    cells = [Cell(make_result(name, 6)) for name in ("relu", "gelu", "swish")]
    found = comparisons(cells, "symmetric_kl", Margins())
    pairs = [("relu", "gelu"), ("relu", "swish"), ("gelu", "swish")]
    adjusted = significance.holm([found[pair].p for pair in pairs])
    assert [found[pair].p_adjusted for pair in pairs] == adjusted


def test_a_run_far_from_the_others_is_named_and_can_be_left_out():
    losses = [2.0, 2.01, 1.99, 2.005, 3.0, 1.995]
    cell = cell_of(losses, [0.1 + 0.001 * k for k in range(15)])
    assert outlying(cell, "val_loss") == [5]
    assert outlying(cell, "relative_pd") == []
    rest = without(cell, [5])
    assert rest.numbers == [1, 2, 3, 4, 6] and len(rest.pairs) == 10
    assert estimate(rest, "val_loss").mean == pytest.approx(2.0)


# --- at equal loss ---------------------------------------------------------------------------------------------------


def on_the_path(activation, losses, starts=(0.00, 0.01, 0.02, 0.03)):
    """A cell whose trials go down the same path: PD is a tenth of the loss, give or take a pair's own percent."""
    histories = [curve(*(loss + start for loss in losses)) for start in starts]
    cell = cell_of([h[-1]["val_loss"] for h in histories], [0.1] * math.comb(len(starts), 2), activation, histories)
    for own, pair in enumerate(cell.result["pairs"]):
        mean = (starts[pair["trial_a"] - 1] + starts[pair["trial_b"] - 1]) / 2
        values = [(1 + 0.001 * own) * (loss + mean) / 10 for loss in losses]
        pair["history"] = [{"step": 10 * i, "relative_pd": v} for i, v in enumerate(values)]
        pair["relative_pd"] = values[-1]
    return cell


QUICK, SLOW = np.linspace(4, 2, 41), np.linspace(4, 2.5, 41)


def test_an_activation_that_has_only_learned_less_differs_at_the_end_and_not_at_equal_loss():
    """Two activations on the same path of PD against loss; one is behind. Its higher PD is gone where losses are equal."""
    quick, slow = on_the_path("relu", QUICK), on_the_path("gelu", SLOW)
    assert in_percent(compare_cells(slow, quick, "relative_pd"), quick, "relative_pd").mean > 20
    (found,) = curves.compare_at_equal_loss([slow], quick, "relative_pd", curves.CommonLoss(3.0, 0.2), LOG_MARGIN)
    assert found.difference.mean == pytest.approx(0, abs=1e-9)
    assert found.verdict == "equivalent"


def test_a_factor_at_equal_loss_is_its_logarithm():
    quick, slow = on_the_path("relu", QUICK), on_the_path("gelu", SLOW)
    for k, pair in enumerate(slow.result["pairs"]):
        for point in pair["history"]:
            point["relative_pd"] *= 1.2 + 1e-4 * k
    (found,) = curves.compare_at_equal_loss([slow], quick, "relative_pd", curves.CommonLoss(3.0, 0.2), LOG_MARGIN)
    assert found.difference.mean == pytest.approx(math.log(1.2), abs=1e-3)
    assert (found.verdict, found.sign) == ("different", "higher")


def test_a_curve_too_coarse_or_short_of_the_loss_gives_no_number():
    quick, coarse, slow = on_the_path("relu", QUICK), on_the_path("gelu", QUICK[::10]), on_the_path("swish", SLOW)
    (found,) = curves.compare_at_equal_loss([coarse], quick, "relative_pd", curves.CommonLoss(3.0, 0.2), LOG_MARGIN)
    assert (found.verdict_text, found.difference.mean, found.p) == ("curve too coarse", None, None)
    (found,) = curves.compare_at_equal_loss([slow], quick, "relative_pd", curves.CommonLoss(2.2, 0.2), LOG_MARGIN)
    assert (found.verdict_text, found.difference.mean, found.p) == ("loss not reached", None, None)
    assert found.reason == "6 pairs cannot be read at the common loss"


def test_points_after_the_last_usable_step_are_not_read():
    quick = on_the_path("relu", QUICK)
    common = curves.CommonLoss(2.5, 0.2, last_step=250)  # where the loss is 2.75
    values, reasons = curves.at_equal_loss(quick, "relative_pd", common)
    assert np.isnan(values).all() and set(reasons) == {"loss not reached"}
    values, reasons = curves.at_equal_loss(quick, "relative_pd", curves.CommonLoss(2.5, 0.2, last_step=400))
    assert values[0, 1] == pytest.approx(0.25) and reasons == []


def test_the_share_of_a_part_is_over_the_trials_that_both_have():
    """A part that is a quarter of the whole in every pair is 25 %, and nothing about that is uncertain."""
    whole = cell_of([2.0] * 5, [0.1, 0.2, 0.3, 0.9, 0.5, 0.6, 0.9, 0.4, 0.9, 0.9])
    part = cell_of([2.0] * 4, [0.025, 0.05, 0.075, 0.125, 0.15, 0.1])  # trials 1 to 4; the whole's fifth is left out
    share = share_of(part, whole, "relative_pd")
    assert [share.mean, share.low, share.high] == pytest.approx([25, 25, 25])
    noisy = cell_of([2.0] * 4, [0.03, 0.05, 0.06, 0.125, 0.17, 0.1])
    share = share_of(noisy, whole, "relative_pd")
    assert share.low < share.mean < share.high and share.mean == pytest.approx(100 * 0.535 / 2.1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.13, 0.10, 0.08), "falls from 0.13 at step 0 to 0.08 at step 20"),
        ((0.13, 0.08, 0.10, 0.12), "falls from 0.13 at step 0 to 0.08 at step 10 and rises to 0.12 at step 30"),
        ((0.1, 0.3, 0.2), "rises from 0.10 at step 0 to 0.30 at step 10 and falls to 0.20 at step 20"),
        ((0.20, 0.10, 0.099, 0.10), "falls from 0.20 at step 0 to 0.10 at step 30"),  # that is no turn, but noise
    ],
)
def test_a_path_that_turns_is_told_with_its_turn(values, expected):
    path = [(10 * k, value) for k, value in enumerate(values)]
    assert course(curves.turns(path), 2) == expected


# --- all activations ------------------------------------------------------------------------------------------------


def test_the_frontier_is_whom_no_other_beats_in_both():
    cells = [
        cell_of([1.00, 1.01, 1.02], [0.30, 0.31, 0.29], "relu"),
        cell_of([2.00, 2.01, 2.02], [0.10, 0.11, 0.09], "gelu"),
        cell_of([2.50, 2.51, 2.52], [0.35, 0.36, 0.34], "swish"),
    ]
    names, shares = frontier(cells)
    assert names == ["relu", "gelu"]
    assert shares["swish"] == 0 and shares["relu"] == shares["gelu"] == 1


def test_two_trials_are_too_few_to_resample_and_one_has_no_frontier():
    two = [cell_of([1.0, 1.1], [0.3], "relu"), cell_of([2.0, 2.1], [0.1], "gelu")]
    assert frontier(two) == (["relu", "gelu"], None)
    assert frontier([cell_of([1.0], [], "relu"), cell_of([2.0], [], "gelu")])[1] is None


def test_measures_that_disagree_are_named():
    calm, other = make_result("relu", 6), make_result("gelu", 6)
    pairs = [dict(pair) for pair in calm["pairs"]]
    for i, pair in enumerate(pairs):
        pair["relative_pd"] -= 0.05 + 0.0001 * (i % 3)
        pair["top3_overlap"] -= 0.05 + 0.0001 * (i % 3)
    shifted = summarized({**other, "pairs": pairs})
    ((one, two, for_one, for_two),) = disagreeing_measures([Cell(calm), Cell(shifted)], Margins())
    assert (one.activation, two.activation) == ("relu", "gelu")
    assert for_one == ["top3_overlap"] and for_two == ["relative_pd"]


def test_the_error_over_the_text_is_that_of_blocks_of_windows():
    rng = np.random.default_rng(0)
    losses = rng.standard_normal((2, 60))
    result = cell_of([2.5, 3.5], [0.1]).result | {"corpus": {"name": "tiny.txt"}}
    cell = Cell(result, {"trial_1_loss": losses[0], "trial_2_loss": losses[1]})
    assert window_errors(cell, None, "val_loss") == window_standard_error(losses.mean(0))
    assert window_errors(cell, cell, "val_loss") == 0
    assert window_errors(cell_of([2.5, 3.5], [0.1]), None, "val_loss") is None


def test_examples_of_other_tasks_count_as_independent():
    losses = np.random.default_rng(0).standard_normal((2, 60))
    cell = Cell(cell_of([2.5, 3.5], [0.1]).result, {"trial_1_loss": losses[0], "trial_2_loss": losses[1]})
    assert window_errors(cell, None, "val_loss") == window_standard_error(losses.mean(0), block=1)


def test_sources_are_named_in_words():
    identity = {"protocol": "matched", "vary": ["init", "data", "dropout"]}
    assert source_label(identity) == "all together"
    assert source_label({**identity, "vary": ["data"]}) == "order of the data"
    assert source_label({**identity, "vary": []}) == "nothing"
    assert source_label({"protocol": "published", "vary": ["init"]}) == "all together"
