"""The quick test of one model: how many seeds fit into the budget, what its trials answer, and how that is said."""

import math
from dataclasses import dataclass

import numpy as np

from analysis.labels import activation_label
from analysis.sensitivity import sensitivity_of_means
from analysis.words import plural
from common.errors import UserError
from sensitivity import cases, labels, truth
from sensitivity.validation import probability, shipped

FEWEST_SEEDS, MOST_SEEDS = 2, 8
STARTING_S = 6.0  # start-up of the worker processes
MEASURING_STEPS = 20  # measuring the features of one model takes about as long as this many training steps
FULL_TRIALS = 3  # per activation, in a full comparison
DIRECT = "direct comparison"
NAMES = {"loss": "final loss", "pd": "relative PD at a fixed loss"}
MARGINS = {"loss": f"{cases.LOSS_MARGIN} nats", "pd": "5%"}


# --- the budget -------------------------------------------------------------------------------------------------------


def quick_config(config):
    """The configuration of the quick trials: the full one with a sixth of the steps, and curve points at both ends."""
    steps = max(1, round(config.max_iters / cases.QUICK_SHARE))
    return config.replace(max_iters=steps, eval_interval=steps, eval_spacing="linear")


def seconds_needed(
    seeds: int, activations: int, trial_s: float, step_s: float, workers: int, finished: int = 0
) -> float:
    """Duration of a quick test: start-up, training with these workers, and measuring features in one process.

    finished: trials trained by an earlier run.
    """
    to_train = max(0, seeds * activations - finished)
    return STARTING_S + math.ceil(to_train / workers) * trial_s + seeds * activations * MEASURING_STEPS * step_s


def seeds_within(
    budget_s: float, used_s: float, activations: int, trial_s: float, step_s: float, workers: int, finished: int = 0
) -> int:
    """The number of seeds of each activation that fit into the remaining budget, up to MOST_SEEDS.

    Raises UserError with the smallest sufficient budget if two do not fit.
    """
    cost = (activations, trial_s, step_s, workers, finished)
    fit = [n for n in range(FEWEST_SEEDS, MOST_SEEDS + 1) if used_s + seconds_needed(n, *cost) <= budget_s]
    if not fit:
        least = used_s + seconds_needed(FEWEST_SEEDS, *cost)
        raise UserError(
            f"the budget is too small for two seeds of {activations} activations, which take about {least / 60:.1f} minutes"
            f" here; give --minutes {math.ceil(1.1 * least / 6) / 10:g} or more, fewer activations or fewer --max-iters"
        )
    return fit[-1]


def more_seeds(left_s: float, each_s: float, activations: int, step_s: float) -> int:
    """How many seeds more fit into what is left, at the time that each of the first two took; these are yet to be measured."""
    measuring_s = activations * MEASURING_STEPS * step_s
    return max(0, math.floor((left_s - FEWEST_SEEDS * measuring_s) / (each_s + measuring_s)))


# --- the answer -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """What decides whether a model lies in the validated range. steps: of the full protocol."""

    family: str
    parameters: int
    steps: int
    task: str
    activations: tuple[str, ...] = cases.ACTIVATIONS


def outside_range(model: Model, known: dict) -> str | None:
    """What of a model lies outside the validated range, with the range; None: nothing."""
    for name, value in (("parameters", model.parameters), ("training steps", model.steps)):
        low, high = truth.validated_range(known)[name]
        if not low <= value <= high:
            return f"{value:,} {name}, validated from {low:,} to {high:,}"
    if set(model.activations) != set(cases.ACTIVATIONS):
        return f"the activations {', '.join(model.activations)}, validated on {', '.join(cases.ACTIVATIONS)}"
    return None if model.task == "text" else f"the task {model.task}, validated on text"


def answer(outcome: str, quick: dict, model: Model, known: dict) -> dict:
    """The verdict on one outcome with its basis; JSON-compatible.

    Returns
    -------
    dict
        verdict ("matters", "does not matter", "inconclusive"), leaf (the reason in words), basis, probability, its interval
        (None where it has none), difference (median, low, high: of the quick trials), more_seeds (or None).
    """
    direct = direct_comparison(outcome, quick)
    case = {"quick": quick}
    row, briefly = truth.feature_row(quick["features"]), truth.briefly(case, outcome)
    found = {
        "outcome": outcome,
        "margin": cases.OUTCOMES[outcome],
        **direct,
        "interval": None,
        "basis": DIRECT,
    }
    losses = list(quick["losses"].values())
    diverged = [any(loss is None for loss in values) for values in losses]
    if all(diverged):
        return found | {
            "verdict": "inconclusive",
            "leaf": "every activation diverged: the recipe does not work",
            "more_seeds": None,
        }
    if any(diverged):
        return found | {"verdict": "matters", "leaf": "an activation diverged in the quick trials and another did not"}
    if not truth.enough(known, outcome):
        return found | {
            "leaf": "no validated predictor is available yet: this compares the quick trials, and says nothing of longer training"
        }
    test = shipped(truth.table(known, outcome))
    p, low, high = probability(test, test.row(row, briefly), model.family)
    found |= {"basis": test.kind, "probability": p, "interval": (low, high), "more_seeds": None}
    if why := outside_range(model, known):
        return found | {"verdict": "inconclusive", "leaf": f"outside the validated range ({why})"}
    if test.fails:
        why = f"no test of this outcome passed validation (log score {test.score:.2f}, a coin's is {math.log(2):.2f})"
        return found | {"verdict": "inconclusive", "leaf": why, "probability": None, "interval": None}
    verdict = test.fitted.answer(p)
    limits = {"matters": ("at least", test.fitted.high), "does not matter": ("at most", test.fitted.low)}
    words = "{} the threshold {:.2f}".format(*limits[verdict]) if verdict in limits else "between the thresholds"
    if verdict == "inconclusive":
        found["more_seeds"] = direct["more_seeds"]
    return found | {"verdict": verdict, "leaf": f"P is {words}"}


