"""How far apart are two models' predictions? Pure functions of what the two say at the same positions.

Both models of a pair read the same W windows of T positions and give log-probabilities over V characters: two
arrays (W, T, V), float32, possibly memory-mapped. One small function per measure gives a value per position;
`compare` takes all of them in one pass over chunks of windows. In formulas p and q are the two models'
probabilities at a position, y is the true next character, and sums run over the characters.

Three rules hold everywhere:
- Exchanging the two models changes no bit of any measure, and a model compared with itself gives exactly 0
  (exactly 1 for overlaps, kappas and, where they are defined, correlations).
- A probability may underflow, or be zero (a log-probability of -inf): what is finite in mathematics stays
  finite. Only `symmetric_kl` and `ensemble_gain` can be infinite, where one model calls impossible what the
  other does not. Such a mean is inf per window, and None (JSON's null) in the metrics.
- No measure is NaN: rows that hold NaN, or are no log-probabilities, are refused with a ValueError. The
  probabilities of a row must sum to 1 within SUM_TOLERANCE, which a float32 log-softmax keeps by a factor of ten
  and one that is rounded to bfloat16 or float16 does not.

Sums are written so that no term is negative (symmetric KL as |p - q| |log p - log q|, say), and rows in which
float32 would lose |p - q| to cancellation are computed in float64: symmetric KL and JS divergence are right to a
relative 1e-3 for two models that hardly differ. Means over positions and windows are taken in float64.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

LN2 = float(np.log(2.0))
N_WORK = 5  # arrays to work in, besides those of the models
CHUNK_BYTES = 16 * 2**20  # that are worked on at a time; more only where two models' single window is larger
SUM_TOLERANCE = 1e-4  # by how much the probabilities of a row may miss 1
HARDLY_APART = 2.0**-11  # sum |p - q| of a row below which float32's |p - q| is not exact enough
FEW_ROWS = 1024  # in float64 at a time
FEW_WINDOWS = 8  # at a time: with less, numpy is called for too little each


@dataclass(frozen=True)
class Metric:
    """What a table or an axis says about a measure."""

    label: str
    of_positions: bool  # whether it is a mean over positions, and so has a value per window
    unit: str  # "" for a pure number
    better: str | None  # "lower" or "higher": which way is more reproducible; None: a count, no measure
    low: float  # the range, ends included
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
_KAPPA, _RIGHT = "(agreement - chance) / (1 - chance) of the argmaxes", "Cohen's kappa of being right"
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
    ("error_consistency", "Error consistency", False, "", "higher", -1, 1, _RIGHT, _GEIRHOS),
    ("edit_distance", "Edit distance", False, "", "lower", 0, 1, "mean distance / longer length", _EDIT),
)
METRICS = {name: Metric(*fields) for name, *fields in _METRICS}
# The pair measures of the primary family; the fourth primary measure is the validation loss.
PRIMARY = ("relative_pd", "top1_disagreement", "js_divergence")
# The measures that are means over positions, and so have a value per window: those that `_measure` gives.
MEANS = (*PRIMARY, *(name for name, metric in METRICS.items() if metric.of_positions and name not in PRIMARY))


def truncated(name: str, low: float | None, high: float | None) -> tuple[float | None, float | None]:
    """An interval of a measure, of pairs or of trials, cut to the values that the measure can have.

    Coverage stays what it is, since the truth is among them. Losses and times have no upper end, accuracies are shares.
    """
    if low is None or high is None:
        return None, None
    own = METRICS.get(name)
    least, most = (own.low, own.high) if own else (0, 1 if name.endswith("accuracy") else _INF)
    return max(low, least), min(high, most)


# --- position by position: (N, V) or (N,) in, (N,) out


def shamir_difference(log_p_true, log_q_true):
    """2 |p_y - q_y| / (p_y + q_y), in [0, 2], from log p_y and log q_y; 0 where both are zero.

    Computed as 2 tanh(|log p_y - log q_y| / 2), which needs no probability that might underflow. The pairwise
    form of the relative prediction difference of Shamir, Lin & Coviello 2020 (arXiv 2010.09931).
    """
    return 2 * np.tanh(_log_ratio(log_p_true, log_q_true) / 2)


def ensemble_gain(log_p_true, log_q_true):
    """log((p_y + q_y) / 2) - (log p_y + log q_y) / 2, nats, in [0, inf]: what averaging the models gains.

    Computed as log cosh(d / 2), d = |log p_y - log q_y|; 0 where both are zero, inf where one is. The mean is
    the two models' mean cross-entropy minus that of (p + q) / 2 (Summers & Dinneen 2021, arXiv 2103.04514).
    """
    d = _log_ratio(log_p_true, log_q_true)
    near = np.log1p(2 * np.sinh(np.minimum(d, 1) / 4) ** 2)  # where d is small the other form cancels
    return np.where(d < 1, near, d / 2 + np.log1p(np.exp(-d)) - LN2)


def _log_ratio(log_a, log_b):
    """|log a - log b| in float64; 0 where both are -inf."""
    log_a, log_b = np.asarray(log_a, np.float64), np.asarray(log_b, np.float64)
    with np.errstate(invalid="ignore"):
        return np.where(log_a == log_b, 0.0, np.abs(log_a - log_b))


def symmetric_kl(log_p, log_q):
    """(KL(p, q) + KL(q, p)) / 2 = sum (p - q) (log p - log q) / 2, nats, in [0, inf].

    inf where exactly one of p and q is zero, its logarithm -inf; a probability that merely underflows does no
    harm. Kullback & Leibler 1951, On information and sufficiency (half of their divergence J).
    """
    apart, _ = _apart_and_total(_exp(log_p), _exp(log_q))
    value = _symmetric_kl(apart, log_p, log_q, np.empty_like(apart))
    rows, kl, _ = _hardly_apart(apart.sum(axis=1), log_p, log_q)
    value[rows] = kl
    return value


def _symmetric_kl(apart, log_p, log_q, ratio):
    """`symmetric_kl` in the arithmetic of |p - q|, which is given; ratio is an array (N, V) to work in."""
    with np.errstate(invalid="ignore", over="ignore"):  # -inf + inf where both are zero, set right below
        np.abs(np.subtract(log_p, log_q, out=ratio), out=ratio)
        value = np.einsum("ij,ij->i", apart, ratio) / 2
        zeros = ~np.isfinite(value)
        if zeros.any():  # one zero is inf even if the other probability underflows; two zeros are 0 apart
            ratio = _log_ratio(log_p[zeros], log_q[zeros])
            value[zeros] = np.where(ratio == np.inf, np.inf, apart[zeros] * ratio).sum(axis=1) / 2
    return value


def js_divergence(log_p, log_q):
    """(KL(p, m) + KL(q, m)) / 2 with m = (p + q) / 2, nats, in [0, ln 2].

    Lin 1991, Divergence measures based on the Shannon entropy.
    """
    apart, total = _apart_and_total(_exp(log_p), _exp(log_q))
    value = _js_divergence(apart, total, np.empty((3, *apart.shape), apart.dtype)).astype(np.float64)
    rows, _, js = _hardly_apart(apart.sum(axis=1), log_p, log_q)
    value[rows] = js
    return np.minimum(value, LN2)


def _js_divergence(apart, total, work):
    """`js_divergence` from |p - q| and p + q, in their arithmetic: sum (p + q) / 4 g(t), t = |p - q| / (p + q), where

    g(t) = (1 + t) log(1 + t) + (1 - t) log(1 - t). For small t that cancels, and its series stands in:
    t^2 + t^4 / 6 + t^6 / 15 + t^8 / 28 + t^10 / 45 + ... (up to t = 1/4 the rest is below 2e-8 of the sum).
    Most t of two models that were trained alike are small, and a logarithm costs as much as twenty products.
    work: three arrays (N, V) to work in.
    """
    t, u, g = work
    tiny = np.finfo(total.dtype).tiny  # keeps out 0 / 0 and log 0, too small to change anything else
    np.divide(apart, np.add(total, tiny, out=t), out=t)
    np.multiply(t, t, out=u)
    np.divide(u, 45, out=g)
    for coefficient in (1 / 28, 1 / 15, 1 / 6, 1):
        g += coefficient
        g *= u
    large = np.flatnonzero(u >= 1 / 16)
    t = t.reshape(-1)[large]
    g.reshape(-1)[large] = (1 + t) * np.log(1 + t) + (1 - t) * np.log(np.maximum(1 - t, tiny))
    return np.einsum("ij,ij->i", g, total) / 4


def _hardly_apart(apart_sums, log_p, log_q):
    """(rows, symmetric KL, JS divergence), in float64, of the rows whose sum of |p - q| is below HARDLY_APART.

    p - q of float32 probabilities is off by 1e-7 p, and so is sum |p - q|: both divergences by about 2e-7 of that sum.
    Here |p - q| is max(p, q) (1 - e^-d), d = |log p - log q|, and |p - q| / (p + q) is tanh(d / 2).
    """
    rows = np.flatnonzero(apart_sums < HARDLY_APART)
    kl, js = np.empty((2, len(rows)))
    for start in range(0, len(rows), FEW_ROWS):
        some = slice(start, start + FEW_ROWS)
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
    """e to log_p; inf and NaN where what is given are logits, mistaken for log-probabilities: see `_check_sums`."""
    with np.errstate(over="ignore"):
        return np.exp(log_p, out=out)


def _apart_and_total(p, q, apart=None, total=None):
    """|p - q| and p + q, in arrays (N, V) to be given, or new ones."""
    with np.errstate(invalid="ignore", over="ignore"):  # as in _exp
        apart = np.subtract(p, q, out=apart)
        return np.abs(apart, out=apart), np.add(p, q, out=total)


def top_indices(log_p, k, rest=None):
    """The k most likely characters, most likely first, as indices (N, k); all V if k > V.

    Ties go to the lower index. rest: an array (N, V) to work in, or None.
    """
    rest = np.maximum(log_p, np.finfo(log_p.dtype).min, out=rest)  # so that -inf can mean: taken
    n, v = rest.shape
    flat, row_starts = rest.reshape(-1), np.arange(n) * v
    top = np.empty((min(k, v), n), np.intp)
    for indices in top:
        rest.argmax(axis=1, out=indices)
        flat[row_starts + indices] = -np.inf
    return top.T


def topk_overlap(top_a, top_b, k):
    """|A and B| / k, in [0, 1], of the sets A and B in the first k columns of two `top_indices`.

    If these have fewer columns (k > V), all are taken. Fagin, Kumar & Sivakumar 2003, Comparing top k lists.
    """
    shared = np.zeros(len(top_a), np.int8)
    for a in top_a.T[:k]:
        for b in top_b.T[:k]:
            shared += (a == b).view(np.int8)
    return shared / min(k, top_a.shape[1])


# --- all positions at once


def cohen_kappa(a, b, n_classes):
    """(agreement - chance) / (1 - chance), in [-1, 1], of two labellings (N,) by 0 .. n_classes - 1.

    Chance is the agreement that the frequencies of the labels would give. It is 1 only where both always give
    one and the same label: 0 / 0, taken as 1, for the two are identical. None if N is 0. Cohen 1960.
    """
    return _kappa(_tally(np.ravel(a), np.ravel(b), n_classes))


def _tally(a, b, n_classes):
    """Integers (1 + 2 n_classes,) that add up over chunks: how often a == b; a's count of each label; b's."""
    counts = [np.bincount(labels.astype(np.intp), minlength=n_classes) for labels in (a, b)]
    return np.concatenate([[np.count_nonzero(a == b)], *counts])


def _kappa(tally):
    """Cohen's kappa from a `_tally`."""
    return kappa_of_counts(tally[0], *tally[1:].reshape(2, -1))


