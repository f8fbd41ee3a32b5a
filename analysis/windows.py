"""How precise a mean over the windows of one text is: neighbouring windows are alike, so blocks of them are resampled."""

import math

import numpy as np

BLOCK = 10  # windows


def block_bootstrap(values: np.ndarray, block: int = BLOCK, n_resamples: int = 10_000, seed: int = 0) -> np.ndarray:
    """Means of moving-block bootstrap resamples of a series.

    A resample strings together ceil(W / block) blocks of consecutive windows, each starting anywhere with equal
    probability, and is cut to W windows.

    Parameters
    ----------
    values : (W,) array, any unit
        One value per window, in the order of the text; W > block.
    block : int
        Windows per block: longer than the correlation between windows reaches.
    n_resamples : int
    seed : int

    Returns
    -------
    (n_resamples,) array
        The same for the same arguments.

    Raises
    ------
    ValueError
        Fewer windows than two blocks.

    References
    ----------
    Kuensch 1989, The jackknife and the bootstrap for general stationary observations.
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n < 2 * block:
        raise ValueError(f"{n} windows are fewer than two blocks of {block}")
    count, rest = divmod(n, block)
    sums = np.concatenate([[0.0], np.cumsum(values - values.mean())])
    rng = np.random.default_rng(seed)
    total = np.zeros(n_resamples)
    for length in [block] * count + [rest] * (rest > 0):
        start = rng.integers(n - block + 1, size=n_resamples)
        total += sums[start + length] - sums[start]
    return values.mean() + total / n


def window_standard_error(values: np.ndarray, block: int = BLOCK) -> float | None:
    """The standard error of a mean over the windows of a text, by the moving-block bootstrap.

    The bootstrap's own variance is known without resampling: it is that of the means of all W - block + 1 blocks,
    divided by the W / block blocks of a resample. The factor W / (W - block) makes up for taking deviations from the
    mean of the same windows.

    Parameters
    ----------
    values : (W,) array, any unit
        One value per window, in the order of the text.
    block : int
        Windows per block.

    Returns
    -------
    float or None
        None below two blocks, or where a value is not finite.

    References
    ----------
    Kuensch 1989; Lahiri 2003, Resampling methods for dependent data, 2.5 and 3.1.
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n < 2 * block or not np.isfinite(values).all():
        return None
    means = np.convolve(values - values.mean(), np.full(block, 1 / block), mode="valid")
    return math.sqrt(float(means.var()) * block / (n - block))
