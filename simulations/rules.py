"""The rules of inference applied to simulated studies that follow the working model: coverage, size and power.

Every function takes a random generator, a number of studies and the parameters of a case, and yields its lines.
"""

from itertools import combinations

import numpy as np

from analysis.estimates import combined, mean_interval, pair_interval, pair_mean_squares
from analysis.power import predicted_power
from analysis.results import scaled
from analysis.sensitivity import between_group_sd, equal_means_test, judge_sensitivity, pseudo_values
from analysis.significance import compare_independent, compare_means, compare_pair_means, equivalence, verdicts
from simulations.lines import line
from simulations.studies import normal, pairs, random_models

ACTIVATIONS = 5
PERMUTATIONS = 399

# --- one and two means ---


def coverage_line(case, n, share, matrices, truth, promised=True):
    """Coverage and mean width of three intervals on the same studies; widths in standard deviations of a pair."""
    from scipy.special import stdtrit

    values = matrices[:, *np.triu_indices(n, 1)]
    unit, count = values.std(), values.shape[1]
    ours = [pair_interval(matrix) for matrix in matrices]
    mean, _, ms_trials, _ = pair_mean_squares(matrices)
    naive = stdtrit(count - 1, 0.975) * values.std(axis=1, ddof=1) / np.sqrt(count)
    jackknife = stdtrit(n - 1, 0.975) * np.sqrt(4 * ms_trials / (n * (n - 2)))
    return line(
        "coverage",
        case,
        n,
        share,
        [estimate.low <= truth <= estimate.high for estimate in ours],
        least=0.93,
        most=0.97 if promised and share >= 0.5 else None,
        limit=not promised,
        width=np.mean([estimate.high - estimate.low for estimate in ours]) / unit,
        naive=np.mean(np.abs(mean - truth) <= naive),
        naive_width=2 * np.mean(naive) / unit,
        jackknife=np.mean(np.abs(mean - truth) <= jackknife),
        jackknife_width=2 * np.mean(jackknife) / unit,
    )


def coverage(rng, studies, case, n, share, trial_noise, pair_noise, promised):
    matrices = pairs(rng, (studies,), n, share, trial_noise, pair_noise)
    yield coverage_line(case, n, share, matrices, 0.0, promised)


def coverage_of_groups(rng, studies, sizes, share):
    """Pairs within groups only, combined."""
    groups = [pairs(rng, (studies,), n, share, normal, normal) for n in sizes]
    found = [combined([pair_interval(matrix) for matrix in one]) for one in zip(*groups)]
    hits = [estimate.low <= 0 <= estimate.high for estimate in found]
    case = f"groups of {' and '.join(map(str, sizes))} trials"
    yield line("groups", case, sum(sizes), share, hits, least=0.93)


def coverage_of_random_models(rng, studies, n):
    """The truth is the mean over 100,000 pairs of models; the share is estimated, from more than three trials."""
    truth = random_models(rng, (100_000,), 2)[:, 0, 1].mean()
    matrices = random_models(rng, (studies,), n)
    larger = matrices if n > 3 else random_models(rng, (studies,), 5)
    _, _, ms_trials, ms_pairs = pair_mean_squares(larger)
    s_a2, s_e2 = (ms_trials.mean() - ms_pairs.mean()) / (larger.shape[-1] - 2), ms_pairs.mean()
    yield coverage_line("random models", n, round(float(2 * s_a2 / (2 * s_a2 + s_e2)), 2), matrices, truth)


def false_positives_of_means(rng, studies, n, noise):
    x, y = noise(rng, (2, studies, n))
    hits = [compare_means(a, b).p < 0.05 for a, b in zip(x, y)]
    yield line("false positives", f"means, {noise.__name__}", n, None, hits, most=0.05)


def false_positives_of_pairs(rng, studies, case, n, share, noise):
    x, y = pairs(rng, (2, studies), n, share, noise, noise) if noise else random_models(rng, (2, studies), n)
    hits = [compare_pair_means(a, b).p < 0.05 for a, b in zip(x, y)]
    yield line("false positives", case, n, share, hits, most=0.05)


def false_positives_of_unpaired(rng, studies, n, share, ratio):
    """n trials against n other trials with `ratio` times the standard deviation; share None: means of trials."""
    if share is None:
        x, y = ([mean_interval(values) for values in normal(rng, (studies, n))] for _ in range(2))
    else:
        x, y = ([pair_interval(matrix) for matrix in pairs(rng, (studies,), n, share)] for _ in range(2))
    hits = [compare_independent(a, scaled(b, ratio)).p < 0.05 for a, b in zip(x, y)]
    what = "means" if share is None else "pairs"
    yield line("false positives", f"{what}, not paired, SD {ratio} to 1", n, share, hits, most=0.05)