def kappa_of_counts(agreements, counts_a, counts_b):
    """`cohen_kappa` from how often two labellings agree, and how often each gives each label: (C,) integers.

    Integers up to the one division, so identical labels give exactly 1.
    """
    n, agreements, chance = int(counts_a.sum()), int(agreements), int(counts_a @ counts_b)
    if n * n == chance:  # chance: of n^2 pairs, those that agree
        return 1.0 if n else None
    return (n * agreements - chance) / (n * n - chance)


def error_consistency(right_a, right_b):
    """Cohen's kappa of two models' being right (N,), booleans, in [-1, 1]: do they fail on the same positions?

    1 where both are always right, or both always wrong (see `cohen_kappa`). Geirhos, Meding & Wichmann 2020,
    Beyond accuracy: quantifying trial-by-trial behaviour by measuring error consistency (arXiv 2006.16736).
    """
    return cohen_kappa(right_a, right_b, 2)


def perplexity_correlations(loss_a, loss_b):
    """Pearson's r and Spearman's rho, in [-1, 1], of two models' perplexities over W windows.

    loss_a, loss_b: (W,), nats; perplexity is e to that. For rho, ties share their mean rank. Either is None
    where it is undefined: fewer than two windows, the same perplexity in all, or (r only) an infinite one.
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
    x, y = x / x.max(), y / y.max()  # or squares overflow
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()), -1, 1))


def edit_distance(texts_a, texts_b):
    """Mean over prompts of Levenshtein's distance / length of the longer text, in [0, 1]; None of no texts.

    texts_a, texts_b: two models' continuations of the same prompts. Two empty texts are 0 apart.
    """
    from rapidfuzz.distance import Levenshtein

    if len(texts_a) != len(texts_b):
        raise ValueError(f"texts of {len(texts_a)} and of {len(texts_b)} prompts cannot be compared")
    distances = [Levenshtein.distance(a, b) / max(len(a), len(b), 1) for a, b in zip(texts_a, texts_b)]
    return sum(distances) / len(distances) if distances else None


def window_losses(log_p, targets):
    """(W,) float64: each window's mean of -log p_y, the cross-entropy in nats per character."""
    _check(log_p, log_p, targets)
    return _window_means(-_at(log_p.reshape(-1, log_p.shape[2]), np.ravel(targets)), log_p.shape[1])


