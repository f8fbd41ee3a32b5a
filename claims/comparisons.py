"""Tests of the report's claims that compare activations: one function per kind of claim, referenced in claims.json.

A test takes the evidence, the report's values and the claim's parameters, and returns an Answer, or raises Untested if
the evidence lacks what it needs. Our values come from studies and a timing run, the report's from claims/claims.json.
Tests of other claims are in claims/facts.py.

The verdict on two activations is that of the study's analysis (`analysis.results.comparisons`), whichever claim uses it:
"equal" if equivalent, "lower" or "higher" if different, else "inconclusive".
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from activations import REPORT
from analysis import results, significance, words
from analysis.estimates import Estimate
from analysis.labels import activation_label, architecture_label
from analysis.results import MEASURES, Cell
from analysis.significance import Comparison

VERDICTS = (
    "reproduced",
    "artefact of the protocol",
    "contradicted",
    "not reproduced",
    "inconclusive",
    "untested",
)
MARGINS = results.Margins()
OPPOSITE = {"lower": "higher", "higher": "lower"}
TESTS: dict[str, Callable] = {}


@dataclass(frozen=True)
class Evidence:
    """The data on which the claims are tested.

    cells: role -> activation -> Cell. Roles: "published", "matched", "full size", "architecture <name>".
    timing: content of the file written by audit_timing.py. notes: on studies and files that are not used. truth: name -> case
    of the quick sensitivity test's ground truth (sensitivity.truth).
    """

    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    timing: dict | None = None
    notes: tuple[str, ...] = ()
    truth: dict[str, dict] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """The answer to a claim.

    ours: our values, with interval and n. why: a sentence. agreement: for a table of the report's values, (number that
    repeat to the last printed digit, number of values, largest deviation).
    """

    verdict: str
    ours: str
    why: str
    trials_needed: int | None = None
    agreement: tuple[int, int, float] | None = None


class Untested(Exception):
    """Raised if the evidence that a test needs is missing; the message says which."""


WANTED = {
    "published": "needs a study of the published protocol in the report's configuration: seed base 42, two trials",
    "matched": "needs a matched study of CharLM in the report's configuration",
    "full size": "needs a matched study of CharLM in the full-size configuration of config.py, best on a GPU",
    "timing": "needs the file that audit_timing.py writes",
}


def claim_test(function):
    """Registers a function under its name, for claims/claims.json."""
    TESTS[function.__name__] = function
    return function


def cells_of(evidence: Evidence, role: str, activations: Sequence[str] | None = None) -> list[Cell]:
    """The cells of a role, for all or some activations; raises Untested if one is missing."""
    found = evidence.cells.get(role)
    if not found:
        raise Untested(WANTED.get(role) or f"needs a study with {architecture_label(role.split()[-1])}")
    for name in activations or ():
        if name not in found or not found[name].trials:
            raise Untested(f"the {role} study has no complete trial of {activation_label(name)}")
    return [found[name] for name in activations or found]


# --- numbers as text --------------------------------------------------------------------------------------------------


def labels(names: Sequence[str]) -> str:
    """'ReLU, GELU and Swish'."""
    return words.listing(activation_label(name) for name in names)


def measure_label(measure: str) -> str:
    """'relative PD', or 'validation loss after 50 training steps' for 'val_loss@50'."""
    name, _, step = measure.partition("@")
    return MEASURES[name].in_text + (f" after {step} training steps" if step else "")


def number(value: float | None, measure: str) -> str:
    """A value with its measure's decimals and unit."""
    known = MEASURES[measure.partition("@")[0]]
    return "none" if value is None else f"{value * known.scale:.{known.decimals}f}" + ("%" if known.unit == "%" else "")


def with_interval(estimate: Estimate, decimals: int = 4, signed: bool = False, unit: str = "") -> str:
    """'0.0912 [0.0889, 0.0935], n = 10'; the interval if there is one."""
    if estimate.mean is None:
        return "no value"
    ends = "" if estimate.low is None else " " + words.interval(estimate, decimals, signed)
    return f"{words.number(estimate.mean, decimals, signed)}{unit}{ends}, n = {estimate.n}"


