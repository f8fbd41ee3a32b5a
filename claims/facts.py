"""Tests of all other claims: the set-up, the report's arithmetic, printed formulas, time, number of trials, architectures.

The interface of a test is described in claims/comparisons.py.
"""

import math

import numpy as np

from activations import REPORT
from analysis import results, significance
from analysis.estimates import mean_interval
from analysis.labels import activation_label, architecture_label
from analysis.power import MOST_TRIALS, trials_for_power
from analysis.words import brief_p
from claims.comparisons import (
    MARGINS,
    TESTS,
    WANTED,
    Answer,
    Untested,
    cells_of,
    claim_test,
    judge_order,
    labels,
    needed_text,
    number,
    per_activation,
    published_figure,
    with_interval,
)
from claims.timing import first_full_step_seconds, trial_seconds
from sensitivity import truth

# The verdict on a claim with several parts is the first of these that any part has.
STRONGEST_FIRST = (
    "contradicted",
    "artefact of the protocol",
    "not reproduced",
    "untested",
    "inconclusive",
    "reproduced",
)


@claim_test
def both(evidence, reported, parts, claimed_at=None) -> Answer:
    """Do all parts of a claim hold? parts: list of {test, figures, with}.

    claimed_at: the claim's model size, if it differs from that of the studies; a contradiction then becomes "not reproduced".
    """
    answers = [TESTS[part["test"]](evidence, part.get("figures"), **part["with"]) for part in parts]
    verdict = min((answer.verdict for answer in answers), key=STRONGEST_FIRST.index)
    decisive = [answer.why for answer in answers if verdict in ("reproduced", answer.verdict)]
    needs = [answer.trials_needed for answer in answers if answer.verdict == verdict == "inconclusive"]
    needed = max(needs) if needs and None not in needs else None
    if verdict == "contradicted" and claimed_at:
        verdict = "not reproduced"
        decisive.append(f"The report says it of models {claimed_at}, these are smaller.")
    return Answer(verdict, "; ".join(answer.ours for answer in answers), " ".join(decisive), needed)


# --- the set-up -------------------------------------------------------------------------------------------------------


def parameters(evidence, size):
    """CharLM's number of parameters in the report's configuration ("config") or at full size ("full_config")."""
    for role in ("published", "matched") if size == "config" else ("full size",):
        for cell in evidence.cells.get(role, {}).values():
            return cell.result["n_parameters"]
    if evidence.timing is None:
        raise Untested(WANTED["timing"] if size == "full_config" else WANTED["published"])
    return evidence.timing["n_parameters"][size]


@claim_test
def parameter_count(evidence, reported, size, tolerance) -> Answer:
    """Does the model have as many parameters as the report says? size: config, full_config, or ratio."""
    if size == "ratio":
        large, small = parameters(evidence, "full_config"), parameters(evidence, "config")
        found, ours = large / small, f"{large:,} / {small:,} = {large / small:.1f}"
    else:
        found = parameters(evidence, size)
        ours = f"{found:,}"
    holds = abs(found / reported - 1) <= tolerance
    why = "Counted in the model itself" + (f", and within {tolerance:.0%}." if holds else ", and another number.")
    return Answer("reproduced" if holds else "contradicted", ours, why)


@claim_test
def corpus_sizes(evidence, reported) -> Answer:
    """Is the text the report's, and split as described?"""
    role = next((role for role in ("published", "matched") if evidence.cells.get(role)), "published")
    facts = cells_of(evidence, role)[0].result["corpus"]
    n = facts["characters"]
    training = int(0.9 * n)
    found = {"characters": n, "training": training, "validation": n - training, "vocabulary": facts["vocabulary_size"]}
    wrong = [name for name, value in found.items() if value != reported[name]]
    ours = ", ".join(f"{name} {value:,}" for name, value in found.items())
    why = f"Another number of {', '.join(wrong)}." if wrong else "Every count is the same."
    return Answer("contradicted" if wrong else "reproduced", ours, why)