def direct_comparison(outcome: str, quick: dict) -> dict:
    """verdict, probability, difference and more_seeds of the quick trials by themselves, by the rules of docs/statistics.md."""
    if outcome == "loss":
        values = labels.complete_blocks(list(quick["losses"].values()))
    else:
        values = truth.pd_values(quick["relative_pd_end"])
    nothing = {"verdict": "inconclusive", "probability": None, "difference": None, "more_seeds": 1}
    if values is None or values.shape[1] < 2:
        return nothing
    margin = cases.OUTCOMES[outcome]
    judged = sensitivity_of_means(values, margin)
    verdict = {"sensitive": "matters", "insensitive": "does not matter"}.get(judged.verdict, "inconclusive")
    more = judged.trials_needed - values.shape[1] if judged.trials_needed else None
    return {
        "verdict": verdict,
        "probability": labels.probability_matters(values, margin),
        "difference": labels.largest_difference(values, margin),
        "more_seeds": more,
    }


# --- as text ----------------------------------------------------------------------------------------------------------


def answer_lines(found: dict, minutes_per_seed: float) -> list[str]:
    """An answer as lines: the sentence, the probability, what was measured, the leaf."""
    outcome, margin = NAMES[found["outcome"]], MARGINS[found["outcome"]]
    where = "in the quick trials " if found["basis"] == DIRECT else ""
    sentence = {
        "matters": f"{where}the activation matters (by more than {margin})",
        "does not matter": f"{where}the activation does not matter beyond {margin}",
        "inconclusive": "inconclusive",
    }[found["verdict"]]
    if found["verdict"] == "inconclusive" and found["more_seeds"]:
        minutes = plural(max(1, round(found["more_seeds"] * minutes_per_seed)), "minute")
        sentence += f": {plural(found['more_seeds'], 'more quick trial')} of each, about {minutes}"
    lines = [f"{outcome}: {sentence}"]
    if found["probability"] is not None:
        interval = "" if found["interval"] is None else " [{:.2f}, {:.2f}]".format(*found["interval"])
        lines.append(f"  P(matters) = {found['probability']:.2f}{interval}, by {found['basis']}")
    if found["difference"] is not None:
        median, low, high = (100 * math.expm1(x) if found["outcome"] == "pd" else x for x in found["difference"])
        unit, decimals = ("%", 1) if found["outcome"] == "pd" else (" nats", 4)
        at = "at the end of the quick trials" + (", not at a fixed loss" if found["outcome"] == "pd" else "")
        lines.append(
            f"  largest difference between two activations {at}: {median:.{decimals}f}{unit}"
            f" [{low:.{decimals}f}, {high:.{decimals}f}]"
        )
    return [*lines, f"  because: {found['leaf']}"]


def validated_line(known: dict) -> str:
    """The range in which the test was validated, as a sentence."""
    if not truth.enough(known, "loss"):
        return "not validated: no ground truth is available"
    covered = truth.validated_range(known)
    ranges = ", ".join(f"{low:,} to {high:,} {name}" for name, (low, high) in covered.items())
    return f"validated on {len(known)} cases: text, {ranges} (docs/guide.md)"


def loss_lines(quick: dict) -> list[str]:
    """One line per activation: its mean final loss in the quick trials."""
    lines = []
    for activation, values in quick["losses"].items():
        sound = [v for v in values if v is not None]
        lost = len(values) - len(sound)
        mean = f"{np.mean(sound):.4f}" if sound else "none"
        lines.append(
            f"  {activation_label(activation):<18} {mean}  n = {len(sound)}" + (f", {lost} diverged" if lost else "")
        )
    return lines


def cost_lines(full_h: float, rate: float, known: dict, share: float) -> list[str]:
    """What full comparisons cost, what the quick test costs, and what it would save in expectation.

    full_h: hours of all full comparisons. rate: money per hour. share: of these hours that the quick test takes.
    """
    quick_h = share * full_h
    lines = [
        f"full comparison: {full_h:.1f} h, {full_h * rate:.2f} at {rate:g} per hour",
        f"quick test:      {quick_h:.1f} h, {quick_h * rate:.2f}",
    ]
    if not truth.enough(known, "loss"):
        return [
            *lines,
            "how often it may be skipped is not known: no validated predictor is available yet",
            f"it pays for itself if at least {share:.0%} of full comparisons turn out unnecessary",
        ]
    from sensitivity.scores import decided, error_limit, over_families

    test = shipped(truth.table(known, "loss"))
    skip = np.array(test.out_of_fold.answers) == "does not matter"
    _, error = decided(test.out_of_fold.answers, test.table.q)
    low, high = over_families(lambda k: float(skip[k].mean()), test.table.families) or (0.0, 1.0)
    saved, least, most = ((s * full_h - quick_h) for s in (skip.mean(), low, high))
    wrong = f"{error[skip].mean():.0%}" if skip.any() else "not known: none was skipped"
    return [
        *lines,
        f"expected saving: {saved:.1f} h [{least:.1f}, {most:.1f}], {saved * rate:.2f} (skips {skip.mean():.0%} of"
        f" {len(skip)} cases it had not seen)",
        f"probability that a skip is wrong: {wrong} (95% limit {error_limit(float(error[skip].sum()), int(skip.sum())):.0%})",
    ]
