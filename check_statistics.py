"""Simulation study of the statistics: coverage, false-positive rates and power of every rule of inference.

    python check_statistics.py                # 2,000 studies a line, two to four minutes on one core
    python check_statistics.py --studies 20000 --json simulation.json --markdown simulation.md

Every case simulates studies whose truth is known (analysis/simulated_studies.py) and puts them through the functions that analyses
call. A rate is as promised if it is within two Monte Carlo standard errors of the bound (three of a prediction). A
test that is right at 5% misses that in one line of 40, so a case that misses it is simulated again, from a new seed with
four times the studies, and the second run counts. The exit status is 1 if it misses again. Known limits, the cases in
which a promise is expected to break, are marked in the table and do not count. Every case has a seed of its own: adding
one changes no other.
"""

if __name__ == "__main__":
    import common.startup  # noqa: F401 - before the others, which take long to import

import zlib
from itertools import combinations, product
from pathlib import Path

import numpy as np
from tqdm import tqdm

from analysis import simulated_studies as simulated
from analysis.equal_loss import LOG_MARGIN, TOO_COARSE, log_ratio, value_at_loss
from analysis.estimates import mean_interval, pair_interval, pair_mean_squares
from analysis.outlying import outlying_runs, outlying_runs_of_pairs
from analysis.power import predicted_power
from analysis.results import scaled
from analysis.sensitivity import between_group_sd, equal_means_test, judge_sensitivity, pseudo_values
from analysis.significance import compare_independent, compare_means, compare_pair_means, equivalence, verdicts
from analysis.simulated_studies import exponential, heavy_tailed, lognormal, normal, pairs, random_models
from analysis.windows import window_standard_error
from common import scripts
from common.errors import UserError

SEED = 2026
SIZES = (3, 5, 10)  # trials
SHARES = (0.0, 0.25, 0.5, 1.0)  # of a pair's variance that its two trials bring: 2 s_a^2 / (2 s_a^2 + s_e^2)
ACTIVATIONS = 5
PERMUTATIONS = 399
RATES = ("naive", "jackknife", "f_test", "alone", "interpolated", "independent")  # printed in percent
TABLES = {
    "coverage": "Coverage of the 95% interval of a mean over pairs",
    "false positives": "The same activation twice, disjoint seeds: how often p < 0.05",
    "power": "Power where 80% is predicted, from the true variances and the stated margin",
    "sensitivity": f"Do {ACTIVATIONS} activations have the same mean?",
    "margin": "Verdicts that are false, where the truth is exactly at the margin",
    "limits": "Where the working model does not hold",
    "outlying": "How often a run is flagged as outlying",
    "equal loss": "At equal loss, where the true difference is 0",
    "windows": "Coverage of the 95% interval over correlated windows of a text",
}

# --- lines of the tables ---


def line(table, case, n, share, hits, least=None, most=None, slack=2.0, limit=False, **besides):
    """One line: the share of studies with a hit, its Monte Carlo standard error, and whether it is as promised.

    limit: the promise is known to break here, so a broken one does not count.
    """
    rate, studies = float(np.mean(hits)), len(hits)
    kept = None
    if least is not None or most is not None:
        above = least is None or rate >= least - slack * np.sqrt(least * (1 - least) / studies)
        below = most is None or rate <= most + slack * np.sqrt(most * (1 - most) / studies)
        kept = bool(above and below)
    return {
        "table": table,
        "case": case,
        "trials": n,
        "share": share,
        "studies": studies,
        "measured": rate,
        "standard_error": float(np.sqrt(rate * (1 - rate) / studies)),
        "at_least": least,
        "at_most": most,
        "kept": kept,
        "limit": limit,
        "besides": {name: float(value) for name, value in besides.items()},
    }


def coverage_line(case, n, share, matrices, truth, promised=True):
    """Coverage and mean width (in standard deviations of a pair) of three intervals on the same studies."""
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


