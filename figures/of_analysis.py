"""Figures of several studies or architectures: sources of randomness, sizes, heat maps, the published protocol."""

import textwrap

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, MultipleLocator

from analysis import results as results_module
from analysis.labels import architecture_label, short_label
from analysis.results import MEASURES, Cell, Margins
from analysis.series import pair_curves, trained
from analysis.words import decimals_for, listing, with_interval
from figures.style import (
    DIVERGING,
    FAINT,
    INK,
    NATS,
    QUIET,
    WIDTH,
    NothingToDraw,
    activation_style,
    draw_interval,
    draw_mean,
    figure,
    from_zero,
    legend_at_right,
    over_steps,
    panels,
    point_style,
    rows_named,
    write_at_right,
    write_in_cell,
)

__all__ = [
    "architecture_heatmap",
    "flipped_bits",
    "published_against_matched",
    "sensitivity_against_size",
    "sources",
    "sources_along_training",
]


@figure("Sources of randomness")
def sources(results, labels: list[str]):
    """Relative PD when only one source of randomness varies, and when all do.

    labels: the source of each result; the first one is also drawn as a dashed line.
    """
    rows = [
        (label, r["activation"], results_module.estimate(Cell(r), "relative_pd")) for label, r in zip(labels, results)
    ]
    if not any(estimate.mean is not None for *_, estimate in rows):
        raise NothingToDraw("No source was measured.")
    names, kinds = (list(dict.fromkeys(row[i] for row in rows)) for i in (0, 1))
    drawn, ((ax,),) = panels(0.7 + max(0.32, 0.17 * len(kinds)) * len(names))
    for label, kind, estimate in rows:
        place = names.index(label) + 0.7 * ((kinds.index(kind) + 0.5) / len(kinds) - 0.5)
        text = "not measured"
        if estimate.mean is not None:
            style = point_style(kind)
            if label == names[0]:
                ax.axvline(estimate.mean, color=style["color"], linewidth=0.8, linestyle=(0, (4, 2)), alpha=0.7)
            draw_interval(ax, estimate.mean, place, x_range=(estimate.low, estimate.high), **style)
            text = f"{with_interval(estimate, decimals_for(estimate, 4))}, n = {estimate.n}"
        write_at_right(ax, place, text)
    for kind in kinds:
        ax.plot([], [], **point_style(kind), label=short_label(kind))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=5, borderpad=0, borderaxespad=0.3)
    rows_named(ax, [textwrap.fill(name, 28) for name in names])
    from_zero(ax)
    ax.set_xlabel(f"relative PD: mean over pairs, 95% CI (dashed: {names[0]})")
    return drawn


@figure("Sources of randomness along training")
def sources_along_training(results, labels: list[str]):
    """Relative PD against the training step on a logarithmic scale: a panel per source, a line per activation.

    labels: the source of each result.
    """
    found = [(label, r, trained(*pair_curves(r, "relative_pd"))) for label, r in zip(labels, results) if r["pairs"]]
    found = [(label, r, curves) for label, r, curves in found if len(curves[0]) > 1]
    if not found:
        raise NothingToDraw("There are no curves of pairs.")
    names = list(dict.fromkeys(label for label, *_ in found))
    drawn, axes = panels(2.4, 1, len(names), width=max(WIDTH, 2.6 * len(names)), sharey=True)
    for ax, name in zip(axes[0], names):
        for label, result, (steps, _, estimates) in found:
            if label == name:
                look = activation_style(result["activation"]) | {"label": short_label(result["activation"])}
                draw_mean(ax, steps, estimates, look)
        ax.set(yscale="log", title=textwrap.fill(name, 30))
        over_steps(ax)
    axes[0, 0].set_ylabel("relative PD (log scale)")
    legend_at_right(axes[0, -1])
    return drawn


