"""Standard errors of means over the windows of a text, whose neighbours are correlated: moving-block bootstrap."""

import math

import numpy as np

BLOCK = 10  # windows


def window_standard_error(values: np.ndarray, block: int = BLOCK) -> float | None:
    """Standard error of a mean over the windows of a text, by the moving-block bootstrap.

    The bootstrap variance has a closed form: the variance of the means of all W - block + 1 blocks, divided by the
    W / block blocks of a resample. The factor W / (W - block) corrects for deviations from the sample mean.

    Parameters
    ----------
    values : (W,) array, any unit
        One value per window, in the order of the text.
    block : int
        Windows per block.

    Returns
    -------
    float or None
        In the unit of the values; None below two blocks, or if a value is not finite.

    References
    ----------
    Künsch 1989, The jackknife and the bootstrap for general stationary observations.
    Lahiri 2003, Resampling methods for dependent data, sections 2.5 and 3.1.
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n < 2 * block or not np.isfinite(values).all():
        return None
    means = np.convolve(values - values.mean(), np.full(block, 1 / block), mode="valid")
    return math.sqrt(float(means.var()) * block / (n - block))