def coverage_of_random_models(rng, studies, n):
    """The truth is the mean over 100,000 pairs of models; the first-order share is estimated, from more than three."""
    truth = random_models(rng, (100_000,), 2)[:, 0, 1].mean()
    matrices = random_models(rng, (studies,), n)
    more = matrices if n > 3 else random_models(rng, (studies,), 5)
    _, _, ms_trials, ms_pairs = pair_mean_squares(more)
    s_a2, s_e2 = (ms_trials.mean() - ms_pairs.mean()) / (more.shape[-1] - 2), ms_pairs.mean()
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
    """n trials against n others, of which one standard deviation is `ratio` times the other; share None: means."""
    if share is None:
        x, y = ([mean_interval(values) for values in normal(rng, (studies, n))] for _ in range(2))
    else:
        x, y = ([pair_interval(matrix) for matrix in pairs(rng, (studies,), n, share)] for _ in range(2))
    hits = [compare_independent(a, scaled(b, ratio)).p < 0.05 for a, b in zip(x, y)]
    what = "means" if share is None else "pairs"
    yield line("false positives", f"{what}, not paired, SD {ratio} to 1", n, share, hits, most=0.05)


def power(rng, studies, n, share):
    """Both tests at the margin where their predicted power is 80 %, and equivalence where it is not true."""
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
    yield line("power", f"{what}: equivalence, wrongly", n, share, hits, most=0.05, margin=margin)


def margin_with_power(terms, n, test):
    """The margin at which n trials have a predicted power of 80 %."""
    low, high = 0.0, 1.0
    while predicted_power(terms, n, high, test=test) < 0.8:
        high *= 2
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if predicted_power(terms, n, middle, test=test) >= 0.8 else (middle, high)
    return high


def sensitivity(rng, studies, n, share):
    """The permutation test and the standard deviation between activations, if none differs and if one does.

    Trials share 30 % of their variance across activations. The one that differs is 5 standard errors of an
    activation's mean apart (trials taken out). Next to it the power of the F test on n independent values with
    that error: means should reach it, pairs stay below it the more, the less their trials bring.
    """
    from scipy.special import fdtri, ncfdtr

    if share is None:
        what, error = "means", np.sqrt(0.7 / n)
        values = np.sqrt(0.7) * normal(rng, (studies, ACTIVATIONS, n)) + np.sqrt(0.3) * normal(rng, (studies, 1, n))
    else:
        what, error = "pairs", np.sqrt(0.7 * (2 * share / n + 2 * (1 - share) / (n * (n - 1))))
        own, common = pairs(rng, (studies, ACTIVATIONS), n, share), pairs(rng, (studies, 1), n, share)
        values = np.stack([pseudo_values(study) for study in np.sqrt(0.7) * own + np.sqrt(0.3) * common])
    yield line("sensitivity", f"{what}: found, no difference", n, share, found(values), most=0.05)
    yield sd_line(f"{what}: sd interval, no difference", n, share, values, 0.0)
    effects = 5 * error * (np.arange(ACTIVATIONS) == 0)[:, None]
    values = values + effects
    f_test = 1 - ncfdtr(d := ACTIVATIONS - 1, d * (n - 1), 20, fdtri(d, d * (n - 1), 0.95))
    yield line("sensitivity", f"{what}: found, one differs", n, share, found(values), f_test=f_test)
    yield sd_line(f"{what}: sd interval, one differs", n, share, values, effects.std(ddof=1))


def found(values):
    tests = (equal_means_test(study, PERMUTATIONS, seed) for seed, study in enumerate(values))
    return [p < 0.05 for p in tests]


def sd_line(case, n, share, values, truth):
    estimates = [between_group_sd(study) for study in values]
    hits = [estimate.low <= truth <= estimate.high for estimate in estimates]
    return line("sensitivity", case, n, share, hits, least=0.93)


# --- the edge of the margin ---


def at_the_margin(rng, studies, n, share):
    """Four activations, all exactly as far from the reference as the margin: any of them called equivalent is false.

    `alone`: the same if every comparison were a family of its own.
    """
    margin = 2.0 * np.sqrt(2 / n)  # wide enough for two one-sided tests to have power
    if share is None:
        what, compare, one = "means", compare_means, normal(rng, (studies, 5, n))
    else:
        what, compare, one = "pairs", compare_pair_means, pairs(rng, (studies, 5), n, share)
    families = [[compare(x + margin, study[0]) for x in study[1:]] for study in one]
    hits = [any(c.verdict == "equivalent" for c in verdicts(family, [margin] * 4, power=None)) for family in families]
    alone = [any(equivalence(c.difference, margin) < 0.05 for c in family) for family in families]
    yield line("margin", f'{what}: any of 4 "equivalent"', n, share, hits, most=0.05, alone=np.mean(alone))