@figure("What becomes of one flipped bit")
def flipped_bits(results, derivatives: dict[str, str]):
    """Relative PD of every activation on a logarithmic scale, one marker per architecture.

    derivatives: activation -> "jumps", "continuous", "smooth" or "unknown".
    """
    pairs = {
        (r["activation"], r["architecture"]): values
        for r in results
        if any(values := [pair["relative_pd"] for pair in r["pairs"]])
    }
    if not pairs:
        raise NothingToDraw("No flipped bit changed a prediction.")
    means = {key: float(np.mean(values)) for key, values in pairs.items()}
    names = sorted({name for name, _ in pairs}, key=lambda name: -max(m for (of, _), m in means.items() if of == name))
    architectures = list(dict.fromkeys(r["architecture"] for r in results))
    colors = {"jumps": "#D55E00", "continuous": "#0072B2", "smooth": "#56B4E9", "unknown": QUIET}
    drawn, ((ax,),) = panels(0.9 + 0.2 * len(names))
    for (name, architecture), values in pairs.items():
        place = architectures.index(architecture)
        row = names.index(name) + 0.3 * ((place + 0.5) / len(architectures) - 0.5)
        color = colors[derivatives[name]]
        seen = [value for value in values if value]  # a logarithmic axis has no 0
        ax.plot([min(seen), max(seen)], [row, row], color=color, linewidth=1)
        ax.plot(means[name, architecture], row, marker="osD^v<>pP*X"[place % 11], color=color, markersize=4.5)
    used = [kind for kind in colors if kind in {derivatives[name] for name in names}]
    keys = [Line2D([], [], color=colors[kind], linewidth=3, label=f"derivative {kind}") for kind in used]
    keys += [
        Line2D([], [], color=INK, linestyle="", marker="osD^v<>pP*X"[place % 11], label=architecture_label(name))
        for place, name in enumerate(architectures)
    ]
    ax.legend(handles=keys, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderpad=0, borderaxespad=0.3)
    ax.set_xscale("log")
    rows_named(ax, [short_label(name) for name in names])
    ax.grid(axis="x", color=FAINT, linewidth=0.5)
    ax.set_xlabel("relative PD (log scale): mean over pairs, smallest to largest")
    return drawn


@figure("Sensitivity to the activation against size", "sensitivity_against_size")
def sensitivity_against_size(results, rows: list[dict], claims: dict[str, str]):
    """The SD between activations' means against the number of parameters, one panel per measure.

    rows: for each size {n_parameters, measure: Estimate}. claims: measure -> title of its panel.
    """
    measures = [name for name in claims if any(row[name].mean is not None for row in rows)]
    if not measures:
        raise NothingToDraw("No size has a between-activation SD.")
    drawn, axes = panels(2.1 * len(measures) + 0.3, len(measures), sharex=True)
    for ax, name in zip(axes[:, 0], measures):
        known = [row for row in rows if row[name].mean is not None]
        for row in known:
            ends = (row[name].low, row[name].high)
            draw_interval(ax, row["n_parameters"], row[name].mean, y_range=ends, color="#0072B2", marker="o")
        unit = f"\n({NATS})" if MEASURES[name].unit == "nats" else ""
        ax.set(title=claims[name], ylabel=f"SD of {MEASURES[name].in_text}{unit}", xscale="log")
        ax.set_ylim(bottom=0)
        ax.grid(axis="y", color=FAINT, linewidth=0.5)
        ax.set_axisbelow(True)
    sizes = sorted({row["n_parameters"] for row in rows})
    axes[-1, 0].set_xticks(sizes, [f"{size / 1e6:.3g}M" for size in sizes])
    axes[-1, 0].minorticks_off()
    axes[-1, 0].margins(x=0.08)
    axes[-1, 0].set_xlabel("parameters (log scale); bars: 95% CI")
    return drawn


@figure("Every architecture and activation")
def architecture_heatmap(results, measure: str, margins=Margins()):  # noqa: B008 - it is frozen
    """Architecture x activation: the mean as a number, its difference from the reference as a shade.

    The colour scale extends at least to the margin of interest, so that differences within it look pale.
    """
    cells = [Cell(result) for result in results]
    activations, architectures = (
        list(dict.fromkeys(getattr(cell, x) for cell in cells)) for x in ("activation", "architecture")
    )
    means = {(cell.architecture, cell.activation): results_module.estimate(cell, measure).mean for cell in cells}
    grid = np.array([[means.get((a, name)) for name in activations] for a in architectures], dtype=float)
    references = [results_module.reference_of([c for c in cells if c.architecture == a]) for a in architectures]
    bases = np.array([means[cell.architecture, cell.activation] for cell in references], dtype=float)[:, None]
    limits = [results_module.margin_of(measure, cell, margins) for cell in references]
    shares = [100 * limit / base for limit, base in zip(limits, bases[:, 0]) if limit and base > 0]
    if not shares:
        raise NothingToDraw("Nothing was measured.")
    away = 100 * (grid - bases) / np.where(bases > 0, bases, np.nan)
    reach = max(*shares, np.nanmax(np.abs(away), initial=0))
    drawn, ((ax,),) = panels(0.3 * len(architectures) + 1.2, width=max(WIDTH, 1.9 + 0.46 * len(activations)))
    drawn.set_label(f"heatmap_{measure}")
    image = ax.imshow(away, cmap=DIVERGING, aspect="auto", vmin=-reach, vmax=reach)
    ax.set_facecolor("#F4F4F4")
    for (row, column), value in np.ndenumerate(grid):
        write_in_cell(ax, image, column, row, "–" if np.isnan(value) else f"{value:.3f}", size=7)
    tilt = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if len(activations) > 6 else {}
    ax.set_xticks(range(len(activations)), [short_label(name) for name in activations], **tilt)
    ax.set_yticks(range(len(architectures)), [architecture_label(name) for name in architectures])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(MEASURES[measure].label + (f" ({NATS})" if MEASURES[measure].unit == "nats" else ""))
    bar = drawn.colorbar(image, ax=ax, aspect=20, pad=0.01)
    against = listing(dict.fromkeys(short_label(cell.activation) for cell in references))
    bar.set_label(f"% from {against}; lines: margin", size=7)
    bar.ax.hlines([-max(shares), max(shares)], *bar.ax.get_xlim(), color=INK, linewidth=0.8)
    bar.outline.set_visible(False)
    return drawn


