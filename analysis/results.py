"""A study's results as numbers: estimates and comparisons. Pure functions, without text and files.

Results are read (common/storage.py), turned into numbers here (training curves: analysis/curves.py), arranged in
sections of text and tables (report/contents.py) and rendered (report/document.py); analyze_results.py is the script.

A `Cell` is one architecture with one activation. Trial k of one cell is compared with trial k of the other; trials that
either lacks are left out. Throughout, n counts trials, never pairs.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

import metrics
from analysis import significance
from analysis.estimates import Estimate, mean_interval, pair_interval, pair_matrix
from analysis.labels import activation_label, architecture_label, data_facts
from analysis.outlying import outlying_runs, outlying_runs_of_pairs
from analysis.sensitivity import Sensitivity, pareto_front, pareto_shares, sensitivity_of_means, sensitivity_of_pairs
from analysis.series import truncated
from analysis.significance import Comparison
from analysis.windows import BLOCK, window_standard_error

REFERENCE = "relu"
PRIMARY = ("val_loss", *metrics.PRIMARY)
SMELU = "smelu_"


@dataclass(frozen=True)
class Margins:
    """The smallest differences of interest."""

    loss: float = 0.01  # nats
    pairs: float = 0.05  # of pair metrics, as a fraction of the reference's value


@dataclass(frozen=True)
class Measure:
    """How a measure is labelled and printed."""

    label: str
    unit: str
    better: str | None  # "lower" or "higher"
    decimals: int
    scale: float = 1.0  # factor before printing: 100 for percentages

    @property
    def in_text(self) -> str:
        """The label within a sentence: 'validation loss', 'JS divergence'."""
        return self.label if self.label[1].isupper() else self.label[0].lower() + self.label[1:]


def _measures():
    decimals = {"prediction_differences": 0, "total_predictions": 0, "symmetric_kl": 5, "js_divergence": 5}
    decimals |= {"ensemble_gain": 5, "edit_distance": 3, "cohen_kappa": 3, "error_consistency": 3}
    table = {
        "val_loss": Measure("Validation loss", "nats", "lower", 4),
        "train_loss": Measure("Training loss", "nats", "lower", 4),
        "val_accuracy": Measure("Validation accuracy", "%", "higher", 2, 100.0),
        "train_accuracy": Measure("Training accuracy", "%", "higher", 2, 100.0),
        "training_time_s": Measure("Training time", "s", "lower", 1),
    }
    for name, metric in metrics.METRICS.items():
        table[name] = Measure(metric.label, metric.unit, metric.better, decimals.get(name, 4))
    return table


MEASURES = _measures()
# Pair metrics that carry information of their own: without counts, one of which duplicates top-1 disagreement.
PAIR_MEASURES = tuple(name for name in metrics.METRICS if name not in ("prediction_differences", "total_predictions"))


@dataclass(frozen=True, eq=False)
class Cell:
    """One architecture with one activation. It must not be modified, since results computed from it are cached.

    Attributes
    ----------
    result : dict
        The content of its result file.
    arrays : dict or None
        Name -> values per window, from `storage.read_values`.
    """

    result: dict
    arrays: dict | None = None

    @property
    def architecture(self) -> str:
        return self.result["architecture"]

    @property
    def activation(self) -> str:
        return self.result["activation"]

    @functools.cached_property
    def label(self) -> str:
        return activation_label(self.activation)

    @functools.cached_property
    def architecture_label(self) -> str:
        return architecture_label(self.architecture)

    @functools.cached_property
    def trials(self) -> dict[int, dict]:
        """Trial number -> record, of the complete trials."""
        return {t["trial"]: t for t in self.result["trials"] if t["status"] == "complete"}

    @functools.cached_property
    def pairs(self) -> list[dict]:
        """The pairs of complete trials."""
        return [p for p in self.result["pairs"] if p["trial_a"] in self.trials and p["trial_b"] in self.trials]

    @property
    def numbers(self) -> list[int]:
        return sorted(self.trials)

    @property
    def n_missing_pairs(self) -> int:
        return math.comb(len(self.trials), 2) - len(self.pairs)


def is_pair_measure(name: str) -> bool:
    return name in metrics.METRICS


def cached_by_cells(function):
    """Caches function(cells, ...), where cells may be a list: sections and figures need the same numbers."""
    cached = functools.cache(function)
    return functools.wraps(function)(lambda cells, *rest: cached(tuple(cells), *rest))


# --- values and estimates -------------------------------------------------------------------------------------------


def values(cell: Cell, name: str, numbers: Sequence[int] | None = None) -> list[float | None]:
    """A measure of trials (or "score": its value), in the order of `numbers` (default: all of the cell's); None if missing."""
    found = [cell.trials.get(k, {}).get(name) for k in (cell.numbers if numbers is None else numbers)]
    return [value["value"] if isinstance(value, dict) else value for value in found]


def pair_values(cell: Cell, value: Callable[[dict], float | None], numbers: Sequence[int] | None = None) -> np.ndarray:
    """value(pair) of every pair as an (n, n) matrix over `numbers` (default: all of the cell's); NaN if missing."""
    numbers = cell.numbers if numbers is None else numbers
    index = {number: position for position, number in enumerate(numbers)}
    found = [
        (index[pair["trial_a"]], index[pair["trial_b"]], value(pair))
        for pair in cell.pairs
        if pair["trial_a"] in index and pair["trial_b"] in index
    ]
    return pair_matrix(found, len(numbers))


def matrix(cell: Cell, name: str, numbers: Sequence[int] | None = None) -> np.ndarray:
    """A pair metric as an (n, n) matrix over `numbers` (default: all of the cell's); NaN if missing."""
    return pair_values(cell, lambda pair: pair.get(name), numbers)


@functools.cache
def estimate(cell: Cell, name: str) -> Estimate:
    """The mean of a measure over the cell's trials or pairs, its interval clipped to the range of the measure."""
    if is_pair_measure(name):
        return of_pairs(matrix(cell, name), name)
    return truncated(mean_interval(values(cell, name)), name)


def of_pairs(values: np.ndarray, name: str) -> Estimate:
    """The mean of a pair metric over an (n, n) matrix, its interval clipped to the range of the metric."""
    return truncated(pair_interval(values), name)


def sd_estimate(cell: Cell, name: str) -> Estimate:
    """The standard deviation (ddof 1) of a measure over trials, with the chi-square interval for normal values.

    Parameters
    ----------
    cell : Cell
    name : str
        A measure of trials.

    Returns
    -------
    Estimate
        `mean` is the standard deviation; without an interval below two trials, or if all values are equal.
    """
    found = [value for value in values(cell, name) if value is not None]
    method, n = "chi-square interval of a standard deviation (normal values)", len(found)
    if n < 2:
        return Estimate(None, None, n, None, None, None, None, method, "fewer than two trials")
    from scipy.special import gammaincinv

    sd, df = float(np.std(found, ddof=1)), n - 1
    if sd == 0:
        return Estimate(0.0, None, n, None, None, df, None, method, "all values are equal")
    low, high = (sd * math.sqrt(df / (2 * float(gammaincinv(df / 2, tail)))) for tail in (0.975, 0.025))
    return Estimate(sd, None, n, low, high, df, None, method)


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """The estimate multiplied by a positive constant that is taken as known."""
    numbers = {name: getattr(estimate, name) for name in ("mean", "sd", "low", "high", "standard_error")}
    return replace(estimate, **{name: None if x is None else x * factor for name, x in numbers.items()})


def union(cells: Iterable[Cell]) -> list[int]:
    """Trial numbers that occur in any of the cells, in ascending order."""
    return sorted(set(itertools.chain.from_iterable(cell.numbers for cell in cells)))


# --- comparisons ----------------------------------------------------------------------------------------------------


def compare_cells(cell: Cell, reference: Cell, name: str) -> Comparison:
    """cell - reference in one measure, paired: trial k with trial k, pair (j, k) with pair (j, k)."""
    numbers = union((cell, reference))
    if is_pair_measure(name):
        return significance.compare_pair_means(matrix(cell, name, numbers), matrix(reference, name, numbers))
    return significance.compare_means(values(cell, name, numbers), values(reference, name, numbers))


def in_percent(comparison: Comparison, reference: Cell, name: str) -> Estimate | None:
    """The difference in percent of the reference's mean, which is taken as known; None if that mean is 0."""
    base = estimate(reference, name).mean
    return scaled(comparison.difference, 100 / abs(base)) if base else None


def share_of(cell: Cell, whole: Cell, name: str) -> Estimate | None:
    """A pair metric of one cell in percent of another's, with a delta-method interval.

    The interval of the ratio R of two means over pairs is that of the mean of c - R w, divided by the mean of w, where
    c and w are the two cells' values for the same pair of trials.

    Parameters
    ----------
    cell, whole : Cell
        Compared over the trials that both have.
    name : str
        A pair metric.

    Returns
    -------
    Estimate or None
        Percent; None if a mean is missing, or that of `whole` is 0.

    References
    ----------
    Cochran 1977, Sampling techniques, section 6.4 (ratio estimators).
    """
    numbers = sorted(set(cell.numbers) & set(whole.numbers))
    part, base = matrix(cell, name, numbers), matrix(whole, name, numbers)
    means = [of_pairs(side, name).mean for side in (part, base)]
    if None in means or means[1] == 0:
        return None
    ratio = means[0] / means[1]
    about = scaled(significance.compare_pair_means(part, ratio * base).difference, 100 / means[1])
    ends = {end: None if (x := getattr(about, end)) is None else 100 * ratio + x for end in ("low", "high")}
    return replace(about, mean=100 * ratio, **ends)


def reference_of(cells: Sequence[Cell]) -> Cell | None:
    """ReLU's cell, else the first one; None without cells."""
    return next((cell for cell in cells if cell.activation == REFERENCE), cells[0] if cells else None)


def margin_of(name: str, reference: Cell, margins: Margins) -> float | None:
    """The margin of a measure in its own unit; None for times, and if the reference's mean is missing or 0.

    For accuracies, which are fractions, the margin is the same number as for losses in nats.
    """
    if name.endswith("_s"):
        return None
    if not is_pair_measure(name):
        return margins.loss
    mean = estimate(reference, name).mean
    return margins.pairs * abs(mean) or None if mean is not None else None


@cached_by_cells
def primary_comparisons(cells: Sequence[Cell], margins: Margins) -> dict[tuple[str, str], Comparison]:
    """(activation, primary measure) -> comparison with the reference, with its verdict.

    The comparisons are one family: every activation against the reference times the primary measures.

    Parameters
    ----------
    cells : sequence of Cell
        All of one architecture in a study.
    margins : Margins

    Returns
    -------
    dict
    """
    reference = reference_of(cells)
    keys = [(cell, name) for cell in cells if cell is not reference for name in PRIMARY]
    found = [compare_cells(cell, reference, name) for cell, name in keys]
    judged = significance.verdicts(found, [margin_of(name, reference, margins) for _, name in keys])
    return {(cell.activation, name): comparison for (cell, name), comparison in zip(keys, judged)}


@cached_by_cells
def comparisons(
    cells: Sequence[Cell], name: str, margins: Margins, measured: Callable[[Cell, Cell], Comparison] | None = None
) -> dict[tuple[str, str], Comparison]:
    """(activation, other) -> comparison of every ordered pair of activations in one measure, with its verdict.

    All verdicts on two activations come from here. Primary measures against the reference are judged in the family of
    `primary_comparisons`; all other pairs in this measure are another family.

    Parameters
    ----------
    cells : sequence of Cell
        All of one architecture in a study.
    name : str
        The measure.
    margins : Margins
    measured : callable, optional
        (cell, other) -> Comparison, for a measure that is not stored as such (e.g. the loss at a step) and not primary.

    Returns
    -------
    dict
    """
    reference = reference_of(cells)
    primary = primary_comparisons(cells, margins) if measured is None and name in PRIMARY else {}
    found = {(a, reference.activation): comparison for (a, of), comparison in primary.items() if of == name}
    rest = [(a, b) for a, b in itertools.combinations(cells, 2) if not found or reference not in (a, b)]
    compared = [(measured or (lambda a, b: compare_cells(a, b, name)))(a, b) for a, b in rest]
    judged = significance.verdicts(compared, [margin_of(name, reference, margins)] * len(rest))
    found |= {(a.activation, b.activation): comparison for (a, b), comparison in zip(rest, judged)}
    return found | {(b, a): significance.exchanged(comparison) for (a, b), comparison in found.items()}


def equal_spread_p(cell: Cell, reference: Cell, name: str) -> float | None:
    """p of the Pitman-Morgan test of equal variances of two paired samples.

    The sum and the difference of two paired variables are uncorrelated exactly if their variances are equal.

    Parameters
    ----------
    cell, reference : Cell
    name : str
        A measure of trials.

    Returns
    -------
    float or None
        None below three common trials, or if the sum or the difference is the same in all of them.

    References
    ----------
    Morgan 1939, A test for the significance of the difference between the two variances in a sample from a normal
    bivariate population.
    Pitman 1939, A note on normal correlation.
    """
    numbers = union((cell, reference))
    both = [(x, y) for x, y in zip(values(cell, name, numbers), values(reference, name, numbers)) if None not in (x, y)]
    if len(both) < 3:
        return None
    x, y = np.array(both).T
    if np.ptp(x + y) == 0 or np.ptp(x - y) == 0:
        return None
    from scipy.special import stdtr  # the same p as scipy.stats.pearsonr, which takes a second to import

    r, df = np.corrcoef(x + y, x - y)[0, 1], len(x) - 2
    return float(2 * stdtr(df, -abs(r) * math.sqrt(df / max(1 - r**2, np.finfo(float).tiny))))


def order(cells: Sequence[Cell], means: Sequence[float | None], better: str | None) -> list[Cell]:
    """The cells that have a mean, best first; ties in the study's order."""
    sign = -1 if better == "higher" else 1
    known = [(sign * mean, index) for index, mean in enumerate(means) if mean is not None]
    return [cells[index] for _, index in sorted(known)]


# --- the finite text --------------------------------------------------------------------------------------------------


def window_errors(cell: Cell, reference: Cell | None, name: str) -> float | None:
    """Standard error of a mean, or of a difference, due to the finite validation data alone.

    The mean of each window or example over all trials or pairs (that both cells have), and its error over windows or
    examples: of a text in blocks, since neighbouring windows are correlated (analysis/windows.py); examples of other tasks
    count as independent.

    Parameters
    ----------
    cell : Cell
    reference : Cell or None
        None: the error of the cell's own mean.
    name : str
        A pair metric; any other name stands for the loss.

    Returns
    -------
    float or None
        In the unit of the measure; None without values per window, or with fewer than two blocks.
    """
    cells = [cell] if reference is None else [cell, reference]
    if any(not member.arrays for member in cells):
        return None
    numbers = sorted(set.intersection(*(set(member.numbers) for member in cells)))
    if is_pair_measure(name):
        keys = [f"pair_{a}_{b}_{name}" for a, b in itertools.combinations(numbers, 2)]
    else:
        keys = [f"trial_{number}_loss" for number in numbers]
    keys = [key for key in keys if all(key in member.arrays for member in cells)]
    if not keys:
        return None
    windows = [np.stack([member.arrays[key] for key in keys]).mean(axis=0, dtype=np.float64) for member in cells]
    difference = windows[0] if reference is None else windows[0] - windows[1]
    return window_standard_error(difference, BLOCK if "corpus" in cell.result else 1)


# --- outlying runs --------------------------------------------------------------------------------------------------


def outlying(cell: Cell, name: str) -> list[int]:
    """The numbers of the trials flagged as outlying in a measure (analysis/outlying.py)."""
    if is_pair_measure(name):
        found = outlying_runs_of_pairs(matrix(cell, name))
    else:
        found = outlying_runs(np.array(values(cell, name), dtype=float))
    return [cell.numbers[index] for index in found]


def without(cell: Cell, numbers: Sequence[int]) -> Cell:
    """The cell without some trials and their pairs."""
    trials = [trial for trial in cell.result["trials"] if trial["trial"] not in numbers]
    pairs = [pair for pair in cell.result["pairs"] if not {pair["trial_a"], pair["trial_b"]} & set(numbers)]
    return Cell(cell.result | {"trials": trials, "pairs": pairs}, cell.arrays)


# --- all activations together -----------------------------------------------------------------------------------------


def disagreeing_measures(cells: Sequence[Cell], margins: Margins) -> list[tuple[Cell, Cell, list[str], list[str]]]:
    """Pairs of activations on whose order in reproducibility the pair metrics disagree.

    Parameters
    ----------
    cells : sequence of Cell
        All of one architecture in a study.
    margins : Margins

    Returns
    -------
    list of (one, other, metrics, metrics)
        Metrics in which the first is significantly more reproducible, and those in which the second is, each corrected
        in the family of its measure (see `comparisons`).
    """
    compared = {name: comparisons(cells, name, margins) for name in PAIR_MEASURES}
    found = []
    for one, other in itertools.combinations(cells, 2):
        signs = {name: compared[name][one.activation, other.activation].sign for name in PAIR_MEASURES}
        sides = ([name for name, sign in signs.items() if sign == MEASURES[name].better],)
        sides += ([name for name, sign in signs.items() if sign and sign != MEASURES[name].better],)
        if all(sides):
            found.append((one, other, *sides))
    return found


def activation_sensitivity(cells: Sequence[Cell], margins: Margins) -> dict[str, Sensitivity] | None:
    """Sensitivity of an architecture to the activation, in `val_loss` and `relative_pd`; None below two activations."""
    if len(cells) < 2:
        return None
    numbers, reference = union(cells), reference_of(cells)
    losses = np.array([values(cell, "val_loss", numbers) for cell in cells], dtype=float).reshape(len(cells), -1)
    pds = np.array([matrix(cell, "relative_pd", numbers) for cell in cells])
    return {
        "val_loss": sensitivity_of_means(losses, margins.loss),
        "relative_pd": sensitivity_of_pairs(pds, margin_of("relative_pd", reference, margins)),
    }


def score_sensitivity(cells: Sequence[Cell], margins: Margins) -> tuple[str, float | None, Sensitivity] | None:
    """A task's own score: its name, the margin (a fraction of the reference's mean), and the sensitivity to the activation.

    None if the trials have no score. The margin is None, and the verdict inconclusive, if the reference's mean is 0.
    """
    scores = [record["score"] for cell in cells for record in cell.trials.values() if record.get("score")]
    if not scores:
        return None
    margin, numbers = margins.pairs * abs(estimate(reference_of(cells), "score").mean) or None, union(cells)
    found = sensitivity_of_means([values(cell, "score", numbers) for cell in cells], margin)
    return scores[0]["name"], margin, found


def has_both(cell: Cell) -> bool:
    """Whether the cell has both axes of the Pareto frontier, a validation loss and a relative PD."""
    return None not in (estimate(cell, "val_loss").mean, estimate(cell, "relative_pd").mean)


@cached_by_cells
def frontier(cells: Sequence[Cell]) -> tuple[list[str], dict[str, float] | None]:
    """The Pareto frontier in loss and relative PD.

    Parameters
    ----------
    cells : sequence of Cell
        For which `has_both` holds.

    Returns
    -------
    activations : list of str
        Those on the frontier.
    shares : dict or None
        Activation -> fraction of bootstrap resamples in which it is on the frontier; None below three trials.
    """
    numbers = union(cells)
    means = [[estimate(cell, name).mean for cell in cells] for name in ("val_loss", "relative_pd")]
    on_it = pareto_front(*np.array(means, dtype=float))
    losses = np.array([values(cell, "val_loss", numbers) for cell in cells], dtype=float)
    shares = pareto_shares(losses, np.array([matrix(cell, "relative_pd", numbers) for cell in cells]))
    names = [cell.activation for cell in cells]
    return [name for name, on in zip(names, on_it) if on], None if shares is None else dict(zip(names, shares.tolist()))


def group_difference(group: Sequence[Cell], reference: Cell, name: str) -> Comparison:
    """The mean over a group of activations minus the reference, paired; trials missing in any are left out."""
    numbers = union((*group, reference))
    if is_pair_measure(name):
        mean = np.mean([matrix(cell, name, numbers) for cell in group], axis=0)
        return significance.compare_pair_means(mean, matrix(reference, name, numbers))
    mean = np.mean(np.array([values(cell, name, numbers) for cell in group], dtype=float), axis=0)
    return significance.compare_means(mean, values(reference, name, numbers))


# --- several studies ------------------------------------------------------------------------------------------------


SOURCES = {
    "init": "initial weights",
    "data": "order of the data",
    "dropout": "dropout",
    "bit": "one bit of one weight",
}
ALL_SOURCES = "all together"


def source_label(identity: dict) -> str:
    """The sources of randomness that vary between the trials of a study, in words."""
    vary = identity["vary"]
    if identity["protocol"] == "published" or set(vary) == {"init", "data", "dropout"}:
        return ALL_SOURCES
    return " and ".join(SOURCES[name] for name in vary) or "nothing"


@dataclass(frozen=True)
class Study:
    """The content of a study's folder."""

    folder: str
    identity: dict  # from study.json
    cells: list[Cell]
    planned: list[tuple[str, str]]  # (architecture, activation)

    @functools.cached_property
    def architectures(self) -> dict[str, list[Cell]]:
        """Architecture -> its cells, in the study's order."""
        names = dict.fromkeys(cell.architecture for cell in self.cells)
        return {name: [cell for cell in self.cells if cell.architecture == name] for name in names}

    @property
    def corpus_label(self) -> str:
        return data_facts(self.cells[0].result)["label"] if self.cells else "unknown"
