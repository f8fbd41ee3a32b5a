"""How far apart are the predictions of two models? Pure functions of their log-probabilities at the same positions.

Both models of a pair are evaluated on the same W windows of T positions (an example of a classifier is a window of one
position) and give log-probabilities over C classes: two arrays (W, T, C), float32, possibly memory-mapped. One small
function per metric returns a value per position; `compare` computes all of them in one pass over chunks of windows. In
formulas, p and q are the two models' probabilities at a position, y is the true class, and sums run over the classes.

Three guarantees:
- Symmetry: exchanging the two models changes no bit of any metric, and a model compared with itself gives exactly 0
  (exactly 1 for overlaps, kappas and, where they are defined, correlations).
- Zeros: a probability may underflow or be zero (a log-probability of -inf), and what is mathematically finite stays
  finite. Only `symmetric_kl` and `ensemble_gain` can be infinite, where one model gives probability zero and the other
  does not. Such a mean is inf per window, and None (null in JSON) in the metrics.
- No NaN: rows that contain NaN or are not log-probabilities raise a ValueError. A row's probabilities must sum to 1
  within SUM_TOLERANCE, ten times the error of a float32 log-softmax; one rounded to bfloat16 or float16 fails.

Sums are written so that no term is negative (symmetric KL as |p - q| |log p - log q|, for example), and rows in which
float32 would lose |p - q| to cancellation are computed in float64: symmetric KL and JS divergence have a relative error
below 1e-3 even for two nearly identical models. Means over positions and windows are taken in float64.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

LN2 = float(np.log(2.0))
N_WORK = 5  # work arrays, in addition to those of the models
CHUNK_BYTES = 16 * 2**20  # processed at a time; more only if a single window of two models is larger
SUM_TOLERANCE = 1e-4  # maximum deviation from 1 of the sum of a row's probabilities
NEARLY_EQUAL = 2.0**-11  # rows with a smaller sum |p - q| are computed in float64: in float32 it is too inaccurate
FLOAT64_ROWS = 1024  # processed at a time in float64
MIN_WINDOWS = 8  # per chunk where possible: below that, the overhead of numpy's calls dominates


@dataclass(frozen=True)
class Metric:
    """Description of a metric, for tables and axes.

    Attributes
    ----------
    label : str
    of_positions : bool
        Whether it is a mean over positions, and so has a value per window.
    unit : str
        "" for a dimensionless number.
    better : str or None
        "lower" or "higher": the direction of more reproducible. None: a count of positions, which has no direction.
    low, high : float
        The range, ends included.
    formula, source : str
    """

    label: str
    of_positions: bool
    unit: str
    better: str | None
    low: float
    high: float
    formula: str
    source: str


_INF, _COUNT = float("inf"), "positions"
_CHURN, _TOP_K = "Milani Fard et al. 2016 (churn)", "Fagin et al. 2003"
_SHAMIR, _SUMMERS = "Shamir et al. 2020, arXiv 2010.09931", "Summers & Dinneen 2021, arXiv 2103.04514"
_GEIRHOS, _EDIT = "Geirhos et al. 2020, arXiv 2006.16736", "Levenshtein 1966"
_PD, _GAIN = "mean |p - q| / (mean p + mean q)", "mean cross-entropy of p, q - that of (p + q) / 2"
_KL, _JS = "mean (KL(p, q) + KL(q, p)) / 2", "mean (KL(p, m) + KL(q, m)) / 2, m = (p + q) / 2"
_R, _RHO = "Pearson's r over windows", "Spearman's rho over windows"
_KAPPA, _CORRECTNESS = "(agreement - chance) / (1 - chance) of the argmaxes", "Cohen's kappa of correctness"
_METRICS: tuple[tuple[Any, ...], ...] = (
    # name, label, of_positions, unit, better, low, high, formula, source
    ("relative_pd", "Relative PD", True, "", "lower", 0, 1, _PD, "total variation distance"),
    ("shamir_relative_pd", "Shamir PD", True, "", "lower", 0, 2, "mean 2 |p_y - q_y| / (p_y + q_y)", _SHAMIR),
    ("top1_disagreement", "Top-1 disagreement", True, "", "lower", 0, 1, "mean [argmax p != argmax q]", _CHURN),
    ("prediction_differences", "Differences", False, _COUNT, "lower", 0, _INF, "sum [argmax p != argmax q]", _CHURN),
    ("total_predictions", "Predictions", False, _COUNT, None, 0, _INF, "windows x positions", "a count"),
    ("top3_overlap", "Top-3 overlap", True, "", "higher", 0, 1, "mean |A and B| / 3, top-3 sets", _TOP_K),
    ("top5_overlap", "Top-5 overlap", True, "", "higher", 0, 1, "mean |A and B| / 5, top-5 sets", _TOP_K),
    ("symmetric_kl", "Symmetric KL", True, "nats", "lower", 0, _INF, _KL, "Kullback & Leibler 1951"),
    ("js_divergence", "JS divergence", True, "nats", "lower", 0, LN2, _JS, "Lin 1991"),
    ("perplexity_pearson", "Perplexity correlation", False, "", "higher", -1, 1, _R, "Pearson 1895"),
    ("perplexity_spearman", "Perplexity rank corr.", False, "", "higher", -1, 1, _RHO, "Spearman 1904"),
    ("ensemble_gain", "Ensemble gain", True, "nats", "lower", 0, _INF, _GAIN, _SUMMERS),
    ("cohen_kappa", "Cohen's kappa", False, "", "higher", -1, 1, _KAPPA, "Cohen 1960"),
    ("error_consistency", "Error consistency", False, "", "higher", -1, 1, _CORRECTNESS, _GEIRHOS),
    ("edit_distance", "Edit distance", False, "", "lower", 0, 1, "mean distance / longer length", _EDIT),
)
METRICS = {name: Metric(*fields) for name, *fields in _METRICS}
# The pair metrics of the primary family, whose fourth measure is the validation loss.
PRIMARY = ("relative_pd", "top1_disagreement", "js_divergence")
# Metrics that are means over positions, and so have a value per window.
MEANS = (*PRIMARY, *(name for name, metric in METRICS.items() if metric.of_positions and name not in PRIMARY))


def truncated(name: str, low: float | None, high: float | None) -> tuple[float | None, float | None]:
    """A confidence interval clipped to the range of the measure, which leaves its coverage unchanged.

    Parameters
    ----------
    name : str
        A key of METRICS, or a measure of trials: accuracies lie in [0, 1], losses and times in [0, inf], scores anywhere.
    low, high : float or None

    Returns
    -------
    low, high : float or None
        None if either end is None.
    """
    if low is None or high is None:
        return None, None
    own = METRICS.get(name)
    lowest, highest = (own.low, own.high) if own else (0, 1 if name.endswith("accuracy") else _INF)
    if name == "score":
        lowest = -_INF
    return max(low, lowest), min(high, highest)


# --- values per position: (N, C) or (N,) in, (N,) out


def shamir_difference(log_p_true, log_q_true):
    """Relative difference of the true class's probability, 2 |p_y - q_y| / (p_y + q_y).

    The pairwise form of the relative prediction difference, computed as 2 tanh(|log p_y - log q_y| / 2), which cannot
    underflow.

    Parameters
    ----------
    log_p_true, log_q_true : (N,) array
        log p_y and log q_y.

    Returns
    -------
    (N,) float64 array
        In [0, 2]; 0 where both probabilities are zero.

    References
    ----------
    Shamir, Lin & Coviello 2020, Smooth activations and reproducibility in deep networks (arXiv 2010.09931).
    """
    return 2 * np.tanh(_log_ratio(log_p_true, log_q_true) / 2)


def ensemble_gain(log_p_true, log_q_true):
    """Reduction in cross-entropy from averaging the two models, log((p_y + q_y) / 2) - (log p_y + log q_y) / 2.

    Its mean is the two models' mean cross-entropy minus that of (p + q) / 2. Computed as log cosh(d / 2) with
    d = |log p_y - log q_y|.

    Parameters
    ----------
    log_p_true, log_q_true : (N,) array
        log p_y and log q_y.

    Returns
    -------
    (N,) float64 array
        Nats, in [0, inf]; 0 where both probabilities are zero, inf where one is.

    References
    ----------
    Summers & Dinneen 2021, Nondeterminism and instability in neural network optimization (arXiv 2103.04514).
    """
    d = _log_ratio(log_p_true, log_q_true)
    small = np.log1p(2 * np.sinh(np.minimum(d, 1) / 4) ** 2)  # for small d the other form suffers from cancellation
    return np.where(d < 1, small, d / 2 + np.log1p(np.exp(-d)) - LN2)


def _log_ratio(log_a, log_b):
    """|log a - log b| in float64; 0 where both are -inf."""
    log_a, log_b = np.asarray(log_a, np.float64), np.asarray(log_b, np.float64)
    with np.errstate(invalid="ignore"):
        return np.where(log_a == log_b, 0.0, np.abs(log_a - log_b))


def symmetric_kl(log_p, log_q):
    """Symmetric Kullback-Leibler divergence, (KL(p, q) + KL(q, p)) / 2 = sum (p - q) (log p - log q) / 2.

    Parameters
    ----------
    log_p, log_q : (N, C) array

    Returns
    -------
    (N,) array
        Nats, in [0, inf]; inf where, for some class, exactly one probability is zero (its logarithm -inf).
        Probabilities that underflow are handled correctly.

    References
    ----------
    Kullback & Leibler 1951, On information and sufficiency (half of their divergence J).
    """
    difference, _ = _difference_and_total(_exp(log_p), _exp(log_q))
    value = _symmetric_kl(difference, log_p, log_q, np.empty_like(difference))
    rows, kl, _ = _nearly_equal_rows(difference.sum(axis=1), log_p, log_q)
    value[rows] = kl
    return value


def _symmetric_kl(difference, log_p, log_q, ratio):
    """`symmetric_kl` in the dtype of the given |p - q|; ratio is an (N, C) work array."""
    with np.errstate(invalid="ignore", over="ignore"):  # -inf + inf where both are zero, corrected below
        np.abs(np.subtract(log_p, log_q, out=ratio), out=ratio)
        value = np.einsum("ij,ij->i", difference, ratio) / 2
        zeros = ~np.isfinite(value)
        if zeros.any():  # one zero gives inf even if the other probability underflows; two zeros give 0
            ratio = _log_ratio(log_p[zeros], log_q[zeros])
            value[zeros] = np.where(ratio == np.inf, np.inf, difference[zeros] * ratio).sum(axis=1) / 2
    return value


def js_divergence(log_p, log_q):
    """Jensen-Shannon divergence, (KL(p, m) + KL(q, m)) / 2 with m = (p + q) / 2.

    Parameters
    ----------
    log_p, log_q : (N, C) array

    Returns
    -------
    (N,) float64 array
        Nats, in [0, ln 2].

    References
    ----------
    Lin 1991, Divergence measures based on the Shannon entropy.
    """
    difference, total = _difference_and_total(_exp(log_p), _exp(log_q))
    value = _js_divergence(difference, total, np.empty((3, *difference.shape), difference.dtype)).astype(np.float64)
    rows, _, js = _nearly_equal_rows(difference.sum(axis=1), log_p, log_q)
    value[rows] = js
    return np.minimum(value, LN2)


def _js_divergence(difference, total, work):
    """`js_divergence` in the dtype of the given |p - q| and p + q; work: three (N, C) work arrays.

    It is sum (p + q) / 4 g(t) with t = |p - q| / (p + q) and g(t) = (1 + t) log(1 + t) + (1 - t) log(1 - t). For small
    t the closed form suffers from cancellation and is replaced by its series, t^2 + t^4 / 6 + t^6 / 15 + t^8 / 28 +
    t^10 / 45 + ... (for t <= 1/4 the remainder is below 2e-8 of the sum). For two similarly trained models most t are
    small, and a logarithm costs as much as twenty multiplications.
    """
    t, u, g = work
    tiny = np.finfo(total.dtype).tiny  # avoids 0 / 0 and log 0; too small to change any other value
    np.divide(difference, np.add(total, tiny, out=t), out=t)
    np.multiply(t, t, out=u)
    np.divide(u, 45, out=g)
    for coefficient in (1 / 28, 1 / 15, 1 / 6, 1):
        g += coefficient
        g *= u
    large = np.flatnonzero(u >= 1 / 16)
    t = t.reshape(-1)[large]
    g.reshape(-1)[large] = (1 + t) * np.log(1 + t) + (1 - t) * np.log(np.maximum(1 - t, tiny))
    return np.einsum("ij,ij->i", g, total) / 4


def _nearly_equal_rows(difference_sums, log_p, log_q):
    """Rows whose sum |p - q| is below NEARLY_EQUAL, with their symmetric KL and JS divergence in float64.

    The rounding error of p - q in float32 is 1e-7 p, and that of both divergences about 2e-7 of sum |p - q|. Here
    |p - q| is computed as max(p, q) (1 - e^-d) with d = |log p - log q|, and |p - q| / (p + q) as tanh(d / 2).
    """
    rows = np.flatnonzero(difference_sums < NEARLY_EQUAL)
    kl, js = np.empty((2, len(rows)))
    for start in range(0, len(rows), FLOAT64_ROWS):
        some = slice(start, start + FLOAT64_ROWS)
        a, b = log_p[rows[some]], log_q[rows[some]]
        d, larger = _log_ratio(a, b), np.exp(np.maximum(a, b, dtype=np.float64))
        zero = np.isinf(d)  # one probability is zero, the other is not
        kl[some] = np.where(zero, np.inf, -larger * np.expm1(-d) * np.where(zero, 0, d)).sum(axis=1) / 2
        js[some] = (larger * (1 + np.exp(-d)) * _g(np.tanh(d / 2))).sum(axis=1) / 4
    return rows, kl, js


def _g(t):
    """(1 + t) log(1 + t) + (1 - t) log(1 - t) in float64, t in [0, 1]."""
    series = t**2 + t**4 / 6 + t**6 / 15
    closed = (1 + t) * np.log1p(t) + (1 - t) * np.log(np.maximum(1 - t, np.finfo(float).tiny))
    return np.where(t < 0.01, series, closed)


def _exp(log_p, out=None):
    """exp(log_p). Logits passed as log-probabilities may give inf or NaN, which `_check_sums` reports."""
    with np.errstate(over="ignore"):
        return np.exp(log_p, out=out)


def _difference_and_total(p, q, difference=None, total=None):
    """|p - q| and p + q, in the given (N, C) arrays or new ones."""
    with np.errstate(invalid="ignore", over="ignore"):  # as in _exp
        difference = np.subtract(p, q, out=difference)
        return np.abs(difference, out=difference), np.add(p, q, out=total)


def top_indices(log_p, k, rest=None):
    """The k most likely classes at each position.

    Parameters
    ----------
    log_p : (N, C) array
    k : int
    rest : (N, C) array, optional
        Work array.

    Returns
    -------
    (N, min(k, C)) integer array
        Class indices, most likely first; ties go to the lower index.
    """
    rest = np.maximum(log_p, np.finfo(log_p.dtype).min, out=rest)  # so that -inf can mark classes already selected
    n, n_classes = rest.shape
    flat, row_starts = rest.reshape(-1), np.arange(n) * n_classes
    top = np.empty((min(k, n_classes), n), np.intp)
    for indices in top:
        rest.argmax(axis=1, out=indices)
        flat[row_starts + indices] = -np.inf
    return top.T


def topk_overlap(top_a, top_b, k):
    """Overlap of two models' top-k sets, |A and B| / k.

    Parameters
    ----------
    top_a, top_b : (N, K) integer array
        From `top_indices`; their first k columns are compared, or all K if k > K.
    k : int

    Returns
    -------
    (N,) float64 array
        In [0, 1].

    References
    ----------
    Fagin, Kumar & Sivakumar 2003, Comparing top k lists.
    """
    shared = np.zeros(len(top_a), np.int8)
    for a in top_a.T[:k]:
        for b in top_b.T[:k]:
            shared += (a == b).view(np.int8)
    return shared / min(k, top_a.shape[1])


# --- values of all positions together


def cohen_kappa(a, b, n_classes):
    """Cohen's kappa of two labellings, (agreement - chance) / (1 - chance).

    Chance is the agreement expected from the label frequencies. It is 1 only if both labellings consist of the same
    single label; kappa, formally 0 / 0, is then 1, as the two are identical.

    Parameters
    ----------
    a, b : (N,) integer or boolean array
        Labels 0 .. n_classes - 1.
    n_classes : int

    Returns
    -------
    float or None
        In [-1, 1]; None if N = 0.

    References
    ----------
    Cohen 1960, A coefficient of agreement for nominal scales.
    """
    return _kappa(_tally(np.ravel(a), np.ravel(b), n_classes))


def _tally(a, b, n_classes):
    """Counts that add up over chunks, (1 + 2 n_classes,) integers: of a == b, of each label in a, and in b."""
    counts = [np.bincount(labels.astype(np.intp), minlength=n_classes) for labels in (a, b)]
    return np.concatenate([[np.count_nonzero(a == b)], *counts])


def _kappa(tally):
    """Cohen's kappa from a `_tally`."""
    return kappa_of_counts(tally[0], *tally[1:].reshape(2, -1))