def per_activation(values: dict[str, float | None], measure: str) -> str:
    """'ReLU 0.0912, GELU 0.0901'."""
    return ", ".join(f"{activation_label(name)} {number(value, measure)}" for name, value in values.items())


# --- comparing activations --------------------------------------------------------------------------------------------


def judged(evidence: Evidence, role: str, one: str, other: str, measure: str) -> Comparison:
    """The comparison one - other, with the verdict that these two activations have in a study.

    'val_loss@50' is the value of the curve at step 50; its family is all pairs of activations at that step.
    """
    name, _, step = measure.partition("@")
    cells = [cell for cell in cells_of(evidence, role) if cell.trials]
    if not step:
        return results.comparisons(cells, name, MARGINS)[one, other]

    def measured(a, b):
        numbers = results.union((a, b))
        return significance.compare_means(*(_at_step(cell, name, int(step), numbers) for cell in (a, b)))

    return results.comparisons(cells, name, MARGINS, measured)[one, other]


def _at_step(cell, name, step, numbers):
    points = {k: {point["step"]: point[name] for point in trial["history"]} for k, trial in cell.trials.items()}
    return np.array([points.get(k, {}).get(step) for k in numbers], dtype=float)


def relation(comparison: Comparison) -> str:
    """lower, higher, equal or inconclusive."""
    if comparison.verdict == "different":
        return comparison.sign
    return "equal" if comparison.verdict == "equivalent" else "inconclusive"


def settle(evidence: Evidence, of: Sequence[str], than: str, measure: str, role: str = "matched") -> Comparison:
    """The comparison of one activation, or the mean of several (then a separate family), with another one."""
    group, (reference,) = cells_of(evidence, role, of), cells_of(evidence, role, [than])
    if len(of) == 1:
        comparison = judged(evidence, role, of[0], than, measure)
    else:
        (relu,) = cells_of(evidence, role, ["relu"])
        margin = results.margin_of(measure, relu, MARGINS)
        (comparison,) = significance.verdicts([results.group_difference(group, reference, measure)], [margin])
    if comparison.difference.mean is None:
        raise Untested(f"the {role} study has no {measure_label(measure)} for {labels([*of, than])}")
    return comparison


def loss_caveat(evidence: Evidence, of: Sequence[str], than: str, pd_relation: str, role: str = "matched") -> str:
    """A sentence if the activation with the lower PD has the higher loss; else ''."""
    loss = settle(evidence, of, than, "val_loss", role)
    if pd_relation not in OPPOSITE or relation(loss) != OPPOSITE[pd_relation]:
        return ""
    names = of if pd_relation == "lower" else [than]
    text = f" But {labels(names)} {'has' if len(names) == 1 else 'have'} the higher loss"
    return text + f" (by {abs(loss.difference.mean):.4f} nats), and PD depends on how far training has got."


def repeats_under_protocol(evidence: Evidence, pairs: Sequence[tuple[str, str]], measure: str) -> bool:
    """Whether the published study reproduces the order of every pair (lower, higher), measured as in the report."""
    try:
        found = {name: published_figure(evidence, name, measure) for name in set(itertools.chain(*pairs))}
    except Untested:
        return False
    return all(found[low] < found[high] for low, high in pairs)


def needed_text(needed: int | None) -> str:
    """The number of seeds needed, rounded to two digits, since it depends on estimated variances."""
    return f"; about {float(f'{needed:.2g}'):,.0f} seeds needed" if needed else ""


