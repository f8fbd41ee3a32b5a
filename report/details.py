"""Detailed sections for one architecture: training, the trade-off, all measures, caveats, trials, figures."""

import math

import plot_utils
from analysis import curves, significance
from analysis import results as results_module
from analysis.equal_loss import FEWEST_POINTS
from analysis.results import MEASURES, PAIR_MEASURES, PRIMARY
from analysis.windows import BLOCK
from analysis.words import (
    brief_p,
    course,
    decimals_for,
    listing,
    number,
    p_value,
    plural,
    plus_minus,
    with_interval,
)
from common.errors import RunError, UserError
from figures.fonts import undrawable
from report.document import Figure, Section, Table
from report.view import PAIRS_METHOD, View, counted, difference, headed, sampled, without_pairs

T_BAND = "95% t intervals over trials"
U_BAND = "95% intervals over trials (variance of a U-statistic)"
MOST_IN_FULL = 8  # cells of a study; with more, each activation gets one figure only

# --- training -------------------------------------------------------------------------------------------------------


def training(view: View) -> Section | None:
    """Losses and disagreement along training, at equal steps and, if a loss was fixed beforehand, at equal loss."""
    path = curves.along_training(view.cells, "relative_pd")
    content: list = []
    if len(path) > 1:
        mean = "mean of the activations" if view.compared else "mean over pairs"
        content.append(
            f"Relative PD {course(curves.turns(path), 4)} ({mean}, on the curve windows): agreement between two"
            " models depends on training progress."
        )
    if view.compared and view.common is not None:
        last = "" if view.common.last_step is None else f", up to step {view.common.last_step:,}"
        content.append(
            f"Each pair's curve is read at {view.common.loss:g} nats (validation loss of its two models, averaged) by a"
            f" local-linear fit to at least {FEWEST_POINTS} points within {view.common.bandwidth:g} nats{last}. Where any pair"
            " cannot be read there is no number."
        )
        content += [_equal_loss_table(view, name) for name in ("relative_pd", "top1_disagreement")]
    if any(curves.steps(cell) for cell in view.cells):
        minus = f" Below: minus {view.reference.label}, paired by trial." if view.compared else ""
        caption = (
            f"Validation loss along training ({counted(view.cells)}). Lines: means over trials; bands: {T_BAND}.{minus}"
        )
        content.append(
            Figure(f"{caption} {sampled(view.cells)}".strip(), plot_utils.all_validation_curves, view.results)
        )
    if any(pair["history"] for cell in view.cells for pair in cell.pairs):
        caption = (
            f"Disagreement on the curve windows against the training step (left), and against the mean validation loss at"
            f" that step (right); {counted(view.cells)}; bands: {U_BAND}."
        )
        if all(len(curves.steps(cell)) > 2 for cell in view.cells):
            caption += " The untrained models are left out."
        content.append(Figure(caption, plot_utils.pd_at_equal_loss, view.results))
    if any("gradient_norm" in p.get("probes", {}) for r in view.results for t in r["trials"] for p in t["history"]):
        caption = (
            f"Norm of the loss's gradient without dropout, on a fixed batch ({counted(view.cells)}). Left: means over"
            f" trials; bands: {T_BAND}. Right: per layer, the first activation."
        )
        content.append(Figure(caption, plot_utils.gradient_norms, view.results))
    if any(p.get("probes") for r in view.results for t in r["trials"] for p in t["history"]):
        caption = (
            f"Probes on a fixed batch ({counted(view.cells)}), against the training step (left; bands: {T_BAND}) and against"
            " relative PD at that step (right)."
        )
        content.append(Figure(caption, plot_utils.probes_along_training, view.results))
    return Section("Along training, and at equal loss", content) if content else None


def _equal_loss_table(view, name):
    rows, margin, reference = [], math.log1p(view.margins.pairs), view.reference
    compared = curves.compare_at_equal_loss(view.compared, reference, name, view.common, margin)
    for cell, found in zip(view.compared, compared):
        at_end = view.comparisons[cell.activation, name]
        percent = with_interval(results_module.in_percent(at_end, reference, name), 1, signed=True)
        row = [cell.label, str(at_end.difference.n), percent, at_end.verdict_text]
        row.append(with_interval(results_module.scaled(found.difference, 100), 1, signed=True))
        rows.append([*row, brief_p(found.p_adjusted), brief_p(found.equivalence_p), found.verdict_text])
    headers = ["Activation", "n", "At the end (%)", "Verdict", f"At {view.common.loss:g} nats (100 x log ratio)"]
    headers += ["p (Holm)", "p (equiv.)", "Verdict there"]
    caption = (
        f"{MEASURES[name].label} against {reference.label}: at equal steps, all windows; and at equal loss, curve windows,"
        f" the mean over pairs of the log ratio, margin log {1 + view.margins.pairs:g}. {PAIRS_METHOD}"
    )
    return Table(headers, rows, caption)


