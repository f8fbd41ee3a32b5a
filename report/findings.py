"""What the report does not have: the questions that the answer and the report's own tables leave open.

How much have the models learnt, is a more reproducible model merely trained less, do the measures agree with each other,
would another text change this. Like report/tables.py (which repeats the report's own tables) this turns numbers of
analysis/results.py and analysis/curves.py into sections; the answer itself is in report/answer.py. Several architectures, studies and protocols are in report/several_studies.py.
"""

import math
from collections.abc import Sequence

from analysis import curves, results, significance
from analysis.equal_loss import FEWEST_POINTS
from analysis.results import MEASURES, PRIMARY, Cell, Margins
from analysis.windows import BLOCK
from analysis.words import brief_p, course, decimals_for, listing, number, plus_minus, with_interval
from common.errors import UserError
from report.answer import IN_TEXT, answer, comparison_table
from report.document import Section, Table
from report.tables import PAIRS_METHOD, counted, sampled, shown, without_pairs
from tasks.corpus import Yardstick

# --- trained less, or more reproducible? ----------------------------------------------------------------------------

MATCHED = ("relative_pd", "top1_disagreement")


def training_path(cells: Sequence[Cell], margins: Margins, common: curves.CommonLoss | None) -> Section:
    """PD and top-1 disagreement at equal steps and, where a loss was fixed beforehand, at equal validation loss."""
    title = "Trained less, or more reproducible?"
    why = (
        f"How far two models agree depends on how far training has got{_with_training(cells)}. So an activation that has"
        " the higher loss can look more, or less, reproducible for that reason alone."
    )
    if len(cells) < 2 or common is None:
        reason = (
            "only one activation has complete trials"
            if len(cells) < 2
            else "no loss was fixed before the study was seen (option `--at-loss`)"
        )
        return Section("training_path", title, [why, f"Activations are not compared at equal loss: {reason}."])
    last = "" if common.last_step is None else f", up to step {common.last_step:,}"
    how = (
        f"Each pair's curve is read at {common.loss:g} nats (validation loss of its two models, averaged) by a local-linear"
        f" fit to at least {FEWEST_POINTS} points within {common.bandwidth:g} nats{last}. Where any pair cannot be read there"
        " is no number."
    )
    return Section(
        "training_path", title, [why, how], [_matched_table(cells, name, margins, common) for name in MATCHED]
    )


def _matched_table(cells, name, margins, common):
    reference = results.reference_of(cells)
    others = [cell for cell in cells if cell is not reference]
    margin = math.log1p(margins.pairs)
    rows = []
    for cell, found in zip(others, curves.compare_at_equal_loss(others, reference, name, common, margin)):
        steps = results.comparisons(cells, name, margins)[cell.activation, reference.activation]
        row = [
            cell.label,
            str(steps.difference.n),
            with_interval(results.in_percent(steps, reference, name), 1, signed=True),
        ]
        row += [steps.verdict_text, with_interval(results.scaled(found.difference, 100), 1, signed=True)]
        rows.append([*row, brief_p(found.p_adjusted), brief_p(found.equivalence_p), found.verdict_text])
    headers = ["Activation", "n", "At the end (%)", "Verdict", f"At {common.loss:g} nats (100 x log ratio)"]
    headers += ["p (Holm)", "p (equiv.)", "Verdict"]
    caption = (
        f"{MEASURES[name].label} against {reference.label}: at equal steps, all windows; and at equal loss, curve windows, the"
        f" mean over pairs of the log ratio, margin log {1 + margins.pairs:g}. {PAIRS_METHOD}"
    )
    return Table(headers, rows, caption)


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


# --- all measures ---------------------------------------------------------------------------------------------------


def all_measures(cells: Sequence[Cell], margins: Margins) -> Section:
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
    return Section("measures", title, [*filter(None, [without_pairs(cells)]), *_disagreements(cells, margins)], tables)


def _disagreements(cells, margins):
    if len(cells) < 2 or max(len(cell.trials) for cell in cells) < 3:
        return []
    found = results.disagreeing_measures(cells, margins)
    if not found:
        return [
            "No two measures disagree about who is more reproducible: nowhere are differences in two measures significant"
            " (Holm, over each measure's pairs of activations) in opposite directions."
        ]
    items = [
        f"{one.label} against {other.label}: {one.label} is more reproducible by"
        f" {listing(MEASURES[name].label for name in for_one)}; {other.label} by"
        f" {listing(MEASURES[name].label for name in for_other)}."
        for one, other, for_one, for_other in found
    ]
    return [
        "Measures that disagree about who is more reproducible (p below 0.05, Holm, over each measure's pairs):",
        items,
    ]


