"""Shared by all figures: style per activation, titles and files, means with bands, points with intervals, legends.

A figure is a function that draws panels, decorated with `figure`, which adds the title and writes the file. Figures are
`matplotlib.figure.Figure` objects; pyplot's global state is not used.
"""

import functools
import io
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import metrics
from analysis.labels import activation_label, architecture_label, short_label, study_line
from common.files import write_atomically
from figures.fonts import make_drawable

WIDTH, DPI = 7.2, 150  # inches: two columns of a paper
FORMATS = ("png", "pdf", "svg")
INK, QUIET, FAINT = "#222222", "#666666", "#D9D9D9"
SHADES = "Blues"  # sequential, also in greyscale
DIVERGING = "PuOr_r"  # below and above a reference; safe for colour-blind readers
NATS = "nats"
MOST_BANDS = 8  # with more activations in a panel, bands would hide each other
# matplotlib's default style, regardless of the user's matplotlibrc, then ours. savefig.format is an option of the scripts.
STYLE = {
    name: value
    for name, value in matplotlib.rcParamsDefault.items()
    if name != "savefig.format" and not name.startswith("backend")
} | {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.linewidth": 0.7,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "text.parse_math": False,  # a "$" in a name would start a formula
    "svg.hashsalt": "",  # reproducible files
}

# Okabe & Ito's colours without yellow, which is invisible on white. By the order of activations.BUILT_IN the two SmeLUs
# are blue and ReLU, the reference, is black.
COLOURS = ("#56B4E9", "#0072B2", "#000000", "#D55E00", "#009E73", "#E69F00", "#CC79A7")
MARKERS = ("v", "^", "o", "s", "D", "P", "X", "<", ">", "*", "h", "p", "d")
LOOKS = {"smelu_1_centred": 19}  # orange
OTHER_COLOURS = ("#6A3D9A", "#8C510A", "#B2182B", "#4D4D4D")  # of user-defined activations and SmeLUs of any beta
LINES = ((0, (5, 1.2)), (0, (1.5, 0.8)), "-")  # times seven colours: 21 styles


def activation_style(name: str) -> dict:
    """color, marker and linestyle of an activation, the same in every figure."""
    import activations

    index = activations.BUILT_IN.index(name) if name in activations.BUILT_IN else LOOKS.get(name)
    if index is None:
        index = zlib.crc32(name.encode())
        colour, marker = OTHER_COLOURS[index % len(OTHER_COLOURS)], MARKERS[index % len(MARKERS)]
        return {"color": colour, "marker": marker, "linestyle": "-"}
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)],
    }


def point_style(name: str) -> dict:
    """color and marker of an activation, for points without lines."""
    return activation_style(name) | {"linestyle": "none"}


# --- figures ------------------------------------------------------------------------------------------------


class NothingToDraw(Exception):
    """Raised by a drawing function without data; its message is drawn instead."""


def figure(title: str, name: str | None = None) -> Callable:
    """Decorates a function that draws panels from results: adds the title and writes the file.

    The decorated function takes a result or a list of results, a folder, and the other arguments of the drawing function.
    It writes <folder>/<architecture>[_<activation>]_<device>_<name>.png and returns this path.

    Parameters
    ----------
    title : str
        The architecture, the activation of a single result, and `study_line` are added.
    name : str, optional
        Of the file; default: the label of the matplotlib figure if it has one, else the function's name.
    """

    def decorate(draw):
        @functools.wraps(draw)
        def write(results, folder, *data, **options) -> Path:
            several = [results] if isinstance(results, dict) else results
            architectures = list(dict.fromkeys(result["architecture"] for result in several))
            parts = ["all" if len(architectures) > 1 else architectures[0]]
            what = title if len(architectures) > 1 else f"{title}: {architecture_label(architectures[0])}"
            if isinstance(results, dict):
                parts.append(results["activation"])
                what += f", {activation_label(results['activation'])}"
            with matplotlib.rc_context(STYLE):
                try:
                    drawn = draw(results, *data, **options)
                except NothingToDraw as reason:
                    drawn, axes = panels(1.2)
                    show_message(axes[0, 0], str(reason))
                add_title(drawn, what, study_line(several))
                parts += [several[0]["identity"]["device"], drawn.get_label() or name or draw.__name__]
                return save(drawn, Path(folder) / f"{'_'.join(parts)}.png")

        return write

    return decorate


def panels(height, rows=1, columns=1, width=WIDTH, **options):
    """(figure, (rows, columns) axes). height: of all panels, inches. options: of Figure.subplots."""
    drawn = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(drawn)  # one renderer for layout and drawing, since text sizes are cached per renderer
    return drawn, drawn.subplots(rows, columns, squeeze=False, **options)


def add_title(drawn, title, line):
    """Adds a title and a grey second line above the panels, enlarging the figure."""
    width, height = drawn.get_size_inches()
    title, line = textwrap.fill(title, int(width * 11.5)), textwrap.fill(line, int(width * 16.5))
    title_height = 0.19 + 0.17 * title.count("\n")
    total = height + title_height + 0.14 + 0.135 * (line.count("\n") + 1)
    drawn.set_size_inches(width, total)
    drawn.get_layout_engine().set(rect=(0, 0, 1, height / total), w_pad=0.05, h_pad=0.06, wspace=0.03, hspace=0.03)
    drawn.text(0.07 / width, 1 - 0.07 / total, title, size=10, weight="bold", va="top")
    drawn.text(0.07 / width, 1 - (0.07 + title_height) / total, line, size=7.5, color=QUIET, va="top")


