"""The figures of a report: which ones a study supports, in which section each belongs, and what its caption says.

The link between the analysis (analysis/results.py gives the numbers) and the drawing (plot_utils.py). A module of its own
because neither of these should know about sections. Apart from the figure of a passage, which needs the trained models,
everything comes from result files; what a study does not support is left out, or said in words.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import plot_utils
from analysis import curves
from analysis import results as results_module
from analysis.results import MEASURES, Cell, Margins, Study
from analysis.words import plural
from common.errors import RunError, UserError, with_type
from figures.drawing import draw_all
from figures.fonts import undrawable
from report.document import Document, Section
from report.tables import counted, sampled, without_pairs

MOST_CELLS_IN_FULL = 8  # with more, appendix A shows one figure per activation instead of three
T_BAND = "95 % t intervals over trials"
U_BAND = "95 % intervals over trials (variance of a U-statistic)"


@dataclass(frozen=True)
class Plan:
    """A figure to be drawn: where it belongs (part and key of a section), its caption, and the call that draws it."""

    part: str
    key: str
    caption: str
    draw: Callable[..., Path]
    arguments: tuple


def add_figures(
    document: Document,
    study: Study,
    others: Sequence[Study],
    margins: Margins,
    plots_dir: Path,
    passage_of: Callable,
    published: dict[str, list[dict]],
) -> Document:
    """The document with every figure that the study supports in its section; they are drawn into `plots_dir`.

    Args:
      others: the studies that it is compared with.
      passage_of: cells -> (text, its start, activation -> disagreement at each character); see `recompute.passage`. It
        raises a UserError or RunError if the trained models or the corpus are missing.
      published: architecture -> rows of `plot_utils.published_against_matched`.
    """
    groups = {name: cells for name, cells in study.architectures.items() if any(cell.trials for cell in cells)}
    if not groups:
        return document
    plans, sections = _architecture_plans(groups, study, margins, plots_dir), list(document.sections)
    for name, cells in groups.items():
        part = cells[0].architecture_label if len(study.architectures) > 1 else ""
        complete = [cell for cell in cells if cell.trials]
        plans += _comparison_plans(complete, margins, part, plots_dir)
        plans += _training_plans(complete, part, plots_dir)
        plans += _source_plans([study, *others], name, part, plots_dir)
        plans += _published_plans(published.get(name), complete, part, plots_dir)
        passage, found = _passage(complete, len(study.cells), part, plots_dir, passage_of)
        appendix, own = _appendix_a(cells, len(study.cells), part, plots_dir)
        plans += [*found, *own]
        sections = _inserted(sections, passage, after="measures")
        sections = _inserted(sections, appendix, before="distributions")
    return replace(document, sections=_filled(sections, plans, _drawn(plans)))


# --- drawing them and putting them in their places -------------------------------------------------------------------


def _drawn(plans):
    """The files of all plans; None for one that cannot be drawn, which is named in a line."""
    print(f"drawing {plural(len(plans), 'figure')}", file=sys.stderr, flush=True)
    outcomes = draw_all([(plan.draw, plan.arguments) for plan in plans])
    for plan, outcome in zip(plans, outcomes):
        if isinstance(outcome, Exception):
            reason = with_type(outcome).splitlines()[0]
            print(f"the figure {plan.draw.__name__} was not drawn: {reason}", file=sys.stderr, flush=True)
    return [None if isinstance(outcome, Exception) else outcome for outcome in outcomes]


def _inserted(sections, section, after=None, before=None):
    """The sections with one more, beside the one of that key in the same part."""
    place = next(i for i, s in enumerate(sections) if s.part == section.part and s.key == (after or before))
    return [*sections[: place + bool(after)], section, *sections[place + bool(after) :]]


def _filled(sections, plans, paths):
    """The sections with the figures that belong to them."""
    figures = {}
    for plan, path in zip(plans, paths):
        if path is not None:
            figures.setdefault((plan.part, plan.key), []).append((path, plan.caption))
    return [replace(s, figures=[*s.figures, *figures.get((s.part, s.key), [])]) for s in sections]


# --- several architectures ------------------------------------------------------------------------------------------


def _architecture_plans(groups, study, margins, folder):
    """The heat maps of loss and PD; none of one architecture."""
    if len(study.architectures) < 2:
        return []
    plans = []
    for measure in ("val_loss", "relative_pd"):
        table = {
            name: {cell.activation: results_module.estimate(cell, measure).mean for cell in cells}
            for name, cells in groups.items()
        }
        references = {name: results_module.reference_of(cells) for name, cells in groups.items()}
        shares = [
            results_module.margin_of(measure, reference, margins) / table[name][reference.activation]
            for name, reference in references.items()
            if table[name][reference.activation]
        ]
        if shares:
            against = sorted({reference.label for reference in references.values()})
            caption = (
                f"{MEASURES[measure].label}, means over {'pairs' if measure == 'relative_pd' else 'trials'}"
                f" ({counted(study.cells)}). Shades: per cent from the row's {' or '.join(against)}, on a scale that reaches"
                " at least to the margin of interest; intervals are in the tables."
            )
            arguments = ([cell.result for cell in study.cells], folder, measure, margins)
            plans.append(Plan("", "architectures", caption, plot_utils.architecture_heatmap, arguments))
    return plans


# --- one architecture -----------------------------------------------------------------------------------------------


def _comparison_plans(cells, margins, part, folder):
    """Every activation against the reference, and the plane of loss and PD."""
    results, plans = [cell.result for cell in cells], []
    reference = results_module.reference_of(cells)
    if len(cells) > 1:
        caption = (
            f"Each activation minus {reference.label}, paired by trial ({counted(cells)}). Bars: 95 % intervals, not"
            " corrected; grey: the margin of interest. p: of no difference, after Holm's correction; for equivalent ones"
            " the p of two one-sided tests (TOST) against the margin, after Bonferroni's."
        )
        arguments = (results, folder, margins)
        plans.append(Plan(part, "comparisons", caption, plot_utils.forest, arguments))
    candidates = [cell for cell in cells if results_module.has_both(cell)]
    shares = results_module.frontier(candidates)[1] if len(candidates) > 1 else None
    if shares:
        caption = (
            "The same plane with the Pareto frontier, and in how many of 10,000 bootstrap resamples of the trials each"
            f" activation is on it ({counted(cells)}; bars: 95 % intervals)."
        )
        candidates = [cell.result for cell in candidates]
        plans.append(Plan(part, "trade_off", caption, plot_utils.pareto, (candidates, folder, shares)))
    return plans


def _training_plans(cells, part, folder):
    """What happens along training: losses, and disagreement at equal steps and at equal loss."""
    results, plans = [cell.result for cell in cells], []
    if any(curves.steps(cell) for cell in cells):
        minus = f" Below: minus {results_module.reference_of(cells).label}, paired by trial." if len(cells) > 1 else ""
        caption = (
            f"Validation loss along training ({counted(cells)}). Lines: means over trials; bands: {T_BAND}.{minus}"
            f" {sampled(cells)}"
        )
        plans.append(Plan(part, "dynamics", caption.strip(), plot_utils.all_validation_curves, (results, folder)))
    if any("gradient_norm" in p.get("probes", {}) for r in results for t in r["trials"] for p in t["history"]):
        caption = (
            f"Norm of the loss's gradient without dropout, on a fixed batch ({counted(cells)}). Left: means over trials;"
            f" bands: {T_BAND}. Right: per layer, the first activation."
        )
        plans.append(Plan(part, "dynamics", caption, plot_utils.gradient_norms, (results, folder)))
    if not any(pair["history"] for cell in cells for pair in cell.pairs):
        return plans
    caption = f"Disagreement along training, on the curve windows ({counted(cells)}). Lines: means over pairs; bands: {U_BAND}."
    if len(cells) > 1:
        caption = (
            "The same disagreement against the step (left), and against the mean validation loss at that step (right);"
            f" {counted(cells)}; bands: {U_BAND}."
        )
        plans.append(Plan(part, "training_path", caption, plot_utils.pd_at_equal_loss, (results, folder)))
    return plans


def _source_plans(studies, architecture, part, folder):
    """The sources of randomness side by side; none of one source."""
    from report.several_studies import source_rows

    rows = source_rows(studies, architecture)
    if len({row["source"] for row in rows}) < 2:
        return []
    caption = (
        f"Relative PD where only one source of randomness differs between trials ({counted([row['cell'] for row in rows])}). Points: means over"
        f" pairs; bars: {U_BAND}; dashed: {rows[0]['source']}."
    )
    arguments = ([row["cell"].result for row in rows], folder, [row["source"] for row in rows])
    return [Plan(part, "sources", caption, plot_utils.sources, arguments)]


def _published_plans(rows, cells, part, folder):
    """The report's PD beside that of the same models on the same contexts; none without such rows."""
    if not rows:
        return []
    caption = (
        "Relative PD of trials 1 and 2 (n = 2, one pair, so no interval): as the report prints it, as its protocol gives it"
        " here, and with both models on the same contexts."
    )
    arguments = ([cell.result for cell in cells], folder, rows)
    return [Plan(part, "three_steps", caption, plot_utils.published_against_matched, arguments)]