def kappa_of_counts(agreements, counts_a, counts_b):
    """`cohen_kappa` from counts, in integer arithmetic up to the final division, so identical labels give exactly 1.

    Parameters
    ----------
    agreements : int
        Number of positions at which the two labellings agree.
    counts_a, counts_b : (C,) integer array
        How often each label occurs in each labelling.

    Returns
    -------
    float or None
        In [-1, 1]; None if there are no positions.
    """
    n, agreements, chance = int(counts_a.sum()), int(agreements), int(counts_a @ counts_b)
    if n * n == chance:  # chance agreement, times n^2
        return 1.0 if n else None
    return (n * agreements - chance) / (n * n - chance)


def error_consistency(correct_a, correct_b):
    """Cohen's kappa of two models' correctness: do they err on the same positions?

    Parameters
    ----------
    correct_a, correct_b : (N,) boolean array
        Whether each model's most likely class is the true one.

    Returns
    -------
    float or None
        In [-1, 1]; 1 if both are always correct, or both always wrong (see `cohen_kappa`); None if N = 0.

    References
    ----------
    Geirhos, Meding & Wichmann 2020, Beyond accuracy: quantifying trial-by-trial behaviour of CNNs and humans by
    measuring error consistency (arXiv 2006.16736).
    """
    return cohen_kappa(correct_a, correct_b, 2)