# --- groups, the text itself, passages ------------------------------------------------------------------------------


def groups(cells: Sequence[Cell], margins: Margins) -> Section | None:
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
    limits = [results.margin_of(name, reference, margins) for _, name in compared]
    judged = dict(zip(compared, significance.verdicts(list(compared.values()), limits)))
    for group, found in members.items():
        row = [group, listing(cell.label for cell in found), str(judged[group, "val_loss"].difference.n)]
        for name in names:
            c = judged[group, name]
            decimals = decimals_for(c.difference, MEASURES[name].decimals)
            row += [with_interval(c.difference, decimals, signed=True), c.verdict_text]
        rows.append(row)
    headers = ["Group", "Activations", "n", "Val. loss (nats)", "Verdict", "Relative PD", "Verdict"]
    caption = (
        f"Mean of a group of activations minus {reference.label}, paired by trial and by pair, with 95 % intervals"
        " (t, U-statistic over trials); the verdicts' family is this table."
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


def outlying(cells: Sequence[Cell]) -> Section | None:
    """Runs far from all others, and the means without them; None below three trials."""
    if max(len(cell.trials) for cell in cells) < 3:
        return None
    rows = []
    for name in PRIMARY:
        for cell in cells:
            if runs := results.outlying(cell, name):
                found = [results.estimate(one, name) for one in (cell, results.without(cell, runs))]
                decimals = max(decimals_for(estimate, MEASURES[name].decimals) for estimate in found)
                texts = [with_interval(estimate, decimals) for estimate in found]
                rows.append([MEASURES[name].label, cell.label, listing(map(str, runs)), str(found[0].n), *texts])
    paragraphs = [
        "A run is flagged if its externally studentised deviation from the others (for pair measures: of the mean over its"
        " pairs) exceeds Student's quantile at 0.01 / (2n). It stays in every mean and verdict. Rare outlying runs that a"
        " study does not happen to contain break any interval."
    ]
    if not rows:
        return Section("outlying", "Outlying runs", [*paragraphs, "No run is flagged in any primary measure."])
    headers = ["Measure", "Activation", "Run", "n", "Mean", "Mean without it"]
    caption = "Flagged runs, and the means with and without them (95 % intervals over trials)."
    return Section("outlying", "Outlying runs", paragraphs, [Table(headers, rows, caption)])


def text_share(cells: Sequence[Cell]) -> Section | None:
    """How much of the uncertainty comes from the finite validation text, beside that from the trials."""
    reference = results.reference_of(cells)
    rows = []
    for name in PRIMARY:
        for cell in cells:
            of_difference = cell is not reference
            comparison = (
                results.compare_cells(cell, reference, name).difference
                if of_difference
                else results.estimate(cell, name)
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
        f" {windows:,} windows of the validation text (moving-block bootstrap, blocks of {BLOCK} windows), and both (root of the"
        " sum of squares)."
    )
    paragraph = (
        "All intervals hold for this validation text. Where the error over the text is the larger one, another text from the"
        " same source could change the value more than more trials would sharpen it."
    )
    return Section("text", "Would another text change this?", [paragraph], [Table(headers, rows, caption)])


def sections(
    cells: Sequence[Cell],
    margins: Margins,
    sensitivity,
    missing: Sequence[str],
    unfinished: Sequence[str],
    yardsticks: Sequence[Yardstick] | str,
    common: curves.CommonLoss | None = None,
) -> list[Section]:
    """Everything about one architecture: the answer first, then the report's own tables and what they leave open."""
    from report import tables as tables_module
    from report.several_studies import three_steps

    comparisons = results.primary_comparisons(cells, margins)
    own = tables_module.sections(cells, margins)
    appendices = [section for section in own if section.title.startswith("Appendix")]
    found = [
        answer(cells, margins, comparisons, sensitivity, missing, unfinished, yardsticks, common),
        comparison_table(cells, comparisons),
        three_steps(cells),
        *(section for section in own if section not in appendices),
        learnt(cells, yardsticks),
        outlying(cells),
        training_path(cells, margins, common),
        all_measures(cells, margins),
        groups(cells, margins),
        text_share(cells),
        *appendices,
    ]
    return [section for section in found if section is not None]
