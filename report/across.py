"""Does the activation matter in every task? `analyze_results.py --across STUDY STUDY ...`."""

from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from analysis.labels import data_facts
from analysis.results import (
    Cell,
    Margins,
    Study,
    activation_sensitivity,
    estimate,
    reference_of,
    score_sensitivity,
    share_of,
    union,
)
from analysis.words import decimals_for, listing, with_interval
from common.errors import UserError
from report.view import shown

VERDICTS = ("sensitive", "insensitive", "inconclusive")


def publish_across(studies: Sequence[Study], margins: Margins, plots: Path | None) -> int:
    """Prints the table; draws the figure unless `plots` is None; returns the exit status."""
    groups = comparable(studies)
    if not groups:
        raise UserError("no architecture in these studies has two activations, each with two complete trials")
    print(table(groups, margins))
    if plots is not None:
        from figures.across_studies import pd_by_task

        results = [cell.result for cells in groups for cell in cells]
        print(f"\nFigure: {pd_by_task(results, plots, groups, margins)}")
    return 0


def comparable(studies: Sequence[Study]) -> list[list[Cell]]:
    """The cells of every architecture of every study, where at least two have a pair of trials."""
    groups = [[cell for cell in cells if cell.pairs] for study in studies for cells in study.architectures.values()]
    return [cells for cells in groups if len(cells) > 1]


def table(groups: Sequence[Sequence[Cell]], margins: Margins) -> str:
    """One row per architecture, then how many have each verdict, in Markdown."""
    found = [_sensitivities(cells, margins) for cells in groups]
    rows = [_row(cells, *both) for cells, both in zip(groups, found)]
    reference = listing(dict.fromkeys(reference_of(cells).label for cells in groups))
    headers = ["Data", "Architecture", "n", f"Accuracy (%) or score, {reference}", "Validation loss or score: verdict"]
    headers += [f"Relative PD, {reference}", "Others' relative PD, % of it", "Relative PD: verdict"]
    headers.append(f"Top-1 disagreement, {reference}")
    lines = [tabulate(rows, headers, "pipe", disable_numparse=True), ""]
    for what, verdicts in zip(("Loss or score", "Relative PD"), zip(*((q.verdict, pd.verdict) for q, pd in found))):
        counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in VERDICTS)
        lines.append(f"{what}, of {len(groups)}: {counts}.  ")
    lines.append(
        f"Sensitive: some two activations are shown to differ by more than the margin ({margins.loss:g} nats of validation"
        f" loss; {margins.pairs:.0%} of {reference}'s score or relative PD); insensitive: all are shown to be within it."
        " 95% intervals over trials. Each architecture's verdicts stand for themselves: nothing is corrected over architectures, nor, unlike in a"
        " study's own report, over measures."
    )
    return "\n".join(lines)


def _sensitivities(cells, margins):
    """Of the score, or of the loss where the task has none; and of relative PD."""
    scored, both = score_sensitivity(cells, margins), activation_sensitivity(cells, margins)
    return scored[2] if scored else both["val_loss"], both["relative_pd"]


def _row(cells, quality, pd):
    reference = reference_of(cells)
    shares = [share_of(cell, reference, "relative_pd") for cell in cells if cell is not reference]
    ends = sorted({f"{share.mean:.0f}" for share in shares if share is not None}, key=int)
    score = estimate(reference, "score") if any(t.get("score") for t in reference.trials.values()) else None
    return [
        data_facts(reference.result)["label"],
        reference.architecture_label,
        str(len(union(cells))),
        shown(reference, "val_accuracy") if score is None else with_interval(score, decimals_for(score, 1)),
        quality.verdict,
        shown(reference, "relative_pd"),
        " to ".join(dict.fromkeys((ends[0], ends[-1]))) if ends else "-",
        pd.verdict,
        shown(reference, "top1_disagreement"),
    ]
