"""n-gram baselines: their loss on the whole training split, and their reproducibility on the batches of a trial.

    python -m tasks.ngrams --max-iters 1000 --seeds 5        # orders 1 to 4; loss, relative PD and top-1 disagreement

An n-gram model has no initial weights and no dropout: two of them differ only in the training windows that their seeds
drew. So they show which loss and which disagreement counting alone reaches on the same sample of text.
"""

import argparse
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import metrics
import randomness
from analysis.estimates import mean_interval, pair_interval, pair_matrix
from analysis.words import with_interval
from common.scripts import run
from tasks import corpus as corpora

ORDERS = (1, 2, 3, 4)


# --- on the whole training split ---


@dataclass(frozen=True)
class Baseline:
    """An n-gram model's loss in nats per character and its top-1 accuracy (a fraction)."""

    name: str
    loss: float
    accuracy: float


def baselines(corpus, block_size: int) -> tuple[Baseline, Baseline]:
    """The unigram and the bigram baseline of a corpus.

    Estimated on the training split with add-one (Laplace) smoothing and evaluated, like a model, on all windows of the
    validation split. Ties go to the lower index.
    """
    size, train = corpus.vocabulary_size, corpus.train.astype(np.int64)
    x, y = (part.ravel() for part in corpora.evaluation_windows(corpus, "validation", block_size))
    single = np.bincount(train, minlength=size)
    frequencies = Baseline(
        "unigram baseline",
        float(-np.log((single[y] + 1) / (len(train) + size)).mean()),
        float((y == single.argmax()).mean()),
    )
    codes, counts = np.unique(train[:-1] * size + train[1:], return_counts=True)  # a V x V table may be too large
    before = np.bincount(train[:-1], minlength=size)
    index = np.searchsorted(codes, x * size + y).clip(max=len(codes) - 1)
    found = np.where(codes[index] == x * size + y, counts[index], 0)
    most_frequent_first = codes[np.lexsort((codes, -counts))]
    seen, first = np.unique(most_frequent_first // size, return_index=True)
    likeliest = np.zeros(size, np.int64)
    likeliest[seen] = most_frequent_first[first] % size
    following = Baseline(
        "bigram baseline",
        float(-np.log((found + 1) / (before[x] + size)).mean()),
        float((y == likeliest[x]).mean()),
    )
    return frequencies, following


# --- on the batches of a trial ---


def sampled_windows(corpus, seed: int, block_size: int, batch_size: int, steps: int) -> np.ndarray:
    """(steps * batch_size, T + 1) tokens: the windows that a trial of this seed trains on in `steps` steps."""
    starts = [
        corpora.batch_starts(randomness.generator(seed, "data", step), len(corpus.train), block_size, batch_size)
        for step in range(1, steps + 1)
    ]
    return corpus.train[np.concatenate(starts)[:, None] + np.arange(block_size + 1)].astype(np.int64)


def ngram_counts(windows: np.ndarray, order: int, vocabulary_size: int) -> np.ndarray:
    """(V^(order - 1), V) counts of each character after each context of order - 1 characters within windows."""
    length = windows.shape[1] - order + 1
    codes = np.zeros((len(windows), length), dtype=np.int64)
    for k in range(order):
        codes = codes * vocabulary_size + windows[:, k : k + length]
    return np.bincount(codes.ravel(), minlength=vocabulary_size**order).reshape(-1, vocabulary_size)


def ngram_log_probabilities(tables: Sequence[np.ndarray], x: np.ndarray) -> np.ndarray:
    """Log-probabilities of the next character, interpolated from the lowest order up (Witten & Bell 1991).

    With c(h, w) the count of w after context h, and T(h) the number of distinct characters seen after h,

        p(w | h) = (c(h, w) + T(h) p(w | h')) / (c(h) + T(h)),

    where h' is h without its first character; order 0 is the uniform distribution.

    Parameters
    ----------
    tables : sequence of (V^(k - 1), V) arrays
        Counts of order k = 1, 2, ... (`ngram_counts`).
    x : (W, T) array of int
        Inputs; a position with fewer than k - 1 preceding characters uses lower orders only.

    Returns
    -------
    (W, T, V) float32 array, nats
    """
    size = tables[0].shape[1]
    p = np.full((*x.shape, size), 1 / size)
    for order, table in enumerate(tables, 1):
        known = slice(max(order - 2, 0), None)  # positions whose context is complete
        length = x.shape[1] - max(order - 2, 0)
        codes = np.zeros((len(x), length), dtype=np.int64)
        for k in range(order - 1):
            codes = codes * size + x[:, k : k + length]
        counts = table[codes]
        total, kinds = counts.sum(-1, keepdims=True), (counts > 0).sum(-1, keepdims=True)
        seen = total > 0
        p[:, known] = np.where(seen, (counts + kinds * p[:, known]) / np.where(seen, total + kinds, 1), p[:, known])
    return np.log(p).astype(np.float32)


def ngram_study(corpus, seeds: Sequence[int], config, orders: Sequence[int] = ORDERS) -> dict[int, dict]:
    """Order -> Estimates over seeds of `val_loss`, `relative_pd` and `top1_disagreement`, on the validation windows.

    Parameters
    ----------
    corpus : Corpus
    seeds : sequence of int
        One model of each order per seed.
    config : Config
        block_size, batch_size, max_iters and curve_windows are used.
    orders : sequence of int
        1: unigram, 2: bigram, ...
    """
    x, y = corpora.evaluation_windows(corpus, "validation", config.block_size)
    chosen = corpora.curve_windows(len(x), config.curve_windows)
    x, y, size = x[chosen], y[chosen], corpus.vocabulary_size
    models: dict[int, list] = {order: [] for order in orders}
    for seed in seeds:
        windows = sampled_windows(corpus, seed, config.block_size, config.batch_size, config.max_iters)
        tables = [ngram_counts(windows, order, size) for order in range(1, max(orders) + 1)]
        for order in orders:
            models[order].append(ngram_log_probabilities(tables[:order], x))
    return {order: _estimates(models[order], y) for order in orders}


def _estimates(models, y):
    pairs = [(i, j) for i in range(len(models)) for j in range(i)]
    compared = metrics.compare_pairs(dict(enumerate(models)), pairs, y)
    estimate = functools.partial(_over_pairs, pairs, compared, len(models))
    losses = [float(metrics.window_losses(log_p, y).mean()) for log_p in models]
    return {
        "val_loss": mean_interval(losses),
        **{name: estimate(name) for name in ("relative_pd", "top1_disagreement")},
    }


def _over_pairs(pairs, compared, n, name):
    values = [(i, j, found[name]) for (i, j), (found, _) in zip(pairs, compared)]
    return pair_interval(pair_matrix(values, n))


def main(argv=None) -> int:
    from tabulate import tabulate

    from config_cpu import ConfigCPU

    parser = argparse.ArgumentParser(prog="python -m tasks.ngrams", description=__doc__.partition("\n")[0])
    parser.add_argument("--corpus", default="auto")
    parser.add_argument(
        "--max-iters", type=int, default=ConfigCPU().max_iters, help="training steps whose batches are counted"
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, starting at 42")
    parser.add_argument("--curve-windows", type=int, default=200, help="number of validation windows")
    args = parser.parse_args(argv)
    config = ConfigCPU(max_iters=args.max_iters, curve_windows=args.curve_windows)
    found = ngram_study(corpora.load_corpus(args.corpus), range(42, 42 + args.seeds), config)
    rows = [[order, args.seeds, *(with_interval(estimate, 4) for estimate in found[order].values())] for order in found]
    headers = ["Order", "n", "Validation loss (nats)", "Relative PD", "Top-1 disagreement"]
    print(tabulate(rows, headers, "pipe", disable_numparse=True))
    return 0


if __name__ == "__main__":
    run(main)
