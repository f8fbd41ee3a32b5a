"""Claims about the n-gram baselines: counts and smoothing by hand, the batches of a trial, the page's table."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from studies import ROOT

from config_cpu import ConfigCPU
from tasks import ngrams
from tasks.corpus import evaluation_windows, make_corpus
from tasks.text import Text


def test_a_trigram_is_interpolated_as_witten_and_bell_say():
    """Two windows over a three-letter alphabet, by hand."""
    windows = np.array([[0, 1, 0, 1, 2], [0, 1, 0, 0, 0]])
    tables = [ngrams.ngram_counts(windows, order, 3) for order in (1, 2, 3)]
    assert tables[0].tolist() == [[6, 3, 1]]
    assert tables[1].tolist() == [[2, 3, 0], [2, 0, 1], [0, 0, 0]]
    p = np.exp(ngrams.ngram_log_probabilities(tables, np.array([[0, 1]])).astype(float))
    one = (np.array([6, 3, 1]) + 3 * np.full(3, 1 / 3)) / 13
    after_0 = (np.array([2, 3, 0]) + 2 * one) / 7
    after_1 = (np.array([2, 0, 1]) + 2 * one) / 5
    after_01 = (np.array([2, 0, 1]) + 2 * after_1) / 5
    assert p[0, 0] == pytest.approx(after_0, abs=1e-6)  # its context has one character only
    assert p[0, 1] == pytest.approx(after_01, abs=1e-6)


def test_a_context_that_was_never_seen_takes_the_lower_order():
    tables = [ngrams.ngram_counts(np.array([[0, 1, 0, 1]]), order, 3) for order in (1, 2)]
    p = np.exp(ngrams.ngram_log_probabilities(tables, np.array([[2]])).astype(float))[0, 0]
    assert p == pytest.approx((np.array([2, 2, 0]) + 2 / 3) / 6, abs=1e-6) and p.sum() == pytest.approx(1)


def test_the_windows_are_those_that_a_trial_of_this_seed_trains_on():
    import randomness

    corpus, config = make_corpus("letters", "abcdefgh" * 200), ConfigCPU(block_size=8, batch_size=4)
    found = ngrams.sampled_windows(corpus, 42, 8, 4, steps=3)
    task = Text(corpus)
    for step in (1, 2, 3):
        x, y = task.draw_batch(randomness.generator(42, "data", step), config, "cpu")
        rows = found[4 * (step - 1) : 4 * step]
        assert (rows[:, :-1] == x.numpy()).all() and (rows[:, 1:] == y.numpy()).all()


def test_the_pages_table_of_baselines_is_what_the_command_gives(shakespeare):
    page = (ROOT / "docs" / "report-setting.md").read_text(encoding="utf-8")
    rows = re.search(r"<!-- table: ngrams -->\n(.*?)<!-- end -->", page, re.DOTALL).group(1).splitlines()[2:]
    found = ngrams.ngram_study(shakespeare, range(42, 47), ConfigCPU(curve_windows=200), orders=(1, 2))
    for row, (order, estimates) in zip(rows, found.items()):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells == [str(order), "5", *(ngrams.with_interval(e, 4) for e in estimates.values())]


@given(st.text("abcd", min_size=60, max_size=200))
def test_baselines_are_tables_of_counts_of_the_training_split(text):
    corpus = make_corpus("random.txt", text)
    x, y = evaluation_windows(corpus, "validation", 4)
    size = corpus.vocabulary_size
    single, double = np.ones(size), np.ones((size, size))
    for token in corpus.train:
        single[token] += 1
    for before, after in zip(corpus.train[:-1], corpus.train[1:]):
        double[before, after] += 1
    p = single / single.sum(), double / double.sum(1, keepdims=True)
    frequencies, following = ngrams.baselines(corpus, 4)
    assert frequencies.loss == pytest.approx(-np.log(p[0][y]).mean())
    assert following.loss == pytest.approx(-np.log(p[1][x, y]).mean())
    assert frequencies.accuracy == (p[0].argmax() == y).mean()
    assert following.accuracy == (p[1].argmax(1)[x] == y).mean()