def perplexity_correlations(loss_a, loss_b):
    """Pearson's r and Spearman's rho of two models' perplexities over windows.

    Parameters
    ----------
    loss_a, loss_b : (W,) array
        Mean cross-entropy of each window, nats; its exponential is the perplexity.

    Returns
    -------
    r, rho : float or None
        In [-1, 1]; ties share their mean rank. None where undefined: fewer than two windows, constant perplexities, or
        (r only) an infinite one.

    References
    ----------
    Pearson 1895, Notes on regression and inheritance in the case of two parents.
    Spearman 1904, The proof and measurement of association between two things.
    """
    with np.errstate(over="ignore"):
        perplexities = [np.exp(np.asarray(loss, np.float64)) for loss in (loss_a, loss_b)]
    return _pearson(*perplexities), _pearson(_ranks(loss_a), _ranks(loss_b))


def _ranks(x):
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _pearson(x, y):
    """Pearson's r of positive numbers, or None."""
    if len(x) < 2 or not (np.isfinite(x).all() and np.isfinite(y).all() and np.ptp(x) and np.ptp(y)):
        return None
    x, y = x / x.max(), y / y.max()  # so that squares do not overflow
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()), -1, 1))


def edit_distance(texts_a, texts_b):
    """Mean normalised edit distance: Levenshtein distance divided by the length of the longer text.

    Parameters
    ----------
    texts_a, texts_b : sequence of str
        Two models' continuations of the same prompts.

    Returns
    -------
    float or None
        In [0, 1]; two empty texts have distance 0. None without texts.

    Raises
    ------
    ValueError
        Different numbers of texts.

    References
    ----------
    Levenshtein 1966, Binary codes capable of correcting deletions, insertions, and reversals.
    """
    from rapidfuzz.distance import Levenshtein

    if len(texts_a) != len(texts_b):
        raise ValueError(f"texts of {len(texts_a)} and of {len(texts_b)} prompts cannot be compared")
    distances = [Levenshtein.distance(a, b) / max(len(a), len(b), 1) for a, b in zip(texts_a, texts_b)]
    return sum(distances) / len(distances) if distances else None


