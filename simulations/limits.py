"""The rules of inference where the working model does not hold, at equal loss, and over correlated windows of a text.

Every function takes a random generator, a number of studies and the parameters of a case, and yields its lines.
"""

from itertools import combinations

import numpy as np

from analysis.equal_loss import LOG_MARGIN, TOO_COARSE, log_ratio, value_at_loss
from analysis.estimates import mean_interval, pair_interval
from analysis.outlying import outlying_runs, outlying_runs_of_pairs
from analysis.significance import compare_means, verdicts
from analysis.windows import window_standard_error
from simulations import studies as simulated
from simulations.lines import line
from simulations.rules import rejections
from simulations.studies import heavy_tailed, normal, pairs

# --- unequal variances, heavy tails, outlying runs, two basins ---


def unequal_variances(rng, studies, n, groups, ratio):
    """Equal means, correlation 0.9 between activations, the first one's standard deviation `ratio` times as large."""
    values = simulated.correlated_trials(rng, (studies,), groups, n, 0.9, ratio)
    case = f"{groups} activations, correlation 0.9, one SD x {ratio:g}: equal means rejected"
    yield line("limits", case, n, None, rejections(values), most=0.05, limit=ratio > 1)
    hits = [compare_means(study[0], study[1]).p < 0.05 for study in values]
    yield line("limits", f"correlation 0.9, one SD x {ratio:g}: paired t, p < 0.05", n, None, hits, most=0.05)


def heavy_tails(rng, studies, n):
    values = heavy_tailed(rng, (studies, n))
    yield covered("means, t with 3 df", n, None, [mean_interval(x) for x in values], 0.0)
    matrices = pairs(rng, (studies,), n, 0.5, heavy_tailed, heavy_tailed)
    yield covered("pairs, t with 3 df", n, 0.5, [pair_interval(x) for x in matrices], 0.0)


def covered(case, n, share, estimates, truth, limit=False):
    hits = [e.low is not None and e.low <= truth <= e.high for e in estimates]
    return line("limits", f"{case}: covered", n, share, hits, least=0.93, limit=limit)


def outlying_trials(rng, studies, n, rate):
    """Coverage of the mean over all pairs, and of that over ordinary models if flagged runs are left out."""
    matrices, far = simulated.outlying(rng, (studies,), n, rate)
    case = f"{rate:.0%} of runs 4 x as far"
    yield covered(case, n, None, [pair_interval(x) for x in matrices], simulated.outlying_mean(rate), limit=True)
    flagged = [outlying_runs_of_pairs(x) for x in matrices]
    without = [pair_interval(np.delete(np.delete(x, runs, 0), runs, 1)) for x, runs in zip(matrices, flagged)]
    yield covered(f"{case}; flagged runs left out, ordinary runs' mean", n, None, without, 1.0, limit=True)
    some = far.any(1)
    hits = [set(runs) == set(np.flatnonzero(row)) for runs, row in zip(flagged, far) if row.any()]
    yield line(
        "outlying", f"{case}: all outlying runs, no other, flagged ({some.mean():.0%} of studies)", n, None, hits
    )


def basins(rng, studies, n, rate):
    matrices = simulated.two_basins(rng, (studies,), n, rate)
    case = f"two basins, {100 * (1 - rate):.0f}/{100 * rate:.0f}"
    yield covered(case, n, None, [pair_interval(x) for x in matrices], simulated.two_basins_mean(rate), limit=True)


def flags(rng, studies, n, noise):
    """False-positive rate of the rule for outlying runs."""
    limit = noise is not normal
    hits = [len(outlying_runs(x)) > 0 for x in noise(rng, (studies, n))]
    yield line("outlying", f"means, {noise.__name__}: any flag", n, None, hits, most=0.01, limit=limit)
    hits = [len(outlying_runs_of_pairs(x)) > 0 for x in pairs(rng, (studies,), n, 0.5, noise, noise)]
    yield line("outlying", f"pairs, {noise.__name__}: any flag", n, 0.5, hits, most=0.01, limit=limit)


# --- at equal loss, and windows ---


def at_equal_loss(rng, studies, n, points, loss, coarse):
    """Two activations, one learning at 0.8 times the speed of the other, with `points` curve points up to step 1,600.

    Simulates a quarter of the studies. `interpolated`: coverage with linear interpolation of the curve, as is common.
    """
    steps = np.linspace(0, 1600, points)
    upper = list(combinations(range(n), 2))
    refused, hits, straight = [], [], []
    for _ in range(studies // 4):
        ours, lines = np.full((2, 2, n, n), np.nan)
        for activation, speed in enumerate((1.0, 0.8)):
            losses, distances = simulated.training_curves(rng, n, steps, speed)
            for i, j in upper:
                reading = value_at_loss(losses[i, j], distances[i, j], loss)
                if reading.reason == TOO_COARSE:
                    continue
                ours[activation, i, j] = ours[activation, j, i] = reading.value
            order = np.argsort(losses, axis=-1)
            losses, distances = (np.take_along_axis(x, order, -1) for x in (losses, distances))
            for i, j in upper:
                lines[activation, i, j] = lines[activation, j, i] = np.interp(loss, losses[i, j], distances[i, j])
        refused.append(np.isnan(ours[:, *np.triu_indices(n, 1)]).any())
        straight.append(covers(log_ratio(*lines)))
        if not refused[-1]:
            hits.append(covers(log_ratio(*ours)))
    case = f"{points} points, {loss:g} nats"
    yield line(
        "equal loss",
        f'{case}: "{TOO_COARSE}"',
        n,
        None,
        refused,
        least=1.0 if coarse else None,
        most=None if coarse else 0.0,
        interpolated=np.mean(straight),
    )
    if hits:
        yield line("equal loss", f"{case}: covered", n, None, hits, least=0.93)


def covers(comparison, truth=0.0):
    return comparison.difference.low <= truth <= comparison.difference.high


def endpoint_power(rng, studies, n):
    """The confirmatory endpoint: log ratios of distances with mean 1 and SD 4%, equal or 5 percent apart."""
    a, b = 1 + 0.04 * pairs(rng, (2, studies), n, 0.5)
    for case, factor, most in (("no difference", 1.0, None), ("5 percent apart", 1.05, 0.05)):
        compared = [log_ratio(factor * x, y) for x, y in zip(a, b)]
        hits = [c.verdict == "equivalent" for one in compared for c in verdicts([one], [LOG_MARGIN], power=None)]
        yield line("equal loss", f'log ratio, {case}: "equivalent"', n, 0.5, hits, most=most)


def text_windows(rng, studies, n, correlation):
    """`independent`: coverage with the usual standard error, which treats windows as independent."""
    values = simulated.autoregressive(rng, (studies, n), correlation)
    means, usual = values.mean(1), values.std(axis=1, ddof=1) / np.sqrt(n)
    errors = np.array([window_standard_error(x) for x in values])
    hits = np.abs(means) <= 1.96 * errors
    independent = np.mean(np.abs(means) <= 1.96 * usual)
    limit = n < 500 or correlation > 0.3
    case = f"{n} windows, lag-1 correlation {correlation:g}"
    yield line("windows", case, n, None, hits, least=0.93, limit=limit, independent=independent)
