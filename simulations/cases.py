"""The cases of the simulation study, and how one is run."""

import zlib
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from simulations import limits, rules
from simulations.studies import exponential, heavy_tailed, lognormal, normal

SEED = 2026
SIZES = (3, 5, 10)  # trials
SHARES = (0.0, 0.25, 0.5, 1.0)  # of a pair's variance from its two trials: 2 s_a^2 / (2 s_a^2 + s_e^2)


def cases() -> Iterator[tuple[Callable, tuple]]:
    """Every case, as (function, arguments), in the order of the tables."""
    for case, shares, trial_noise, pair_noise, promised in (
        ("normal", SHARES, normal, normal, True),
        ("exponential e", (0.0, 0.25, 0.5), normal, exponential, True),
        ("lognormal a, exponential e", (0.25, 0.5, 1.0), lognormal, exponential, True),
        ("exponential a", (0.5, 1.0), exponential, normal, False),
    ):
        for n, share in product(SIZES, shares):
            yield rules.coverage, (case, n, share, trial_noise, pair_noise, promised)
    for sizes, share in product(((12, 8), (4, 4)), (0.0, 0.5, 1.0)):
        yield rules.coverage_of_groups, (sizes, share)
    for n in SIZES:
        yield rules.coverage_of_random_models, (n,)
    for noise, n in product((normal, exponential), SIZES):
        yield rules.false_positives_of_means, (n, noise)
    for noise, n, share in product((normal, exponential), SIZES, SHARES):
        yield rules.false_positives_of_pairs, (f"pairs, {noise.__name__}", n, share, noise)
    for n in SIZES:
        yield rules.false_positives_of_pairs, ("pairs, random models", n, None, None)
    for share, ratio, n in product((None, 0.5, 1.0), (1, 3), SIZES):
        yield rules.false_positives_of_unpaired, (n, share, ratio)
    for function in (rules.power, rules.sensitivity):
        for share, n in product((None, *SHARES), SIZES):
            yield function, (n, share)
    for share, n in product((None, 0.5), (5, 10)):
        yield rules.at_the_margin, (n, share)
        for levels, margin in product(((0, 1), (0, 0, 0, 1, 1)), (0.2, 3.0)):
            yield rules.sensitivity_at_the_margin, (n, share, levels, margin)
    for groups, ratio, n in product((2, 5), (1, 2, 3), (5, 10)):
        yield limits.unequal_variances, (n, groups, ratio)
    for n in (5, 10, 20):
        yield limits.heavy_tails, (n,)
    for rate, n in product((0.05, 0.2), (5, 10, 20)):
        yield limits.outlying_trials, (n, rate)
    for rate, n in product((0.5, 0.2), (5, 10, 20)):
        yield limits.basins, (n, rate)
    for noise, n in product((normal, heavy_tailed), (5, 10, 20)):
        yield limits.flags, (n, noise)
    for points, coarse in ((3, True), (5, True), (33, True), (81, False)):
        yield limits.at_equal_loss, (6, points, 2.2, coarse)
    for points, coarse in ((3, True), (5, True), (21, False), (41, False)):
        yield limits.at_equal_loss, (6, points, 1.95, coarse)
    for n in (5, 12, 20):
        yield limits.endpoint_power, (n,)
    for n, correlation in product((100, 871), (0.0, 0.15, 0.29, 0.6)):
        yield limits.text_windows, (n, correlation)


def run(function: Callable, arguments: tuple, studies: int) -> list[dict]:
    """The lines of a case. If one misses its bound, the case is simulated again and the second run counts.

    Parameters
    ----------
    function, arguments
        From `cases`. With SEED and the attempt they determine the random numbers, so adding a case changes no other.
    studies : int
        Simulated studies per line; four times as many in the second run.

    Returns
    -------
    list of dict
        See `lines.line`.
    """
    address = [function.__name__, *(getattr(value, "__name__", value) for value in arguments)]
    for attempt, number in enumerate((studies, 4 * studies)):
        rng = np.random.default_rng([SEED, attempt, zlib.crc32(repr(address).encode())])
        lines = list(function(rng, number, *arguments))
        if all(item["kept"] is not False or item["limit"] for item in lines):
            break
    return lines