def window_losses(log_p, targets):
    """Cross-entropy of each window, the mean of -log p_y over its positions.

    Parameters
    ----------
    log_p : (W, T, C) array
    targets : (W, T) integer array
        The true classes.

    Returns
    -------
    (W,) float64 array
        Nats per position, in [0, inf].

    Raises
    ------
    ValueError
        Shapes that do not match, or targets that are not classes.
    """
    _check(log_p, log_p, targets)
    return _window_means(-_at_targets(log_p.reshape(-1, log_p.shape[2]), np.ravel(targets)), log_p.shape[1])


def accuracy(log_p, targets):
    """Fraction of positions at which the most likely class is the true one.

    Parameters
    ----------
    log_p : (W, T, C) array
    targets : (W, T) integer array
        The true classes.

    Returns
    -------
    float
        In [0, 1]; ties go to the lower index.

    Raises
    ------
    ValueError
        Shapes that do not match, or targets that are not classes.
    """
    _check(log_p, log_p, targets)
    return float(np.mean(np.argmax(log_p, axis=-1) == targets))


# --- all metrics of pairs of models, in chunks of windows


@dataclass(frozen=True)
class _Predictions:
    """One model's predictions at N positions."""

    log_p: np.ndarray  # (N, C)
    p: np.ndarray  # (N, C)
    top: np.ndarray  # (N, min(5, C)), the most likely classes
    log_p_true: np.ndarray  # (N,) float64