def _passage(cells, n_cells, part, folder, passage_of):
    """(the section on where models disagree, its plans): of every activation, or of the reference where there are many."""
    reference = results_module.reference_of(cells)
    chosen = cells if n_cells <= MOST_CELLS_IN_FULL else [reference]
    section = Section("passage", "Where models disagree", part=part)
    try:
        text, start, shares = passage_of(chosen)
    except (UserError, RunError) as reason:
        why = f"The figure of a passage needs the trained models and the corpus, and was left out: {reason}."
        return replace(section, paragraphs=[why]), []
    plans, items = [], []
    for cell in chosen:
        if cell.activation not in shares:
            continue
        share, n = shares[cell.activation]
        pairs = plural(n * (n - 1) // 2, "pair")
        caption = f"{cell.label}: each character shaded by the share of {pairs} of n = {n} models that disagree there."
        arguments = (cell.result, folder, text, share, n)
        plans.append(Plan(part, "passage", caption, plot_utils.disagreement_passage, arguments))
        items.append(
            f"{cell.label}: {share.mean():.1%} of predictions differ on average over {pairs} of n = {n} models; at"
            f" {(share == 0).mean():.0%} of the characters all models agree."
        )
    paragraph = (
        f"{len(text):,} characters from the middle of the validation split (from its character {start:,} on). Shaded is the"
        " share of pairs of models whose most likely character at this place differs, given all before it in its window."
    )
    if lost := undrawable(text):
        paragraph += (
            f" No font on this machine has {plural(len(lost), 'character')} of it, drawn as boxes: {''.join(lost)}"
        )
    return replace(section, paragraphs=[paragraph, items]), plans


# --- one activation -------------------------------------------------------------------------------------------------


def _appendix_a(cells: Sequence[Cell], n_cells, part, folder):
    """(the section of each activation's own figures, its plans)."""
    kinds = ["training_curves", "reproducibility", "summary"] if n_cells <= MOST_CELLS_IN_FULL else ["summary"]
    plans = [
        Plan(part, "figures", _caption(cell, kind), getattr(plot_utils, kind), (cell.result, folder))
        for cell in cells
        for kind in kinds
    ]
    paragraphs = [text] if (text := without_pairs(cells)) else []
    return Section("figures", "Appendix A: every activation in figures", paragraphs, part=part), plans


def _caption(cell, kind):
    n = f"n = {plural(len(cell.trials), 'trial')}"
    loss = (
        f"{cell.label}, training curves ({n}). Thin: each trial; bold: their mean. Right: each minus the mean of all."
    )
    if kind == "training_curves":
        return f"{loss} {sampled([cell])}".strip()
    pairs = f"{n}, {plural(len(cell.pairs), 'pair')}"
    if kind == "reproducibility":
        has_history = any(pair["history"] for pair in cell.pairs)
        below = f" Below: along training; thin: each pair; bold: their mean; bands: {U_BAND}." if has_history else ""
        return f"{cell.label}, reproducibility ({pairs}). Above: every pair of trials.{below}"
    return f"{cell.label}, summary ({pairs}). Bars: {T_BAND}, of pair measures with the variance of a U-statistic."
