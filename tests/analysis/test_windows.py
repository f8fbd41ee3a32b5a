"""A mean over the windows of a text is as precise as its blocks say."""

import numpy as np
import pytest

from analysis import windows


def ar1(rng, shape, correlation):
    """Series (*shape, W) with variance 1."""
    values = rng.standard_normal(shape)
    for k in range(1, shape[-1]):
        values[..., k] = correlation * values[..., k - 1] + np.sqrt(1 - correlation**2) * values[..., k]
    return values


def block_bootstrap(values, block=10, n_resamples=10_000, seed=0):
    """Means of moving-block bootstrap resamples (Künsch 1989): blocks of consecutive values with uniformly distributed starts."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(len(values) - block + 1, size=(n_resamples, -(-len(values) // block)))
    places = (starts[..., None] + np.arange(block)).reshape(n_resamples, -1)[:, : len(values)]
    return values[places].mean(1)


def test_the_standard_error_is_that_of_many_resamples():
    values = ar1(np.random.default_rng(0), (300,), 0.3)
    resampled = block_bootstrap(values, n_resamples=40_000)
    expected = resampled.std() * np.sqrt(300 / 290)
    assert windows.window_standard_error(values) == pytest.approx(expected, rel=0.015)


def test_blocks_of_one_are_the_usual_standard_error():
    values = np.random.default_rng(1).standard_normal(50)
    assert windows.window_standard_error(values, block=1) == pytest.approx(values.std(ddof=1) / np.sqrt(50))


@pytest.mark.parametrize("correlation", [0.0, 0.15, 0.29])
def test_it_is_right_for_correlated_windows_where_independent_windows_are_not(correlation):
    series = ar1(np.random.default_rng(2), (400, 871), correlation)
    truth = series.mean(1).std()
    found = np.mean([windows.window_standard_error(values) for values in series])
    assert found == pytest.approx(truth, rel=0.1)
    if correlation == 0.29:
        assert series.std(axis=1, ddof=1).mean() / np.sqrt(871) < 0.8 * truth


def test_fewer_than_two_blocks_have_no_standard_error():
    assert windows.window_standard_error(np.arange(19.0)) is None
    assert windows.window_standard_error(np.r_[np.arange(30.0), np.inf]) is None