def compare(log_p, log_q, targets, *, chunk_windows=None):
    """All metrics of a pair of models except `edit_distance`, in one pass over the windows.

    Parameters
    ----------
    log_p, log_q : (W, T, C) array
        Log-probabilities.
    targets, chunk_windows
        As in `compare_pairs`.

    Returns
    -------
    metrics : dict of str to float, int or None
    per_window : dict of str to (W,) float64 array
        Both as in `compare_pairs`.

    Raises
    ------
    ValueError
        Shapes that do not match, targets that are not classes, or values that are not log-probabilities.
    """
    return compare_pairs({0: log_p, 1: log_q}, [(0, 1)], targets, chunk_windows=chunk_windows)[0]


def compare_pairs(models, pairs, targets, *, chunk_windows=None):
    """All metrics of pairs of models except `edit_distance`, in one pass over the windows.

    Per-model quantities (probabilities, most likely classes) are computed once and shared by all pairs of the model.

    Parameters
    ----------
    models : dict of name to (W, T, C) array
        Log-probabilities.
    pairs : list of (name, name)
    targets : (W, T) integer array
        The true classes.
    chunk_windows : int, optional
        Windows processed at a time; default: as many as fit in CHUNK_BYTES. Results do not depend on it, bit for bit:
        means are taken over the positions of each window, then over windows.

    Returns
    -------
    list of (metrics, per_window), one per pair
        metrics: name -> float, int or None, in the order of METRICS. per_window: name -> (W,) float64 array, for the
        names in MEANS.

    Raises
    ------
    ValueError
        Shapes that do not match, targets that are not classes, or values that are not log-probabilities.
    """
    for a, b in pairs:
        _check(models[a], models[b], targets)
    return [found for group in _groups(models, pairs) for found in _compare(models, group, targets, chunk_windows)]


