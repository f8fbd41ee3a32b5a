"""The contrasts of a study as Markdown tables and one figure: `analyze_results.py STUDY --contrasts gelu:relu ...`."""

import math
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from analysis.contrasts import Contrast, contrasts, percent
from analysis.curves import CommonLoss
from analysis.results import MEASURES, Cell, Margins, Study, estimate
from analysis.words import brief_p, listing, with_interval
from common.errors import UserError

HEADERS = ["Contrast", "n", "Relative PD, difference [95% interval]", "p (Holm)", "p (equivalent)", "Verdict"]
MEANS = ("val_loss", "relative_pd", "top1_disagreement")
AT_THE_END = "At the end of training"


def endpoints(
    study: Study, named: Sequence[tuple[str, str]], margins: Margins, common: CommonLoss | None
) -> dict[str, list[Contrast]]:
    """Title of an endpoint -> its contrasts of relative PD, each a family.

    Parameters
    ----------
    study : Study
        Of one architecture.
    named : sequence of (str, str)
        (activation, its reference), both in the study.
    margins : Margins
    common : CommonLoss or None
        None: there is only the endpoint at the end of training.
    """
    if len(study.architectures) != 1:
        raise UserError(f"contrasts are computed within one architecture, but {study.folder} has several or none")
    cells = {cell.activation: cell for cell in study.cells}
    for name in (name for pair in named for name in pair):
        if name not in cells:
            raise UserError(f"{study.folder} has no results of {name!r}; it has {listing(cells)}")
    pairs = [(cells[a], cells[b]) for a, b in named]
    margin = math.log1p(margins.pairs)
    found = {}
    if common is not None:
        found[f"At {common.loss:g} nats"] = contrasts(pairs, "relative_pd", margin, common)
    return found | {AT_THE_END: contrasts(pairs, "relative_pd", margin)}


def means_table(cells: Sequence[Cell]) -> str:
    """The activations' means at the end of training, with 95% intervals over trials."""
    rows = [
        [
            cell.label,
            len(cell.trials),
            *(with_interval(estimate(cell, name), MEASURES[name].decimals) for name in MEANS),
        ]
        for cell in cells
    ]
    headers = ["Activation", "n", "Validation loss (nats)", "Relative PD", "Top-1 disagreement"]
    return tabulate(rows, headers, "pipe", disable_numparse=True)


def contrast_table(found: Sequence[Contrast]) -> str:
    """One family of contrasts: difference in percent, p values, verdict."""
    rows = []
    for contrast in found:
        c = contrast.comparison
        row = [contrast.name, c.difference.n, in_percent(c.difference)]
        rows.append([*row, brief_p(c.p_adjusted), brief_p(c.equivalence_p), c.verdict_text])
    return tabulate(rows, HEADERS, "pipe", disable_numparse=True)


def in_percent(difference) -> str:
    """'+3.1% [+0.4, +5.9]' of an estimate in logarithms."""
    mean, low, high = percent(difference)
    if mean is None:
        return "-"
    return f"{mean:+.1f}%" + ("" if low is None else f" [{low:+.1f}, {high:+.1f}]")


def outlying_lines(found: Sequence[Contrast]) -> list[str]:
    """One line for each contrast with outlying runs: the difference without them."""
    return [
        f"- {c.name}: trials {listing(map(str, c.outlying))} lie far from the others; without them"
        f" {in_percent(c.without_outlying)}."
        for c in found
        if c.without_outlying is not None
    ]


def text(study: Study, found: dict[str, list[Contrast]], margins: Margins) -> str:
    """The tables in Markdown: means, then the contrasts of each endpoint."""
    blocks = [means_table(study.cells)]
    for title, family in found.items():
        note = (
            f"{title}: mean over pairs of the log ratio of relative PD, in percent; margin {margins.pairs:.0%}; one family"
            f" of {len(family)}."
        )
        blocks += [note, contrast_table(family), *["\n".join(lines) for lines in [outlying_lines(family)] if lines]]
    return "\n\n".join(blocks)


def publish_contrasts(study: Study, named, margins: Margins, common: CommonLoss | None, plots: Path | None) -> int:
    """Prints the tables, draws the figure unless `plots` is None; returns the exit status."""
    found = endpoints(study, named, margins, common)
    print(text(study, found, margins))
    if plots is not None:
        from figures.contrasts import pd_against_loss

        results = [cell.result for cell in study.cells]
        print(f"\nFigure: {pd_against_loss(results, plots, found, margins.pairs, common)}")
    return 0
