"""The answer in plain sentences: does the activation matter, how sure is that, and how much have the models learnt?

Each comparison with the reference in words, then in a table. Apart from report/findings.py, which takes up what the answer
leaves open.
"""

from collections.abc import Sequence

import numpy as np

from analysis import curves, significance
from analysis.results import (
    MEASURES,
    PRIMARY,
    REFERENCE,
    Cell,
    Margins,
    estimate,
    in_percent,
    is_pair_measure,
    margin_of,
    reference_of,
    union,
    values,
)
from analysis.words import decimals_for, listing, number, p_value, plural, with_interval
from report.document import Section, Table
from report.tables import PAIRS_METHOD, counted, sampled, shown, without_pairs
from tasks.corpus import Yardstick

IN_TEXT = {
    "val_loss": "validation loss",
    "relative_pd": "relative PD",
    "top1_disagreement": "top-1 disagreement",
    "js_divergence": "JS divergence",
}


def answer(
    cells: Sequence[Cell],
    margins: Margins,
    comparisons,
    sensitivity,
    missing: Sequence[str],
    unfinished: Sequence[str],
    yardsticks: Sequence[Yardstick] | str,
) -> Section:
    """One sentence per comparison and measure, after a summary of them all.

    missing: sentences on what is not there. unfinished: the study's activations without a complete trial.
    yardsticks: from `recompute.yardsticks`.
    """
    reference = reference_of(cells)
    title = "The answer"
    n = max(len(cell.trials) for cell in cells)
    paragraphs = [_too_few(n)] if n < 3 else []
    if missing:
        paragraphs.append(f"**{plural(len(missing), 'thing')} missing or left out**: see What was run.")
    if len(cells) < 2:
        only = cells[0]
        facts = f"validation loss {shown(only, 'val_loss')} nats, relative PD {shown(only, 'relative_pd')}"
        alone = f"There is one activation, {only.label}, and nothing to compare it with"
        if unfinished:
            alone = f"Only {only.label} has complete trials **so far**; still to come: {listing(unfinished)}"
        paragraphs += [f"{alone}: {facts}.", *filter(None, [without_pairs(cells), _little_learnt(cells, yardsticks)])]
        return Section("answer", title, paragraphs)
    paragraphs.append(_summary(cells, reference, comparisons))
    paragraphs += filter(None, [_little_learnt(cells, yardsticks), _at_equal_loss(cells, reference, comparisons)])
    if sensitivity and n >= 2:
        paragraphs.append(_does_it_matter(cells, sensitivity))
    if reference.activation != REFERENCE:
        paragraphs.append(f"ReLU is not in this study; {reference.label}, its first activation, takes ReLU's place.")
    if any(all(pair["relative_pd"] == 0 for pair in cell.pairs) for cell in cells if cell.pairs):
        same = [cell.label for cell in cells if cell.pairs and all(pair["relative_pd"] == 0 for pair in cell.pairs)]
        paragraphs.append(f"The trials of {listing(same)} predict exactly the same: every relative PD is 0.")
    for name in PRIMARY:
        sentences = [
            sentence(cell, reference, name, comparisons[cell.activation, name])
            for cell in cells
            if cell is not reference
        ]
        paragraphs += [f"**{MEASURES[name].label}**{_meaning(name, reference, margins)}", sentences]
    paragraphs.append(
        "Differences are paired (trial k against trial k, pair against pair) and have uncorrected 95 % intervals; p is"
        f" Holm-corrected over the {plural(len(comparisons), 'comparison')} above. Different: p below 0.05. Equivalent: two"
        " one-sided tests at 5 % place the difference within the margin. Trials that would decide: 80 % power for a true"
        " difference as large as the margin, and for none."
    )
    return Section("answer", title, paragraphs)


def _too_few(n):
    if n == 0:
        return "**No trial is complete**, so there is nothing to compare yet."
    if n == 1:
        return (
            "**One trial is not enough**: reproducibility needs at least two trials to compare, and an interval three."
            " The same command with `--trials 10` extends the study."
        )
    return (
        "**Two trials make one pair**: a disagreement can be computed, but no interval and no test of it, which need"
        " three trials. The same command with `--trials 10` extends the study."
    )