def sensitivity_at_the_margin(rng, studies, n, share, levels, margin):
    """Activations at the given levels, in margins: two that are as far apart as the margin make both verdicts false."""
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


# --- where the working model does not hold ---


def unequal_variances(rng, studies, n, groups, ratio):
    """Equal means, correlation 0.9 between activations, one standard deviation `ratio` times as large."""
    values = simulated.correlated_trials(rng, (studies,), groups, n, 0.9, ratio)
    case = f"{groups} activations, correlation 0.9, one SD x {ratio:g}: equal means rejected"
    yield line("limits", case, n, None, found(values), most=0.05, limit=ratio > 1)
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
    """Coverage of the mean over all pairs; and of ordinary models' mean, where flagged runs are left out."""
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
    """False alarms of the rule for outlying runs."""
    limit = noise is not normal
    hits = [len(outlying_runs(x)) > 0 for x in noise(rng, (studies, n))]
    yield line("outlying", f"means, {noise.__name__}: any flag", n, None, hits, most=0.01, limit=limit)
    hits = [len(outlying_runs_of_pairs(x)) > 0 for x in pairs(rng, (studies,), n, 0.5, noise, noise)]
    yield line("outlying", f"pairs, {noise.__name__}: any flag", n, 0.5, hits, most=0.01, limit=limit)


# --- at equal loss, and windows ---


def at_equal_loss(rng, studies, n, points, loss, coarse):
    """Two activations, one of which learns at four fifths of the other's speed; `points` curve points to step 1,600.

    `interpolated`: coverage with straight lines between the curve's points, as is often done. A quarter of the studies.
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
    """The confirmatory endpoint on distances of 1 with a standard deviation of 4 percent, at equal loss and at the margin."""
    a, b = 1 + 0.04 * pairs(rng, (2, studies), n, 0.5)
    for case, factor, most in (("no difference", 1.0, None), ("5 percent apart", 1.05, 0.05)):
        compared = [log_ratio(factor * x, y) for x, y in zip(a, b)]
        hits = [c.verdict == "equivalent" for one in compared for c in verdicts([one], [LOG_MARGIN], power=None)]
        yield line("equal loss", f'log ratio, {case}: "equivalent"', n, 0.5, hits, most=most)


def text_windows(rng, studies, n, correlation):
    """`independent`: coverage of the usual standard error, which takes windows for independent draws."""
    values = simulated.autoregressive(rng, (studies, n), correlation)
    means, usual = values.mean(1), values.std(axis=1, ddof=1) / np.sqrt(n)
    errors = np.array([window_standard_error(x) for x in values])
    hits = np.abs(means) <= 1.96 * errors
    independent = np.mean(np.abs(means) <= 1.96 * usual)
    limit = n < 500 or correlation > 0.3
    case = f"{n} windows, lag-1 correlation {correlation:g}"
    yield line("windows", case, n, None, hits, least=0.93, limit=limit, independent=independent)


def cases():
    """(function, arguments) of every case, in the order of the tables."""
    for case, shares, trial_noise, pair_noise, promised in (
        ("normal", SHARES, normal, normal, True),
        ("exponential e", (0.0, 0.25, 0.5), normal, exponential, True),
        ("lognormal a, exponential e", (0.25, 0.5, 1.0), lognormal, exponential, True),
        ("exponential a", (0.5, 1.0), exponential, normal, False),
    ):
        for n, share in product(SIZES, shares):
            yield coverage, (case, n, share, trial_noise, pair_noise, promised)
    for n in SIZES:
        yield coverage_of_random_models, (n,)
    for noise, n in product((normal, exponential), SIZES):
        yield false_positives_of_means, (n, noise)
    for noise, n, share in product((normal, exponential), SIZES, SHARES):
        yield false_positives_of_pairs, (f"pairs, {noise.__name__}", n, share, noise)
    for n in SIZES:
        yield false_positives_of_pairs, ("pairs, random models", n, None, None)
    for share, ratio, n in product((None, 0.5, 1.0), (1, 3), SIZES):
        yield false_positives_of_unpaired, (n, share, ratio)
    for function in (power, sensitivity):
        for share, n in product((None, *SHARES), SIZES):
            yield function, (n, share)
    for share, n in product((None, 0.5), (5, 10)):
        yield at_the_margin, (n, share)
        for levels, margin in product(((0, 1), (0, 0, 0, 1, 1)), (0.2, 3.0)):
            yield sensitivity_at_the_margin, (n, share, levels, margin)
    for groups, ratio, n in product((2, 5), (1, 2, 3), (5, 10)):
        yield unequal_variances, (n, groups, ratio)
    for n in (5, 10, 20):
        yield heavy_tails, (n,)
    for rate, n in product((0.05, 0.2), (5, 10, 20)):
        yield outlying_trials, (n, rate)
    for rate, n in product((0.5, 0.2), (5, 10, 20)):
        yield basins, (n, rate)
    for noise, n in product((normal, heavy_tailed), (5, 10, 20)):
        yield flags, (n, noise)
    for points, coarse in ((3, True), (5, True), (33, True), (81, False)):
        yield at_equal_loss, (6, points, 2.2, coarse)
    for points, coarse in ((3, True), (5, True), (21, False), (41, False)):
        yield at_equal_loss, (6, points, 1.95, coarse)
    for n in (5, 12, 20):
        yield endpoint_power, (n,)
    for n, correlation in product((100, 871), (0.0, 0.15, 0.29, 0.6)):
        yield text_windows, (n, correlation)


def run(function, arguments, studies):
    """The lines of a case; of its second run, if the first is not as promised."""
    address = [function.__name__, *(getattr(value, "__name__", value) for value in arguments)]
    for attempt, number in enumerate((studies, 4 * studies)):
        rng = np.random.default_rng([SEED, attempt, zlib.crc32(repr(address).encode())])
        lines = list(function(rng, number, *arguments))
        if all(item["kept"] is not False or item["limit"] for item in lines):
            break
    return lines


# --- output ---


def markdown(lines, studies):
    """The tables, in GitHub's format."""
    from tabulate import tabulate

    text = [f"{studies:,} studies a line; rates in percent, ± their Monte Carlo standard error.\n"]
    for table, title in TABLES.items():
        rows = [row_of(item, studies) for item in lines if item["table"] == table]
        body = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
        text.append(f"**{title}**\n\n{body}\n")
    return "\n".join(text)


