"""Do the statistics keep their promises? Simulated studies whose truth is known.

    python check_statistics.py                # 2,000 studies a line, about a minute and a half on one core
    python check_statistics.py --studies 20000 --json proof.json --markdown proof.md

A study is n trials with the distances between all pairs of them, drawn from the working model of
analysis/significance.py (h_ij = mu + a_i + a_j + e_ij, normal or skewed), or from models that are random probability
vectors, of which nothing but the distances is known. The functions under test are those that analyses call.

A rate is as promised if it is within two Monte Carlo standard errors of the bound (three of a prediction). A
test that is right at 5 % misses that in one line of 40, so a case that misses it is simulated again, from a
new seed with four times the studies, and the second run counts. The exit status is 1 if it misses again.
Every case has a seed of its own: adding one changes no other.
"""

import zlib
from itertools import product
from pathlib import Path

import numpy as np
from tqdm import tqdm

from analysis.sensitivity import between_group_sd, permutation_sensitivity_test, pseudo_values
from analysis.significance import (
    compare_means,
    compare_pair_means,
    equivalence,
    pair_interval,
    pair_mean_squares,
    predicted_power,
)
from common import scripts
from common.errors import UserError

SEED = 2026
SIZES = (3, 5, 10)  # trials
SHARES = (0.0, 0.25, 0.5, 1.0)  # of a pair's variance that its two trials bring: 2 s_a^2 / (2 s_a^2 + s_e^2)
ACTIVATIONS = 5
PERMUTATIONS = 399
POSITIONS, CHARACTERS = 10, 5  # of the random models
TABLES = {
    "coverage": "Coverage of the 95 % interval of a mean over pairs",
    "false alarms": "A/A: the same activation, disjoint seeds; how often p < 0.05",
    "power": "Power where 80 % is predicted, from the true variances and the stated margin",
    "sensitivity": f"Does any of {ACTIVATIONS} activations differ?",
}

# --- simulated trials ---


def normal(rng, shape):
    return rng.standard_normal(shape)


def exponential(rng, shape):
    """Skewness 2."""
    return rng.exponential(size=shape) - 1


def lognormal(rng, shape, sigma=0.25):
    """Skewness 0.78: what a factor of 1.28 up or down does to a distance."""
    mean, variance = np.exp(sigma**2 / 2), np.exp(sigma**2) * np.expm1(sigma**2)
    return (rng.lognormal(sigma=sigma, size=shape) - mean) / np.sqrt(variance)


def pairs(rng, shape, n, share, trial_noise=normal, pair_noise=normal):
    """Distances (*shape, n, n) with mean 0 and variance 1, of which the trials bring `share`."""
    trials = np.sqrt(share / 2) * trial_noise(rng, (*shape, n))
    noise = np.triu(np.sqrt(1 - share) * pair_noise(rng, (*shape, n, n)), 1)
    return trials[..., :, None] + trials[..., None, :] + noise + np.swapaxes(noise, -1, -2)


def random_models(rng, shape, n):
    """Mean total variation distance (*shape, n, n) between models that are random probability vectors.

    All share the logits of the positions; a model adds noise, and its own amount of it.
    """
    base = np.random.default_rng(SEED).normal(size=(POSITIONS, CHARACTERS))
    amount = rng.lognormal(sigma=0.3, size=(*shape, n, 1, 1))
    weights = np.exp(base + amount * rng.standard_normal((*shape, n, POSITIONS, CHARACTERS)))
    probabilities = weights / weights.sum(-1, keepdims=True)
    distances = np.zeros((*shape, n, n))
    for i in range(n):
        gaps = np.abs(probabilities - probabilities[..., i : i + 1, :, :])
        distances[..., i, :] = gaps.sum(-1).mean(-1) / 2
    return distances


# --- lines of the tables ---


def line(table, case, n, share, hits, least=None, most=None, slack=2.0, **beside):
    """One line: the share of studies with a hit, its Monte Carlo standard error, and whether it is as promised."""
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
        "beside": {name: float(value) for name, value in beside.items()},
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
        least=0.93 if promised else None,
        most=0.97 if promised and share >= 0.5 else None,
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


def false_alarms_of_means(rng, studies, n, noise):
    x, y = noise(rng, (2, studies, n))
    hits = [compare_means(a, b).p < 0.05 for a, b in zip(x, y)]
    yield line("false alarms", f"means, {noise.__name__}", n, None, hits, most=0.05)


def false_alarms_of_pairs(rng, studies, case, n, share, noise):
    x, y = pairs(rng, (2, studies), n, share, noise, noise) if noise else random_models(rng, (2, studies), n)
    hits = [compare_pair_means(a, b).p < 0.05 for a, b in zip(x, y)]
    yield line("false alarms", case, n, share, hits, most=0.05)


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
    activation's mean apart (trials taken out). Beside it the power of the F test on n independent values with
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
    tests = (permutation_sensitivity_test(study, PERMUTATIONS, seed) for seed, study in enumerate(values))
    return [p < 0.05 for p in tests]


def sd_line(case, n, share, values, truth):
    estimates = [between_group_sd(study) for study in values]
    hits = [estimate.low <= truth <= estimate.high for estimate in estimates]
    return line("sensitivity", case, n, share, hits, least=0.93)


def cases():
    """(function, arguments) of every case, in the order of the tables."""
    for case, shares, trial_noise, pair_noise, promised in (
        ("normal", SHARES, normal, normal, True),
        ("exponential e", (0.0, 0.25, 0.5), normal, exponential, True),
        ("lognormal a, exponential e", (0.25, 0.5, 1.0), lognormal, exponential, True),
        ("exponential a (a limit)", (0.5, 1.0), exponential, normal, False),
    ):
        for n, share in product(SIZES, shares):
            yield coverage, (case, n, share, trial_noise, pair_noise, promised)
    for n in SIZES:
        yield coverage_of_random_models, (n,)
    for noise, n in product((normal, exponential), SIZES):
        yield false_alarms_of_means, (n, noise)
    for noise, n, share in product((normal, exponential), SIZES, SHARES):
        yield false_alarms_of_pairs, (f"pairs, {noise.__name__}", n, share, noise)
    for n in SIZES:
        yield false_alarms_of_pairs, ("pairs, random models", n, None, None)
    for function in (power, sensitivity):
        for share, n in product((None, *SHARES), SIZES):
            yield function, (n, share)


def run(function, arguments, studies):
    """The lines of a case; of its second run, if the first is not as promised."""
    address = [function.__name__, *(getattr(value, "__name__", value) for value in arguments)]
    for attempt, number in enumerate((studies, 4 * studies)):
        rng = np.random.default_rng([SEED, attempt, zlib.crc32(repr(address).encode())])
        lines = list(function(rng, number, *arguments))
        if all(item["kept"] is not False for item in lines):
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
        "kept": {True: "yes", False: "NO", None: ""}[item["kept"]],
    }
    for name, value in item["beside"].items():
        rate = name in ("naive", "jackknife", "f_test")
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
        from common import storage

        if args.json:
            storage.write_json(args.json, {"studies": args.studies, "seed": SEED, "lines": lines})
        if args.markdown:
            storage.write_atomically(args.markdown, text.encode())
    broken = sum(item["kept"] is False for item in lines)
    print(f"{sum(item['kept'] is True for item in lines)} promises kept, {broken} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    scripts.run(main)