def _meaning(name, reference, margins):
    margin = margin_of(name, reference, margins)
    if margin is None:
        return " (lower is better; no margin, since the reference has no value or 0):"
    if not is_pair_measure(name):
        return f" (lower is better; margin of interest {margin:g} nats):"
    unit = f" {MEASURES[name].unit}".rstrip()
    return (
        f" (lower is more reproducible; margin of interest {margins.pairs:.2g} x {reference.label}'s value"
        f" = {margin:.3g}{unit}):"
    )


def _kind(comparison):
    return (comparison.verdict or "undecided").split(" ")[0].rstrip(",")


def _summary(cells, reference, comparisons):
    kinds = [_kind(comparison) for comparison in comparisons.values()]
    parts = [
        f"{kinds.count('different')} different",
        f"{kinds.count('equivalent')} equivalent within the margin",
        f"{kinds.count('undecided')} undecided",
    ]
    lower, higher = (
        [
            cell.label
            for cell in cells
            if cell is not reference
            and _kind(c := comparisons[cell.activation, "relative_pd"]) == "different"
            and (c.difference.mean < 0) == wanted
        ]
        for wanted in (True, False)
    )
    return (
        f"Of {plural(len(kinds), 'comparison')} with {reference.label} ({counted(cells)}), {', '.join(parts)}."
        f" Shown to be more reproducible than {reference.label} (lower relative PD): **{listing(lower)}**;"
        f" less reproducible: **{listing(higher)}**."
    )


def _little_learnt(cells, yardsticks):
    """Whether tables of counts predict as well as the models; None where they do not, or nothing is known of it."""
    losses = {cell: estimate(cell, "val_loss").mean for cell in cells}
    losses = {cell: loss for cell, loss in losses.items() if loss is not None}
    if isinstance(yardsticks, str) or not losses:
        return None
    frequencies, following = yardsticks
    behind = [cell.label for cell, loss in losses.items() if loss >= frequencies.loss]
    if behind:
        return (
            f"**Nothing is learnt yet that the {frequencies.name} do not tell** (they give {frequencies.loss:.3f} nats) by"
            f" the models of {listing(behind)}. How far such models agree says little about activations."
        )
    behind = [cell.label for cell, loss in losses.items() if loss >= following.loss]
    if not behind:
        return None
    of = "all activations" if len(behind) == len(losses) > 1 else listing(behind)
    return (
        f"**Little is learnt yet**: a table of {following.name}, counted on the training split, has a validation loss of"
        f" {following.loss:.3f} nats, lower than the models of {of}. How far models agree may change as they learn more."
    )


def _at_equal_loss(cells, reference, comparisons):
    """What is left of the differences in relative PD that were shown, at equal loss: PD depends on how much is learnt."""
    texts = []
    for cell in cells:
        if cell is reference or _kind(comparisons[cell.activation, "relative_pd"]) != "different":
            continue
        loss = comparisons[cell.activation, "val_loss"]
        kind = _kind(loss)
        its_loss = "its loss is not shown to differ" if kind == "undecided" else "its loss is equivalent"
        if kind == "different":
            its_loss = f"its loss is {'lower' if loss.difference.mean < 0 else 'higher'}"
        found = curves.difference_at_equal_loss([cell], reference)
        left = "the curves cannot be read at one loss"
        if found is not None:
            left = f"at equal loss its relative PD differs by {with_interval(found, 1, signed=True)} %"
        texts.append(f"{cell.label}: {its_loss}; {left}")
    if not texts:
        return None
    return f"Trained less, or more reproducible? {'. '.join(texts)}."


def _does_it_matter(cells, sensitivity):
    texts = []
    for name in ("val_loss", "relative_pd"):
        found = sensitivity[name]
        why = found.reason
        if found.between_sd.mean is not None:
            spread = with_interval(found.between_sd, decimals_for(found.between_sd, MEASURES[name].decimals))
            why = f"between-activation SD {spread}; {why}"
        texts.append(f"{IN_TEXT[name]} **{found.verdict}** ({why})")
    return f"All {len(cells)} activations together: {'; '.join(texts)}."


