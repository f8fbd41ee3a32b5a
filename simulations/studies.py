"""Simulated data with known truth: losses of trials, distances between models, training curves and windows of a text.

Every generator takes a numpy Generator first and returns float64 arrays. Distances between models are symmetric
(*shape, n, n) arrays whose diagonal is to be ignored. Most follow the working model of analysis/estimates.py,
h_ij = mu + a_i + a_j + e_ij; the others violate it in one known way.
"""

import numpy as np

POSITIONS, CLASSES = 10, 5  # of the random models
MODELS_SEED = 2026  # of the logits that all random models share


# --- noise with mean 0 and variance 1 ---


def normal(rng, shape):
    return rng.standard_normal(shape)


def exponential(rng, shape):
    """Skewness 2."""
    return rng.exponential(size=shape) - 1


def lognormal(rng, shape, sigma=0.25):
    """Skewness 0.78: one standard deviation multiplies or divides a distance by about 1.28."""
    mean, variance = np.exp(sigma**2 / 2), np.exp(sigma**2) * np.expm1(sigma**2)
    return (rng.lognormal(sigma=sigma, size=shape) - mean) / np.sqrt(variance)


def heavy_tailed(rng, shape):
    """Student's t with 3 degrees of freedom, which has no fourth moment."""
    return rng.standard_t(3, size=shape) / np.sqrt(3)


# --- distances ---


def symmetric(values):
    """The upper triangle of (*shape, n, n) values, mirrored; the diagonal is 0."""
    upper = np.triu(values, 1)
    return upper + np.swapaxes(upper, -1, -2)


def sums(trials):
    """(*shape, n) -> (*shape, n, n): the sum of the values of both trials of a pair."""
    return trials[..., :, None] + trials[..., None, :]


def pairs(rng, shape, n, share, trial_noise=normal, pair_noise=normal):
    """Distances with mean 0 and variance 1, of which a fraction `share` comes from the two trials."""
    trials = np.sqrt(share / 2) * trial_noise(rng, (*shape, n))
    return sums(trials) + symmetric(np.sqrt(1 - share) * pair_noise(rng, (*shape, n, n)))


def random_models(rng, shape, n):
    """Mean total variation distance between models that are random probability vectors.

    All models share the logits of the positions; each adds noise, of a random standard deviation of its own.
    """
    base = np.random.default_rng(MODELS_SEED).normal(size=(POSITIONS, CLASSES))
    amount = rng.lognormal(sigma=0.3, size=(*shape, n, 1, 1))
    weights = np.exp(base + amount * rng.standard_normal((*shape, n, POSITIONS, CLASSES)))
    probabilities = weights / weights.sum(-1, keepdims=True)
    distances = np.zeros((*shape, n, n))
    for i in range(n):
        gaps = np.abs(probabilities - probabilities[..., i : i + 1, :, :])
        distances[..., i, :] = gaps.sum(-1).mean(-1) / 2
    return distances


def outlying(rng, shape, n, rate, factor=4.0, spread=0.05):
    """Distances of 1 between ordinary models and `factor` from an outlying to an ordinary one, plus noise (SD `spread`).

    Returns the distances and which models are outlying, (*shape, n) booleans.
    """
    far = rng.random((*shape, n)) < rate
    return sums(0.5 + (factor - 1) * far) + spread * pairs(rng, shape, n, 0.5), far


def outlying_mean(rate, factor=4.0):
    """The true mean distance of `outlying`."""
    return 1 + 2 * rate * (factor - 1)


def two_basins(rng, shape, n, rate, across=3.0, spread=0.05):
    """Distances of 1 within and `across` between two basins, plus noise; a fraction `rate` of models is in the second."""
    basin = rng.random((*shape, n)) < rate
    apart = basin[..., :, None] != basin[..., None, :]
    return 1 + (across - 1) * apart + spread * pairs(rng, shape, n, 0.5)


def two_basins_mean(rate, across=3.0):
    """The true mean distance of `two_basins`."""
    return 1 + (across - 1) * 2 * rate * (1 - rate)


# --- trials of several activations, windows, curves ---


def correlated_trials(rng, shape, groups, n, correlation, ratio):
    """(*shape, groups, n): equal means and variance 1, except that the first activation's SD is `ratio`."""
    common = np.sqrt(correlation) * rng.standard_normal((*shape, 1, n))
    values = common + np.sqrt(1 - correlation) * rng.standard_normal((*shape, groups, n))
    values[..., 0, :] *= ratio
    return values


def autoregressive(rng, shape, correlation):
    """Values of windows with variance 1, the last axis an AR(1) process with this lag-1 correlation."""
    values = rng.standard_normal(shape)
    for k in range(1, shape[-1]):
        values[..., k] = correlation * values[..., k - 1] + np.sqrt(1 - correlation**2) * values[..., k]
    return values


def curve_loss(step, speed):
    """A learning curve in nats: 4.2 at step 0, 1.8 after 1,600 steps at speed 1."""
    return 1.5 + 2.7 * (1 + step * speed / 30) ** -0.55


def curve_distance(loss):
    """Disagreement as a function of the loss alone, lowest at 2.65 nats: activations are equal at equal loss."""
    return 0.085 + 0.06 * (loss - 2.65) ** 2


def training_curves(rng, n, steps, speed):
    """Curves of all pairs of n trials of one activation: mean losses and distances, two (n, n, S) arrays.

    Standard deviations: speed 4% and distance 1.5% between trials, distance 2% between pairs, and, between the points
    of a curve, loss 0.004 nats and distance 1%.
    """
    speeds = speed * np.exp(0.04 * rng.standard_normal(n))
    true = curve_loss(steps, speeds[:, None])
    observed = true + 0.004 * rng.standard_normal(true.shape)
    noise = sums(0.015 * rng.standard_normal(n)) + symmetric(0.02 * rng.standard_normal((n, n)))
    points = 0.01 * np.moveaxis(symmetric(rng.standard_normal((len(steps), n, n))), 0, -1)
    pair_loss = (true[:, None] + true[None, :]) / 2
    return (observed[:, None] + observed[None, :]) / 2, curve_distance(pair_loss) * np.exp(noise[..., None] + points)
