"""What the report does not have: the answer in plain sentences, and the questions that its tables leave open.

Does the activation matter, is a more reproducible model merely trained less, do the measures agree with each other,
and what was run and what is missing. Like report_tables.py (which repeats the report's own tables) this turns
numbers of analysis.py into sections. Several architectures, studies and protocols are in report_studies.py.
"""

import itertools
from collections.abc import Sequence

import numpy as np

import analysis
import significance
from analysis import MEASURES, PRIMARY, Cell, Margins
from corpus import Yardstick
from errors import UserError
from report import Section, Table, course, decimals_for, listing, number, p_value, plural, plus_minus, with_interval
from report_tables import PAIRS_METHOD, counted, sampled, shown, without_pairs

IN_TEXT = {
    "val_loss": "validation loss",
    "relative_pd": "relative PD",
    "top1_disagreement": "top-1 disagreement",
    "js_divergence": "JS divergence",
}


# --- the answer -----------------------------------------------------------------------------------------------------


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
    reference = analysis.reference_of(cells)
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
    if reference.activation != analysis.REFERENCE:
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
    margin = analysis.margin_of(name, reference, margins)
    if margin is None:
        return " (lower is better; no margin, since the reference has no value or 0):"
    if not analysis.is_pair_measure(name):
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
    losses = {cell: analysis.estimate(cell, "val_loss").mean for cell in cells}
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
        found = analysis.difference_at_equal_loss([cell], reference)
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
    base = analysis.estimate(reference, name).mean
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
    reference = analysis.reference_of(cells)
    if len(cells) < 2:
        return None
    rows = []
    for name in PRIMARY:
        for cell in cells:
            if cell is reference:
                continue
            c = comparisons[cell.activation, name]
            decimals = decimals_for(c.difference, MEASURES[name].decimals)
            percent = analysis.in_percent(c, reference, name)
            row = [MEASURES[name].label, cell.label, str(c.difference.n)]
            row += [with_interval(c.difference, decimals, signed=True), with_interval(percent, 2, signed=True)]
            row += [number(c.effect_size, 2, signed=True), _p(c.p), _p(c.p_adjusted), _p(c.equivalence_p)]
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
        numbers = analysis.union([cell, reference])
        one, other = (np.array(analysis.values(c, "val_loss", numbers), float) for c in (cell, reference))
        found = significance.sign_flip_test(one - other)
        if found.p is not None:
            texts.append(f"{cell.label} {_p(found.p)}")
            least = found
    if not texts:
        return ""
    return (
        f"Exact p of the loss differences by sign flips, which needs no normal values: {', '.join(texts)} (uncorrected;"
        f" the smallest that {plural(least.n, 'trial')} can give is {least.smallest_p:.2g})."
    )


def _p(p):
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.2g}"


# --- trained less, or more reproducible? ----------------------------------------------------------------------------

MATCHED = ("relative_pd", "top1_disagreement")


def training_path(cells: Sequence[Cell]) -> Section:
    """PD and top-1 disagreement at equal steps and at equal validation loss."""
    title = "Trained less, or more reproducible?"
    why = (
        f"How far two models agree depends on how far they have learnt{_with_training(cells)}. So an activation that is"
        " trained less can look more, or less, reproducible for that reason alone, and activations are compared twice:"
        " after the same number of steps, and where they have the same validation loss."
    )
    loss = analysis.common_loss(cells)
    if loss is None or len(cells) < 2:
        reason = (
            "only one activation has complete trials"
            if len(cells) < 2
            else f"the pairs have no curves of {analysis.FEWEST_POINTS} points or more, or their losses do not overlap"
        )
        return Section("training_path", title, [why, f"Left out: {reason}."])
    paragraphs, tables = [why], []
    for name in MATCHED:
        at_end, at_loss = analysis.matched(cells, name, None), analysis.matched(cells, name, loss)
        tables.append(_matched_table(cells, name, at_end, at_loss, loss))
        paragraphs.append(_flip_sentence(cells, name, analysis.flips(at_end, at_loss)))
    last = analysis.steps(cells[0])
    paragraphs.append(
        f"The common loss, {loss:.4f} nats, is the lowest that every pair reaches; values there are interpolated linearly"
        f" between the points of the curves ({len(last)} points, {_gap(last)} steps apart; validation loss of the two"
        " models, averaged). It counts as known in the intervals."
    )
    return Section("training_path", title, paragraphs, tables)


def learnt(cells: Sequence[Cell], yardsticks: Sequence[Yardstick] | str) -> Section:
    """The models' loss and accuracy beside those of tables of counts on the same text."""
    title = "How much have the models learnt?"
    if isinstance(yardsticks, str):
        return Section("learnt", title, [f"The comparison needs the corpus, and was left out: {yardsticks}."])
    rows = [[stick.name.capitalize(), "-", f"{stick.loss:.4f}", f"{100 * stick.accuracy:.2f}"] for stick in yardsticks]
    for cell in cells:
        rows.append([cell.label, str(len(cell.trials)), shown(cell, "val_loss"), shown(cell, "val_accuracy")])
    headers = ["Predicted by", "n", "Validation loss (nats)", "Validation accuracy (%)"]
    caption = (
        "Tables of counts, and the models. The counts are of the training split (one added to each); all are measured on"
        f" the validation split. {sampled(cells)}"
    )
    return Section("learnt", title, tables=[Table(headers, rows, caption.strip())])