def accuracy(log_p, targets):
    """The fraction of positions, in [0, 1], where the most likely character (lower index) is the true one."""
    _check(log_p, log_p, targets)
    return float(np.mean(np.argmax(log_p, axis=-1) == targets))


# --- pairs of models, window by window


@dataclass(frozen=True)
class _Predictions:
    """What one model says at N positions."""

    log_p: np.ndarray  # (N, V)
    p: np.ndarray  # (N, V)
    top: np.ndarray  # (N, 5), the most likely characters
    log_p_true: np.ndarray  # (N,) float64


def compare(log_p, log_q, targets, *, chunk_windows=None):
    """Every measure of a pair but `edit_distance`, in one pass: (metrics, per_window). See `compare_pairs`."""
    return compare_pairs({0: log_p, 1: log_q}, [(0, 1)], targets, chunk_windows=chunk_windows)[0]


def compare_pairs(models, pairs, targets, *, chunk_windows=None):
    """Every measure but `edit_distance` of pairs of models, in one pass over the windows.

    What concerns one model alone (its probabilities, its most likely characters) is computed once for all of its pairs.

    Args:
      models: name -> (W, T, V) log-probabilities.
      pairs: list of (name, name).
      targets: (W, T) integers, the true next characters.
      chunk_windows: how many windows are worked on at a time; None: as many as fit CHUNK_BYTES. Not a bit depends on it:
        means are taken over the positions of each window, and then over windows.

    Returns:
      A list of (metrics, per_window), one for each pair. metrics: name -> float, int or None, in the order of METRICS.
      per_window: name -> (W,) float64, for MEANS.

    Raises:
      ValueError: shapes that do not fit, or numbers that are no log-probabilities.
    """
    for a, b in pairs:
        _check(models[a], models[b], targets)
    return [found for group in _groups(models, pairs) for found in _compare(models, group, targets, chunk_windows)]


