"""Simulated values of pairs of trials."""

import math

import numpy as np


def simulated_pairs(rng, shape, n, share):
    """Pairs (*shape, n, n), mean 0, variance 1; `share` of the variance comes from the trials."""
    trials = math.sqrt(share / 2) * rng.standard_normal((*shape, n))
    noise = np.triu(math.sqrt(1 - share) * rng.standard_normal((*shape, n, n)), 1)
    return trials[..., :, None] + trials[..., None, :] + noise + np.swapaxes(noise, -1, -2)
