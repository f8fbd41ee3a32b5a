"""The report's answer (a few sentences, the forest plot, one table), and the section of all comparisons."""

import math

import numpy as np

import plot_utils
from analysis import curves, significance
from analysis import results as results_module
from analysis.contrasts import percent
from analysis.results import MEASURES, PRIMARY, REFERENCE, in_percent, union, values
from analysis.words import brief_p, interval, listing, number, plural, with_interval
from report.document import Figure, Section, Table
from report.view import PAIRS_METHOD, View, counted, difference, headed, sampled, shown, without_pairs

TITLE = "The answer"
MEANS = ("val_loss", "relative_pd", "top1_disagreement")


def answer(view: View) -> Section:
    """Findings on relative PD and validation loss, their uncertainty and limitations."""
    sentences = _too_few(max(len(cell.trials) for cell in view.cells))
    if len(view.cells) > 1:
        sentences += [
            _verdicts(view, "relative_pd"),
            _verdicts(view, "val_loss"),
            *_at_equal_loss(view),
            *_overall(view),
        ]
    else:
        sentences.append(_alone(view))
        sentences += without_pairs(view.cells)
    sentences += _early(view)
    if view.missing:
        sentences.append(f"**{plural(len(view.missing), 'thing')} missing or left out**: see What was run.")
    figures = [_forest(view)] if view.compared else []
    return Section(TITLE, [*sentences, *figures, _means(view)], brief=True)


def _too_few(n):
    again = "Rerun run_all_experiments.py with `--trials 10` to extend the study."
    if n == 1:
        return [f"**One trial is not enough**: disagreement takes two trials, and an interval three. {again}"]
    return (
        [f"**Two trials make one pair**: measures of disagreement have no interval and no test below three. {again}"]
        if n == 2
        else []
    )


def _alone(view):
    if view.unfinished:
        return f"Only {view.cells[0].label} has complete trials **so far**; still to come: {listing(view.unfinished)}."
    return f"There is one activation, {view.cells[0].label}, and nothing to compare it with."


def _verdicts(view, name):
    """The activations by their verdict in one measure, with the size of significant differences."""
    found, reference = {cell: view.comparisons[cell.activation, name] for cell in view.compared}, view.reference

    def having(verdict, sign=None):
        return [cell for cell, c in found.items() if c.verdict == verdict and (sign is None or c.sign == sign)]

    def sized(cell):
        if name == "val_loss":
            return f"**{cell.label}** ({difference(found[cell].difference, name)} nats)"
        percent = in_percent(found[cell], reference, name)
        return f"**{cell.label}** ({number(percent.mean, 1, signed=True)}% {interval(percent, 1, signed=True)})"

    parts = [
        f"{sign} than {reference.label}'s for {listing(map(sized, cells))}"
        for sign in ("lower", "higher")
        if (cells := having("different", sign))
    ]
    if cells := having("equivalent"):
        limit = f"{view.margins.loss:g} nats" if name == "val_loss" else f"{view.margins.pairs:.0%}"
        parts.append(f"equivalent to {reference.label}'s within {limit} for **{listing(c.label for c in cells)}**")
    if cells := having("inconclusive"):
        needed = [found[cell].trials_needed for cell in cells if found[cell].trials_needed]
        most = f" ({'up to ' * (len(cells) > 1)}{max(needed)} seeds needed)" if needed else ""
        parts.append(f"inconclusive for {listing(cell.label for cell in cells)}{most}")
    what = "Relative PD (how far two trained models disagree)" if name == "relative_pd" else "Validation loss"
    if name == "relative_pd" and not reference.pairs:
        return f"{what}: not compared, since {reference.label}, the reference, has no pair of trials yet."
    return f"{what}: {'; '.join(parts)}."


def _at_equal_loss(view):
    """The verdicts at equal loss, for activations that differ in relative PD at the end of training."""
    if view.common is None:
        if all(view.comparisons[c.activation, "relative_pd"].verdict != "different" for c in view.compared):
            return []
        return [
            "Relative PD depends on training progress, and no common loss was fixed beforehand to compare at (`--at-loss`)."
        ]
    margin = math.log1p(view.margins.pairs)
    found = curves.compare_at_equal_loss(view.compared, view.reference, "relative_pd", view.common, margin)
    texts = [_against(cell, comparison) for cell, comparison in zip(view.compared, found)]
    return [
        f"Relative PD at equal loss, {view.common.loss:g} nats, against {view.reference.label}: {'; '.join(texts)}."
    ]


def _against(cell, comparison):
    """'Swish -3.1% [-4.6, -1.6], **different**' of a comparison in logarithms."""
    mean, low, high = percent(comparison.difference)
    if mean is None:
        return f"{cell.label} **{comparison.verdict_text}**"
    interval = "" if low is None else f" [{low:+.1f}, {high:+.1f}]"
    return f"{cell.label} {mean:+.1f}%{interval}, **{comparison.verdict_text}**"