@claim_test
def difference(evidence, reported, measure, of, than, claimed="lower", tolerance=None, role="matched") -> Answer:
    """Is the mean of some activations lower (or higher) than another's?

    reported: the report's difference in percent, or null. With a tolerance, in points, its size must hold as well.
    """
    comparison = settle(evidence, of, than, measure, role)
    (base,) = cells_of(evidence, role, [than])
    percent = results.scaled(comparison.difference, 100 / abs(_mean(base, measure)))
    found, names = relation(comparison), f"{labels(of)} against {labels([than])}"
    ours = with_interval(percent, 2, signed=True, unit="%")
    if found == "inconclusive":
        why = f"{names}: neither an order nor equality is shown{needed_text(comparison.trials_needed)}."
        return Answer("inconclusive", ours, why, comparison.trials_needed)
    caveat = loss_caveat(evidence, of, than, found, role) if measure == "relative_pd" else ""
    size = f"p = {comparison.p_adjusted:.2g}"
    if found == "equal":
        verdict, why = "not reproduced", f"{names}: no difference as large as the margin of {comparison.margin:.2g}."
    elif found == claimed:
        verdict, why = "reproduced", f"{names}: {measure_label(measure)} is {found} ({size}).{caveat}"
    else:
        verdict, why = "contradicted", f"{names}: {measure_label(measure)} is {found}, not {claimed} ({size}).{caveat}"
    sized = tolerance is None or percent.low - tolerance <= reported <= percent.high + tolerance
    if verdict == "reproduced" and not sized:
        verdict, why = "not reproduced", f"{why} The size is another one."
    if verdict != "reproduced" and reported is not None and len(of) == 1 and results.is_pair_measure(measure):
        pair = (of[0], than) if claimed == "lower" else (than, of[0])
        if repeats_under_protocol(evidence, [pair], measure):
            verdict = "artefact of the protocol"
            why += " The report's protocol gives its value again, from different contexts for the two models."
    return Answer(verdict, ours, why)


def _mean(cell, measure):
    name, _, step = measure.partition("@")
    if step:
        return float(np.nanmean(_at_step(cell, name, int(step), cell.numbers)))
    return results.estimate(cell, name).mean


@claim_test
def ranking(evidence, reported, measure, first, rest, role="matched") -> Answer:
    """Is every activation of `first` better than every one of `rest`? With an empty `rest`, is `first` in order?"""
    pairs = list(itertools.product(first, rest)) if rest else list(itertools.combinations(first, 2))
    names = [*first, *rest]
    cells = dict(zip(names, cells_of(evidence, role, names)))
    comparisons = [judged(evidence, role, x, y, measure) for x, y in pairs]
    if any(comparison.difference.mean is None for comparison in comparisons):
        raise Untested(f"the {role} study has no {measure_label(measure)} to compare")
    better = MEASURES[measure.partition("@")[0]].better
    verdict, why, needed = judge_order(pairs, comparisons, better)
    means = {name: _mean(cells[name], measure) for name in names}
    ranked = dict(sorted(means.items(), key=lambda item: item[1], reverse=better == "higher"))
    ours = f"{per_activation(ranked, measure)}; n = {min(c.difference.n for c in comparisons)}"
    printed = results.is_pair_measure(measure) and reported and repeats_under_protocol(evidence, pairs, measure)
    if verdict in ("contradicted", "not reproduced") and printed:
        verdict = "artefact of the protocol"
        why += " The report's protocol gives its order again, from different contexts for the two models."
    return Answer(verdict, ours, why, needed)


def judge_order(pairs, comparisons, better) -> tuple[str, str, int | None]:
    """(verdict, why, trials needed) of the claim that x is better than y in each pair, from their verdicts."""
    relations = [relation(comparison) for comparison in comparisons]
    wrong = OPPOSITE[better]
    kinds = {"hold": better, "reversed": wrong, "equal within the margin": "equal", "inconclusive": "inconclusive"}
    parts = []
    for what, kind in kinds.items():
        of_kind = [f"{activation_label(x)}/{activation_label(y)}" for (x, y), r in zip(pairs, relations) if r == kind]
        if of_kind:
            few = f" ({', '.join(of_kind)})" if len(of_kind) <= 3 and len(pairs) > 1 else ""
            parts.append(f"{len(of_kind)} {'holds' if what == 'hold' and len(of_kind) == 1 else what}{few}")
    why = f"Of {len(pairs)} comparison{'s' if len(pairs) > 1 else ''}: {'; '.join(parts)}."
    if wrong in relations:
        return "contradicted", why, None
    if set(relations) == {better}:
        return "reproduced", why, None
    if "equal" in relations:
        return "not reproduced", why, None
    needs = [c.trials_needed for c, r in zip(comparisons, relations) if r == "inconclusive"]
    needed = None if None in needs else max(needs)
    return "inconclusive", why.removesuffix(".") + needed_text(needed) + ".", needed