# --- the published protocol -----------------------------------------------------------------------------------------

LOOKS = {  # series of published_against_matched: label, vertical offset, style
    "reported": ("as reported, n = 2", 0, {"marker": "D", "color": "#D55E00", "markerfacecolor": "white"}),
    "published": ("its protocol, repeated here, n = 2", 0.2, {"marker": "x", "color": "#D55E00"}),
    "same_models": (
        "these two models on the same contexts, n = 2",
        -0.15,
        {"marker": "o", "color": INK, "markerfacecolor": "white"},
    ),
    "mean": ("same contexts, n = {n}, 95% CI", 0.25, {"marker": "o", "color": "#0072B2"}),
}


@figure("Relative PD as reported, and measured on the same contexts")
def published_against_matched(results, rows: list[dict]):
    """Relative PD as reported, of the same two models evaluated on the same contexts, and of more trials.

    rows: {activation, reported, published (the report's protocol repeated here, or None), same_models, mean, low, high,
    n}. The axis is broken; both parts have the same scale.
    """
    small = _range([row.get(key) for row in rows for key in ("same_models", "mean", "low", "high")])
    large = _range([row.get(key) for row in rows for key in ("reported", "published")])
    parts = [limits for limits in (small, large) if limits]
    if not parts:
        raise NothingToDraw("There is nothing to compare.")
    ratios = [high - low for low, high in parts]
    drawn, axes = panels(0.5 * len(rows) + 1.2, 1, len(parts), sharey=True, width_ratios=ratios)
    between = np.diff(MaxNLocator(12, steps=(1, 2, 5, 10)).tick_values(0, sum(ratios)))[0]
    for ax, limits in zip(axes[0], parts):
        ax.xaxis.set_major_locator(MultipleLocator(between))
        for place, row in enumerate(rows):
            _draw_published_row(ax, place, row)
        ax.set_xlim(limits)
        ax.grid(axis="x", color=FAINT, linewidth=0.5)
        ax.set_axisbelow(True)
        ax.tick_params(axis="y", length=0)
    rows_named(axes[0, 0], [short_label(row["activation"]) for row in rows])
    if len(parts) == 2:
        _break_axis(*axes[0])
    n = " or ".join(map(str, sorted({row["n"] for row in rows if row.get("mean") is not None})))
    drawn.legend(
        handles=[
            Line2D([], [], linestyle="none", markersize=5, label=label.format(n=n), **look)
            for key, (label, _, look) in LOOKS.items()
            if any(row.get(key) is not None for row in rows)
        ],
        loc="outside lower center",
        ncols=2,
    )
    axes[0, int(np.argmax(ratios))].set_xlabel("relative PD; lower is more reproducible (one scale, with a gap)")
    return drawn


def _range(values):
    """Axis limits with a margin around the values; None if there are none."""
    values = [value for value in values if value is not None]
    if not values:
        return None
    room = max(0.12 * (max(values) - min(values)), 0.004)
    return max(0.0, min(values) - room), max(values) + room


def _draw_published_row(ax, place, row):
    for key, (_, offset, look) in LOOKS.items():
        if row.get(key) is not None:
            interval = (row.get("low"), row.get("high")) if key == "mean" else (None, None)
            draw_interval(ax, row[key], place + offset, x_range=interval, **look)
            if key != "published":  # coincides with the reported value
                spot = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center", "va": "bottom", "size": 6.5}
                ax.annotate(f"{row[key]:.4f}", (row[key], place + offset), color=look["color"], **spot)


def _break_axis(left, right):
    """Marks the gap between two parts of one axis."""
    right.spines.left.set_visible(False)
    marks = {"marker": [(-0.6, -1), (0.6, 1)], "markersize": 7, "linestyle": "none", "color": QUIET, "clip_on": False}
    left.plot([1], [0], transform=left.transAxes, **marks)
    right.plot([0], [0], transform=right.transAxes, **marks)
