"""Figures across activations, architectures and protocols; plot_utils.py offers them with all the others.

Most take numbers that the analysis computed: lists of dicts, one per row or curve. In these a missing number
is None, an interval is `low` and `high`, and `study` is the second line of the title (corpus, protocol, n),
as `study_line` makes it.
"""

import itertools
import textwrap
from pathlib import Path

import matplotlib.lines
import numpy as np
from matplotlib.ticker import MaxNLocator, MultipleLocator

import metrics
from figure_style import (
    DIVERGING,
    FAINT,
    INK,
    NATS,
    QUIET,
    SHADES,
    WIDTH,
    activation_label,
    activation_style,
    architecture_label,
    complete,
    draw_interval,
    draw_mean,
    from_zero,
    label_line_ends,
    label_points,
    mean_and_interval,
    mean_curve,
    new_figure,
    pair_curves,
    point_style,
    point_to_better,
    save,
    say_instead,
    say_only,
    short_label,
    study_line,
    styled,
    trial_curves,
    value_of,
    within_range,
    write_in_cell,
)

REFERENCE = "relu"
MOST_BANDS = 8  # with more activations than this in a panel, bands would hide each other


# --- from results -------------------------------------------------------------------------------------------


def _name(results, kind):
    return results[0]["architecture"], results[0]["identity"]["device"], kind


def _panel_height(count):
    """Inches for a panel whose `count` lines are named at their ends."""
    return max(2.3, 0.14 * count + 0.5)


@styled
def all_validation_curves(results: list[dict], folder) -> Path:
    """Mean validation loss of every activation, and below it the paired difference from ReLU."""
    title = f"Validation loss along training: {architecture_label(results[0]['architecture'])}"
    if not any(trial["history"] for result in results for trial in complete(result)):
        why = "No complete trial has a curve."
        return say_only(title, study_line(results), why, folder, *_name(results, "all_validation_curves"))
    reference = next((r for r in results if r["activation"] == REFERENCE), results[0])
    rows = 2 if len(results) > 1 else 1
    figure, axes = new_figure(title, study_line(results), rows * _panel_height(len(results)), rows, sharex=True)
    losses = {r["activation"]: trial_curves(complete(r), "val_loss") for r in results}
    means = {name: (at, mean_curve(values, "val_loss")) for name, (at, values) in losses.items()}
    panels = [_draw_curves(axes[0, 0], means)]
    axes[0, 0].set_ylabel(f"loss ({NATS})")
    axes[0, 0].set_title("Mean of the trials" + _interval_note(axes[0, 0]))
    if rows == 2:
        others = {r["activation"]: _paired_difference(r, reference) for r in results if r is not reference}
        axes[1, 0].axhline(0, color=QUIET, linewidth=0.8)
        panels.append(_draw_curves(axes[1, 0], others))
        axes[1, 0].set_ylabel(f"difference ({NATS})")
        minus = f"Minus {activation_label(reference['activation'])}, trial by trial with the same seed: mean"
        axes[1, 0].set_title(minus + _interval_note(axes[1, 0]))
    axes[-1, 0].set_xlabel("completed updates")
    label_line_ends(panels)
    return save(figure, folder, *_name(results, "all_validation_curves"))


def _paired_difference(result, reference):
    """Steps and Estimates of the validation loss minus the reference's, over the trials complete in both."""
    ours, theirs = ({t["trial"]: t for t in complete(r)} for r in (result, reference))
    shared = sorted(set(ours) & set(theirs))
    steps, x = trial_curves([ours[k] for k in shared], "val_loss")
    steps_y, y = trial_curves([theirs[k] for k in shared], "val_loss")
    common = np.intersect1d(steps, steps_y)
    difference = x[:, np.isin(steps, common)] - y[:, np.isin(steps_y, common)]
    return common, mean_curve(difference)