def _with_training(cells):
    """How the measures change along the curves; nothing where these have no two points."""
    texts = []
    for name in MATCHED:
        path = analysis.along_training(cells, name)
        if len(path) < 2:
            return ""
        texts.append(f"{IN_TEXT[name]} {course(analysis.turns(path), 4)}")
    who = "mean of the activations" if len(cells) > 1 else "mean over pairs"
    return f" ({'; '.join(texts)}; {who})"


def _gap(steps):
    gaps = sorted({b - a for a, b in itertools.pairwise(steps)})
    return f"{gaps[0]:,}" if len(gaps) == 1 else f"{gaps[0]:,} to {gaps[-1]:,}" if gaps else "no"


def _matched_table(cells, name, at_end, at_loss, loss):
    estimates = {
        cell.activation: tuple(analysis.of_pairs(side[cell.activation], name) for side in (at_end, at_loss))
        for cell in cells
    }
    ranks = [
        {cell.activation: rank for rank, cell in enumerate(ordered, 1)}
        for side in (0, 1)
        for ordered in [analysis.order(cells, [estimates[cell.activation][side].mean for cell in cells], "lower")]
    ]
    rows = []
    for cell in analysis.order(cells, [estimates[cell.activation][0].mean for cell in cells], "lower"):
        end, matched = estimates[cell.activation]
        row = [cell.label, str(end.n), with_interval(end, 4), str(ranks[0][cell.activation])]
        rows.append([*row, with_interval(matched, 4, n=end.n), str(ranks[1].get(cell.activation, "-"))])
    label = MEASURES[name].label
    headers = ["Activation", "n", "At equal steps (the end)", "Rank", f"At equal loss ({loss:.3f} nats)", "Rank"]
    caption = f"{label} on the curve windows, matched in two ways. {PAIRS_METHOD}"
    return Table(headers, rows, caption)


def _flip_sentence(cells, name, flips):
    label = {cell.activation: cell.label for cell in cells}
    measure = IN_TEXT[name].capitalize() if name != "relative_pd" else "Relative PD"
    if not flips:
        return f"{measure}: every two activations are in the same order at equal steps and at equal loss."
    clear = [flip for flip in flips if flip.clear]
    texts = [
        f"{label[flip.first]} before {label[flip.second]} at equal steps"
        f" ({with_interval(flip.at_equal_steps, 4, signed=True)}), after it at equal loss"
        f" ({with_interval(flip.at_equal_loss, 4, signed=True)})"
        for flip in (clear or flips)
    ]
    if clear:
        return f"{measure}: the order **changes clearly** (both 95 % intervals exclude 0): {'; '.join(texts)}."
    return f"{measure}: the order changes, but within the uncertainty: {'; '.join(texts)}."


# --- all measures ---------------------------------------------------------------------------------------------------


def all_measures(cells: Sequence[Cell]) -> Section:
    """Every pair metric of every activation, and where two measures disagree about who is more reproducible."""
    title = "Every measure of reproducibility"
    if not any(cell.pairs for cell in cells):
        return Section("measures", title, [without_pairs(cells)])
    tables, rows = [], []
    for name in analysis.PAIR_MEASURES:
        measure = MEASURES[name]
        estimates = [analysis.estimate(cell, name) for cell in cells]
        best = analysis.order(cells, [estimate.mean for estimate in estimates], measure.better)
        decimals = max((decimals_for(estimate, 2, 6) for estimate in estimates), default=2)
        unit = f" ({measure.unit})" if measure.unit else ""
        row = [f"{measure.label}{unit}", measure.better, *(plus_minus(estimate, decimals) for estimate in estimates)]
        rows.append([*row, best[0].label if best else "-"])
    headers = ["Measure", "Better", *(cell.label for cell in cells), "Best mean"]
    caption = f"Mean over pairs ± half of the 95 % interval ({counted(cells)}). {PAIRS_METHOD}"
    tables.append(Table(headers, rows, caption, "Formulas and sources: section Methods."))
    return Section("measures", title, [*filter(None, [without_pairs(cells)]), *_disagreements(cells)], tables)


def _disagreements(cells):
    if len(cells) < 2 or max(len(cell.trials) for cell in cells) < 3:
        return []
    found = analysis.disagreeing_measures(cells)
    if not found:
        return [
            "No two measures clearly disagree about who is more reproducible: nowhere do the 95 % intervals (uncorrected) of"
            " two measures exclude 0 in opposite directions."
        ]
    items = [
        f"{one.label} against {other.label}: {one.label} is more reproducible by"
        f" {listing(MEASURES[name].label for name in for_one)}; {other.label} by"
        f" {listing(MEASURES[name].label for name in for_other)}."
        for one, other, for_one, for_other in found
    ]
    return ["Measures that clearly disagree about who is more reproducible (95 % intervals, uncorrected):", items]


