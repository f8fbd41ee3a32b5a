"""The contrasts of a study as Markdown tables and one figure: `analyze_results.py STUDY --contrasts gelu:relu ...`."""

import math
from collections.abc import Sequence

from tabulate import tabulate

from analysis.contrasts import Contrast, contrasts, percent
from analysis.curves import CommonLoss
from analysis.results import MEASURES, PAIR_MEASURES, Cell, Margins, Study, estimate
from analysis.words import brief_p, listing, with_interval
from common.errors import UserError, unknown

MEANS = ("val_loss", "relative_pd", "top1_disagreement")
AT_THE_END = "At the end of training"


def endpoints(
    study: Study,
    named: Sequence[tuple[str, str]],
    margins: Margins,
    common: CommonLoss | None,
    measure: str = "relative_pd",
) -> dict[str, list[Contrast]]:
    """Title of an endpoint -> its contrasts, each a family.

    Parameters
    ----------
    study : Study
        Of one architecture.
    named : sequence of (str, str)
        (activation, its reference), both in the study.
    margins : Margins
    common : CommonLoss or None
        None: there is only the endpoint at the end of training.
    measure : str
        A pair metric. Along training, only relative_pd and top1_disagreement are stored.
    """
    if measure not in PAIR_MEASURES:
        raise unknown("measure", measure, PAIR_MEASURES)
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
        if not any(
            point.get(measure) is not None for cell in cells.values() for p in cell.pairs for point in p["history"]
        ):
            raise UserError(f"{measure} is not stored along training; leave out --at-loss")
        found[f"At {common.loss:g} nats"] = contrasts(pairs, measure, margin, common)
    return found | {AT_THE_END: contrasts(pairs, measure, margin)}


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


def contrast_table(found: Sequence[Contrast], measure: str = "relative_pd") -> str:
    """One family of contrasts: difference in percent, p values, verdict."""
    difference = f"{MEASURES[measure].label}, difference [95% interval]"
    headers = ["Contrast", "n", difference, "p (Holm)", "p (equivalent)", "Verdict"]
    rows = []
    for contrast in found:
        c = contrast.comparison
        row = [contrast.name, c.difference.n, in_percent(c.difference)]
        rows.append([*row, brief_p(c.p_adjusted), brief_p(c.equivalence_p), c.verdict_text])
    return tabulate(rows, headers, "pipe", disable_numparse=True)


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


def text(study: Study, found: dict[str, list[Contrast]], margins: Margins, measure: str = "relative_pd") -> str:
    """The tables in Markdown: means, then the contrasts of each endpoint."""
    blocks = [means_table(study.cells)]
    for title, family in found.items():
        note = (
            f"{title}: mean over pairs of the log ratio, in percent; margin {100 * (1 / (1 + margins.pairs) - 1):+.1f}% to"
            f" {margins.pairs:+.0%} (a factor of {1 + margins.pairs:g}); one family of {len(family)}."
        )
        blocks += [
            note,
            contrast_table(family, measure),
            *["\n".join(lines) for lines in [outlying_lines(family)] if lines],
        ]
    return "\n\n".join(blocks)


def publish_contrasts(study: Study, named, margins: Margins, common: CommonLoss | None, measure: str, plots) -> int:
    """Prints the tables; draws the figure, of relative PD, unless `plots` (a folder) is None; returns the exit status."""
    found = endpoints(study, named, margins, common, measure)
    print(text(study, found, margins, measure))
    if plots is not None and measure == "relative_pd":
        from figures.contrasts import pd_against_loss

        results = [cell.result for cell in study.cells]
        print(f"\nFigure: {pd_against_loss(results, plots, found, margins.pairs, common)}")
    return 0