def _draw_curves(ax, curves, measure=None):
    """Draws curves, activation -> (steps, Estimates), and returns what `label_line_ends` wants of a panel.

    measure: its name, where the axis must end with the measure's range.
    """
    ends = []
    for name, (steps, estimates) in curves.items():
        style = activation_style(name)
        end = draw_mean(ax, steps, estimates, style, len(curves) <= MOST_BANDS) if len(steps) else None
        ends.append((end, short_label(name), style["color"]))
    ax.margins(x=0.02)
    ax.set_ylim(ax.get_ylim())
    if measure:
        within_range(ax, measure)
    return ax, ends


def _interval_note(ax):
    """What the title adds where bands were drawn."""
    return ", 95 % CI over trials" if ax.collections else ""


@styled
def pd_along_training(results: list[dict], folder) -> Path:
    """Relative PD and top-1 disagreement of every activation along training, means over pairs."""
    title = f"Disagreement along training: {architecture_label(results[0]['architecture'])}"
    if not any(pair["history"] for result in results for pair in result["pairs"]):
        why = f"The {results[0]['identity']['protocol']} protocol keeps no curves of pairs."
        why = why if any(result["pairs"] for result in results) else "No two complete trials were compared."
        return say_only(title, study_line(results), why, folder, *_name(results, "pd_along_training"))
    figure, axes = new_figure(title, study_line(results), 2 * _panel_height(len(results)), 2, sharex=True)
    panels = []
    for ax, name in zip(axes[:, 0], ("relative_pd", "top1_disagreement")):
        curves = {r["activation"]: pair_curves(r, name)[::2] for r in results}
        panels.append(_draw_curves(ax, curves, name))
        label = metrics.METRICS[name].label
        ax.set_title(f"{label}: mean over pairs{_interval_note(ax)}")
        ax.set_ylabel(label)
    axes[-1, 0].set_xlabel("completed updates")
    label_line_ends(panels)
    return save(figure, folder, *_name(results, "pd_along_training"))


@styled
def accuracy_against_reproducibility(results: list[dict], folder) -> Path:
    """Validation loss against relative PD, both with 95 % intervals."""
    title = f"Accuracy against reproducibility: {architecture_label(results[0]['architecture'])}"
    name, study = _name(results, "accuracy_against_reproducibility"), study_line(results)
    points = _plane_points(results)
    if not points:
        return say_only(title, study, NO_PD, folder, *name)
    figure, ((ax,),) = new_figure(title, study, max(3.9, 0.17 * len(points) + 0.8))
    _draw_plane(ax, results, points)
    if len(points) <= MOST_BANDS:
        _name_points(ax, points)
    else:
        for label in sorted(points, key=lambda label: -points[label][1]):
            ax.plot([], [], **point_style(label), label=short_label(label))
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), borderpad=0, title="highest PD first")
    return save(figure, folder, *name)


NO_PD = "No activation has a relative PD: that takes two complete trials, compared with each other."


def _plane_points(results):
    """activation -> (mean validation loss, mean relative PD), of those that have both."""
    points = {r["activation"]: (value_of(r, "val_loss")[0], value_of(r, "relative_pd")[0]) for r in results}
    return {name: point for name, point in points.items() if None not in point}


def _draw_plane(ax, results, points):
    """Loss against PD with intervals, faint where there are many, and which way is better."""
    many = len(points) > MOST_BANDS
    for result in results:
        if result["activation"] in points:
            loss, pd = value_of(result, "val_loss"), value_of(result, "relative_pd")
            look = point_style(result["activation"]) | {"markersize": 6, "faint": many}
            draw_interval(ax, loss[0], pd[0], loss[1:], pd[1:], **look)
    has_interval = any(value_of(r, name)[1] is not None for r in results for name in ("val_loss", "relative_pd"))
    ax.set_title("Means with 95 % CI" if has_interval else "Means; too few trials for intervals")
    ax.set(xlabel=f"validation loss ({NATS})", ylabel="relative PD")
    ax.margins(0.12)
    ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())
    point_to_better(ax)