def power(rng, studies, n, share):
    """Both tests at the margin for which 80% power is predicted, and equivalence where it is false."""
    if share is None:
        what, compare, terms = "means", compare_means, (2.0, 0.0)
        x, y = normal(rng, (2, studies, n))
    else:
        what, compare, terms = "pairs", compare_pair_means, (4 * share, 4 * (1 - share))
        x, y = pairs(rng, (2, studies), n, share)
    for test in ("difference", "equivalence"):
        margin = margin_with_power(terms, n, test)
        apart = [compare(a + margin, b) for a, b in zip(x, y)]
        if test == "difference":
            hits = [comparison.p < 0.05 for comparison in apart]
        else:
            hits = [equivalence(compare(a, b).difference, margin) < 0.05 for a, b in zip(x, y)]
        yield line("power", f"{what}: {test} found", n, share, hits, 0.8, 0.8, slack=3.0, margin=margin)
    hits = [equivalence(comparison.difference, margin) < 0.05 for comparison in apart]
    yield line("power", f"{what}: equivalence, falsely", n, share, hits, most=0.05, margin=margin)


def margin_with_power(terms, n, test):
    """The margin for which n trials have a predicted power of 80%."""
    low, high = 0.0, 1.0
    while predicted_power(terms, n, high, test=test) < 0.8:
        high *= 2
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if predicted_power(terms, n, middle, test=test) >= 0.8 else (middle, high)
    return high


def sensitivity(rng, studies, n, share):
    """The permutation test and the standard deviation between activations, if no activation differs and if one does.

    30% of a trial's variance is shared across activations. The one that differs does so by 5 standard errors of an
    activation's mean (with the effects of trials removed). `f_test` is the power of the F test on n independent values
    with that error: means should reach it; pairs fall below it, the more so the smaller the share.
    """
    from scipy.special import fdtri, ncfdtr

    if share is None:
        what, error = "means", np.sqrt(0.7 / n)
        values = np.sqrt(0.7) * normal(rng, (studies, ACTIVATIONS, n)) + np.sqrt(0.3) * normal(rng, (studies, 1, n))
    else:
        what, error = "pairs", np.sqrt(0.7 * (2 * share / n + 2 * (1 - share) / (n * (n - 1))))
        own, common = pairs(rng, (studies, ACTIVATIONS), n, share), pairs(rng, (studies, 1), n, share)
        values = np.stack([pseudo_values(study) for study in np.sqrt(0.7) * own + np.sqrt(0.3) * common])
    yield line("sensitivity", f"{what}: significant, no difference", n, share, rejections(values), most=0.05)
    yield sd_line(f"{what}: sd interval, no difference", n, share, values, 0.0)
    effects = 5 * error * (np.arange(ACTIVATIONS) == 0)[:, None]
    values = values + effects
    f_test = 1 - ncfdtr(d := ACTIVATIONS - 1, d * (n - 1), 20, fdtri(d, d * (n - 1), 0.95))
    yield line("sensitivity", f"{what}: significant, one differs", n, share, rejections(values), f_test=f_test)
    yield sd_line(f"{what}: sd interval, one differs", n, share, values, effects.std(ddof=1))


def rejections(values):
    """For each study, whether the permutation test rejects equal means."""
    tests = (equal_means_test(study, PERMUTATIONS, seed) for seed, study in enumerate(values))
    return [p < 0.05 for p in tests]


def sd_line(case, n, share, values, truth):
    estimates = [between_group_sd(study) for study in values]
    hits = [estimate.low <= truth <= estimate.high for estimate in estimates]
    return line("sensitivity", case, n, share, hits, least=0.93)


# --- verdicts where the truth is exactly at the margin ---


def at_the_margin(rng, studies, n, share):
    """Four activations, all exactly the margin away from the reference: each verdict "equivalent" is false.

    `alone`: the same rate if every comparison were a family of its own.
    """
    margin = 2.0 * np.sqrt(2 / n)  # large enough for the two one-sided tests to have power
    if share is None:
        what, compare, one = "means", compare_means, normal(rng, (studies, 5, n))
    else:
        what, compare, one = "pairs", compare_pair_means, pairs(rng, (studies, 5), n, share)
    families = [[compare(x + margin, study[0]) for x in study[1:]] for study in one]
    hits = [any(c.verdict == "equivalent" for c in verdicts(family, [margin] * 4, power=None)) for family in families]
    alone = [any(equivalence(c.difference, margin) < 0.05 for c in family) for family in families]
    yield line("margin", f'{what}: any of 4 "equivalent"', n, share, hits, most=0.05, alone=np.mean(alone))


def sensitivity_at_the_margin(rng, studies, n, share, levels, margin):
    """Activations at the given levels, in margins. The largest difference is the margin: both verdicts are false."""
    levels = margin * np.array(levels)
    if share is None:
        what, compare = "means", compare_means
        values = normal(rng, (studies, len(levels), n)) + levels[:, None]
    else:
        what, compare = "pairs", compare_pair_means
        values = pairs(rng, (studies, len(levels)), n, share) + levels[:, None, None]
    found = []
    for study in values:
        differences = [compare(x, y).difference for x, y in combinations(study, 2)]
        found.append(judge_sensitivity(differences, margin)[0])
    case = f"{what}, {len(levels)} activations, margin {margin:g}"
    for verdict in ("sensitive", "insensitive"):
        hits = [verdict == one for one in found]
        yield line("margin", f'{case}: "{verdict}"', n, share, hits, most=0.05)