def save(drawn, path) -> Path:
    """Writes a figure atomically to `path`, and also as rcParams["savefig.format"] if that differs."""
    path, metadata = Path(path), {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    make_drawable(drawn)
    wanted = {matplotlib.rcParams["savefig.format"]} & metadata.keys()  # ignores other formats in a matplotlibrc
    for kind in dict.fromkeys((path.suffix[1:], *wanted)):
        buffer = io.BytesIO()
        if kind == "png":
            drawn.canvas.print_png(buffer)  # savefig would render twice
        else:
            drawn.savefig(buffer, format=kind, metadata=metadata[kind])
        write_atomically(path.with_suffix(f".{kind}"), buffer.getvalue())
    return path


def show_message(ax, text):
    """Shows a message in place of an empty panel."""
    ax.clear()
    ax.set_axis_off()
    ax.text(0.5, 0.5, textwrap.fill(text, 46), ha="center", va="center", color=QUIET, transform=ax.transAxes)


# --- drawing ------------------------------------------------------------------------------------------------


def panel_height(count):
    """Height in inches of a panel with a legend of `count` lines next to it."""
    return max(2.3, 0.14 * count + 0.5)


def interval_note(ax):
    """Suffix of a title if bands were drawn."""
    return ", 95% CI over trials" if ax.collections else ""


def draw_mean(ax, x, estimates, style, band=True):
    """A line of means with markers, and a band for the 95% intervals; estimates: an Estimate for each x."""
    mean, low, high = np.array([(e.mean, e.low, e.high) for e in estimates], dtype=float).reshape(-1, 3).T
    every = max(1, len(x) // 8)
    ax.plot(x, mean, **style, markevery=every, markeredgecolor="white", markeredgewidth=0.4, zorder=3)
    if band and not np.isnan(low).all():
        ax.fill_between(x, low, high, color=style["color"], alpha=0.10, linewidth=0)
        edge = {"color": style["color"], "alpha": 0.6, "linewidth": 0.5}  # separates overlapping bands
        ax.plot(x, low, **edge)
        ax.plot(x, high, **edge)


def draw_curves(ax, curves: dict, measure: str | None = None) -> None:
    """Mean and band of each activation's curve; curves: activation -> (x, Estimates).

    measure: limits the axis to this measure's range.
    """
    for name, (x, estimates) in curves.items():
        if len(x):
            style = activation_style(name) | {"label": short_label(name)}
            draw_mean(ax, x, estimates, style, len(curves) <= MOST_BANDS)
    ax.margins(x=0.02)
    if measure:
        within_range(ax, measure)


def legend_at_right(ax):
    """A legend at the right of the axes, ordered by the lines' last values."""
    handles, labels = ax.get_legend_handles_labels()
    last = [values[~np.isnan(values)][-1:] for values in (np.asarray(h.get_ydata(), dtype=float) for h in handles)]
    order = sorted(range(len(handles)), key=lambda i: -(last[i][0] if len(last[i]) else -np.inf))
    size = 7.5 if len(handles) <= MOST_BANDS else 6.5
    look = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "borderpad": 0, "fontsize": size, "labelspacing": 0.35}
    ax.legend([handles[i] for i in order], [labels[i] for i in order], **look)


def write_in_cell(ax, image, column, row, text, **look):
    """A text in a cell of an image, dark on light or light on dark; ignored by the layout, since it is inside the axes."""
    value = float(np.ma.filled(image.get_array()[row, column], np.nan))
    red, green, blue, opacity = image.cmap(image.norm(value))
    dark = opacity and 0.299 * red + 0.587 * green + 0.114 * blue < 0.5  # ITU-R BT.601; NaN is transparent
    colour = "white" if dark else INK
    ax.text(column, row, text, ha="center", va="center", color=colour, **look).set_in_layout(False)


def draw_interval(ax, x, y, x_range=(None, None), y_range=(None, None), faint=False, **style):
    """A point with its 95% intervals, if it has any."""
    weight = {"linewidth": 0.7, "alpha": 0.5} if faint else {"linewidth": 1.3, "alpha": 0.75}
    bar = {"color": style["color"], "zorder": 2, "solid_capstyle": "butt", **weight}
    if x_range[0] is not None:
        ax.plot(x_range, (y, y), **bar)
    if y_range[0] is not None:
        ax.plot((x, x), y_range, **bar)
    ax.plot([x], [y], **{"linestyle": "none", "markeredgewidth": 1, "zorder": 4, **style})


def write_at_right(ax, row, text, **look):
    """A text at the right of the axes, at the height of a row."""
    ax.text(1.02, row, text, transform=ax.get_yaxis_transform(), va="center", **{"size": 7, **look})


def rows_named(ax, names):
    """Labels the rows of the axes, the first one on top."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)


def over_steps(ax):
    """Labels the x axis as training steps."""
    ax.set_xlabel("training steps")
    ax.xaxis.get_major_locator().set_params(integer=True)


def within_range(ax, name):
    """Limits the y axis to slightly more than the measure's range."""
    metric = metrics.METRICS[name]
    low, high = ax.get_ylim()
    room = 0.05 * (min(high, metric.high) - max(low, metric.low))
    ax.set_ylim(max(low, metric.low - room), min(high, metric.high + room))


def from_zero(ax):
    """Starts the x axis at zero, or below if there are negative values, with a margin at the right."""
    low, high = ax.get_xlim()
    low = min(0, low)
    ax.set_xlim(low, high + 0.04 * (high - low))
