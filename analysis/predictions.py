"""Predictions that somebody already has, measured and compared: the statistics of a study, without its training.

Trials are read a few examples at a time (common/prediction_files.py). What is kept of an example are sums: of each pair
of trials over examples, and of each block of examples over trials or pairs. Every measure is that of metrics.py.

Trials of the same name in two variants are paired, as trials with the same seed are in a study; variants without a
common name are compared unpaired (`significance.compare_independent`). The verdicts are those of `significance.verdicts`,
in the families of a study: every variant against the reference times the primary measures; in any other measure all
pairs of variants.
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

MOST_ROWS, CHUNK_BYTES = 1024, 32 * 2**20  # of all trials of a variant at a time
MOST_PAIRS = 512  # measured in one pass: 60 MB of values per example
FEWEST_BLOCKS = 10  # below that, how much another set of examples would change is not estimated
OF_TRUE_CLASS = ("shamir_relative_pd", "ensemble_gain")  # measures that need the truth, and probabilities
OF_LABELS = ("top1_disagreement", "cohen_kappa", "error_consistency")


@dataclass(frozen=True)
class Variants:
    """What `compare` found. The reference is the first of `cells`.

    names: trial number -> name. by_block: per variant, measure -> (B,) means over trials or pairs, summed over the
    examples of each block. comparisons: (variant, measure) -> comparison with the reference. paired: variant -> whether.
    impossible: variant -> in how many trials the truth has probability 0 somewhere.
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
        A variant's name; the first one where none is named.
    margins : Margins, optional
    workers : int
        Processes; no number depends on it.
    progress : callable, optional
        Told how many more examples of a variant were measured.

    Returns
    -------
    Variants

    Raises
    ------
    UserError
        A reference that is none of the variants, or trials' names of which only some are those of the reference.
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
    """The measures that these predictions have: of trials first, then of pairs."""
    has_truth, labels = predictions.truth is not None, predictions.kind == "labels"
    of_trials = [name for name, wanted in (("loss", not labels), ("accuracy", True)) if has_truth and wanted]
    of_pairs = OF_LABELS if labels else (*metrics.MEANS, "cohen_kappa", "error_consistency")
    without = () if has_truth else (*OF_TRUE_CLASS, "error_consistency")
    if not labels:  # the three most likely of three classes are always the same
        without += tuple(f"top{k}_overlap" for k in (3, 5) if predictions.shape[-1] <= k)
    return of_trials + [name for name in of_pairs if name not in without]


def primary_of(predictions: Predictions) -> list[str]:
    """The primary measures: those of a study; of labels, the accuracy stands for the loss."""
    primary = ("accuracy", "top1_disagreement") if predictions.kind == "labels" else ("loss", *metrics.PRIMARY)
    return [name for name in primary if name in measures_of(predictions)]


def _is_paired(predictions, one, other):
    """Whether two variants have the same trials; a UserError if only some are the same."""
    trials = predictions.trials
    common = set(trials[one]) & set(trials[other])
    if common and set(trials[one]) != set(trials[other]):
        odd = next(trial for trial in (*trials[one], *trials[other]) if trial not in common)
        where = one if odd in trials[one] else other
        raise UserError(
            f"the trials of {one} and {other} pair only partly: {predictions.folder / where} alone has a trial {odd!r}; give"
            " those with the same seed the same name in both, or no two of them the same"
        )
    return bool(common)


def _together(cells, share, name, margins):
    """Whether the variant matters at all: `sensitivity.judge_sensitivity` over all pairs of variants; None without a margin."""
    margin = results.margin_of(name, cells[0], margins)
    differences = [difference(b, a, name, share).difference for a, b in itertools.combinations(cells, 2)]
    return judge_sensitivity(differences, margin) if margin else ("inconclusive", None, None)


def difference(cell: Cell, reference: Cell, name: str, share: dict[tuple[str, str], bool]) -> Comparison:
    """cell - reference in one measure, without a verdict; share: (variant, variant) -> whether trials are paired. A mean that is infinite in either is compared with none."""
    for one in (cell, reference):
        if count := one.result["infinite"].get(name):
            what = plural(count, "pair" if results.is_pair_measure(name) else "trial")
            reason = f"infinite in {what} of {one.activation}, where a probability is 0"
            return Comparison(Estimate(None, None, 0, None, None, None, None, "none", reason), None, None)
    if share[reference.activation, cell.activation]:
        return results.compare_cells(cell, reference, name)
    return significance.compare_independent(results.estimate(cell, name), results.estimate(reference, name))


