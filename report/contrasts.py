"""Contrasts as Markdown tables and one figure: `analyze_results.py STUDY --contrasts gelu:relu swish:relu=2e-3 ...`."""

import math
from collections.abc import Sequence

from tabulate import tabulate

from analysis.contrasts import Contrast, by_activation, contrasts, learning_rate, percent
from analysis.curves import CommonLoss
from analysis.estimates import combined
from analysis.results import MEASURES, PAIR_MEASURES, Cell, Margins, Study, estimate
from analysis.words import brief_p, listing, with_interval
from common.errors import UserError, unknown
from training.identity import difference_of_identities

MEANS = ("val_loss", "relative_pd", "top1_disagreement")
AT_THE_END = "At the end of training"


def endpoints(
    studies: Sequence[Study],
    named: Sequence[tuple[str, str]],
    margins: Margins,
    common: CommonLoss | None,
    measure: str = "relative_pd",
) -> dict[str, list[Contrast]]:
    """Title of an endpoint -> its contrasts, each a family.

    Parameters
    ----------
    studies : sequence of Study
        Of one architecture and one configuration, except for learning rates and seeds. The same activation and learning
        rate in several studies is one activation in several groups of trials.
    named : sequence of (str, str)
        (activation, its reference), each with its learning rate if there are several: relu=2e-3.
    margins : Margins
    common : CommonLoss or None
        None: there is only the endpoint at the end of training.
    measure : str
        A pair metric. Along training, only relative_pd and top1_disagreement are stored.
    """
    if measure not in PAIR_MEASURES:
        raise unknown("measure", measure, PAIR_MEASURES)
    cells = [cell for study in studies for cell in study.cells]
    _check_one_setting(cells)
    family = [groups_named(cells, pair) for pair in named]
    margin = math.log1p(margins.pairs)
    found = {}
    if common is not None:
        if not any(point.get(measure) is not None for cell in cells for p in cell.pairs for point in p["history"]):
            raise UserError(f"{measure} is not stored along training; leave out --at-loss")
        found[f"At {common.loss:g} nats"] = contrasts(family, measure, margin, common)
    return found | {AT_THE_END: contrasts(family, measure, margin)}


def _check_one_setting(cells):
    """Raises UserError unless the cells differ in activation, learning rate and seeds only."""
    if len({cell.architecture for cell in cells}) != 1:
        raise UserError("contrasts are computed within one architecture, but these studies have several or none")
    first, *others = [_setting(cell) for cell in cells]
    for other in others:
        if difference := difference_of_identities(first, other):
            raise UserError(f"contrasts need studies that differ in learning rate and seeds only ({difference})")


def _setting(cell):
    identity = {k: v for k, v in cell.result["identity"].items() if k not in ("seed_base", "learning_rates")}
    return identity | {"config": identity["config"] | {"learning_rate": 1.0}}


def _cells_named(cells, text):
    """The cells of an activation, one for each group of trials; text: its name, or name=learning rate."""
    name, _, rate = text.partition("=")
    found = [
        cell
        for cell in cells
        if cell.activation == name and (not rate or math.isclose(learning_rate(cell), _number(rate)))
    ]
    if not found:
        held = dict.fromkeys(f"{cell.activation}={learning_rate(cell):g}" for cell in cells)
        raise UserError(f"no results of {text!r}; there are {listing(held)}")
    rates = sorted({learning_rate(cell) for cell in found})
    if len(rates) > 1:
        raise UserError(f"{name} was trained at several learning rates; name one, such as {name}={rates[0]:g}")
    return found


def _number(text):
    try:
        return float(text)
    except ValueError:
        raise UserError(f"a learning rate must be a number, not {text!r}") from None


def groups_named(cells: Sequence[Cell], names: tuple[str, str]) -> list[tuple[Cell, Cell]]:
    """[(cell, reference)] with the same seeds, one for each group of trials; names: as in `endpoints`."""
    cells, references = (_cells_named(cells, name) for name in names)
    groups = [(a, b) for a in cells for b in references if _first_seed(a) == _first_seed(b)]
    if not groups:
        raise UserError(f"{names[0]} and {names[1]} were trained with other seeds, so there is nothing to pair")
    seeds = [{t["seed"] for cell in group for t in cell.trials.values()} for group in groups]
    if sum(map(len, seeds)) != len(set().union(*seeds)):
        raise UserError(f"{names[0]}:{names[1]} has the same seeds in several studies; name each study once")
    return groups


def _first_seed(cell):
    return cell.result["identity"]["seed_base"]


def cells_used(studies: Sequence[Study], endpoints: dict[str, list[Contrast]]) -> list[Cell]:
    """The cells that take part in a contrast, in the order of the studies."""
    used = {id(cell) for family in endpoints.values() for c in family for pair in c.groups for cell in pair}
    return [cell for study in studies for cell in study.cells if id(cell) in used]


def means_table(cells: Sequence[Cell]) -> str:
    """The activations' means at the end of training, with 95% intervals over trials."""
    rows = []
    for label, groups in by_activation(cells).items():
        means = [combined([estimate(cell, name) for cell in groups]) for name in MEANS]
        formatted = (with_interval(mean, MEASURES[name].decimals) for name, mean in zip(MEANS, means))
        rows.append([label, sum(len(cell.trials) for cell in groups), *formatted])
    headers = ["Activation", "n", "Validation loss (nats)", "Relative PD", "Top-1 disagreement"]
    return tabulate(rows, headers, "pipe", disable_numparse=True)


def contrast_table(found: Sequence[Contrast], measure: str = "relative_pd") -> str:
    """One family of contrasts: difference in percent, p values, verdict."""
    difference = f"{MEASURES[measure].label}, difference [95% interval]"
    headers = ["Contrast", "n", difference, "p (Holm)", "p (equivalent)", "Verdict"]
    rows = []
    for contrast in found:
        c = contrast.comparison
        row = [" / ".join(contrast.names), c.difference.n, in_percent(c.difference)]
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
        f"- {' / '.join(c.names)}: seeds {listing(map(str, c.outlying))} lie far from the others; without them"
        f" {in_percent(c.without_outlying)}."
        for c in found
        if c.without_outlying is not None
    ]


def text(
    cells: Sequence[Cell], found: dict[str, list[Contrast]], margins: Margins, measure: str = "relative_pd"
) -> str:
    """The tables in Markdown: means of the cells, then the contrasts of each endpoint."""
    blocks = [means_table(cells)]
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


def publish_contrasts(studies, named, margins: Margins, common: CommonLoss | None, measure: str, plots) -> int:
    """Prints the tables; draws the figure, of relative PD, unless `plots` (a folder) is None; returns the exit status."""
    found = endpoints(studies, named, margins, common, measure)
    cells = cells_used(studies, found)
    print(text(cells, found, margins, measure))
    if plots is not None and measure == "relative_pd":
        from figures.contrasts import pd_against_loss

        results = [cell.result for cell in cells]
        print(f"\nFigure: {pd_against_loss(results, plots, found, margins.pairs, common)}")
    return 0