def sentence(cell: Cell, reference: Cell, name: str, comparison) -> str:
    """One comparison in words, its verdict in bold."""
    difference, measure = comparison.difference, IN_TEXT[name]
    if difference.mean is None:
        return f"{cell.label}: **undecided**; there is no {measure} to compare ({difference.reason})."
    unit = f" {MEASURES[name].unit}".rstrip()
    decimals = decimals_for(difference, MEASURES[name].decimals)
    base = estimate(reference, name).mean
    percent = f", {100 * difference.mean / abs(base):+.1f} %" if base else ""
    figures = f"{with_interval(difference, decimals, signed=True)}{unit}{percent}, n = {difference.n}"
    kind = _kind(comparison)
    if kind == "different":
        direction = "lower" if difference.mean < 0 else "higher"
        small = ", though by less than the margin" if "smaller than the margin" in comparison.reason else ""
        return (
            f"{cell.label}: **different**; its {measure} is {direction} than {reference.label}'s{small}"
            f" ({figures}, {p_value(comparison.p_adjusted)})."
        )
    if kind == "equivalent":
        tested = f"two one-sided tests: {p_value(comparison.equivalence_p)}"
        return (
            f"{cell.label}: **equivalent** to {reference.label} in {measure}, within the margin ({figures}; {tested})."
        )
    if comparison.p is None:
        return f"{cell.label}: **undecided** ({figures}; {comparison.reason})."
    decides = f"{comparison.trials_needed} trials would decide" if comparison.trials_needed else comparison.reason
    alone = ""
    if comparison.p < 0.05:
        alone = f"; {p_value(comparison.p)} alone, but {p_value(comparison.p_adjusted)} after correction"
    return f"{cell.label}: **undecided**, {decides} ({figures}{alone})."


def comparison_table(cells: Sequence[Cell], comparisons) -> Section | None:
    """Every activation against the reference: the numbers behind the sentences."""
    reference = reference_of(cells)
    if len(cells) < 2:
        return None
    rows = []
    for name in PRIMARY:
        for cell in cells:
            if cell is reference:
                continue
            c = comparisons[cell.activation, name]
            decimals = decimals_for(c.difference, MEASURES[name].decimals)
            percent = in_percent(c, reference, name)
            row = [MEASURES[name].label, cell.label, str(c.difference.n)]
            row += [with_interval(c.difference, decimals, signed=True), with_interval(percent, 2, signed=True)]
            row += [
                number(c.effect_size, 2, signed=True),
                brief_p(c.p),
                brief_p(c.p_adjusted),
                brief_p(c.equivalence_p),
            ]
            rows.append([*row, c.verdict or "undecided"])
    headers = ["Measure", "Activation", "n", f"Difference from {reference.label}", "in %", "Effect", "p"]
    headers += ["p (Holm)", "p (equiv.)", "Verdict"]
    caption = f"Each activation minus {reference.label}, paired. {PAIRS_METHOD} They are not corrected; p (Holm) is."
    note = (
        "Effect: Hedges' g of paired differences. p (equiv.): two one-sided tests against the margin."
        f" {_exact_p(cells, reference)} Means of all activations are in section 3.1. {sampled(cells)}"
    )
    return Section(
        "comparisons",
        f"Every activation against {reference.label}",
        tables=[Table(headers, rows, caption, note.strip())],
    )


def _exact_p(cells, reference):
    """The paired differences in loss by a test that takes no values for normal."""
    texts, least = [], None
    for cell in cells:
        if cell is reference:
            continue
        numbers = union([cell, reference])
        one, other = (np.array(values(c, "val_loss", numbers), float) for c in (cell, reference))
        found = significance.sign_flip_test(one - other)
        if found.p is not None:
            texts.append(f"{cell.label} {brief_p(found.p)}")
            least = found
    if not texts:
        return ""
    return (
        f"Exact p of the loss differences by sign flips, which needs no normal values: {', '.join(texts)} (uncorrected;"
        f" the smallest that {plural(least.n, 'trial')} can give is {least.smallest_p:.2g})."
    )


def brief_p(p: float | None) -> str:
    """'0.012', '<0.001'; '-' of none."""
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.2g}"