def _name_points(ax, points):
    looks = {name: (short_label(name), activation_style(name)["color"]) for name in points}
    label_points(ax, [(*place, *looks[name]) for name, place in points.items()])


@styled
def pareto(results: list[dict], shares: dict[str, float | None], folder) -> Path:
    """The frontier of loss against relative PD, and how sure it is who is on it.

    shares: activation -> share of bootstrap resamples of the trials, 0 .. 1, in which it is on the frontier.
    """
    title = f"Pareto frontier of loss and disagreement: {architecture_label(results[0]['architecture'])}"
    points, study = _plane_points(results), study_line(results)
    if not points:
        return say_only(title, study, NO_PD, folder, *_name(results, "pareto"))
    height = max(3.6, 0.17 * len(results) + 1)
    figure, ((plane, bars),) = new_figure(title, study, height, 1, 2, width_ratios=[1.9, 1])
    best = sorted((name for name in points if _on_frontier(name, points)), key=points.get)
    for left, right in itertools.pairwise(best):
        (x0, y0), (x1, y1) = points[left], points[right]
        plane.plot([x0, x1], [y0, y0], color="#AAAAAA", linewidth=2.5, zorder=1)
        plane.plot([x1, x1], [y0, y1], color="#AAAAAA", linewidth=2.5, zorder=1)
    _draw_plane(plane, results, points)
    plane.set_title(f"{plane.get_title(loc='left')}; grey: the frontier")
    _draw_shares(bars, shares, best)
    _name_points(plane, points if len(points) <= MOST_BANDS else {name: points[name] for name in best})
    return save(figure, folder, *_name(results, "pareto"))


def _on_frontier(name, points):
    """Whether no other activation is at least as good in both, and better in one."""
    x, y = points[name]
    return not any(a <= x and b <= y and (a, b) != (x, y) for a, b in points.values())


def _draw_shares(ax, shares, best):
    if not shares:
        return say_instead(ax, "Too few trials to resample.")
    order = sorted(shares, key=lambda name: (shares[name] is not None, shares[name] or 0))
    for row, name in enumerate(order):
        share = shares[name]
        if share is not None:
            ax.plot([0, 100 * share], [row, row], color=FAINT, linewidth=3, zorder=1, solid_capstyle="butt")
            ax.plot([100 * share], [row], **point_style(name), markersize=6, clip_on=False)
        text = "not resampled" if share is None else f"{100 * share:.0f} %"
        ax.text(108, row, text, va="center", size=7.5, weight="bold" if name in best else "normal")
    ax.set_yticks(range(len(order)), [short_label(name) for name in order])
    ax.set(xlim=(0, 100), ylim=(-0.6, len(order) - 0.4), xlabel="% of resamples of the trials")
    ax.tick_params(axis="y", length=0, pad=7)  # room for a marker at 0 %
    ax.set_title("Share on the frontier\n(bold: on that of the means)")


# --- from what the analysis computed ------------------------------------------------------------------------


VERDICTS = {  # beginning of the verdict -> how its row looks
    "different": {"marker": "o", "markerfacecolor": INK, "color": INK},
    "equivalent": {"marker": "s", "markerfacecolor": "#56B4E9", "color": "#0072B2"},
    "undecided": {"marker": "D", "markerfacecolor": "white", "color": "#8A8A8A"},
}