@claim_test
def equal(evidence, reported, measure, of, than, role="matched") -> Answer:
    """Are two activations the same, up to the margin?"""
    comparison = settle(evidence, [of], than, measure, role)
    ours = with_interval(comparison.difference, signed=True)
    names = f"{labels([of])} and {labels([than])}"
    if comparison.verdict == "equivalent":
        why = f"{names}: the difference in {measure_label(measure)} is {comparison.reason}."
        return Answer("reproduced", ours, why)
    if relation(comparison) in OPPOSITE:
        why = f"{names} differ in {measure_label(measure)} (p = {comparison.p_adjusted:.2g})."
        return Answer("contradicted", ours, why)
    why = f"{names}: neither a difference nor equality is shown{needed_text(comparison.trials_needed)}."
    return Answer("inconclusive", ours, why, comparison.trials_needed)


@claim_test
def no_gain(evidence, reported, measure, of, than, role="matched") -> Answer:
    """Does an activation give no improvement over another one?"""
    comparison = settle(evidence, [of], than, measure, role)
    found, names = relation(comparison), f"{labels([of])} against {labels([than])}"
    ours = with_interval(comparison.difference, signed=True)
    if found == "inconclusive":
        why = f"{names}: neither an order nor equality is shown{needed_text(comparison.trials_needed)}."
        return Answer("inconclusive", ours, why, comparison.trials_needed)
    if found == "equal":
        why = f"{names}: no difference in {measure_label(measure)} as large as {comparison.margin:.2g}."
    else:
        why = f"{names}: {measure_label(measure)} is {found} (p = {comparison.p_adjusted:.2g})."
    improved = found == MEASURES[measure].better
    return Answer("contradicted" if improved else "reproduced", ours, why)


@claim_test
def order_of_loss_sds(evidence, reported, first, rest) -> Answer:
    """Does every activation of `first` vary less in validation loss between trials than every one of `rest`?

    Pitman and Morgan's test, Holm-corrected. Trials needed to detect the ratio of the report's two standard deviations
    with 80% power at the 5% level: 1 + 7.85 / ln(ratio)^2, since the variance of the logarithm of a standard deviation
    is about 1 / (2 (n - 1)).
    """
    pairs = list(itertools.product(first, rest)) if rest else list(itertools.combinations(first, 2))
    cells = dict(zip([*first, *rest], cells_of(evidence, "matched", [*first, *rest])))
    sds = {name: results.sd_estimate(cell, "val_loss") for name, cell in cells.items()}
    if any(estimate.mean is None for estimate in sds.values()):
        raise Untested("needs two complete trials of every activation")
    adjusted = significance.holm([results.equal_spread_p(cells[x], cells[y], "val_loss") for x, y in pairs])
    decided = [(x, y) for (x, y), p in zip(pairs, adjusted) if p is not None and p < 0.05]
    wrong = [(x, y) for x, y in decided if sds[x].mean > sds[y].mean]
    n = min(estimate.n for estimate in sds.values())
    ranked = sorted(sds.items(), key=lambda item: item[1].mean)
    ours = ", ".join(f"{activation_label(name)} {with_interval(e).partition(', n')[0]}" for name, e in ranked)
    ours += f"; n = {n}"
    why = f"Of {len(pairs)} comparisons of standard deviations {len(decided) - len(wrong)} hold and"
    why += f" {len(wrong)} are reversed"
    if wrong:
        return Answer("contradicted", ours, f"{why} ({', '.join(f'{labels(pair)}' for pair in wrong[:3])}).")
    if len(decided) == len(pairs):
        return Answer("reproduced", ours, f"{why}.")
    ratios = [abs(math.log(reported[y] / reported[x])) for x, y in pairs if (x, y) not in decided]
    needed = None if 0 in ratios else math.ceil(1 + 7.85 / min(ratios) ** 2)
    return Answer("inconclusive", ours, f"{why}{needed_text(needed)} at the ratios that the report prints.", needed)


# --- the report's own measurement -------------------------------------------------------------------------------------