# --- loss and reproducibility ---------------------------------------------------------------------------------------


def trade_off(view: View) -> Section | None:
    """The Pareto frontier of loss and relative PD, and its bootstrap stability."""
    candidates = [cell for cell in view.cells if results_module.has_both(cell)]
    if len(candidates) < 2:
        return None
    best, shares = results_module.frontier(candidates)
    labels = listing(cell.label for cell in candidates if cell.activation in best)
    caption = f"Validation loss (bars: {T_BAND}) against relative PD (bars: {U_BAND}); {counted(candidates)}."
    if shares:
        caption += (
            " Right: the share of 10,000 bootstrap resamples of the trials in which each is on the frontier; no test."
        )
    figure = Figure(caption, plot_utils.pareto, [cell.result for cell in candidates], (shares,))
    return Section("Loss against reproducibility", [f"Not dominated by any other activation: {labels}.", figure])


def measures(view: View) -> Section:
    """All measures of trials and pairs, and measures that disagree on which activation is more reproducible."""
    own = [name for name in MEASURES if name not in PAIR_MEASURES and name != "total_predictions"]
    classes = view.reference.result.get("task", {}).get("n_classes")
    trivial = [name for name, k in (("top3_overlap", 3), ("top5_overlap", 5)) if classes is not None and classes <= k]
    rows = []
    for name in (*PAIR_MEASURES, *own):
        if name in trivial:  # always 1
            continue
        measure = MEASURES[name]
        estimates = [results_module.scaled(results_module.estimate(cell, name), measure.scale) for cell in view.cells]
        if all(estimate.mean is None for estimate in estimates):
            continue
        decimals = measure.decimals
        if results_module.is_pair_measure(name) and decimals:
            decimals = max(decimals_for(estimate, 2, 6) for estimate in estimates)
        rows.append([headed(name), measure.better or "-", *(plus_minus(estimate, decimals) for estimate in estimates)])
        rows[-1].append(_best(view.cells, [estimate.mean for estimate in estimates], measure.better))
    headers = ["Measure", "Better", *(cell.label for cell in view.cells), "Best mean"]
    caption = f"Means ± half of the 95% interval ({counted(view.cells)}). {PAIRS_METHOD}"
    note = (
        "Formulas: section Methods. Training time is wall-clock time of trials that may have shared the machine; for the speed"
        f" of an activation use `python benchmark.py`. {sampled(view.cells)}"
    )
    table = [Table(headers, rows, caption, note.strip())] if rows else []
    return Section("All measures", [*without_pairs(view.cells), *_disagreements(view), *table])


def _best(cells, means, better):
    """The activation with the best mean; "tie" if several have it."""
    ranked = results_module.order(cells, means, better)
    if not ranked:
        return "-"
    known = [mean for mean in means if mean is not None]
    best = max(known) if better == "higher" else min(known)
    return "tie" if known.count(best) > 1 else ranked[0].label


def _disagreements(view):
    if len(view.cells) < 2 or max(len(cell.trials) for cell in view.cells) < 3:
        return []
    found = results_module.disagreeing_measures(view.cells, view.margins)
    if not found:
        return ["No two measures disagree significantly about which of two activations is more reproducible (Holm)."]
    items = [
        f"{one.label} is more reproducible than {other.label} by {listing(MEASURES[name].label for name in for_one)},"
        f" less by {listing(MEASURES[name].label for name in for_other)}."
        for one, other, for_one, for_other in found
    ]
    return ["Measures that disagree significantly (Holm, over each measure's pairs of activations):", items]