def _judged(cells, share, primary, measures, margins):
    """(variant, measure) -> comparison with the reference: the primary measures are one family, every other is its own."""
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
    """The standard error of a mean, or of a difference from a reference, that comes from the finite set of examples.

    Examples, groups or windows are drawn, not trials. With s_b the sum of a measure over the n_b examples of block b and m
    the mean over all, the deviations s_b - m n_b stand for values (Cochran 1977, Sampling techniques, 6.4: the ratio
    estimator); windows are neighbours, so blocks of ten of them count as one (analysis/windows.py).

    Returns
    -------
    float or None
        None for a measure that is no mean over examples, that is infinite, or below FEWEST_BLOCKS blocks.
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


# --- measuring ------------------------------------------------------------------------------------------------------


def log_probabilities(values: np.ndarray, logits: bool) -> np.ndarray:
    """(N, C) probabilities, or logits, as log-probabilities of the same shape, in float32, or in float64 if they are.

    Probabilities are divided by their sum, which may miss 1 a little where they were rounded. A zero is -inf.
    """
    values = np.asarray(values, np.result_type(values.dtype, np.float32))
    with np.errstate(divide="ignore"):
        if not logits:
            return np.log(values / values.sum(axis=1, keepdims=True))
        values = values - values.max(axis=1, keepdims=True)
        return values - np.log(np.exp(values).sum(axis=1, keepdims=True))


def _measured(predictions: Predictions, files: Sequence[Path], workers: int, progress) -> dict[str, np.ndarray]:
    """Sums over all examples, chunk by chunk, in their order whatever the number of workers."""
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
    """The arguments of `_sums`, of at most MOST_ROWS examples and CHUNK_BYTES of all trials at a time."""
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
    """What a chunk of examples adds to the sums of a variant.

    Returns
    -------
    dict
        Of trials (n,): "loss", "right"; (n, C): "labels". Of pairs (P,), in the order of combinations: a measure's name,
        and "agreements", "both right". (B,): "block " and a measure's name.
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
    """(sums, values per example, means over trials or pairs) of the measures that need probabilities."""
    names = [
        name
        for name in metrics.MEANS
        if name != "top1_disagreement" and (truth is not None or name not in OF_TRUE_CLASS)
    ]
    sums = {name: np.empty(len(pairs)) for name in names}
    n = len(next(iter(scores.values())))
    per_example = {name: np.zeros(n) for name in names}
    targets = np.zeros((n, 1), np.int64) if truth is None else truth.reshape(-1, 1)
    windows = {trial: log_p[:, None, :] for trial, log_p in scores.items()}  # of one position each
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
    """The same for the measures of labels (n, N)."""
    agree, differ = np.empty(len(pairs), np.int64), np.zeros(labels.shape[1])
    for index, (a, b) in enumerate(pairs):
        same = labels[a] == labels[b]
        agree[index] = np.count_nonzero(same)
        differ += ~same
    counts = np.stack([np.bincount(own, minlength=n_classes) for own in labels])
    sums = {"agreements": agree, "labels": counts}
    per_example = {"top1_disagreement": differ / len(pairs)}
    if truth is not None:
        right = labels == truth
        sums["right"] = right.sum(axis=1)
        both = right.astype(np.float32) @ right.T.astype(np.float32)  # exact: there are less than 2^24 examples
        sums["both right"] = both[np.triu_indices(len(right), 1)].astype(np.int64)
        per_example["accuracy"] = right.mean(axis=0)
    return sums, per_example


def _cell(name, numbers, sums, predictions) -> Cell:
    """The trials and pairs of a variant as those of a study's result; "infinite": measure -> in how many of them it is.

    Where it is in any, it is left out of all: a mean over the others would be one over a selection.
    """
    n, has_truth = predictions.n_rows, "right" in sums
    columns = {"loss": sums["loss"] / n} if "loss" in sums else {}
    columns |= {"accuracy": sums["right"] / n} if has_truth else {}
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
            right = [np.array([count, n - count]) for count in (sums["right"][a], sums["right"][b])]
            alike = n - int(right[0][0]) - int(right[1][0]) + 2 * int(sums["both right"][index])
            pair["error_consistency"] = metrics.kappa_of_counts(alike, *right)
        pairs.append(pair)
    return Cell({"architecture": "", "activation": name, "trials": trials, "pairs": pairs, "infinite": infinite})


def _row(columns, infinite, names, index):
    return {key: None if key in infinite else float(columns[key][index]) for key in names if key in columns}