def published_figure(evidence: Evidence, activation: str, measure: str, statistic: str = "mean"):
    """A value of the published study as in the report: a mean, an SD (ddof 0), or the list of both trials.

    Pair measures are those of the report's comparison, in which each model sees different contexts.
    """
    (cell,) = cells_of(evidence, "published", [activation])
    if results.is_pair_measure(measure):
        pairs = cell.result.get("published_pairs") or []
        if len(pairs) != 1 or pairs[0]["relative_pd"] is None:
            raise Untested(
                "needs a published study of exactly two trials: its comparison draws on where the last ended"
            )
        pair = pairs[0]
        if measure == "top1_disagreement":
            return pair["prediction_differences"] / pair["total_predictions"]
        return pair[measure]
    values = [cell.trials[k][measure] for k in (1, 2) if k in cell.trials]
    if len(values) < 2:
        raise Untested(f"trials 1 and 2 of {activation_label(activation)} are not both complete")
    return {"mean": np.mean, "sd": np.std, "trials": list}[statistic](values)


def steps_to_matched(cell: Cell, measure: str) -> dict[str, float | None]:
    """The same two models measured in three ways: name of the step -> value; None: not measured."""
    published = (cell.result.get("published_pairs") or [{}])[0]
    pair = next((p for p in cell.pairs if (p["trial_a"], p["trial_b"]) == (1, 2)), {})
    different = published.get("relative_pd")
    if measure == "top1_disagreement" and published.get("prediction_differences") is not None:
        different = published["prediction_differences"] / published["total_predictions"]
    return {
        "different contexts, last position": different,
        "same contexts, last position": pair.get(f"{measure}_last_position"),
        "same contexts, all positions": pair.get(measure),
    }


@claim_test
def figures_repeat(evidence, reported, measure, tolerance, statistic="mean", decimals=4) -> Answer:
    """Do the report's values, {activation: value, or one per trial}, repeat under its protocol with its seeds?"""
    scale = MEASURES[measure].scale
    ours, exact, deviations = {}, 0, []
    for name, expected in reported.items():
        figure = published_figure(evidence, name, measure, statistic)
        ours[name] = np.atleast_1d(np.asarray(figure, dtype=float) * scale)
        expected = np.atleast_1d(np.asarray(expected, dtype=float))
        deviations += list(abs(ours[name] - expected))
        exact += int((abs(ours[name] - expected) <= 0.5 * 10.0**-decimals + 1e-9).sum())
    worst = max(deviations)
    texts = [
        f"{activation_label(name)} {' and '.join(f'{v:.{decimals}f}' for v in values)}" for name, values in ours.items()
    ]
    verdict = "reproduced" if worst <= tolerance + 1e-9 else "not reproduced"
    why = f"{exact} of {len(deviations)} values agree to the last printed digit; the largest deviation is "
    why += f"{worst:.2g} ({'within' if verdict == 'reproduced' else 'beyond'} the tolerance of {tolerance:g})."
    return Answer(verdict, f"{', '.join(texts)}; n = 2", why, agreement=(exact, len(deviations), worst))


@claim_test
def same_contexts(evidence, reported, measure, tolerance) -> Answer:
    """Does a range [low, high] measured by the report's protocol hold when both models see the same contexts?"""
    cells = cells_of(evidence, "published", REPORT)
    steps = [steps_to_matched(cell, measure) for cell in cells]
    ranges = {}
    for name in steps[0]:
        values = [step[name] for step in steps]
        if None in values:
            raise Untested("the published study was not measured on the same contexts; run it with this version")
        ranges[name] = (min(values), max(values))
    texts = [f"{name}: {number(low, measure)} to {number(high, measure)}" for name, (low, high) in ranges.items()]
    low, high = reported[0] - tolerance, reported[1] + tolerance
    inside = [low <= least and most <= high for least, most in ranges.values()]
    ours = "; ".join(texts) + "; n = 2"
    if not inside[0]:
        return Answer("not reproduced", ours, "The report's protocol gives other values here.")
    if inside[2]:
        return Answer("reproduced", ours, "The same two models give values in this range on the same contexts too.")
    why = "The report's protocol gives these values because the two models are evaluated on different contexts; on the"
    return Answer("artefact of the protocol", ours, f"{why} same contexts the same two models differ far less.")