def row_of(item, studies):
    least, most = (None if p is None else f"{100 * p:.0f}" for p in (item["at_least"], item["at_most"]))
    promised = {(True, True): "", (False, True): f"≥ {least}", (True, False): f"≤ {most}"}.get(
        (least is None, most is None), f"{least} to {most}" if least != most else f"{least}, predicted"
    )
    again = "" if item["studies"] == studies else f" ({item['studies']:,} studies)"
    row = {
        "case": item["case"],
        "n": item["trials"],
        "first-order share": "" if item["share"] is None else f"{item['share']:.2f}",
        "measured": f"{100 * item['measured']:.1f} ± {100 * item['standard_error']:.1f}{again}",
        "promised": promised,
        "kept": "breaks"
        if item["limit"] and item["kept"] is False
        else {True: "yes", False: "NO", None: ""}[item["kept"]],
    }
    for name, value in item["besides"].items():
        rate = name in RATES
        row[name.replace("_", " ")] = f"{100 * value:.1f}" if rate else f"{value:.2f}"
    return row


def main(argv=None) -> int:
    parser = scripts.Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies a line (default: 2000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every line as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables for a README")
    args = parser.parse_args(argv)
    if args.studies < 100:
        raise UserError(f"--studies {args.studies}: fewer than 100 show nothing")
    for path in (args.json, args.markdown):
        if path and not path.resolve().parent.is_dir():
            raise UserError(f"the folder of {path} does not exist")
    lines = [item for case in tqdm(list(cases()), unit="case", disable=None) for item in run(*case, args.studies)]
    text = markdown(lines, args.studies)
    print(text)
    if args.json or args.markdown:
        from common import files, json_files

        if args.json:
            json_files.write_json(args.json, {"studies": args.studies, "seed": SEED, "lines": lines})
        if args.markdown:
            files.write_atomically(args.markdown, text.encode())
    broken = sum(item["kept"] is False and not item["limit"] for item in lines)
    limits = sum(item["kept"] is False and item["limit"] for item in lines)
    print(f"{sum(item['kept'] is True for item in lines)} promises kept, {limits} known limits, {broken} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    scripts.run(main)
