"""The statistics of a study for existing predictions: metrics, comparisons and verdicts, without any training.

Trials are read a few examples at a time (common/prediction_files.py), and only sums are kept: over examples for each
trial or pair of trials, and over trials or pairs for each block of examples. The metrics are those of metrics.py.

Trials with the same name in two variants are paired, like trials with the same seed in a study; variants without a
common name are compared unpaired (`significance.compare_independent`). Verdicts are those of `significance.verdicts`,
in the same families as in a study: every variant against the reference times the primary measures; in each other
measure, all pairs of variants.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

import metrics
from analysis import results, significance
from analysis.estimates import Estimate
from analysis.results import Cell, Margins
from analysis.sensitivity import judge_sensitivity
from analysis.significance import Comparison
from analysis.windows import BLOCK, window_standard_error
from analysis.words import plural
from common.errors import UserError, unknown
from common.prediction_files import Predictions, rows

MOST_ROWS, CHUNK_BYTES = 1024, 32 * 2**20  # examples, and bytes of all trials of a variant, read at a time
MOST_PAIRS = 512  # compared in one pass: 60 MB of values per example
FEWEST_BLOCKS = 10  # with fewer, the error due to the finite set of examples is not estimated
OF_TRUE_CLASS = ("shamir_relative_pd", "ensemble_gain")  # metrics that need true classes and probabilities
OF_LABELS = ("top1_disagreement", "cohen_kappa", "error_consistency")


@dataclass(frozen=True)
class Variants:
    """Result of `compare`.

    Attributes
    ----------
    predictions : Predictions
    margins : Margins
    cells : list of Cell
        One per variant, the reference first.
    names : dict
        Trial number -> name.
    by_block : dict
        Variant -> measure -> (B,) array: means over trials or pairs, summed over the examples of each block; also of the
        quantities of laws.py.
    comparisons : dict
        (variant, measure) -> comparison with the reference.
    paired : dict
        Variant -> whether its trials are paired with the reference's.
    together : dict
        Primary measure -> verdict and p-values of `sensitivity.judge_sensitivity`; empty for two variants.
    """

    predictions: Predictions
    margins: Margins
    cells: list[Cell]
    names: dict[int, str]
    by_block: dict[str, dict[str, np.ndarray]]
    comparisons: dict[tuple[str, str], Comparison]
    paired: dict[str, bool]
    together: dict[str, tuple[str, float | None, float | None]]

    @property
    def reference(self) -> Cell:
        return self.cells[0]


# --- comparing ------------------------------------------------------------------------------------------------------


def compare(
    predictions: Predictions,
    reference: str | None = None,
    margins: Margins | None = None,
    workers: int = 1,
    progress: Callable[[int], object] | None = None,
) -> Variants:
    """Every measure of every variant, and its difference from the reference with a verdict.

    Parameters
    ----------
    predictions : Predictions
        From `common.prediction_files.load`.
    reference : str, optional
        A variant's name; default: the first.
    margins : Margins, optional
    workers : int
        Number of processes; results do not depend on it.
    progress : callable, optional
        Called with the number of examples of a variant just processed.

    Returns
    -------
    Variants

    Raises
    ------
    UserError
        The reference is not a variant, or two variants share some but not all of their trials' names.
    """
    variants = list(predictions.trials)
    if reference is not None and reference not in variants:
        raise unknown("variant", reference, variants)
    reference = reference or variants[0]
    variants.sort(key=lambda name: name != reference)
    share = {pair: _is_paired(predictions, *pair) for pair in itertools.combinations(variants, 2)}
    paired = {name: share[variants[0], name] for name in variants[1:]}
    every = dict.fromkeys(trial for name in variants for trial in predictions.trials[name])
    number = {trial: k for k, trial in enumerate(every, 1)}
    cells, by_block = [], {}
    for name in variants:
        sums = _measured(predictions, list(predictions.trials[name].values()), workers, progress)
        numbers = [number[trial] for trial in predictions.trials[name]]
        cells.append(_cell(name, numbers, sums, predictions))
        by_block[name] = {key.removeprefix("block "): value for key, value in sums.items() if key.startswith("block ")}
    margins = margins or Margins()
    primary = primary_of(predictions)
    comparisons = _judged(cells, share, primary, measures_of(predictions), margins)
    together = {name: _together(cells, share, name, margins) for name in primary} if len(cells) > 2 else {}
    names = {k: trial for trial, k in number.items()}
    return Variants(predictions, margins, cells, names, by_block, comparisons, paired, together)


def measures_of(predictions: Predictions) -> list[str]:
    """The measures that can be computed from these predictions: those of trials first, then those of pairs."""
    has_truth, labels = predictions.truth is not None, predictions.kind == "labels"
    of_trials = [name for name, wanted in (("loss", not labels), ("accuracy", True)) if has_truth and wanted]
    of_pairs = OF_LABELS if labels else (*metrics.MEANS, "cohen_kappa", "error_consistency")
    without = () if has_truth else (*OF_TRUE_CLASS, "error_consistency")
    if not labels:  # with three classes, any two top-3 sets are the same
        without += tuple(f"top{k}_overlap" for k in (3, 5) if predictions.shape[-1] <= k)
    return of_trials + [name for name in of_pairs if name not in without]


def primary_of(predictions: Predictions) -> list[str]:
    """The primary measures: those of a study, with accuracy in place of the loss for labels."""
    primary = ("accuracy", "top1_disagreement") if predictions.kind == "labels" else ("loss", *metrics.PRIMARY)
    return [name for name in primary if name in measures_of(predictions)]


def _is_paired(predictions, one, other):
    """Whether two variants have the same trials; a UserError if they share only some."""
    trials = predictions.trials
    common = set(trials[one]) & set(trials[other])
    if common and set(trials[one]) != set(trials[other]):
        odd = next(trial for trial in (*trials[one], *trials[other]) if trial not in common)
        where = one if odd in trials[one] else other
        raise UserError(
            f"the trials of {one} and {other} are paired only in part: only {predictions.folder / where} has a trial {odd!r};"
            " give trials with the same seed the same name in both, or give all trials different names"
        )
    return bool(common)


def _together(cells, share, name, margins):
    """`sensitivity.judge_sensitivity` over all pairs of variants; inconclusive without a margin."""
    margin = results.margin_of(name, cells[0], margins)
    differences = [difference(b, a, name, share).difference for a, b in itertools.combinations(cells, 2)]
    return judge_sensitivity(differences, margin) if margin else ("inconclusive", None, None)


def difference(cell: Cell, reference: Cell, name: str, share: dict[tuple[str, str], bool]) -> Comparison:
    """cell - reference in one measure, without a verdict.

    Parameters
    ----------
    cell, reference : Cell
    name : str
        The measure.
    share : dict
        (variant, variant) -> whether their trials are paired.

    Returns
    -------
    Comparison
        Without a difference if the measure is infinite in any trial or pair of either.
    """
    for one in (cell, reference):
        if count := one.result["infinite"].get(name):
            what = plural(count, "pair" if results.is_pair_measure(name) else "trial")
            reason = f"infinite in {what} of {one.activation}, where a probability is 0"
            return Comparison(Estimate(None, None, 0, None, None, None, None, "none", reason), None, None)
    if share[reference.activation, cell.activation]:
        return results.compare_cells(cell, reference, name)
    return significance.compare_independent(results.estimate(cell, name), results.estimate(reference, name))


def _judged(cells, share, primary, measures, margins):
    """(variant, measure) -> comparison with the reference; primary measures are one family, each other one its own."""
    reference, found = cells[0], {}
    families = [[(reference, cell, name) for cell in cells[1:] for name in primary]]
    every = list(itertools.combinations(cells, 2))
    families += [[(one, other, name) for one, other in every] for name in measures if name not in primary]
    for family in families:
        compared = [difference(other, one, name, share) for one, other, name in family]
        limits = [results.margin_of(name, reference, margins) for _, _, name in family]
        for (one, other, name), comparison in zip(family, significance.verdicts(compared, limits)):
            if one is reference:
                found[other.activation, name] = comparison
    return found


def error_over_examples(variants: Variants, name: str, variant: str, reference: str | None = None) -> float | None:
    """Standard error of a mean, or of its difference from a reference, due to the finite set of examples.

    The sampling units are examples, groups or windows (blocks), not trials. With s_b the sum of a measure over the n_b
    examples of block b and m the overall mean, the error is that of the deviations s_b - m n_b (ratio estimator).
    Neighbouring windows are correlated, so they are resampled in blocks of ten (analysis/windows.py).

    Parameters
    ----------
    variants : Variants
    name : str
        A measure.
    variant : str
    reference : str, optional
        Another variant. None: the error of the variant's own mean.

    Returns
    -------
    float or None
        In the unit of the measure. None if the measure is not a mean over examples, if it is infinite, or below
        FEWEST_BLOCKS blocks.

    References
    ----------
    Cochran 1977, Sampling techniques, section 6.4.
    """
    sizes = np.bincount(variants.predictions.blocks).astype(np.float64)
    sums = variants.by_block[variant].get(name)
    if sums is None or len(sizes) < FEWEST_BLOCKS:
        return None
    sums = sums - (0 if reference is None else variants.by_block[reference][name])
    if not np.isfinite(sums).all():
        return None
    deviations = (sums - sums.sum() / sizes.sum() * sizes) / sizes.mean()
    together = 1
    if variants.predictions.blocks_are == "windows":
        together = math.ceil(BLOCK * len(sizes) / variants.predictions.shape[0])
    return window_standard_error(deviations, together)


# --- metrics ------------------------------------------------------------------------------------------------------


def log_probabilities(values: np.ndarray, logits: bool) -> np.ndarray:
    """Log-probabilities from probabilities or logits.

    Parameters
    ----------
    values : (N, C) array
        Probabilities are normalised, since rounded ones may not sum to 1 exactly.
    logits : bool

    Returns
    -------
    (N, C) array
        float64 if the values are, else float32; -inf for a probability of 0.
    """
    values = np.asarray(values, np.result_type(values.dtype, np.float32))
    with np.errstate(divide="ignore"):
        if not logits:
            return np.log(values / values.sum(axis=1, keepdims=True))
        values = values - values.max(axis=1, keepdims=True)
        return values - np.log(np.exp(values).sum(axis=1, keepdims=True))


def _measured(predictions: Predictions, files: Sequence[Path], workers: int, progress) -> dict[str, np.ndarray]:
    """Sums over all examples, added chunk by chunk in the same order for any number of workers."""
    total: dict[str, np.ndarray] = {}
    tasks = list(_tasks(predictions, files))
    workers = min(workers, len(tasks))
    with ProcessPoolExecutor(workers, get_context("spawn")) if workers > 1 else nullcontext() as pool:
        for task, found in zip(tasks, (pool.map if pool else map)(_sums, *zip(*tasks))):
            for name, value in found.items():
                total[name] = total[name] + value if name in total else value
            if progress:
                progress(len(task[5]))
    return total


def _tasks(predictions, files) -> Iterator[tuple]:
    """The arguments of `_sums` for every chunk: at most MOST_ROWS examples and CHUNK_BYTES of all trials."""
    labels = predictions.kind == "labels"
    n_classes = len(predictions.classes) if labels else predictions.shape[-1]
    bytes_per_row = len(files) * (8 if labels else 16 * n_classes)
    step = max(1, min(MOST_ROWS, CHUNK_BYTES // bytes_per_row))
    n_blocks = int(predictions.blocks.max()) + 1
    for start in range(0, predictions.n_rows, step):
        part = slice(start, start + step)
        truth = None if predictions.truth is None else predictions.truth[part]
        yield files, predictions.kind, n_classes, start, truth, predictions.blocks[part], n_blocks


def _sums(files, kind, n_classes, start, truth, blocks, n_blocks) -> dict[str, np.ndarray]:
    """The contribution of a chunk of examples to the sums of a variant.

    Returns
    -------
    dict
        Trials: "loss" and "correct" (n,), "labels" (n, C). Pairs, in the order of combinations: each metric's name,
        "agreements" and "both correct" (P,). Blocks: "block " and a measure's name (B,).
    """
    values = [rows(file, start, start + len(blocks)) for file in files]
    pairs = list(itertools.combinations(range(len(files)), 2))
    found, per_example = {}, {}
    if kind == "labels":
        labels = np.stack(values)
    else:
        scores = {trial: log_probabilities(x, kind == "logits") for trial, x in enumerate(values)}
        labels = np.stack([x.argmax(axis=1) for x in scores.values()])
        found, per_example = _of_probabilities(scores, pairs, truth)
    of_labels, more = _of_labels(labels, pairs, truth, n_classes)
    found |= of_labels
    per_example |= more
    for name, value in per_example.items():
        found[f"block {name}"] = np.bincount(blocks, value, n_blocks)
    return found


def _of_probabilities(scores, pairs, truth):
    """Measures that need probabilities: (sums over examples, values per example as means over trials or pairs)."""
    names = [
        name
        for name in metrics.MEANS
        if name != "top1_disagreement" and (truth is not None or name not in OF_TRUE_CLASS)
    ]
    sums = {name: np.empty(len(pairs)) for name in names}
    n = len(next(iter(scores.values())))
    per_example = {name: np.zeros(n) for name in names}
    targets = np.zeros((n, 1), np.int64) if truth is None else truth.reshape(-1, 1)
    windows = {trial: log_p[:, None, :] for trial, log_p in scores.items()}  # one position each
    for first in range(0, len(pairs), MOST_PAIRS):
        some = pairs[first : first + MOST_PAIRS]
        for index, (_, values) in enumerate(metrics.compare_pairs(windows, some, targets), first):
            for name in names:
                sums[name][index] = values[name].sum()
                per_example[name] += values[name]
    per_example = {name: value / len(pairs) for name, value in per_example.items()}
    if truth is not None:
        losses = np.stack([-log_p[np.arange(n), truth].astype(np.float64) for log_p in scores.values()])
        sums["loss"], per_example["loss"] = losses.sum(axis=1), losses.mean(axis=0)
    return sums, per_example


def _of_labels(labels, pairs, truth, n_classes):
    """The same as `_of_probabilities` for measures that need only labels, (n, N)."""
    agree, differ = np.empty(len(pairs), np.int64), np.zeros(labels.shape[1])
    for index, (a, b) in enumerate(pairs):
        same = labels[a] == labels[b]
        agree[index] = np.count_nonzero(same)
        differ += ~same
    counts = np.stack([np.bincount(own, minlength=n_classes) for own in labels])
    sums = {"agreements": agree, "labels": counts}
    per_example = {"top1_disagreement": differ / len(pairs)}
    if truth is not None:
        correct = labels == truth
        sums["correct"] = correct.sum(axis=1)
        both = correct.astype(np.float32) @ correct.T.astype(np.float32)  # exact below 2^24 examples
        sums["both correct"] = both[np.triu_indices(len(correct), 1)].astype(np.int64)
        per_example["accuracy"] = correct.mean(axis=0)
        per_example["disagreement_minus_error"] = per_example["top1_disagreement"] - (1 - per_example["accuracy"])
        if len(labels) > 2:
            per_example |= _vote_variances(labels, truth, n_classes)
    return sums, per_example


def _vote_variances(labels, truth, n_classes):
    """Unbiased estimates of p_y (1 - p_y) and of sum_c p_c^2 (1 - p_c) for each example (laws.py), from three trials or more."""
    n, size = labels.shape
    votes = np.zeros((size, n_classes))
    for own in labels:
        votes[np.arange(size), own] += 1
    right = votes[np.arange(size), truth]
    squares = votes * (votes - 1) / (n * (n - 1))
    cubes = votes * (votes - 1) * (votes - 2) / (n * (n - 1) * (n - 2))
    independent = right * (n - right) / (n * (n - 1))
    return {"variance_if_independent": independent, "variance_if_calibrated": (squares - cubes).sum(axis=1)}


def _cell(name, numbers, sums, predictions) -> Cell:
    """The trials and pairs of a variant in the format of a study's result; "infinite": measure -> count.

    A measure that is infinite in any trial or pair is missing in all, since a mean over the others would be a
    selection.
    """
    n, has_truth = predictions.n_rows, "correct" in sums
    columns = {"loss": sums["loss"] / n} if "loss" in sums else {}
    columns |= {"accuracy": sums["correct"] / n} if has_truth else {}
    columns |= {key: sums[key] / n for key in metrics.MEANS if key in sums}
    infinite = {key: int(np.isinf(value).sum()) for key, value in columns.items() if np.isinf(value).any()}
    trials = [
        {"trial": k, "status": "complete"} | _row(columns, infinite, ("loss", "accuracy"), row)
        for row, k in enumerate(numbers)
    ]
    pairs = []
    for index, (a, b) in enumerate(itertools.combinations(range(len(numbers)), 2)):
        agreements = int(sums["agreements"][index])
        pair = {"trial_a": numbers[a], "trial_b": numbers[b]} | _row(columns, infinite, metrics.MEANS, index)
        pair |= {"top1_disagreement": (n - agreements) / n, "prediction_differences": n - agreements}
        pair["cohen_kappa"] = metrics.kappa_of_counts(agreements, sums["labels"][a], sums["labels"][b])
        if has_truth:
            correct = [np.array([count, n - count]) for count in (sums["correct"][a], sums["correct"][b])]
            alike = n - int(correct[0][0]) - int(correct[1][0]) + 2 * int(sums["both correct"][index])
            pair["error_consistency"] = metrics.kappa_of_counts(alike, *correct)
        pairs.append(pair)
    return Cell({"architecture": "", "activation": name, "trials": trials, "pairs": pairs, "infinite": infinite})


def _row(columns, infinite, names, index):
    return {key: None if key in infinite else float(columns[key][index]) for key in names if key in columns}