def _groups(models, pairs):
    """Successive pairs that are compared in one pass: as many as share CHUNK_BYTES with FEW_WINDOWS at a time."""
    group: list[tuple] = []
    names: set = set()
    for pair in pairs:
        _, length, v = models[pair[0]].shape
        together = names | set(pair)
        if group and _chunk_windows(len(together), 4 * length * v) < FEW_WINDOWS:
            yield group
            group, together = [], set(pair)
        group.append(pair)
        names = together
    if group:
        yield group


def _compare(models, pairs, targets, chunk_windows):
    """`compare_pairs` of a group."""
    models = {name: models[name] for name in dict.fromkeys(name for pair in pairs for name in pair)}
    n_windows, length, v = targets.shape + next(iter(models.values())).shape[2:]
    dtype = np.result_type(*models.values(), np.float32)
    chunk_windows = min(chunk_windows or _chunk_windows(len(models), length * v * dtype.itemsize), n_windows)
    names = (*MEANS, "apart", "total", "loss_p", "loss_q")
    windows = [{name: np.empty(n_windows) for name in names} for _ in pairs]
    labels = np.zeros((len(pairs), 1 + 2 * v), np.int64)
    rights = np.zeros((len(pairs), 1 + 2 * 2), np.int64)
    # the same memory for every chunk: new arrays, which the system hands out cleared and takes back, cost half again
    work = np.empty((N_WORK, chunk_windows * length, v), dtype)
    probabilities = {name: np.empty_like(work[0]) for name in models}
    for start in range(0, n_windows, chunk_windows):
        chunk = slice(start, start + chunk_windows)
        y = np.asarray(targets[chunk]).reshape(-1)
        n = len(y)
        said = {
            name: _predictions(log_p[chunk], y, probabilities[name][:n], work[0, :n]) for name, log_p in models.items()
        }
        for index, (a, b) in enumerate(pairs):
            one, other = said[a], said[b]
            labels[index] += _tally(one.top[:, 0], other.top[:, 0], v)
            rights[index] += _tally(one.top[:, 0] == y, other.top[:, 0] == y, 2)
            for name, value in _measure(one, other, work[:, :n]).items():
                windows[index][name][chunk] = _window_means(value, length)
    return [_summed_up(windows[i], labels[i], rights[i], n_windows * length) for i in range(len(pairs))]


