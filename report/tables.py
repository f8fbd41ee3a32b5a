"""The tables of the report that this project repeats: its sections 3.1 to 3.5, 4.2 to 4.5, and appendices B and C.

Each function turns the cells of one architecture (analysis.Cell) into a report.Section. Section numbers are those of the
report, so that the two can be laid side by side. What the report lacks is in report/findings.py.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from analysis import curves, results
from analysis.results import MEASURES, Cell
from analysis.words import (
    decimals_for,
    half_width,
    interval,
    listing,
    number,
    p_value,
    plural,
    plus_minus,
    with_interval,
)
from report.document import Section, Table

LOSS_ESTIMATES = "Losses under this protocol are estimates on random batches, accuracies on 1,000 random contexts."
GO_ON = "The study stopped before that; the same `run_all_experiments.py` command goes on and compares them."
PAIRS_METHOD = "n counts trials; intervals are 95 %: Student's t over trials, for pairs of trials with the variance of a U-statistic."


def counted(cells: Sequence[Cell]) -> str:
    """'n = 10 trials each', or 'n = 3 to 5 trials'."""
    counts = sorted({len(cell.trials) for cell in cells})
    if len(counts) > 1:
        return f"n = {counts[0]} to {counts[-1]} trials"
    return f"n = {plural(counts[0], 'trial')}{' each' if len(cells) > 1 else ''}"


def shown(cell: Cell, name: str, compact: bool = False) -> str:
    """A cell's mean of a measure with its interval, in the measure's unit and decimals; compact: on two lines, with SD."""
    measure = MEASURES[name]
    estimate = results.scaled(results.estimate(cell, name), measure.scale)
    if not compact:
        return with_interval(estimate, measure.decimals, n=len(cell.trials))
    if estimate.mean is None:
        return "-"
    sd = f" (SD {number(estimate.sd, measure.decimals)})" if estimate.sd is not None else ""
    return f"{number(estimate.mean, measure.decimals)}{sd}\n{interval(estimate, measure.decimals)}"


def without_pairs(cells: Sequence[Cell]) -> str:
    """Which activations have no pair, why, and what gives them one; '' where all have pairs."""
    lacking = [cell for cell in cells if not cell.pairs]
    waiting = [cell.label for cell in lacking if cell.n_missing_pairs]
    alone = [cell.label for cell in lacking if not cell.n_missing_pairs]
    sentences = [f"{listing(alone)}: no pair, for that takes two complete trials."] if alone else []
    if waiting:
        sentences.append(f"{listing(waiting)}: trials are complete, but **their pairs are not compared yet**. {GO_ON}")
    return " ".join(sentences)


def sampled(cells: Sequence[Cell]) -> str:
    """What a reader has to know of the losses of a published study; '' for a matched one."""
    return LOSS_ESTIMATES if cells[0].result["identity"]["protocol"] == "published" else ""


# --- 3.1 to 3.3 -----------------------------------------------------------------------------------------------------


def overview(cells: Sequence[Cell]) -> Section:
    """3.1: every activation in one line."""
    names = ("val_loss", "relative_pd", "top1_disagreement", "val_accuracy", "training_time_s")
    headers = ["Activation", "n", "Val. loss (nats)", "Relative PD", "Top-1 disagr.", "Val. accuracy (%)", "Time (s)"]
    rows = [[cell.label, str(len(cell.trials)), *(shown(cell, name, compact=True) for name in names)] for cell in cells]
    caption = f"Mean (standard deviation), and the 95 % interval of the mean. {PAIRS_METHOD}"
    note = "SD is over trials, for relative PD and top-1 disagreement over pairs (ddof 1). " + sampled(cells)
    return Section("overview", "3.1 Overview", tables=[Table(headers, rows, caption, note.strip())])


def _ranking(cells: Sequence[Cell], name: str, others: Sequence[str], caption: str) -> Table:
    """The cells by one measure, best first, each with its paired difference from the best in per cent."""
    measure = MEASURES[name]
    ranked = results.order(cells, [results.estimate(cell, name).mean for cell in cells], measure.better)
    unit = f" ({measure.unit})" if measure.unit else ""
    headers = ["Rank", "Activation", "n", f"{measure.label}{unit}", "SD", "From the best (%)"]
    headers += [MEASURES[other].label + (" (%)" if MEASURES[other].unit == "%" else "") for other in others]
    rows = []
    for rank, cell in enumerate(ranked, 1):
        best = ranked[0]
        difference = None if cell is best else results.in_percent(results.compare(cell, best, name), best, name)
        apart = "best" if cell is best else with_interval(difference, 2, signed=True)
        sd = number(results.estimate(cell, name).sd, measure.decimals)
        row = [str(rank), cell.label, str(len(cell.trials)), shown(cell, name), sd, apart]
        rows.append([*row, *(shown(cell, other) for other in others)])
    return Table(headers, rows, caption)


def reproducibility(cells: Sequence[Cell]) -> Section:
    """3.2: activations by relative PD, most reproducible first."""
    caption = f"Most reproducible first. SD over pairs. {PAIRS_METHOD}"
    table = _ranking(cells, "relative_pd", ["top1_disagreement"], caption)
    paragraphs = [text] if (text := without_pairs(cells)) else []
    if not table.rows:
        return Section("reproducibility", "3.2 Reproducibility", paragraphs)
    if max(len(cell.trials) for cell in cells) < 3:
        paragraphs.append(
            "There is no interval: that needs three trials, because pairs of two trials share both models."
        )
    table = replace(table, note="From the best: difference in per cent of its mean, paired by trial, not corrected.")
    return Section("reproducibility", "3.2 Reproducibility", paragraphs, [table])


def accuracy(cells: Sequence[Cell]) -> Section:
    """3.3: activations by validation loss, most accurate first."""
    caption = "Lowest validation loss first. SD over trials. n counts trials; 95 % intervals: Student's t over trials."
    table = _ranking(cells, "val_loss", ["val_accuracy"], caption)
    note = "From the best: difference in per cent of its mean, paired by trial, not corrected. " + sampled(cells)
    return Section("accuracy", "3.3 Accuracy", tables=[replace(table, note=note.strip())] if table.rows else [])


# --- 3.4 and 3.5 ----------------------------------------------------------------------------------------------------

PER_TRIAL = ("train_loss", "val_loss", "train_accuracy", "val_accuracy", "training_time_s")


def trials(cells: Sequence[Cell]) -> Section:
    """3.4: every trial, with means, standard deviations and intervals."""
    headers = ["Trial", "Seed", "Train loss", "Val. loss", "Train acc. (%)", "Val. acc. (%)", "Time (s)"]
    return Section("trials", "3.4 Every trial", tables=[_trial_table(cell, headers) for cell in cells])


def _trial_table(cell, headers):
    rows = []
    for record in cell.result["trials"]:
        figures = [
            "-" if record[name] is None else number(record[name] * MEASURES[name].scale, MEASURES[name].decimals)
            for name in PER_TRIAL
        ]
        state = "" if record["status"] == "complete" else f" ({record['status']})"
        rows.append([f"{record['trial']}{state}", str(record["seed"]), *figures])
    estimates = [
        (results.scaled(results.estimate(cell, name), MEASURES[name].scale), MEASURES[name].decimals)
        for name in PER_TRIAL
    ]
    rows.append(["**Mean**", "", *(number(estimate.mean, decimals) for estimate, decimals in estimates)])
    rows.append(["SD", "", *(number(estimate.sd, decimals) for estimate, decimals in estimates)])
    rows.append(["95 %", "", *(half_width(*entry) or "-" for entry in estimates)])
    pd = shown(cell, "relative_pd")
    caption = (
        f"**{cell.label}**, n = {plural(len(cell.trials), 'complete trial')}; relative PD {pd};"
        f" losses in nats per character; 95 %: half of the t interval of the mean."
    )
    return Table(headers, rows, caption)


def dynamics(cells: Sequence[Cell]) -> Section:
    """3.5: losses along training, and how long it took."""
    at = sorted(set.intersection(*(set(curves.steps(cell)) for cell in cells)))
    chosen = sorted({at[round(i * (len(at) - 1) / 5)] for i in range(6)}) if at else []
    tables = []
    if chosen:
        rows = []
        for cell in cells:
            losses = [curves.loss_at_step(cell, step) for step in chosen]
            rows.append([cell.label, str(len(cell.trials)), *(plus_minus(loss, 4) for loss in losses)])
        headers = ["Activation", "n", *(f"Step {step:,}" for step in chosen)]
        caption = "Validation loss along training (nats, on the curve windows): mean ± half of its 95 % t interval."
        tables.append(Table(headers, rows, caption, sampled(cells)))
    tables.append(
        replace(
            _ranking(
                cells, "training_time_s", [], "Training time of a trial, fastest first (t intervals over trials)."
            ),
            note="Wall-clock time of trials that may have shared the machine: it says what this study took, not how fast an"
            " activation is. For that, activations must take turns on an idle machine (`python benchmark.py`).",
        )
    )
    first = [curves.loss_at_step(cell, chosen[0]).mean for cell in cells] if chosen else []
    paragraphs = []
    if first and chosen[0] == 0 and None not in first:
        low, high = min(first), max(first)
        uniform = cells[0].result["corpus"]["vocabulary_size"]
        paragraphs.append(
            f"Before the first step the mean validation loss is {low:.3f} to {high:.3f} nats ({counted(cells)}); guessing"
            f" all {uniform} characters alike gives ln {uniform} = {math.log(uniform):.3f}."
        )
    return Section("dynamics", "3.5 Training dynamics", paragraphs, tables)


# --- 4.2 to 4.5 -----------------------------------------------------------------------------------------------------


def trade_off(cells: Sequence[Cell]) -> Section:
    """4.2: what reproducibility costs in accuracy and time; who is on the Pareto frontier, and how surely."""
    reference = results.reference_of(cells)
    names = ("val_loss", "relative_pd", "top1_disagreement", "training_time_s")
    rows = []
    for cell in cells:
        if cell is not reference:
            changes = [results.in_percent(results.compare(cell, reference, name), reference, name) for name in names]
            rows.append([cell.label, *(with_interval(change, 2, signed=True) for change in changes)])
    headers = ["Activation", "Val. loss (%)", "Relative PD (%)", "Top-1 disagr. (%)", "Training time (%)"]
    caption = (
        f"Change against {reference.label} in per cent of its mean ({counted(cells)}; paired by trial, 95 % t and"
        " U-statistic intervals, not corrected). Below zero is better in all four."
    )
    tables, paragraphs = [Table(headers, rows, caption)] if rows else [], _trade_off_sentences(cells)
    candidates = [cell for cell in cells if results.has_both(cell)]
    if len(candidates) > 1:
        tables.append(_frontier_table(candidates))
    else:
        paragraphs.append(
            "A Pareto frontier needs two activations with both a validation loss and a relative PD; those that have both:"
            f" {listing(cell.label for cell in candidates)}."
        )
    return Section("trade_off", "4.2 Accuracy against reproducibility", paragraphs, tables)


def _frontier_table(cells):
    """Who is on the Pareto frontier, and how surely. cells: those that have both a loss and a relative PD."""
    on_front, shares = results.frontier(cells)
    rows = [
        [
            cell.label,
            shown(cell, "val_loss"),
            shown(cell, "relative_pd"),
            "yes" if cell.activation in on_front else "no",
            "-" if shares is None else f"{shares[cell.activation]:.0%}",
        ]
        for cell in cells
    ]
    return Table(
        ["Activation", "Val. loss (nats)", "Relative PD", "On the frontier", "Share of resamples"],
        rows,
        f"The Pareto frontier of validation loss and relative PD ({counted(cells)}): whom no other activation beats in both.",
        "Share of resamples: of 10,000 bootstrap resamples of the trials, how many have it on the frontier; it needs three"
        " trials. It describes how far the frontier depends on these trials; it is no test.",
    )


def _trade_off_sentences(cells):
    losses = results.order(cells, [results.estimate(cell, "val_loss").mean for cell in cells], "lower")
    pds = results.order(cells, [results.estimate(cell, "relative_pd").mean for cell in cells], "lower")
    if not losses or not pds or len(cells) < 2:
        return []
    accurate, agreeing = losses[0], pds[0]
    if accurate is agreeing:
        return [
            f"{accurate.label} has both the lowest mean loss and the lowest mean relative PD: no trade-off shows"
            " between the two."
        ]
    loss = results.in_percent(results.compare(agreeing, accurate, "val_loss"), accurate, "val_loss")
    pd = results.in_percent(results.compare(agreeing, accurate, "relative_pd"), accurate, "relative_pd")
    sentence = (
        f"The lowest mean relative PD is {agreeing.label}'s, the lowest mean loss {accurate.label}'s. From the second to the"
        f" first, loss changes by {with_interval(loss, 2, signed=True)} % and relative PD by"
        f" {with_interval(pd, 2, signed=True)} % (the report: 1.21 % and 3.8 %, from ReLU to SmeLU β=1.0)."
    )
    if not (results.excludes_zero(loss) and results.excludes_zero(pd)):
        sentence += " At least one of these intervals is missing or holds zero, so this is no established trade-off."
    return [sentence]


def gelu_compromise(cells: Sequence[Cell], comparisons) -> Section | None:
    """4.3: is GELU nearly as accurate as ReLU, and more reproducible? None without the two."""
    names = {cell.activation: cell for cell in cells}
    if not {"gelu", "relu"} <= set(names):
        return None
    loss, pd = comparisons["gelu", "val_loss"], comparisons["gelu", "relative_pd"]
    good_loss = (loss.verdict or "").startswith("equivalent") or (
        loss.verdict == "different" and (loss.difference.mean < 0 or "smaller than the margin" in loss.reason)
    )
    good_pd = pd.verdict == "different" and pd.difference.mean < 0
    figures = [
        f"Validation loss against ReLU: {with_interval(loss.difference, 4, signed=True)} nats, {loss.verdict}.",
        f"Relative PD against ReLU: {with_interval(pd.difference, 4, signed=True)}, {pd.verdict}.",
    ]
    worse_pd = pd.verdict == "different" and pd.difference.mean > 0
    if good_loss and good_pd:
        answer = (
            "GELU is the compromise that the report sees: as accurate as ReLU within the margin, and more reproducible."
        )
    elif worse_pd:
        answer = "GELU is no compromise here: it is less reproducible than ReLU."
    elif (pd.verdict or "").startswith("equivalent"):
        answer = "GELU is no compromise here: its relative PD equals ReLU's within the margin."
    elif loss.verdict == "different" and not good_loss:
        answer = "GELU is no compromise here: it is less accurate than ReLU by more than the margin can be ruled out."
    else:
        answer = "Whether GELU is a compromise is undecided with these trials."
    count = counted([names["gelu"], names["relu"]])
    paragraph = f"{answer} ({count}; paired, 95 % intervals, verdicts after Holm's correction.)"
    return Section("gelu", "4.3 GELU as the compromise", [paragraph, figures])


def smelu_beta(cell: Cell) -> float | None:
    """Beta of a SmeLU by its name ('smelu_05' is 0.5); None for other activations."""
    text = cell.activation.removeprefix(results.SMELU)
    if text == cell.activation:
        return None
    return 0.5 if text == "05" else float(text)


def beta_effect(cells: Sequence[Cell]) -> Section | None:
    """4.4: SmeLU with a larger beta against the smallest one there is; None below two betas."""
    family = sorted((beta, cell.label, cell) for cell in cells if (beta := smelu_beta(cell)) is not None)
    if len(family) < 2:
        return None
    smallest, base = family[0][0], family[0][2]
    names = ("val_loss", "relative_pd", "top1_disagreement", "js_divergence", "training_time_s")
    tables = []
    for beta, _, cell in family[1:]:
        compared = results.with_holm([results.compare(cell, base, name) for name in names])
        rows = []
        for name, comparison in zip(names, compared):
            measure = MEASURES[name]
            change = results.in_percent(comparison, base, name)
            unit = f" ({measure.unit})" if measure.unit else ""
            rows.append([f"{measure.label}{unit}", shown(base, name), shown(cell, name)])
            rows[-1] += [with_interval(change, 2, signed=True), p_value(comparison.p_adjusted)]
        caption = (
            f"β = {beta:g} against β = {smallest:g} ({counted([base, cell])}; paired by trial; means and changes with 95 %"
            f" intervals; p corrected by Holm over these {len(names)} rows)."
        )
        headers = ["Measure", f"β = {smallest:g}", f"β = {beta:g}", "Change (%)", "p"]
        tables.append(Table(headers, rows, caption, "Training times: see the note in section 3.5."))
    return Section("beta", "4.4 Effect of SmeLU's beta", tables=tables)


def variance(cells: Sequence[Cell]) -> Section:
    """4.5: how far validation losses spread over trials, and whether that differs from the reference."""
    reference = results.reference_of(cells)
    spreads = [results.sd_estimate(cell, "val_loss") for cell in cells]
    tests = [None if cell is reference else results.equal_spread_p(cell, reference, "val_loss") for cell in cells]
    from analysis.significance import holm

    adjusted = holm(tests)
    published = cells[0].result["identity"]["protocol"] == "published"
    rows = []
    for cell in results.order(cells, [spread.mean for spread in spreads], "lower"):
        index = list(cells).index(cell)
        spread = spreads[index]
        row = [cell.label, str(spread.n), with_interval(spread, decimals_for(spread, 4))]
        if published:
            row.append(number(spread.mean * ((spread.n - 1) / spread.n) ** 0.5, 4))
        compared = "reference" if cell is reference else p_value(adjusted[index])
        rows.append([*row, compared, shown(cell, "relative_pd")])
    headers = ["Activation", "n", "SD of val. loss (nats)", *(["SD, ddof 0"] if published else [])]
    headers += [f"Same SD as {reference.label}?", "Relative PD"]
    caption = (
        "Spread of the validation loss over trials, smallest first: ddof-1 standard deviation, 95 % chi-square interval"
        f" (normal losses); p of equal spreads: Pitman and Morgan's paired test, Holm-corrected; {counted(cells)}."
    )
    note = "A small spread of losses and predictions that agree are two things: relative PD stands beside it."
    if published:
        note += " ddof 0 is how the report computed its standard deviations."
    paragraphs = [] if rows else ["A standard deviation needs two trials."]
    if rows:
        known = [p for p in adjusted if p is not None]
        found = [cell.label for cell, p in zip(cells, adjusted) if p is not None and p < 0.05]
        if found:
            paragraphs.append(f"Spreads that differ from {reference.label}'s: {listing(found)}.")
        elif known:
            paragraphs.append(f"No spread differs from {reference.label}'s at 5 %, so this ranking is no finding.")
    return Section(
        "variance", "4.5 Variance of the loss", paragraphs, [Table(headers, rows, caption, note)] if rows else []
    )


# --- appendices -----------------------------------------------------------------------------------------------------


def distributions(cells: Sequence[Cell]) -> Section:
    """Appendix B: how many top-1 predictions differ."""
    rows = []
    for cell in cells:
        counts = [pair["prediction_differences"] for pair in cell.pairs]
        if not counts:
            rows.append([cell.label, str(len(cell.trials)), "0", "-", "-", "-", "-"])
            continue
        differences = results.estimate(cell, "prediction_differences")
        share = results.scaled(results.estimate(cell, "top1_disagreement"), 100)
        row = [cell.label, str(len(cell.trials)), str(len(counts)), with_interval(differences, 0)]
        rows.append([*row, with_interval(share, 2), number(differences.sd, 0), f"{min(counts):,} to {max(counts):,}"])
    totals = sorted({pair["total_predictions"] for cell in cells for pair in cell.pairs})
    of = f" of {totals[0]:,} predictions" if len(totals) == 1 else ""
    headers = ["Activation", "n", "Pairs", "Differing predictions", "in %", "SD over pairs", "Smallest to largest"]
    caption = f"Most likely characters that differ between two models{of}, both on the same contexts. {PAIRS_METHOD}"
    return Section("distributions", "Appendix B: differing predictions", tables=[Table(headers, rows, caption)])


def efficiency(cells: Sequence[Cell]) -> Section:
    """Appendix C: where the time went."""
    seconds = {}
    for cell in cells:
        records = [t for t in cell.result["trials"] if t["training_time_s"] is not None]
        training = sum(t["training_time_s"] for t in records)
        evaluation = sum(t["evaluation_time_s"] or 0 for t in records)
        seconds[cell.activation] = len(records), training, evaluation
    everything = sum(training + evaluation for _, training, evaluation in seconds.values())
    rows = []
    for cell in cells:
        n, training, evaluation = seconds[cell.activation]
        total = training + evaluation
        share = f"{total / everything:.1%}" if everything else "-"
        row = [cell.label, str(n), number(training, 1), number(evaluation, 1), number(total, 1), share]
        rows.append([*row, shown(cell, "training_time_s"), number(results.estimate(cell, "training_time_s").sd, 1)])
    training, evaluation = (sum(entry[i] for entry in seconds.values()) for i in (1, 2))
    n = sum(entry[0] for entry in seconds.values())
    sums = [number(value, 1) for value in (training, evaluation, everything)]
    rows.append(["**Total**", str(n), *sums, "100 %" if everything else "-", "", ""])
    headers = ["Activation", "n", "Training (s)", "Evaluation (s)", "Sum (s)", "Share"]
    headers += ["Training of a trial (s)", "SD (s)"]
    caption = (
        "Seconds of all trials together (sums over trials, those that diverged included), and the mean of a complete trial"
        " with its 95 % t interval over trials."
    )
    note = "Trials may have run at the same time, so that the sum is more than the study took by the clock."
    return Section("efficiency", "Appendix C: computing time", tables=[Table(headers, rows, caption, note)])


def sections(cells: Sequence[Cell], comparisons) -> list[Section]:
    """All of the report's own sections for one architecture, in its order."""
    found = [overview(cells), reproducibility(cells), accuracy(cells), trials(cells), dynamics(cells)]
    found += [trade_off(cells), gelu_compromise(cells, comparisons), beta_effect(cells), variance(cells)]
    return [section for section in (*found, distributions(cells), efficiency(cells)) if section is not None]