@styled
def forest(comparisons: list[dict], folder, architecture, device, title_info, reference="ReLU") -> Path:
    """Every activation against the reference, one panel per measure: difference, interval, margin, verdict.

    comparisons: {activation, measure (its label), difference, low, high, margin, p_adjusted, equivalence_p,
    verdict}, the verdict in the words of significance.verdict. The panels stand one below another, each verdict
    with the p of the test that it rests on; where there are many activations side by side, without.
    """
    measures = list(dict.fromkeys(row["measure"] for row in comparisons))
    names = list(dict.fromkeys(row["activation"] for row in comparisons))
    title = f"Every activation against {reference}: {architecture_label(architecture)}"
    if not measures:
        text = f"There is nothing to compare with {reference}."
        return say_only(title, title_info, text, folder, architecture, device, "forest")
    many = len(names) > 8
    info = f"{title_info} · bars: 95 % CI of the paired difference · grey: margin of interest · "
    info += "undecided (n): n trials would decide" if many else "p: of no difference, Holm-corrected · " + TOST_NOTE
    if many:
        shape = {"rows": 1, "columns": len(measures), "width": 2 + 2.15 * len(measures)}
        figure, axes = new_figure(title, info, 0.2 * len(names) + 0.9, **shape, sharey=True)
    else:
        height = (0.195 * (len(names) + 3.2)) * len(measures) + 0.1
        figure, axes = new_figure(title, info, height, len(measures))
    for ax, measure in zip(axes.flat, measures):
        rows = {row["activation"]: row for row in comparisons if row["measure"] == measure}
        _draw_forest(ax, [rows.get(name, {}) for name in names], many)
        unit = {metric.label: metric.unit for metric in metrics.METRICS.values()}.get(measure, NATS)
        unit = f"({unit})" if unit else ""
        ax.set_title(f"{measure}\n{unit}" if many else f"{measure}: difference from {reference} {unit}")
        ax.set_yticks(range(len(names)), [short_label(name) for name in names])
        ax.set_ylim(len(names) - 0.4, -0.6)
    return save(figure, folder, architecture, device, "forest")


def _draw_forest(ax, rows, brief):
    """One row for each of `rows`: its interval, and its verdict in words; an empty row was not compared."""
    margin = next((row["margin"] for row in rows if row.get("margin")), None)
    if margin:
        ax.axvspan(-margin, margin, color=FAINT, alpha=0.6, linewidth=0)
    ax.axvline(0, color=INK, linewidth=0.8)
    for place, row in enumerate(rows):
        verdict = (row.get("verdict") or "undecided") if row else "not compared"
        look = next((look for start, look in VERDICTS.items() if verdict.startswith(start)), VERDICTS["undecided"])
        if row.get("difference") is not None:
            draw_interval(ax, row["difference"], place, x_range=(row.get("low"), row.get("high")), **look)
        text = _brief(verdict) if brief else verdict + _p_of(row, verdict)
        ax.text(1.02, place, text, transform=ax.get_yaxis_transform(), va="center", size=7)
    ax.tick_params(axis="y", length=0)
    ax.locator_params(axis="x", nbins=3 if brief else 7)
    at_zero = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points", "size": 7, "color": QUIET}
    for side, text in (("right", "← better   "), ("left", "   worse →")):  # of all primary measures, less is better
        ax.annotate(text, (0, 0), (0, -19), ha=side, va="center", **at_zero)


def _brief(verdict):
    """'undecided (33)' for 'undecided, 33 trials would decide'."""
    if " trials would decide" in verdict:
        return verdict.replace(", ", " (").replace(" trials would decide", ")")
    return verdict.replace(" within the margin", "")


TOST_NOTE = "TOST p: of the two one-sided tests against the margin"


def _p_of(row, verdict):
    """The p of the test that a verdict rests on, named so that a difference and an equivalence are not confused."""
    equivalent = verdict.startswith("equivalent")
    p, name = (row.get("equivalence_p"), "TOST p") if equivalent else (row.get("p_adjusted"), "p")
    return "" if p is None else f"  ({name} < 0.001)" if p < 0.001 else f"  ({name} = {p:.2g})"