def _overall(view):
    """Whether the choice among three or more activations matters; of two, their comparison says it."""
    if len(view.cells) < 3:
        return []
    found = results_module.activation_sensitivity(view.cells, view.margins)
    if max(len(cell.trials) for cell in view.cells) < 2:
        return []
    texts = [f"{MEASURES[name].label}: **{result.verdict_text}**" for name, result in found.items()]
    return [f"Does the choice among these {len(view.cells)} activations matter? {'; '.join(texts)}."]


def _early(view):
    """A sentence if a unigram or bigram baseline is as good as some models; [] if not, or if unknown."""
    losses = {cell: results_module.estimate(cell, "val_loss").mean for cell in view.cells}
    losses = {cell: loss for cell, loss in losses.items() if loss is not None}
    if isinstance(view.baselines, str) or not losses:
        return []
    for baseline, what in zip(view.baselines, ("**Nothing is learned yet**", "**This is early training**")):
        behind = [cell.label for cell, loss in losses.items() if loss >= baseline.loss]
        if behind:
            of = "all activations" if len(behind) == len(losses) > 1 else listing(behind)
            return [
                f"{what}: the {baseline.name} has a lower validation loss ({baseline.loss:.3f} nats) than the models of {of}."
            ]
    return []


def _forest(view):
    caption = (
        f"Each activation minus {view.reference.label}, paired by trial ({counted(view.cells)}). Bars: 95% intervals, not"
        f" corrected; grey: the margin of interest ({view.margins.loss:g} nats, {view.margins.pairs:.0%} of"
        f" {view.reference.label}'s value)."
    )
    return Figure(caption, plot_utils.forest, view.results, (view.margins,))


def _means(view):
    """One row per activation: means with intervals, and the two verdicts."""
    rows = []
    for cell in view.cells:
        row = [cell.label, str(len(cell.trials)), *(shown(cell, name) for name in MEANS)]
        if cell is view.reference:
            rows.append([*row, *(["reference"] * 2 if view.compared else [])])
        else:
            rows.append([*row, *(view.comparisons[cell.activation, name].verdict_text for name in MEANS[:2])])
    against = view.reference.label
    headers = [
        "Activation",
        "n",
        *map(headed, MEANS),
        *([f"Loss against {against}", f"PD against {against}"] if view.compared else []),
    ]
    of = (
        ""
        if view.reference.activation == REFERENCE or not view.compared
        else f" {view.reference.label} is the reference."
    )
    return Table(
        headers, rows, f"Means with 95% intervals over trials; lower is better.{of} {sampled(view.cells)}".strip()
    )


# --- every comparison -----------------------------------------------------------------------------------------------


def comparisons(view: View) -> Section | None:
    """Every activation against the reference in every primary measure, with all of its tests."""
    if not view.compared:
        return None
    rows, reference = [], view.reference
    for name in PRIMARY:
        for cell in view.compared:
            c = view.comparisons[cell.activation, name]
            percent = with_interval(in_percent(c, reference, name), 1, signed=True)
            row = [MEASURES[name].label, cell.label, str(c.difference.n), difference(c.difference, name), percent]
            tests = [brief_p(p) for p in (c.p, c.p_adjusted, c.equivalence_p)]
            rows.append([*row, number(c.effect_size, 2, signed=True), *tests, c.verdict_text])
    headers = ["Measure", "Activation", "n", "Difference", "in %", "Effect", "p", "p (Holm)", "p (equiv.)", "Verdict"]
    caption = f"Each activation minus {reference.label}, paired by trial. {PAIRS_METHOD}"
    note = (
        "Effect: Hedges' g of paired differences. p (equiv.): two one-sided tests against the margin, Bonferroni-corrected."
        f" {_exact_p(view)} {sampled(view.cells)}"
    )
    title = f"Activations compared with {reference.label}"
    return Section(title, [Table(headers, rows, caption, note.strip())], brief=True)


def _exact_p(view):
    """Sign-flip tests of the paired differences in loss, which do not assume normality."""
    texts, least = [], None
    for cell in view.compared:
        numbers = union([cell, view.reference])
        one, other = (np.array(values(c, "val_loss", numbers), float) for c in (cell, view.reference))
        found = significance.sign_flip_test(one - other)
        if found.p is not None:
            texts.append(f"{cell.label}: {brief_p(found.p)}")
            least = found
    if not texts:
        return ""
    return f"Exact sign-flip p of the loss differences: {'; '.join(texts)} (uncorrected; smallest possible {least.smallest_p:.2g})."
