"""What relative PD depends on most, over several studies: `analyze_results.py --pooled STUDY STUDY ...`."""

from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from analysis.pooled import Row, explained, rows
from analysis.results import Study
from analysis.words import plural
from common.errors import UserError

FEWEST_CELLS = 20


def publish_pooled(studies: Sequence[Study], plots: Path | None) -> int:
    """Prints the table; draws the figure unless `plots` is None; returns the exit status."""
    table = rows(studies)
    if len(table) < FEWEST_CELLS:
        raise UserError(
            f"these studies have {plural(len(table), 'combination')} of architecture and activation with a pair of trials (matched"
            f" protocol, all randomness varied); at least {FEWEST_CELLS} are needed"
        )
    n_pairs = sum(len(row.cell.pairs) for row in table)
    print(f"{len(table)} cells (architecture x activation x study), {n_pairs} pairs. Exploratory.\n")
    print(factor_table(table))
    print("\nLeast squares on log relative PD, one row per cell; 95% intervals by bootstrap over cells.")
    if plots is not None:
        from figures.pooled import pd_of_all_pairs

        print(f"\nFigure: {pd_of_all_pairs([row.cell.result for row in table], plots, table)}")
    return 0


def factor_table(table: Sequence[Row]) -> str:
    """How much of the variance of log relative PD each factor explains, in Markdown."""
    shares = [[name, *map(_share, found)] for name, found in explained(table).items()]
    return tabulate(shares, ["Factor", "R² alone", "R² lost without it"], "pipe", disable_numparse=True)


def _share(values):
    return "{:.2f} [{:.2f}, {:.2f}]".format(*values)