@styled
def pd_at_equal_loss(curves: list[dict], folder, architecture, device, title_info) -> Path:
    """Relative PD and top-1 disagreement against the step (left) and against the validation loss (right).

    curves: one dict per activation: {activation, step: (S,), loss: (S,) mean validation losses, relative_pd and
    top1_disagreement: S triples (mean, low, high)} and, where the analysis interpolated at common losses,
    {at_loss: {loss: (L,), relative_pd, top1_disagreement: L triples}}; without it the right panels use `loss`.
    """
    title = f"Trained less, or more reproducible? {architecture_label(architecture)}"
    if not any(len(curve["step"]) for curve in curves):
        why = "There are no curves of pairs to compare."
        return say_only(title, title_info, why, folder, architecture, device, "pd_at_equal_loss")
    height = 2 * _panel_height(len(curves))
    figure, axes = new_figure(title, title_info, height, 2, 2, sharex="col", sharey="row")
    panels = []
    for row, name in zip(axes, ("relative_pd", "top1_disagreement")):
        ends = []
        for curve in curves:
            style, bands = activation_style(curve["activation"]), len(curves) <= MOST_BANDS
            draw_mean(row[0], np.asarray(curve["step"]), curve[name], style, bands)
            matched = curve.get("at_loss") or curve
            losses, triples = np.asarray(matched["loss"], dtype=float), np.array(matched[name], dtype=float)
            falling = np.argsort(-losses)
            end = draw_mean(row[1], losses[falling], triples[falling], style, bands)
            ends.append((end, short_label(curve["activation"]), style["color"]))
        row[0].set_ylabel(metrics.METRICS[name].label)
        row[1].set_ylim(row[1].get_ylim())
        within_range(row[1], name)
        panels.append((row[1], ends))
    axes[0, 1].invert_xaxis()  # of both, for they share it
    axes[0, 0].set_title(f"At equal steps{_interval_note(axes[0, 0])}")
    axes[0, 1].set_title(f"At equal validation loss{_interval_note(axes[0, 1])}")
    axes[1, 0].set_xlabel("completed updates")
    axes[1, 1].set_xlabel(f"validation loss ({NATS}), training goes →")
    label_line_ends(panels)
    return save(figure, folder, architecture, device, "pd_at_equal_loss")


MOST_COLUMNS, FEWEST_COLUMNS = 60, 30  # characters in a line of the passage
SIGNS = {"\n": "↵", " ": "·", "\t": "→"}


@styled
def disagreement_passage(text: str, share, folder, architecture, device, title_info, activation=None) -> Path:
    """A real passage, each character shaded by the share of pairs that disagree about it.

    share: (len(text),), 0 .. 1: of the pairs of models, those whose most likely characters at this place differ,
    given all before it; None or NaN where nothing was predicted.
    """
    lines = _wrapped(text)
    shares = np.array([np.nan if value is None else value for value in share], dtype=float)
    if len(shares) != len(text):
        raise ValueError(f"{len(shares)} shares do not fit {len(text)} characters")
    grid = np.full((len(lines), max(FEWEST_COLUMNS, *map(len, lines))), np.nan)
    for row, line in enumerate(lines):
        for column, index in enumerate(line):
            grid[row, column] = shares[index]
    who = architecture_label(architecture) + (f", {activation_label(activation)}" if activation else "")
    figure, axes = new_figure(f"Where models disagree: {who}", title_info, 0.197 * len(lines) + 0.65)
    ax = axes[0, 0]
    image = ax.imshow(grid, cmap=SHADES, vmin=0, vmax=1, aspect="auto")
    for row, line in enumerate(lines):
        for column, index in enumerate(line):
            _draw_character(ax, image, text[index], row, column)
    ax.set_axis_off()
    bar = figure.colorbar(image, ax=ax, orientation="horizontal", shrink=0.5, aspect=40, pad=0.02)
    bar.set_label("share of pairs of models whose most likely character at this place differs", size=7.5)
    bar.outline.set_visible(False)
    parts = [architecture, activation, device, "passage"]
    return save(figure, folder, *filter(None, parts))