def groups(view: View) -> Section | None:
    """Activations grouped by smoothness, monotony and gating, each group's mean against the reference."""
    members, names = _grouped(view.compared), ("val_loss", "relative_pd")
    if len(view.cells) < 3 or not members:
        return None
    compared = {
        (group, name): results_module.group_difference(found, view.reference, name)
        for group, found in members.items()
        for name in names
    }
    limits = [results_module.margin_of(name, view.reference, view.margins) for _, name in compared]
    judged = dict(zip(compared, significance.verdicts(list(compared.values()), limits)))
    rows = []
    for group, found in members.items():
        row = [group, listing(cell.label for cell in found), str(judged[group, "val_loss"].difference.n)]
        for name in names:
            row += [difference(judged[group, name].difference, name), judged[group, name].verdict_text]
        rows.append(row)
    headers = ["Group", "Activations", "n", "Val. loss (nats)", "Verdict", "Relative PD", "Verdict (PD)"]
    caption = (
        f"Mean of a group of activations minus {view.reference.label}, paired by trial, with 95% intervals; the verdicts'"
        " family is this table. C0: continuous; C1: with a continuous derivative; C-infinity: with all derivatives."
    )
    return Section("Smooth, monotone, gated: groups of activations", [Table(headers, rows, caption)])


def _grouped(cells):
    from activations import record

    found: dict = {}
    for cell in cells:
        try:
            facts = record(cell.activation)
        except UserError:  # user-defined, and not registered here
            continue
        names = [f"smoothness {facts.smoothness}"] if facts.smoothness else []
        names += ["smooth (C1 or more)"] if facts.smoothness not in (None, "C0") else []
        names += [] if facts.monotone is None else ["monotone" if facts.monotone else "not monotone"]
        names += ["gated"] if facts.gated else []
        for name in names:
            found.setdefault(name, []).append(cell)
    return dict(sorted(found.items(), key=lambda entry: (entry[0] != "smooth (C1 or more)", entry[0])))


# --- caveats --------------------------------------------------------------------------------------------------------


def spread(view: View) -> Section | None:
    """The SD of validation losses over trials, and whether it differs from the reference."""
    spreads = {cell: results_module.sd_estimate(cell, "val_loss") for cell in view.cells}
    ranked = results_module.order(view.cells, [estimate.mean for estimate in spreads.values()], "lower")
    if not ranked:
        return None
    p = [results_module.equal_spread_p(cell, view.reference, "val_loss") for cell in view.compared]
    adjusted = dict(zip(view.compared, significance.holm(p)))
    rows = [
        [
            *(cell.label, str(spreads[cell].n), with_interval(spreads[cell], decimals_for(spreads[cell], 4))),
            "reference" if cell is view.reference else p_value(adjusted[cell]),
        ]
        for cell in ranked
    ]
    caption = (
        "Standard deviation (ddof 1) of the validation loss over trials, smallest first, with its 95% chi-square interval"
        " (normal losses); p of equal spreads: Pitman and Morgan's paired test, Holm."
    )
    headers = ["Activation", "n", "SD of val. loss (nats)", f"Same SD as {view.reference.label}?"]
    return Section("Spread of the loss over seeds", [Table(headers, rows, caption)])


def outlying(view: View) -> Section | None:
    """Outlying runs, and the means without them; None below three trials."""
    if max(len(cell.trials) for cell in view.cells) < 3:
        return None
    rows = []
    for name in PRIMARY:
        for cell in view.cells:
            if runs := results_module.outlying(cell, name):
                found = [results_module.estimate(one, name) for one in (cell, results_module.without(cell, runs))]
                decimals = max(decimals_for(estimate, MEASURES[name].decimals) for estimate in found)
                texts = [with_interval(estimate, decimals) for estimate in found]
                rows.append([MEASURES[name].label, cell.label, listing(map(str, runs)), str(found[0].n), *texts])
    rule = (
        "A run is flagged if its externally studentised deviation from the others (for pair measures: of the mean over its"
        " pairs) exceeds Student's quantile at 0.01 / (2n). It stays in every mean and verdict. Rare outlying runs that a"
        " study does not happen to contain break any interval."
    )
    if not rows:
        return Section("Outlying runs", [f"No run is flagged in any primary measure. {rule}"])
    caption = "Flagged runs, and the means with and without them (95% intervals over trials)."
    return Section(
        "Outlying runs", [rule, Table(["Measure", "Activation", "Run", "n", "Mean", "Mean without it"], rows, caption)]
    )