def _groups(models, pairs):
    """Groups of successive pairs to compare in one pass: as many as fit in CHUNK_BYTES with MIN_WINDOWS at a time."""
    group: list[tuple] = []
    names: set = set()
    for pair in pairs:
        _, length, n_classes = models[pair[0]].shape
        together = names | set(pair)
        if group and _chunk_windows(len(together), 4 * length * n_classes) < MIN_WINDOWS:
            yield group
            group, together = [], set(pair)
        group.append(pair)
        names = together
    if group:
        yield group


def _compare(models, pairs, targets, chunk_windows):
    """`compare_pairs` of one group."""
    models = {name: models[name] for name in dict.fromkeys(name for pair in pairs for name in pair)}
    n_windows, length, n_classes = targets.shape + next(iter(models.values())).shape[2:]
    dtype = np.result_type(*models.values(), np.float32)
    window_bytes = length * n_classes * dtype.itemsize
    chunk_windows = min(chunk_windows or _chunk_windows(len(models), window_bytes), n_windows)
    names = (*MEANS, "difference", "total", "loss_p", "loss_q")
    windows = [{name: np.empty(n_windows) for name in names} for _ in pairs]
    labels = np.zeros((len(pairs), 1 + 2 * n_classes), np.int64)
    correct = np.zeros((len(pairs), 1 + 2 * 2), np.int64)
    # the same memory for every chunk: newly allocated arrays, cleared by the operating system, cost 50% more time
    work = np.empty((N_WORK, chunk_windows * length, n_classes), dtype)
    probabilities = {name: np.empty_like(work[0]) for name in models}
    for start in range(0, n_windows, chunk_windows):
        chunk = slice(start, start + chunk_windows)
        y = np.asarray(targets[chunk]).reshape(-1)
        n = len(y)
        predictions = {
            name: _predictions(log_p[chunk], y, probabilities[name][:n], work[0, :n]) for name, log_p in models.items()
        }
        for index, (a, b) in enumerate(pairs):
            one, other = predictions[a], predictions[b]
            labels[index] += _tally(one.top[:, 0], other.top[:, 0], n_classes)
            correct[index] += _tally(one.top[:, 0] == y, other.top[:, 0] == y, 2)
            for name, value in _measure(one, other, work[:, :n]).items():
                windows[index][name][chunk] = _window_means(value, length)
    return [_aggregate(windows[i], labels[i], correct[i], n_windows * length) for i in range(len(pairs))]


