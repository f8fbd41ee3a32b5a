"""Figures of what the analysis computed: comparisons, equal loss, a passage, sources, sizes, architectures, protocols.

A module of its own, apart from figures/across_activations.py, because these take no results but lists of dicts, one per row or
curve. In these a missing number is None, an interval is `low` and `high`, and `title_info` is the second line of the title
(corpus, protocol, n), as `study_line` makes it. plot_utils.py offers them with all the others.
"""

import textwrap
from pathlib import Path

import matplotlib.lines
import numpy as np
from matplotlib.ticker import MaxNLocator, MultipleLocator

import metrics
from analysis.labels import activation_label, architecture_label, short_label
from figures.style import (
    DIVERGING,
    FAINT,
    INK,
    MOST_BANDS,
    NATS,
    QUIET,
    SHADES,
    WIDTH,
    activation_style,
    draw_interval,
    draw_mean,
    from_zero,
    interval_note,
    label_line_ends,
    mean_and_interval,
    new_figure,
    panel_height,
    point_style,
    save,
    say_instead,
    say_only,
    styled,
    within_range,
    write_in_cell,
)

VERDICTS = {  # how the row of a verdict looks
    "different": {"marker": "o", "markerfacecolor": INK, "color": INK},
    "equivalent": {"marker": "s", "markerfacecolor": "#56B4E9", "color": "#0072B2"},
    "inconclusive": {"marker": "D", "markerfacecolor": "white", "color": "#8A8A8A"},
}


@styled
def forest(comparisons: list[dict], folder, architecture, device, title_info, reference="ReLU") -> Path:
    """Every activation against the reference, one panel per measure: difference, interval, margin, verdict.

    comparisons: {activation, measure (its label), difference, low, high, margin, p_adjusted, equivalence_p,
    verdict, verdict_text} (see significance.Comparison). The panels stand one below another, each verdict
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
    info += "inconclusive (n): n seeds needed" if many else "p: of no difference, Holm-corrected · " + TOST_NOTE
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
        look = VERDICTS[row.get("verdict") or "inconclusive"]
        if row.get("difference") is not None:
            draw_interval(ax, row["difference"], place, x_range=(row.get("low"), row.get("high")), **look)
        verdict = row.get("verdict_text", "not compared")
        text = verdict.replace(" seeds needed", "") if brief else verdict + _p_of(row)
        ax.text(1.02, place, text, transform=ax.get_yaxis_transform(), va="center", size=7)
    ax.tick_params(axis="y", length=0)
    ax.locator_params(axis="x", nbins=3 if brief else 7)
    at_zero = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points", "size": 7, "color": QUIET}
    for side, text in (("right", "← better   "), ("left", "   worse →")):  # of all primary measures, less is better
        ax.annotate(text, (0, 0), (0, -19), ha=side, va="center", **at_zero)


TOST_NOTE = "TOST p: of the two one-sided tests against the margin"


def _p_of(row):
    """The p of the test that a verdict rests on, named so that a difference and an equivalence are not confused."""
    equivalent = row.get("verdict") == "equivalent"
    p, name = (row.get("equivalence_p"), "TOST p") if equivalent else (row.get("p_adjusted"), "p")
    return "" if p is None else f"  ({name} < 0.001)" if p < 0.001 else f"  ({name} = {p:.2g})"


@styled
def pd_at_equal_loss(curves: list[dict], folder, architecture, device, title_info) -> Path:
    """Relative PD and top-1 disagreement against the step (left) and against the validation loss (right).

    curves: one dict per activation: {activation, step: (S,), loss: (S,) mean validation losses, relative_pd and
    top1_disagreement: S triples (mean, low, high)}.
    """
    title = f"Trained less, or more reproducible? {architecture_label(architecture)}"
    if not any(len(curve["step"]) for curve in curves):
        why = "There are no curves of pairs to compare."
        return say_only(title, title_info, why, folder, architecture, device, "pd_at_equal_loss")
    height = 2 * panel_height(len(curves))
    figure, axes = new_figure(title, title_info, height, 2, 2, sharex="col", sharey="row")
    panels = []
    for row, name in zip(axes, ("relative_pd", "top1_disagreement")):
        ends = []
        for curve in curves:
            style, bands = activation_style(curve["activation"]), len(curves) <= MOST_BANDS
            draw_mean(row[0], np.asarray(curve["step"]), curve[name], style, bands)
            losses, triples = np.asarray(curve["loss"], dtype=float), np.array(curve[name], dtype=float)
            falling = np.argsort(-losses)
            end = draw_mean(row[1], losses[falling], triples[falling], style, bands)
            ends.append((end, short_label(curve["activation"]), style["color"]))
        row[0].set_ylabel(metrics.METRICS[name].label)
        row[1].set_ylim(row[1].get_ylim())
        within_range(row[1], name)
        panels.append((row[1], ends))
    axes[0, 1].invert_xaxis()  # of both, for they share it
    axes[0, 0].set_title(f"Against the step{interval_note(axes[0, 0])}")
    axes[0, 1].set_title(f"Against the validation loss{interval_note(axes[0, 1])}")
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
    write_in_cell(ax, image, column, row, sign, **look)


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