def other_text(view: View) -> Section | None:
    """The uncertainty due to the finite evaluation set, compared with that due to the trials."""
    rows, data = [], "text" if "corpus" in view.cells[0].result else "data"
    for name in ("val_loss", "relative_pd"):
        for cell in view.cells:
            against = None if cell is view.reference else view.reference
            if against is None:
                over_trials = results_module.estimate(cell, name).standard_error
            else:
                over_trials = view.comparisons[cell.activation, name].difference.standard_error
            text = results_module.window_errors(cell, against, name)
            if text is not None and over_trials is not None:
                of = f"{cell.label} - {against.label}" if against else f"{cell.label}, mean"
                errors = (over_trials, text, math.hypot(over_trials, text))
                rows.append([MEASURES[name].label, of, *(number(error, 5) for error in errors)])
    if not rows:
        return None
    count = next(len(array) for cell in view.cells for array in (cell.arrays or {}).values())
    windows, how = f"{count:,} evaluation examples", "taken as independent"
    if data == "text":
        windows, how = f"{count:,} evaluation windows", f"moving-block bootstrap, blocks of {BLOCK}"
    caption = (
        f"Standard errors ({counted(view.cells)}): over trials (what all intervals here use); over the {windows}"
        f" ({how}); and both. Where the second is the larger one, other {data} from"
        " the same source could change the value more than more trials would sharpen it."
    )
    headers = ["Measure", "Of", "SE over trials", f"SE over the {data}", "SE of both"]
    title = f"Would {'another text' if data == 'text' else 'other data'} change this?"
    return Section(title, [Table(headers, rows, caption)])


# --- every trial, every activation ----------------------------------------------------------------------------------

PER_TRIAL = ("train_loss", "val_loss", "train_accuracy", "val_accuracy", "training_time_s")


def trials(view: View) -> Section:
    """Every trial's losses, accuracies and time."""
    rows = []
    for cell in view.cells:
        for record in cell.result["trials"]:
            state = "" if record["status"] == "complete" else f" ({record['status']})"
            values = [None if record[n] is None else record[n] * MEASURES[n].scale for n in PER_TRIAL]
            texts = [number(value, MEASURES[name].decimals) for name, value in zip(PER_TRIAL, values)]
            rows.append([cell.label, f"{record['trial']}{state}", str(record["seed"]), *texts])
    headers = ["Activation", "Trial", "Seed", *map(headed, PER_TRIAL)]
    caption = "Every trial; `analyze_results.py --export DIR` writes them as CSV, with all pairs and curves."
    return Section("Every trial", [Table(headers, rows, caption)], folded=True)


def each_activation(view: View) -> Section:
    """The figures of each activation, including a passage of text that its models disagree on."""
    in_full = len(view.study.cells) <= MOST_IN_FULL
    passages, content = _passages(view, view.cells if in_full else [view.reference])
    for cell in view.cells:
        n = f"n = {plural(len(cell.trials), 'trial')}"
        pairs = f"{n}, {plural(len(cell.pairs), 'pair')}"
        if in_full:
            caption = (
                f"{cell.label}, training curves ({n}). Thin: each trial; bold: their mean. Right: each minus that mean."
            )
            content.append(Figure(caption, plot_utils.training_curves, cell.result))
            caption = f"{cell.label}, every pair of trials ({pairs})."
            if any(pair["history"] for pair in cell.pairs):
                caption += f" Below: along training; thin: each pair; bold: their mean; bands: {U_BAND}."
            content.append(Figure(caption, plot_utils.reproducibility, cell.result))
        caption = f"{cell.label}, all measures ({pairs}). Bars: {T_BAND}, of pair measures with the variance of a U-statistic."
        content.append(Figure(caption, plot_utils.summary, cell.result))
        content += passages.get(cell, [])
    return Section("Each activation in figures", content, folded=True)


def _passages(view, cells):
    """({cell: [figure of a passage that its models disagree on]}, introductory sentences)."""
    if view.passage_of is None:
        return {}, []
    found, sentences, without = {}, [], {}
    for cell in cells:
        try:
            text, start, share, n = view.passage_of(cell)
        except (UserError, RunError) as reason:
            without.setdefault(str(reason), []).append(cell.label)
            continue
        sentences = [_about_passage(text, start)]
        caption = (
            f"{cell.label}: {share.mean():.1%} of predictions differ on average over {plural(math.comb(n, 2), 'pair')} of"
            f" n = {n} models; at {(share == 0).mean():.0%} of the characters all models agree."
        )
        found[cell] = [Figure(caption, plot_utils.disagreement_passage, cell.result, (text, share, n))]
    for reason, labels in without.items():
        sentences.append(f"Without a passage: {listing(labels)} ({reason}).")
    return found, sentences


def _about_passage(text, start):
    about = (
        f"The passage: {len(text):,} characters of the validation split (from its character {start:,} on), shaded by the"
        " share of pairs of models whose most likely character differs, given all before it in its window."
    )
    lost = undrawable(text)
    if not lost:
        return about
    return (
        f"{about} No font on this machine has {plural(len(lost), 'character')} of it, drawn as boxes: {''.join(lost)}"
    )