def _chunk_windows(n_models, window_bytes):
    """Windows for which all models (log-probabilities and probabilities) and work arrays fit in CHUNK_BYTES."""
    return max(1, CHUNK_BYTES // ((2 * n_models + N_WORK) * window_bytes))


def _predictions(log_p, y, p, work):
    """A model's chunk, from (windows, T, C); p, work: (N, C) arrays for its probabilities and other results."""
    log_p = np.ascontiguousarray(log_p, p.dtype).reshape(p.shape)
    _check_sums(_exp(log_p, p).sum(axis=1))
    return _Predictions(log_p, p, top_indices(log_p, 5, work), _at_targets(log_p, y))


def _measure(one, other, work):
    """Metrics of two models at the N positions of a chunk: name -> (N,) array."""
    difference, total = _difference_and_total(one.p, other.p, work[0], work[1])
    values = {"difference": difference.sum(axis=1), "total": total.sum(axis=1)}
    values["symmetric_kl"] = _symmetric_kl(difference, one.log_p, other.log_p, work[2])
    values["js_divergence"] = _js_divergence(difference, total, work[2:])
    rows, kl, js = _nearly_equal_rows(values["difference"], one.log_p, other.log_p)
    values["symmetric_kl"][rows], values["js_divergence"][rows] = kl, js
    values["top1_disagreement"] = one.top[:, 0] != other.top[:, 0]
    values["top3_overlap"] = topk_overlap(one.top, other.top, 3)
    values["top5_overlap"] = topk_overlap(one.top, other.top, 5)
    values["loss_p"], values["loss_q"] = -one.log_p_true, -other.log_p_true
    values["shamir_relative_pd"] = shamir_difference(one.log_p_true, other.log_p_true)
    values["ensemble_gain"] = ensemble_gain(one.log_p_true, other.log_p_true)
    return values


def _aggregate(windows, labels, correct, n):
    """(metrics, per_window) of a pair, from the means of its windows, the two tallies, and the number of positions."""
    windows["relative_pd"] = windows["difference"] / windows["total"]
    windows["js_divergence"] = np.minimum(windows["js_divergence"], LN2)  # which rounding errors may exceed
    per_window = {name: windows[name] for name in MEANS}
    metrics: dict = {name: float(x.mean()) if np.isfinite(x).all() else None for name, x in per_window.items()}
    metrics["js_divergence"] = min(metrics["js_divergence"], LN2)
    agreements = int(labels[0])
    metrics["relative_pd"] = float(windows["difference"].sum() / windows["total"].sum())
    metrics["top1_disagreement"] = (n - agreements) / n
    metrics["prediction_differences"], metrics["total_predictions"] = n - agreements, n
    metrics["cohen_kappa"], metrics["error_consistency"] = _kappa(labels), _kappa(correct)
    correlations = perplexity_correlations(windows["loss_p"], windows["loss_q"])
    metrics["perplexity_pearson"], metrics["perplexity_spearman"] = correlations
    return {name: metrics[name] for name in METRICS if name in metrics}, per_window


def compare_brief(log_p, log_q):
    """Relative PD and top-1 disagreement of a pair, bit-identical to those of `compare`, in a quarter of its time.

    Parameters
    ----------
    log_p, log_q : (W, T, C) array
        Log-probabilities.

    Returns
    -------
    dict of str to float
        "relative_pd" and "top1_disagreement", in [0, 1].

    Raises
    ------
    ValueError
        Shapes that do not match, or values that are not log-probabilities.
    """
    _check(log_p, log_q)
    n_windows, length, n_classes = log_p.shape
    dtype = np.result_type(log_p, log_q, np.float32)
    chunk_windows = min(_chunk_windows(2, length * n_classes * dtype.itemsize), n_windows)
    work = np.empty((4, chunk_windows * length, n_classes), dtype)
    sums, differences = np.empty((2, n_windows)), 0
    for start in range(0, n_windows, chunk_windows):
        chunk = slice(start, start + chunk_windows)
        a, b = (np.ascontiguousarray(x[chunk], dtype).reshape(-1, n_classes) for x in (log_p, log_q))
        p, q, *rest = work[:, : len(a)]
        _check_sums(_exp(a, p).sum(axis=1))
        _check_sums(_exp(b, q).sum(axis=1))
        difference, total = _difference_and_total(p, q, *rest)
        sums[0, chunk] = _window_means(difference.sum(axis=1), length)
        sums[1, chunk] = _window_means(total.sum(axis=1), length)
        differences += int(np.count_nonzero(a.argmax(axis=1) != b.argmax(axis=1)))
    relative_pd = float(sums[0].sum() / sums[1].sum())
    return {"relative_pd": relative_pd, "top1_disagreement": differences / (n_windows * length)}


def _at_targets(log_p, y):
    """log p_y in float64: (N, C) and (N,) -> (N,)."""
    return log_p[np.arange(len(y)), y].astype(np.float64)


def _window_means(values, length):
    """Means over windows of the given length: (N,) -> (N / length,) float64."""
    if length == 1:  # a classifier's examples: taking means over an axis of length 1 would cost more than most metrics
        return values.astype(np.float64)
    return values.reshape(-1, length).mean(axis=1, dtype=np.float64)


def _check_sums(sums):
    """Raises a ValueError unless the sums (N,) of the rows' probabilities are 1."""
    off = np.abs(sums - 1)
    if not (off <= SUM_TOLERANCE).all():  # NaN fails too
        worst = "NaN" if np.isnan(off).any() else f"one sums to {float(sums[off.argmax()]):.5g}"
        raise ValueError(
            f"not log-probabilities: the probabilities at a position must sum to 1 within {SUM_TOLERANCE:g}, but {worst};"
            " take the log-softmax of the logits in float32, not in bfloat16 or float16"
        )


def _check(log_p, log_q, targets=None):
    """Raises a ValueError unless the shapes match and the targets are classes."""
    if log_p.ndim != 3 or 0 in log_p.shape or log_q.shape != log_p.shape:
        raise ValueError(f"log-probabilities must both be (W, T, C), not {log_p.shape} and {log_q.shape}")
    if targets is None:
        return
    if targets.shape != log_p.shape[:2] or targets.dtype.kind not in "iu":
        raise ValueError(f"targets must be integers {log_p.shape[:2]}, not {targets.dtype} {targets.shape}")
    if targets.min() < 0 or targets.max() >= log_p.shape[2]:
        raise ValueError(f"targets must be in 0 .. {log_p.shape[2] - 1}, the classes")