def _wrapped(text):
    """The indices of the text's characters line by line: a line ends after a newline, or where it is full."""
    lines = [[]]
    for index, character in enumerate(text):
        if len(lines[-1]) == MOST_COLUMNS:
            lines.append([])
        lines[-1].append(index)
        if character == "\n":
            lines.append([])
    return [line for line in lines if line] or [[]]


def _draw_character(ax, image, character, row, column):
    """One character in its cell; spaces and line ends get a quiet sign, what cannot be printed a box."""
    sign = SIGNS.get(character) or (character if character.isprintable() else "□")
    look = {"size": 9, "family": "DejaVu Sans Mono", "alpha": 0.55 if character in SIGNS else 1}
    write_in_cell(ax, image, column, row, sign, **look, parse_math=False)  # "$" would begin a formula


@styled
def sources(rows: list[dict], folder, architecture, device, title_info) -> Path:
    """Relative PD when only one source of randomness varies, beside that of all of them.

    rows: {source (its label), mean, low, high, n} and, if there are several, activation; the first row's source
    is all of them together, the line that the others are seen against.
    """
    title = f"Where irreproducibility comes from: {architecture_label(architecture)}"
    if not any(row["mean"] is not None for row in rows):
        return say_only(title, title_info, "No source was measured.", folder, architecture, device, "sources")
    names = list(dict.fromkeys(row["source"] for row in rows))
    kinds = list(dict.fromkeys(row.get("activation") for row in rows))
    height = 0.7 + max(0.32, 0.17 * len(kinds)) * max(1, len(names))
    figure, axes = new_figure(title, title_info, height)
    ax = axes[0, 0]
    for row in rows:
        kind = kinds.index(row.get("activation"))
        place = names.index(row["source"]) + (0 if len(kinds) == 1 else 0.7 * ((kind + 0.5) / len(kinds) - 0.5))
        style = point_style(row["activation"]) if row.get("activation") else {"color": INK, "marker": "o"}
        text = "not measured"
        if row["mean"] is not None:
            if row["source"] == names[0]:
                ax.axvline(row["mean"], color=style["color"], linewidth=0.8, linestyle=(0, (4, 2)), alpha=0.7)
            draw_interval(ax, row["mean"], place, x_range=(row["low"], row["high"]), **style)
            text = f"{mean_and_interval(row['mean'], row['low'], row['high'])}, n = {row['n']}"
        ax.text(1.02, place, text, transform=ax.get_yaxis_transform(), va="center", size=7)
    if kinds != [None]:
        for name in kinds:
            ax.plot([], [], **point_style(name), label=short_label(name))
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=5, borderpad=0, borderaxespad=0.3)
    ax.set_yticks(range(len(names)), [textwrap.fill(name, 28) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    from_zero(ax)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(f"relative PD: mean over pairs, 95 % CI (dashed: {names[0]})")
    return save(figure, folder, architecture, device, "sources")


@styled
def sensitivity_against_size(
    rows: list[dict], claims: dict[str, str], folder, architecture, device, title_info
) -> Path:
    """The SD between activations' means against the number of parameters, one panel per measure.

    rows: {measure ("val_loss" or a name of metrics.METRICS), n_parameters, mean, low, high}. claims: measure -> what
    its panel shows, in words.
    """
    title = f"Does the activation matter less in larger models? {architecture_label(architecture)}"
    rows = [row for row in rows if row["mean"] is not None]
    name = (architecture, device, "sensitivity_against_size")
    if not rows:
        return say_only(title, title_info, "No size has a between-activation SD.", folder, *name)
    measures = [measure for measure in claims if any(row["measure"] == measure for row in rows)]
    figure, axes = new_figure(title, title_info, 2.1 * len(measures) + 0.3, len(measures), sharex=True)
    for ax, measure in zip(axes[:, 0], measures):
        for row in (row for row in rows if row["measure"] == measure):
            interval = (row["low"], row["high"])
            draw_interval(ax, row["n_parameters"], row["mean"], y_range=interval, color="#0072B2", marker="o")
        ax.set_title(claims[measure])
        ax.set_ylabel("SD of validation loss\n(" + NATS + ")" if measure == "val_loss" else _sd_label(measure))
        ax.set_xscale("log")
        ax.set_ylim(bottom=0)
        ax.grid(axis="y", color=FAINT, linewidth=0.5)
        ax.set_axisbelow(True)
    sizes = sorted({row["n_parameters"] for row in rows})
    axes[-1, 0].set_xticks(sizes, [f"{size / 1e6:.3g}M" for size in sizes])
    axes[-1, 0].minorticks_off()
    axes[-1, 0].margins(x=0.08)
    axes[-1, 0].set_xlabel("parameters (log scale); bars: 95 % CI")
    return save(figure, folder, *name)


def _sd_label(measure):
    return f"SD of {metrics.METRICS[measure].label[0].lower()}{metrics.METRICS[measure].label[1:]}"


@styled
def architecture_heatmap(
    table: dict, measure: str, references: dict, margin: float, folder, device, title_info
) -> Path:
    """Architecture x activation: the mean as a number, its distance from the reference's as a shade.

    table: architecture -> {activation: mean, or None}. measure: "val_loss" or a name of metrics.METRICS.
    references: architecture -> the activation that the others of its row are seen against. margin: of interest,
    in per cent of the reference's mean; the scale reaches at least so far, so that what is within it looks pale.
    """
    label = "Validation loss" if measure == "val_loss" else metrics.METRICS[measure].label
    unit = f" ({NATS})" if measure == "val_loss" else ""
    activations = list(dict.fromkeys(name for row in table.values() for name in row))
    grid = np.array([[row.get(name) for name in activations] for row in table.values()], dtype=float)
    width = max(WIDTH, 1.9 + 0.46 * len(activations))
    figure, axes = new_figure(
        f"{label}{unit} of every architecture and activation", title_info, 0.3 * len(table) + 1.2, width=width
    )
    ax = axes[0, 0]
    if np.isnan(grid).all():
        say_instead(ax, "Nothing was measured.")
        return save(figure, folder, "all", device, "heatmap", measure)
    bases = np.array([row.get(references[name]) for name, row in table.items()], dtype=float)[:, None]
    away = 100 * (grid - bases) / np.where(bases > 0, bases, np.nan)
    reach = max(margin, np.nanmax(np.abs(away), initial=0))
    image = ax.imshow(away, cmap=DIVERGING, aspect="auto", vmin=-reach, vmax=reach)
    ax.set_facecolor("#F4F4F4")
    for (row, column), value in np.ndenumerate(grid):
        write_in_cell(ax, image, column, row, "–" if np.isnan(value) else f"{value:.3f}", size=7)
    tilt = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if len(activations) > 6 else {}
    ax.set_xticks(range(len(activations)), [short_label(name) for name in activations], **tilt)
    ax.set_yticks(range(len(table)), [architecture_label(name) for name in table])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=ax, aspect=20, pad=0.01)
    against = " or ".join(dict.fromkeys(short_label(name) for name in references.values()))
    bar.set_label(f"% from {against}; lines: margin of interest", size=7)
    bar.ax.hlines([-margin, margin], *bar.ax.get_xlim(), color=INK, linewidth=0.8)
    bar.outline.set_visible(False)
    return save(figure, folder, "all", device, "heatmap", measure)


LOOKS = {  # what published_against_matched draws, in the order of its protocol
    "reported": ("the report", {"marker": "D", "color": "#D55E00", "markerfacecolor": "white"}),
    "published": ("its protocol, repeated here", {"marker": "x", "color": "#D55E00"}),
    "same_models": ("the same two models, same contexts", {"marker": "o", "color": INK, "markerfacecolor": "white"}),
    "mean": ("same contexts, more trials, 95 % CI", {"marker": "o", "color": "#0072B2"}),
}


@styled
def published_against_matched(rows: list[dict], folder, architecture, device, title_info) -> Path:
    """Relative PD as reported, of the same two models measured on the same contexts, and of more trials.

    rows: {activation, reported, published (our repeat of the report's protocol, or None), same_models, mean, low,
    high, n}. One axis with a gap in the middle; both of its parts have the same scale.
    """
    title = f"Relative PD, as reported and as measured on the same contexts: {architecture_label(architecture)}"
    small = _range([row.get(key) for row in rows for key in ("same_models", "mean", "low", "high")])
    large = _range([row.get(key) for row in rows for key in ("reported", "published")])
    parts = [limits for limits in (small, large) if limits]
    if not parts:
        why = "There is nothing to compare."
        return say_only(title, title_info, why, folder, architecture, device, "published_against_matched")
    ratios = [high - low for low, high in parts]
    figure, axes = new_figure(title, title_info, 0.5 * len(rows) + 1.2, 1, len(parts), sharey=True, width_ratios=ratios)
    between = np.diff(MaxNLocator(12, steps=(1, 2, 5, 10)).tick_values(0, sum(ratios)))[0]
    for ax, limits in zip(axes[0], parts):
        ax.xaxis.set_major_locator(MultipleLocator(between))
        for place, row in enumerate(rows):
            _draw_published_row(ax, place, row)
        ax.set_xlim(limits)
        ax.grid(axis="x", color=FAINT, linewidth=0.5)
        ax.set_axisbelow(True)
        ax.tick_params(axis="y", length=0)
    axes[0, 0].set_yticks(range(len(rows)), [short_label(row["activation"]) for row in rows])
    axes[0, 0].set_ylim(len(rows) - 0.4, -0.6)
    if len(parts) == 2:
        _break_axis(*axes[0])
    _published_legend(figure, rows)
    axes[0, int(np.argmax(ratios))].set_xlabel("relative PD; lower is more reproducible (one scale, with a gap)")
    return save(figure, folder, architecture, device, "published_against_matched")


def _range(values):
    """Limits with room around the values; None where there are none."""
    values = [value for value in values if value is not None]
    if not values:
        return None
    room = max(0.12 * (max(values) - min(values)), 0.004)
    return max(0.0, min(values) - room), max(values) + room


def _draw_published_row(ax, place, row):
    offsets = {"reported": 0, "published": 0.2, "same_models": -0.15, "mean": 0.25}
    for key, (_, look) in LOOKS.items():
        if row.get(key) is not None:
            interval = (row.get("low"), row.get("high")) if key == "mean" else (None, None)
            draw_interval(ax, row[key], place + offsets[key], x_range=interval, **look)
            if key != "published":  # that is the reported number again
                spot = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center", "va": "bottom", "size": 6.5}
                ax.annotate(f"{row[key]:.4f}", (row[key], place + offsets[key]), color=look["color"], **spot)


def _break_axis(left, right):
    """Marks the gap between two parts of one axis."""
    right.spines.left.set_visible(False)
    marks = {"marker": [(-0.6, -1), (0.6, 1)], "markersize": 7, "linestyle": "none", "color": QUIET, "clip_on": False}
    left.plot([1], [0], transform=left.transAxes, **marks)
    right.plot([0], [0], transform=right.transAxes, **marks)


def _published_legend(figure, rows):
    n = {row["n"] for row in rows if row.get("mean") is not None}
    handles = []
    for key, (label, look) in LOOKS.items():
        if any(row.get(key) is not None for row in rows):
            if key == "mean":
                label = f"same contexts, {' or '.join(map(str, sorted(n)))} trials, 95 % CI"
            handles.append(matplotlib.lines.Line2D([], [], linestyle="none", markersize=5, label=label, **look))
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