# --- groups, the text itself, passages ------------------------------------------------------------------------------


def groups(cells: Sequence[Cell]) -> Section | None:
    """Activations grouped by smoothness, monotony and gating, each group's mean against the reference."""
    reference = analysis.reference_of(cells)
    members = _grouped([cell for cell in cells if cell is not reference])
    if len(cells) < 3 or not members:
        return None
    rows, names = [], ("val_loss", "relative_pd")
    compared = {
        (group, name): analysis.group_difference(found, reference, name)
        for group, found in members.items()
        for name in names
    }
    adjusted = dict(zip(compared, analysis.with_holm(list(compared.values()))))
    for group, found in members.items():
        row = [group, listing(cell.label for cell in found), str(adjusted[group, "val_loss"].difference.n)]
        for name in names:
            c = adjusted[group, name]
            decimals = decimals_for(c.difference, MEASURES[name].decimals)
            row += [with_interval(c.difference, decimals, signed=True), _p(c.p_adjusted)]
        rows.append(row)
    headers = ["Group", "Activations", "n", "Val. loss (nats)", "p", "Relative PD", "p"]
    caption = (
        f"Mean of a group of activations minus {reference.label}, paired by trial and by pair, with 95 % intervals"
        " (t, U-statistic over trials); p corrected by Holm over this table."
    )
    note = "Smoothness class: C0 continuous, C1 with a continuous derivative, C-infinity with all derivatives."
    return Section(
        "groups", "Smooth, monotone, gated: groups of activations", tables=[Table(headers, rows, caption, note)]
    )


def _grouped(cells):
    from activations import record

    found = {}
    for cell in cells:
        try:
            facts = record(cell.activation)
        except UserError:
            continue
        names = [f"smoothness {facts.smoothness}"] if facts.smoothness else []
        names += ["smooth (C1 or more)"] if facts.smoothness not in (None, "C0") else []
        names += [] if facts.monotone is None else ["monotone" if facts.monotone else "not monotone"]
        names += ["gated"] if facts.gated else []
        for name in names:
            found.setdefault(name, []).append(cell)
    return dict(sorted(found.items(), key=lambda entry: (entry[0] != "smooth (C1 or more)", entry[0])))


def text_share(cells: Sequence[Cell]) -> Section | None:
    """How much of the uncertainty comes from the finite validation text, beside that from the trials."""
    reference = analysis.reference_of(cells)
    rows = []
    for name in PRIMARY:
        for cell in cells:
            of_difference = cell is not reference
            comparison = (
                analysis.compare(cell, reference, name).difference if of_difference else analysis.estimate(cell, name)
            )
            text = analysis.window_errors(cell, reference if of_difference else None, name)
            if text is None or comparison.standard_error is None:
                continue
            decimals = max(MEASURES[name].decimals, 5)
            both = (text**2 + comparison.standard_error**2) ** 0.5
            what = f"{cell.label} - {reference.label}" if of_difference else f"{cell.label}, mean"
            row = [MEASURES[name].label, what, str(comparison.n), number(comparison.standard_error, decimals)]
            rows.append([*row, number(text, decimals), number(both, decimals)])
    if not rows:
        return None
    windows = next(len(array) for cell in cells for array in (cell.arrays or {}).values())
    headers = ["Measure", "Of", "n", "SE over trials", "SE over the text", "SE of both"]
    caption = (
        "Standard errors of means and of paired differences: over trials (what all intervals here use), over the"
        f" {windows:,} windows of the validation text (as if drawn independently), and both (root of the sum of squares)."
    )
    paragraph = (
        "All intervals hold for this validation text. Where the error over the text is the larger one, another text from the"
        " same source could change the figure more than more trials would sharpen it. The two overlap a little, so that"
        " their sum is on the safe side."
    )
    return Section("text", "Would another text change this?", [paragraph], [Table(headers, rows, caption)])


def sections(
    cells: Sequence[Cell],
    margins: Margins,
    sensitivity,
    missing: Sequence[str],
    unfinished: Sequence[str],
    yardsticks: Sequence[Yardstick] | str,
) -> list[Section]:
    """Everything about one architecture: the answer first, then the report's own tables and what they leave open."""
    import report_studies
    import report_tables

    comparisons = analysis.primary_comparisons(cells, margins)
    own = report_tables.sections(cells, comparisons)
    appendices = [section for section in own if section.title.startswith("Appendix")]
    found = [
        answer(cells, margins, comparisons, sensitivity, missing, unfinished, yardsticks),
        comparison_table(cells, comparisons),
        report_studies.three_steps(cells),
        *(section for section in own if section not in appendices),
        learnt(cells, yardsticks),
        training_path(cells),
        all_measures(cells),
        groups(cells),
        text_share(cells),
        *appendices,
    ]
    return [section for section in found if section is not None]