def _chunk_windows(n_models, window_bytes):
    """How many windows of all models (log-probabilities and probabilities) and of the work arrays fit CHUNK_BYTES."""
    return max(1, CHUNK_BYTES // ((2 * n_models + N_WORK) * window_bytes))


def _predictions(log_p, y, p, work):
    """A model's chunk (n, T, V); p and work: arrays (N, V), to hold its probabilities and to work in."""
    log_p = np.ascontiguousarray(log_p, p.dtype).reshape(p.shape)
    _check_sums(_exp(log_p, p).sum(axis=1))
    return _Predictions(log_p, p, top_indices(log_p, 5, work), _at(log_p, y))


def _measure(one, other, work):
    """Two models' measures in a chunk, name -> (N,)."""
    apart, total = _apart_and_total(one.p, other.p, work[0], work[1])
    values = {"apart": apart.sum(axis=1), "total": total.sum(axis=1)}
    values["symmetric_kl"] = _symmetric_kl(apart, one.log_p, other.log_p, work[2])
    values["js_divergence"] = _js_divergence(apart, total, work[2:])
    rows, kl, js = _hardly_apart(values["apart"], one.log_p, other.log_p)
    values["symmetric_kl"][rows], values["js_divergence"][rows] = kl, js
    values["top1_disagreement"] = one.top[:, 0] != other.top[:, 0]
    values["top3_overlap"] = topk_overlap(one.top, other.top, 3)
    values["top5_overlap"] = topk_overlap(one.top, other.top, 5)
    values["loss_p"], values["loss_q"] = -one.log_p_true, -other.log_p_true
    values["shamir_relative_pd"] = shamir_difference(one.log_p_true, other.log_p_true)
    values["ensemble_gain"] = ensemble_gain(one.log_p_true, other.log_p_true)
    return values


def _summed_up(windows, labels, rights, n):
    """(metrics, per_window) of a pair: from its windows' means, the two tallies, and the number of positions."""
    windows["relative_pd"] = windows["apart"] / windows["total"]
    windows["js_divergence"] = np.minimum(windows["js_divergence"], LN2)  # which rounding may exceed
    per_window = {name: windows[name] for name in MEANS}
    metrics: dict = {name: float(x.mean()) if np.isfinite(x).all() else None for name, x in per_window.items()}
    metrics["js_divergence"] = min(metrics["js_divergence"], LN2)
    agreements = int(labels[0])
    metrics["relative_pd"] = float(windows["apart"].sum() / windows["total"].sum())
    metrics["top1_disagreement"] = (n - agreements) / n
    metrics["prediction_differences"], metrics["total_predictions"] = n - agreements, n
    metrics["cohen_kappa"], metrics["error_consistency"] = _kappa(labels), _kappa(rights)
    correlations = perplexity_correlations(windows["loss_p"], windows["loss_q"])
    metrics["perplexity_pearson"], metrics["perplexity_spearman"] = correlations
    return {name: metrics[name] for name in METRICS if name in metrics}, per_window


def compare_brief(log_p, log_q):
    """{relative_pd, top1_disagreement}: the same bits as from `compare`, in a quarter of its time."""
    _check(log_p, log_q)
    n_windows, length, v = log_p.shape
    dtype = np.result_type(log_p, log_q, np.float32)
    chunk_windows = min(_chunk_windows(2, length * v * dtype.itemsize), n_windows)
    work = np.empty((4, chunk_windows * length, v), dtype)
    sums, differences = np.empty((2, n_windows)), 0
    for start in range(0, n_windows, chunk_windows):
        chunk = slice(start, start + chunk_windows)
        a, b = (np.ascontiguousarray(x[chunk], dtype).reshape(-1, v) for x in (log_p, log_q))
        p, q, *rest = work[:, : len(a)]
        _check_sums(_exp(a, p).sum(axis=1))
        _check_sums(_exp(b, q).sum(axis=1))
        apart, total = _apart_and_total(p, q, *rest)
        sums[0, chunk] = _window_means(apart.sum(axis=1), length)
        sums[1, chunk] = _window_means(total.sum(axis=1), length)
        differences += int(np.count_nonzero(a.argmax(axis=1) != b.argmax(axis=1)))
    relative_pd = float(sums[0].sum() / sums[1].sum())
    return {"relative_pd": relative_pd, "top1_disagreement": differences / (n_windows * length)}


def _at(log_p, y):
    """log p_y in float64: (N, V) and (N,) to (N,)."""
    return log_p[np.arange(len(y)), y].astype(np.float64)


def _window_means(values, length):
    """(N,) to (N / length,) float64."""
    if length == 1:  # examples of a classifier: a mean over an axis of one takes longer than most measures
        return values.astype(np.float64)
    return values.reshape(-1, length).mean(axis=1, dtype=np.float64)


def _check_sums(sums):
    """Refuses rows of probabilities whose sums, (N,), are not 1."""
    off = np.abs(sums - 1)
    if not (off <= SUM_TOLERANCE).all():  # NaN fails too
        worst = "NaN" if np.isnan(off).any() else f"one sums to {float(sums[off.argmax()]):.5g}"
        raise ValueError(
            f"not log-probabilities: the probabilities at a position must sum to 1 within {SUM_TOLERANCE:g}, but {worst};"
            " take the log-softmax of the logits in float32, not in bfloat16 or float16"
        )


def _check(log_p, log_q, targets=None):
    if log_p.ndim != 3 or 0 in log_p.shape or log_q.shape != log_p.shape:
        raise ValueError(f"log-probabilities must both be (W, T, V), not {log_p.shape} and {log_q.shape}")
    if targets is None:
        return
    if targets.shape != log_p.shape[:2] or targets.dtype.kind not in "iu":
        raise ValueError(f"targets must be integers {log_p.shape[:2]}, not {targets.dtype} {targets.shape}")
    if targets.min() < 0 or targets.max() >= log_p.shape[2]:
        raise ValueError(f"targets must be in 0 .. {log_p.shape[2] - 1}, the characters")
