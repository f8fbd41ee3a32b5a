"""What the report does not have: the questions that the answer and the report's own tables leave open.

How much have the models learnt, is a more reproducible model merely trained less, do the measures agree with each other,
would another text change this. Like report/tables.py (which repeats the report's own tables) this turns numbers of
analysis/results.py and analysis/curves.py into sections; the answer itself is in report/answer.py. Several architectures, studies and protocols are in report/several_studies.py.
"""

import itertools
from collections.abc import Sequence

from analysis import curves, results
from analysis.results import MEASURES, PRIMARY, Cell, Margins
from analysis.words import course, decimals_for, listing, number, plus_minus, with_interval
from common.errors import UserError
from report.answer import IN_TEXT, answer, brief_p, comparison_table
from report.document import Section, Table
from report.tables import PAIRS_METHOD, counted, sampled, shown, without_pairs
from tasks.corpus import Yardstick

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
    loss = curves.common_loss(cells)
    if loss is None or len(cells) < 2:
        reason = (
            "only one activation has complete trials"
            if len(cells) < 2
            else f"the pairs have no curves of {curves.FEWEST_POINTS} points or more, or their losses do not overlap"
        )
        return Section("training_path", title, [why, f"Left out: {reason}."])
    paragraphs, tables = [why], []
    for name in MATCHED:
        at_end, at_loss = curves.matched(cells, name, None), curves.matched(cells, name, loss)
        tables.append(_matched_table(cells, name, at_end, at_loss, loss))
        paragraphs.append(_flip_sentence(cells, name, curves.flips(at_end, at_loss)))
    last = curves.steps(cells[0])
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
        path = curves.along_training(cells, name)
        if len(path) < 2:
            return ""
        texts.append(f"{IN_TEXT[name]} {course(curves.turns(path), 4)}")
    who = "mean of the activations" if len(cells) > 1 else "mean over pairs"
    return f" ({'; '.join(texts)}; {who})"


def _gap(steps):
    gaps = sorted({b - a for a, b in itertools.pairwise(steps)})
    return f"{gaps[0]:,}" if len(gaps) == 1 else f"{gaps[0]:,} to {gaps[-1]:,}" if gaps else "no"


def _matched_table(cells, name, at_end, at_loss, loss):
    estimates = {
        cell.activation: tuple(results.of_pairs(side[cell.activation], name) for side in (at_end, at_loss))
        for cell in cells
    }
    ranks = [
        {cell.activation: rank for rank, cell in enumerate(ordered, 1)}
        for side in (0, 1)
        for ordered in [results.order(cells, [estimates[cell.activation][side].mean for cell in cells], "lower")]
    ]
    rows = []
    for cell in results.order(cells, [estimates[cell.activation][0].mean for cell in cells], "lower"):
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
    for name in results.PAIR_MEASURES:
        measure = MEASURES[name]
        estimates = [results.estimate(cell, name) for cell in cells]
        best = results.order(cells, [estimate.mean for estimate in estimates], measure.better)
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
    found = results.disagreeing_measures(cells)
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
    reference = results.reference_of(cells)
    members = _grouped([cell for cell in cells if cell is not reference])
    if len(cells) < 3 or not members:
        return None
    rows, names = [], ("val_loss", "relative_pd")
    compared = {
        (group, name): results.group_difference(found, reference, name)
        for group, found in members.items()
        for name in names
    }
    adjusted = dict(zip(compared, results.with_holm(list(compared.values()))))
    for group, found in members.items():
        row = [group, listing(cell.label for cell in found), str(adjusted[group, "val_loss"].difference.n)]
        for name in names:
            c = adjusted[group, name]
            decimals = decimals_for(c.difference, MEASURES[name].decimals)
            row += [with_interval(c.difference, decimals, signed=True), brief_p(c.p_adjusted)]
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
    reference = results.reference_of(cells)
    rows = []
    for name in PRIMARY:
        for cell in cells:
            of_difference = cell is not reference
            comparison = (
                results.compare(cell, reference, name).difference if of_difference else results.estimate(cell, name)
            )
            text = results.window_errors(cell, reference if of_difference else None, name)
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
    from report import tables as tables_module
    from report.several_studies import three_steps

    comparisons = results.primary_comparisons(cells, margins)
    own = tables_module.sections(cells, comparisons)
    appendices = [section for section in own if section.title.startswith("Appendix")]
    found = [
        answer(cells, margins, comparisons, sensitivity, missing, unfinished, yardsticks),
        comparison_table(cells, comparisons),
        three_steps(cells),
        *(section for section in own if section not in appendices),
        learnt(cells, yardsticks),
        training_path(cells),
        all_measures(cells),
        groups(cells),
        text_share(cells),
        *appendices,
    ]
    return [section for section in found if section is not None]