@claim_test
def printed_smelu(evidence, reported, x_range=3.0) -> Answer:
    """Is the formula that section 2.3 prints the function that was run? Both are evaluated on a grid."""
    import torch

    from activations import get_activation

    worst, jumps = {}, {}
    for name, beta in reported.items():
        x = np.linspace(-x_range, x_range, 6001)
        real = get_activation(name)(torch.from_numpy(x)).detach().numpy()
        printed = np.where(x >= beta, (x + beta) / (1 + np.exp(-x)), x)
        worst[name] = float(abs(printed - real).max())
        jumps[name] = 2 * beta / (1 + math.exp(-beta)) - beta
    ours = "; ".join(f"{activation_label(name)}: up to {value:.2f} apart on [-3, 3]" for name, value in worst.items())
    if max(worst.values()) < 1e-6:
        return Answer("reproduced", ours, "The formula is the function that was run.")
    why = "The printed formula is the identity below β and jumps there by " + " and ".join(
        f"{jump:.2f} ({activation_label(name)})" for name, jump in jumps.items()
    )
    why += "; the function that gives the report's figures is 0, then (x + β)² / 4β, then x."
    return Answer("contradicted", ours, why)


@claim_test
def discontinuous(evidence, reported, activation) -> Answer:
    """Does an activation jump at 0? Its values and slopes on both sides."""
    import torch

    from activations import get_activation

    x = torch.tensor([-1e-9, 1e-9], dtype=torch.float64, requires_grad=True)
    y = get_activation(activation)(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    jump, bend = (float(pair[1] - pair[0]) for pair in (y.detach(), slope))
    ours = f"across 0 the value changes by {abs(jump):.0e}, the slope by {bend:g}"
    if abs(jump) > 1e-6:
        return Answer("reproduced", ours, f"{activation_label(activation)} jumps at 0.")
    why = f"{activation_label(activation)} is continuous; it is its derivative that jumps."
    return Answer("contradicted", ours, why)


@claim_test
def loss_range(evidence, reported, when) -> Answer:
    """Do all losses, at the start or at the end of training, lie in the range [low, high] that the report prints?"""
    cells = cells_of(evidence, "published", REPORT)
    trials = [cell.trials[k] for cell in cells for k in (1, 2) if k in cell.trials]
    if when == "initial":
        values = [point["val_loss"] for trial in trials for point in trial["history"] if point["step"] == 0]
        values += [point["train_loss"] for trial in trials for point in trial["history"] if point["step"] == 0]
    else:
        values = [np.mean([cell.trials[k]["val_loss"] for k in (1, 2) if k in cell.trials]) for cell in cells]
    low, high, digit = min(values), max(values), 0.05 if when == "initial" else 0.005
    holds = reported[0] - digit <= low and high <= reported[1] + digit
    ours = f"{low:.4f} to {high:.4f}; {len(trials)} trials"
    vocabulary = cells[0].result["corpus"]["vocabulary_size"]
    why = f"{'All' if holds else 'Not all'} are in the range, to its digits"
    why += f"; guessing among {vocabulary} characters costs {math.log(vocabulary):.4f}." if when == "initial" else "."
    return Answer("reproduced" if holds else "not reproduced", ours, why)


@claim_test
def no_divergence(evidence, reported) -> Answer:
    """Did every trial end with finite losses?"""
    found = [cells_of(evidence, role) for role in ("published", "matched") if evidence.cells.get(role)]
    if not found:
        raise Untested(WANTED["published"])
    statuses = [trial["status"] for cells in found for cell in cells for trial in cell.result["trials"]]
    n, complete = len(statuses), statuses.count("complete")
    why = "None diverged." if n == complete else f"{n - complete} did not end well."
    return Answer("reproduced" if n == complete else "contradicted", f"{complete} of {n} trials complete", why)


@claim_test
def other_hardware(evidence, reported, smooth, reference) -> Answer:
    """Do smooth activations deviate less on other hardware? reported: the report's mean validation losses."""
    apart = {name: abs(published_figure(evidence, name, "val_loss") - reported[name]) for name in (*smooth, reference)}
    (cell,) = cells_of(evidence, "published", [reference])
    where = cell.trials[min(cell.trials)]["environment"]
    ours = f"largest distance of a mean loss from the report's: {max(apart.values()):.1g} nats, on {where['system']}"
    ours += f" with torch {where['torch']}"
    if max(apart.values()) <= 0.0005:
        why = "Every activation repeats to the digits that the report prints, ReLU among them: nothing is left to gain."
        return Answer("not reproduced", ours, why)
    why = "Deviations differ, but one other machine cannot tell an activation's effect from the machine's."
    return Answer("inconclusive", ours, why)


# --- the report's own figures -----------------------------------------------------------------------------------------


@claim_test
def own_order(evidence, reported, measure, first, rest) -> Answer:
    """Is every activation of `first` below every one of `rest` in the report's table? Ours: the table repeated here."""
    wrong = [(x, y) for x in first for y in rest if reported[x] >= reported[y]]
    try:
        figures = {name: published_figure(evidence, name, measure) for name in (*first, *rest)}
        ours = f"{per_activation(figures, measure)}; n = 2"
    except Untested:
        ours = "the report's own table"
    if not wrong:
        return Answer("reproduced", ours, "The report's own table says so.")
    text = "; ".join(
        f"{activation_label(x)} {number(reported[x], measure)}, {activation_label(y)} {number(reported[y], measure)}"
        for x, y in wrong[:2]
    )
    return Answer("contradicted", ours, f"The report's own table has the other order: {text}.")


@claim_test
def own_ratio(evidence, reported, tolerance) -> Answer:
    """Does a printed percentage follow from the printed values? reported: {part, base, percent}."""
    percent = 100 * (reported["part"] / reported["base"] - 1)
    holds = abs(percent - reported["percent"]) <= tolerance
    why = f"{reported['part']:g} against {reported['base']:g} is {percent:+.1f}%, by the report's own figures."
    return Answer("reproduced" if holds else "contradicted", f"{percent:+.1f}% from its own table", why)


@claim_test
def own_sum(evidence, reported, tolerance) -> Answer:
    """Do the parts of a table add up? reported: {times, percentages, total}."""
    times, total = reported["times"], reported["total"]
    exact = [100 * time / total for time in times]
    apart = max(abs(x - y) for x, y in zip(exact, reported["percentages"]))
    ours = f"times add up to {sum(times):.1f} s, percentages to {sum(reported['percentages']):.1f}"
    if abs(sum(times) - total) > tolerance:
        return Answer("contradicted", ours, "The stages do not add up to the total.")
    why = f"The stages add up; the largest error of a percentage is {apart:.2f} points."
    return Answer("reproduced", ours, why)


@claim_test
def own_spans(evidence, reported, narrow, wide) -> Answer:
    """Are some activations closer together than others in the report's table?"""
    spans = [max(reported[n] for n in group) - min(reported[n] for n in group) for group in (narrow, wide)]
    ours = f"{labels(narrow)} span {spans[0]:.4f}, {labels(wide)} {spans[1]:.4f}, in its own table"
    if spans[0] < spans[1]:
        return Answer("reproduced", ours, "The report's own table says so.")
    return Answer("contradicted", ours, "In the report's own table it is the other way round.")


@claim_test
def definition(evidence, reported, says) -> Answer:
    """Is Relative PD the share of predictions that differ? reported: {relative_pd, prediction_differences} tables."""
    pds = reported["relative_pd"]
    shares = {name: count / 1000 for name, count in reported["prediction_differences"].items()}
    try:
        pds = {name: published_figure(evidence, name, "relative_pd") for name in pds}
        shares = {name: published_figure(evidence, name, "top1_disagreement") for name in shares}
        source = "n = 2"
    except Untested:
        source = "the report's own tables"
    ours = f"PD {min(pds.values()):.3f} to {max(pds.values()):.3f}, share of differing predictions"
    ours += f" {min(shares.values()):.3f} to {max(shares.values()):.3f}; {source}"
    if max(abs(pds[name] - shares[name]) for name in pds) <= 0.0005:
        return Answer("reproduced", ours, "The two are the same number.")
    return Answer("contradicted", ours, says)


# --- time -------------------------------------------------------------------------------------------------------------


def timing_of(evidence, activations=()):
    """The timing run; Untested without one, or without an activation."""
    if evidence.timing is None:
        raise Untested(WANTED["timing"])
    for name in activations:
        if name not in evidence.timing["activations"]:
            raise Untested(f"the timing run has no {activation_label(name)}")
    return evidence.timing


@claim_test
def speed_ranking(evidence, reported) -> Answer:
    """Is the order of the training times as reported? reported: seconds per trial; ties make no claim."""
    timing = timing_of(evidence, reported)
    seconds = {name: trial_seconds(timing, name) for name in reported}
    pairs = [(x, y) for x in reported for y in reported if reported[x] < reported[y] - 0.05]
    compared = [significance.compare_means(seconds[x], seconds[y]) for x, y in pairs]
    margin = MARGINS.pairs * float(seconds["relu"].mean())
    verdict, why, needed = judge_order(pairs, significance.verdicts(compared, [margin] * len(pairs)), "lower")
    ranked = sorted(seconds.items(), key=lambda item: np.median(item[1]))
    ours = ", ".join(f"{activation_label(name)} {np.median(s):.2f} s" for name, s in ranked)
    return Answer(verdict, f"{ours}; n = {timing['repeats']} turns", why.replace("trials", "turns"), needed)


@claim_test
def time_cost(evidence, reported, of, than, tolerance) -> Answer:
    """Does training take as many percent longer as reported, within `tolerance` points? Compared within cycles."""
    timing = timing_of(evidence, [of, than])
    ratio = trial_seconds(timing, of) / trial_seconds(timing, than)
    percent = mean_interval(list(100 * (ratio - 1)))
    fast = [np.array(timing["activations"][name]["fast_step_s"]) for name in (of, than)]
    fast_percent = mean_interval(list(100 * (fast[0] / fast[1] - 1)))
    ours = f"{with_interval(percent, 1, signed=True, unit='%')} turns; {fast_percent.mean:+.1f}% in the fast step"
    names = f"{labels([of])} against {labels([than])}"
    if percent.low is None:
        return Answer("inconclusive", ours, f"{names}: {percent.reason}.")
    if max(reported - tolerance, 0) < percent.low and percent.high <= reported + tolerance:
        return Answer("reproduced", ours, f"{names}: the cost is within {tolerance:g} points of the report's.")
    if percent.high < 0:
        return Answer("contradicted", ours, f"{names}: it is faster, not slower.")
    if percent.high < reported - tolerance or percent.low > reported + tolerance:
        why = f"{names}: the cost is another one, more than {tolerance:g} points from the report's"
        why += "; it belongs to an implementation and a machine, and the report timed two trials of each, one by one."
        return Answer("not reproduced", ours, why)
    return Answer(
        "inconclusive", ours, f"{names}: the interval is too wide; more repeats of audit_timing.py narrow it."
    )


@claim_test
def step_time(evidence, reported, size, factor, small_step_s=None) -> Answer:
    """Does a step, or a trial, take as long as reported? size: config, full_config, trial, or their ratio.

    Times depend on the processor. Only the full-size step is scaled to the report's processor, by small_step_s, the time
    of the small model's step there.
    """
    timing = timing_of(evidence)
    small = np.median([np.median(kinds["published_step_s"]) for kinds in timing["activations"].values()])
    large = timing["full_size"] and np.median(timing["full_size"]["published_step_s"])
    if size in ("full_config", "ratio") and large is None:
        raise Untested("the timing run left the full-size model out")
    trials = [float(np.median(trial_seconds(timing, name))) for name in timing["activations"]]
    found = {"config": small, "full_config": large, "trial": np.median(trials), "ratio": large and large / small}[size]
    unit = " times" if size == "ratio" else " s"
    n = len(timing["full_size"]["published_step_s"]) if size == "full_config" else timing["repeats"]
    ours = f"{found:,.2f}{unit}" if found < 10 else f"{found:,.0f}{unit}"
    ours += f"; n = {n}, one thread of {timing['environment']['cpu']}"
    expected = large / small * small_step_s if size == "full_config" else found
    if 1 / factor <= expected / reported <= factor:
        return Answer("reproduced", ours, f"Within a factor of {factor:g}, on another processor.")
    if size in ("config", "trial"):
        why = (
            f"Seconds belong to a processor, and this one is further than a factor of {factor:g} away from the report's"
        )
        why += " (one thread, loss estimates included)."
        return Answer("untested", ours, why)
    first = first_full_step_seconds(timing)
    why = f"It takes {large / small:,.0f} times as long as the small model's"
    if size == "full_config":
        why += f", so about {expected:,.0f} s where that one takes {small_step_s:g} s"
    why += (
        f". The loss estimate before the first step is {2 * timing['full_config']['eval_iters']} batches; with it the"
    )
    why += f" first step takes {first:,.0f} s here, which may be what was timed."
    return Answer("contradicted", ours, why)


# --- how many trials, which architectures, which scale ----------------------------------------------------------------


@claim_test
def enough_trials(evidence, reported, measures) -> Answer:
    """The trials needed to detect a difference of the margin from ReLU with 80% power: the maximum over activations."""
    needed = {}
    (reference,) = cells_of(evidence, "matched", ["relu"])
    for measure in measures:
        margin = results.margin_of(measure, reference, MARGINS)
        for cell in cells_of(evidence, "matched", [name for name in REPORT if name != "relu"]):
            terms = results.compare_cells(cell, reference, measure).difference.variance_terms
            if terms is None or margin is None:
                raise Untested("needs a matched study of three trials at least")
            trials = trials_for_power(terms, margin) or MOST_TRIALS
            needed[measure] = max(needed.get(measure, 0), trials)
    ours = "; ".join(f"{n} trials for {results.MEASURES[m].label.lower()}" for m, n in needed.items())
    ours += f"; variances from n = {len(reference.trials)}"
    why = f"80% power at 5 % for {MARGINS.loss:g} nats, or {100 * MARGINS.pairs:g}% of ReLU's PD. Two trials are one"
    why += " pair, which has no error bar and allows no test."
    if max(needed.values()) <= 2:
        return Answer("not reproduced", ours, "Two trials would be enough.")
    return Answer("reproduced", ours, why)


@claim_test
def sensitivity(evidence, reported, role, measure, claimed) -> Answer:
    """Does the activation matter? claimed: sensitive or insensitive (every difference within the margin)."""
    cells = cells_of(evidence, role)
    found = results.activation_sensitivity(cells, MARGINS) if len(cells) > 1 else None
    if found is None:
        raise Untested(f"the {role} study has one activation only")
    result = found[measure]
    name = architecture_label(cells[0].architecture)
    kind = result.verdict
    size = f"{cells[0].result['n_parameters']:,} parameters, {cells[0].result['identity']['config']['max_iters']:,} training steps"
    spread = f"between-activation SD {with_interval(result.between_sd)}"
    ours = f"{name} ({size}): {spread}, range {result.range_over_minimum:.2%}"
    why = f"{name} is {kind} in {results.MEASURES[measure].in_text}"
    why += f" ({result.reason})"
    if kind == "inconclusive":
        return Answer("inconclusive", ours, f"{why}{needed_text(result.trials_needed)}.", result.trials_needed)
    if kind == claimed:
        return Answer("reproduced", ours, f"{why}.")
    return Answer("contradicted" if kind == "sensitive" else "not reproduced", ours, f"{why}.")


@claim_test
def families_more_sensitive(evidence, reported, these, than) -> Answer:
    """Does the activation matter for the loss of more models of some family than of another?

    Compares the mean probabilities that it matters over the cases of the quick sensitivity test's ground truth.
    """
    if not evidence.truth:
        raise Untested("needs the ground truth of the quick sensitivity test")
    means = {}
    for family in (these, than):
        known = [truth.label(case, "loss") for case in evidence.truth.values() if case["family"] == family]
        means[family] = mean_interval([q for q in known if q is not None])
    ours = "probability that the activation matters for the loss: " + "; ".join(
        f"{family} {with_interval(mean)}" for family, mean in means.items()
    )
    found = significance.compare_independent(means[these], means[than])
    if found.p is None or found.p >= 0.05:
        return Answer("inconclusive", ours, "Small models, trained for 450 to 900 steps.")
    return Answer(
        "reproduced" if found.difference.mean > 0 else "contradicted",
        ours,
        f"Welch's t over cases, p = {brief_p(found.p)}.",
    )


@claim_test
def more_sensitive(evidence, reported, these, than, measure) -> Answer:
    """Is the spread between activations larger in some roles than in others? Decided if the intervals are disjoint."""
    spreads, steps = {}, {}
    for role in (*these, *than):
        cells = cells_of(evidence, role)
        steps[role] = cells[0].result["identity"]["config"]["max_iters"]
        found = results.activation_sensitivity(cells, MARGINS) if len(cells) > 1 else None
        if found is None or found[measure].between_sd.low is None:
            raise Untested(f"the {role} study has too few activations or trials")
        spreads[role] = found[measure].between_sd
    if len(set(steps.values())) > 1:
        lengths = " and ".join(f"{n:,} steps ({role})" for role, n in steps.items())
        raise Untested(f"needs studies of equally long training; the shipped ones have {lengths}")
    ours = "; ".join(f"{role}: {with_interval(estimate)}" for role, estimate in spreads.items())
    lows, highs = [spreads[role].low for role in these], [spreads[role].high for role in than]
    if min(lows) > max(highs):
        return Answer("reproduced", ours, "The 95% intervals of the spread between activations are apart.")
    if max(spreads[role].high for role in these) < min(spreads[role].low for role in than):
        return Answer("contradicted", ours, "It is the other way round: the 95% intervals are apart.")
    return Answer("inconclusive", ours, "The 95% intervals of the spread between activations overlap.")


@claim_test
def value(evidence, reported, role, activation, measure) -> Answer:
    """Is the report's value inside our 95% interval?"""
    (cell,) = cells_of(evidence, role, [activation])
    estimate = results.estimate(cell, measure)
    ours = with_interval(estimate)
    if estimate.low is None:
        return Answer("inconclusive", ours, f"There is no interval: {estimate.reason}.")
    holds = estimate.low <= reported <= estimate.high
    why = f"The report's figure is {'inside' if holds else 'outside'} the interval of the matched measurement."
    return Answer("reproduced" if holds else "not reproduced", ours, why)
