"""The input of every section of a report, and formatting of trial counts, means and measures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analysis import results
from analysis.curves import CommonLoss
from analysis.results import MEASURES, Cell, Margins, Study
from analysis.words import decimals_for, listing, plural, with_interval
from tasks.ngrams import Baseline

PAIRS_METHOD = (
    "n counts trials; 95% intervals: Student's t over trials, for pairs of trials with the variance of a U-statistic."
)
LOSS_ESTIMATES = "Losses under this protocol are estimates on random batches, accuracies on 1,000 random contexts."
RESUME = "The study stopped before that; rerun the same `run_all_experiments.py` command to compare them."


@dataclass(frozen=True, eq=False)
class View:
    """One architecture of a study, with the options of the analysis.

    study: its cells with complete trials. cells: those of this architecture. missing: sentences on what is missing.
    baselines: from `recompute.baselines`. common: the loss at which activations are compared, or None.
    passage_of: cell -> `recompute.passage`; None: no passages.
    """

    study: Study
    cells: list[Cell]
    margins: Margins
    others: Sequence[Study] = ()
    missing: Sequence[str] = ()
    unfinished: Sequence[str] = ()
    baselines: Sequence[Baseline] | str = "not asked for"
    common: CommonLoss | None = None
    passage_of: Callable | None = None

    @property
    def reference(self) -> Cell:
        return results.reference_of(self.cells)

    @property
    def compared(self) -> list[Cell]:
        """All cells except the reference."""
        return [cell for cell in self.cells if cell is not self.reference]

    @property
    def results(self) -> list[dict]:
        return [cell.result for cell in self.cells]

    @property
    def comparisons(self) -> dict:
        """(activation, primary measure) -> comparison with the reference."""
        return results.primary_comparisons(self.cells, self.margins)


def counted(cells: Sequence[Cell]) -> str:
    """'n = 10 trials each', or 'n = 3 to 5 trials'."""
    counts = sorted({len(cell.trials) for cell in cells})
    if len(counts) > 1:
        return f"n = {counts[0]} to {counts[-1]} trials"
    return f"n = {plural(counts[0], 'trial')}{' each' if len(cells) > 1 else ''}"


def shown(cell: Cell, name: str) -> str:
    """A cell's mean of a measure with its interval, in the measure's unit and decimals."""
    measure = MEASURES[name]
    estimate = results.scaled(results.estimate(cell, name), measure.scale)
    return with_interval(estimate, measure.decimals, n=len(cell.trials))


def difference(estimate, name: str) -> str:
    """A difference in a measure with its interval: '+0.0120 [+0.0096, +0.0144]'."""
    return with_interval(estimate, decimals_for(estimate, MEASURES[name].decimals), signed=True)


def headed(name: str) -> str:
    """A measure as a column header: 'Validation loss (nats)'."""
    return MEASURES[name].label + (f" ({MEASURES[name].unit})" if MEASURES[name].unit else "")


def without_pairs(cells: Sequence[Cell]) -> list[str]:
    """Sentences on activations without pairs, the reason and the remedy; [] if all have pairs."""
    lacking = [cell for cell in cells if not cell.pairs]
    waiting = [cell.label for cell in lacking if cell.n_missing_pairs]
    alone = [cell.label for cell in lacking if not cell.n_missing_pairs]
    sentences = [f"{listing(alone)}: no pair, for that takes two complete trials."] if alone else []
    if waiting:
        sentences.append(f"{listing(waiting)}: trials are complete, but **their pairs are not compared yet**. {RESUME}")
    return sentences


def sampled(cells: Sequence[Cell]) -> str:
    """A footnote on the losses of a published study; '' for a matched one."""
    return LOSS_ESTIMATES if cells[0].result["identity"]["protocol"] == "published" else ""
