"""What all figures share: one look, one colour and marker per activation, headers, labels that do not collide.

A module of its own, below plot_utils.py and the figures_*.py, so that an activation looks the same in all
of them. Nothing here touches pyplot's global state: figures are `matplotlib.figure.Figure` objects.
"""

import io
import math
import textwrap
import zlib
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import metrics
from analysis import significance
from common import storage
from figures.fonts import make_drawable

WIDTH, DPI = 7.2, 150  # inches: two columns of a paper
INK, QUIET, FAINT = "#222222", "#666666", "#D9D9D9"
SHADES = "Blues"  # sequential, and still in order when printed in grey
DIVERGING = "PuOr_r"  # below and above a reference, for colour-blind readers too
NATS = "nats per character"
MOST_BANDS = 8  # with more activations than this in a panel, bands would hide each other
STYLE = {
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
    "text.parse_math": False,  # a "$" in a name would begin a formula
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}
styled = matplotlib.rc_context(STYLE)  # a decorator: the look holds while the function draws, and only then

# Okabe & Ito's colours without their yellow, which is lost on white. The order of activations.BUILT_IN makes
# the two SmeLUs blue and ReLU, with which all others are compared, black.
COLOURS = ("#56B4E9", "#0072B2", "#000000", "#D55E00", "#009E73", "#E69F00", "#CC79A7")
MARKERS = ("v", "^", "o", "s", "D", "P", "X", "<", ">", "*", "h", "p", "d")
LINES = ((0, (5, 1.2)), (0, (1.5, 0.8)), "-")  # with seven colours: 21 looks


# --- names and looks ----------------------------------------------------------------------------------------


def activation_style(name: str) -> dict:
    """color, marker and linestyle: the same for this activation in every figure."""
    import activations

    known = name in activations.BUILT_IN
    index = activations.BUILT_IN.index(name) if known else zlib.crc32(name.encode())
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)],
    }


def point_style(name: str) -> dict:
    """color and marker, for points that no line joins."""
    style = activation_style(name)
    return {"color": style["color"], "marker": style["marker"], "linestyle": "none"}


# --- figures ------------------------------------------------------------------------------------------------


def new_figure(title, study, height, rows=1, columns=1, width=WIDTH, **options):
    """A figure with its header and (rows, columns) axes: (figure, axes as an array of that shape).

    title: what is shown. study: the second line, from `study_line`. height: of the panels, inches.
    options: of Figure.subplots.
    """
    title = textwrap.fill(title, int(width * 11.5))
    study = textwrap.fill(study, int(width * 16.5))
    header = 0.17 + 0.17 * title.count("\n") + 0.16 + 0.135 * (study.count("\n") + 1)
    figure = Figure(figsize=(width, height + header), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)  # one renderer for layout and drawing: sizes of texts are remembered by renderer
    engine = figure.get_layout_engine()
    engine.set(rect=(0, 0, 1, height / (height + header)), w_pad=0.05, h_pad=0.06, wspace=0.03, hspace=0.03)
    x, top = 0.07 / width, 1 - 0.07 / (height + header)
    figure.text(x, top, title, size=10, weight="bold", va="top")
    below = (0.19 + 0.17 * title.count("\n")) / (height + header)
    figure.text(x, top - below, study, size=7.5, color=QUIET, va="top")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure, folder, *name) -> Path:
    """Writes the figure to <folder>/<name joined by underscores>.png, complete or not at all."""
    path = Path(folder) / f"{'_'.join(name)}.png"
    return save_as(figure, path)


def save_as(figure, path) -> Path:
    """Writes the figure as a PNG to `path`, complete or not at all."""
    lay_out(figure)
    buffer = io.BytesIO()  # savefig would draw twice
    figure.canvas.print_png(buffer)
    storage.write_atomically(Path(path), buffer.getvalue())
    return Path(path)


def say_only(title, study, text, folder, *name) -> Path:
    """A figure that has nothing to show but its header and a sentence."""
    figure, ((ax,),) = new_figure(title, study, 1.2)
    say_instead(ax, text)
    return save(figure, folder, *name)


def say_instead(ax, text):
    """Puts a sentence where a panel would be empty."""
    ax.clear()
    ax.set_axis_off()
    ax.text(0.5, 0.5, textwrap.fill(text, 46), ha="center", va="center", color=QUIET, transform=ax.transAxes)


# --- numbers out of results ---------------------------------------------------------------------------------


# --- drawing ------------------------------------------------------------------------------------------------


def panel_height(count):
    """Inches for a panel whose `count` lines are named at their ends."""
    return max(2.3, 0.14 * count + 0.5)


def interval_note(ax):
    """What the title adds where bands were drawn."""
    return ", 95 % CI over trials" if ax.collections else ""


def draw_mean(ax, x, estimates, style, band=True):
    """A bold line of means with a marker where each was measured, and a band for the 95 % intervals.

    estimates: (mean, low, high) or Estimates, one for each x; None where there is no value.
    """
    triples = [(e.mean, e.low, e.high) if isinstance(e, significance.Estimate) else e for e in estimates]
    mean, low, high = np.array(triples, dtype=float).reshape(-1, 3).T
    every = max(1, len(x) // 8)
    ax.plot(x, mean, **style, markevery=every, markeredgecolor="white", markeredgewidth=0.4, zorder=3)
    if band and not np.isnan(low).all():
        ax.fill_between(x, low, high, color=style["color"], alpha=0.10, linewidth=0)
        edge = {"color": style["color"], "alpha": 0.6, "linewidth": 0.5}  # or bands on bands cannot be told apart
        ax.plot(x, low, **edge)
        ax.plot(x, high, **edge)
    shown = ~np.isnan(mean)
    return (x[shown][-1], mean[shown][-1]) if shown.any() else None


def write_in_cell(ax, image, column, row, text, **look):
    """A text in a cell of an image, dark on light and light on dark.

    The layout need not measure it, since it lies inside the axes.
    """
    value = float(np.ma.filled(image.get_array()[row, column], np.nan))
    red, green, blue, opacity = image.cmap(image.norm(value))
    dark = opacity and 0.299 * red + 0.587 * green + 0.114 * blue < 0.5  # ITU-R BT.601; NaN is transparent
    colour = "white" if dark else INK
    ax.text(column, row, text, ha="center", va="center", color=colour, **look).set_in_layout(False)


def draw_interval(ax, x, y, x_range=(None, None), y_range=(None, None), faint=False, **style):
    """A point with its 95 % intervals, as far as there are any."""
    weight = {"linewidth": 0.7, "alpha": 0.5} if faint else {"linewidth": 1.3, "alpha": 0.75}
    bar = {"color": style["color"], "zorder": 2, "solid_capstyle": "butt", **weight}
    if x_range[0] is not None:
        ax.plot(x_range, (y, y), **bar)
    if y_range[0] is not None:
        ax.plot((x, x), y_range, **bar)
    ax.plot([x], [y], **{"linestyle": "none", "markeredgewidth": 1, "zorder": 4, **style})


def within_range(ax, name):
    """Ends the y axis a little beyond the measure's range."""
    metric = metrics.METRICS[name]
    low, high = ax.get_ylim()
    room = 0.03 * (min(high, metric.high) - max(low, metric.low))
    ax.set_ylim(max(low, metric.low - room), min(high, metric.high + room))


def from_zero(ax):
    """Lets the x axis begin at zero, unless there is something left of it, with room on the right."""
    low, high = ax.get_xlim()
    low = min(0, low)
    ax.set_xlim(low, high + 0.04 * (high - low))


def number(value: float) -> str:
    """Three significant digits, with a real minus sign: 0.0500, −0.127, 2.00e−06."""
    return (f"{value:#.3g}" if value else "0").rstrip(".").replace("-", "−")


def mean_and_interval(mean: float, low: float | None, high: float | None) -> str:
    """'0.0588 [0.0533, 0.0642]', with the decimals of the mean; the mean alone where there is no interval."""
    if low is None:
        return number(mean)
    decimals = 2 - math.floor(math.log10(abs(mean))) if mean else 0
    if not 0 < decimals <= 6:
        return f"{number(mean)} [{number(low)}, {number(high)}]"
    texts = [f"{value:.{decimals}f}".replace("-", "−") for value in (mean, low, high)]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def spread_apart(positions, gap, low, high) -> np.ndarray:
    """Positions moved as little as possible so that they keep their order, a gap, and within low .. high.

    Pool-adjacent-violators: whatever would overlap shares the mean of what it asked for.
    """
    positions = np.asarray(positions, dtype=float)
    order = np.argsort(positions, kind="stable")
    shifts = gap * np.arange(len(positions))
    blocks = []  # (mean, size)
    for target in positions[order] - shifts:
        blocks.append((target, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (b, m), (a, n) = blocks.pop(), blocks.pop()
            blocks.append(((a * n + b * m) / (n + m), n + m))
    placed = np.repeat([mean for mean, _ in blocks], [size for _, size in blocks])
    result = np.empty_like(positions)
    result[order] = np.clip(placed, low, max(low, high - gap * (len(positions) - 1))) + shifts
    return result


def lay_out(figure):
    """Gives the axes their places, for good: what is added later moves nothing."""
    make_drawable(figure)
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine("none")


def label_line_ends(panels, size=7.5):
    """Names lines at their right ends, outside the axes, spread so that no two names overlap.

    panels: (ax, ends) of the axes of one figure, ends being (end, text, colour) of each line, and end (x, y) in
    data, or None where the line is empty. The figure must be complete but for these names.
    """
    panels = [(ax, [entry for entry in ends if entry[0] is not None]) for ax, ends in panels]
    names = [
        [
            ax.text(1.035, 0.5, text, size=size, va="center", color=colour, transform=ax.transAxes)
            for _, text, colour in ends
        ]
        for ax, ends in panels
    ]
    lay_out(panels[0][0].figure)  # which makes room for the names
    for (ax, ends), texts in zip(panels, names):
        to_axes = ax.transData + ax.transAxes.inverted()
        height = ax.get_window_extent().height / ax.figure.dpi * 72  # points
        fitting = min(size, 1.12 * height / (1.25 * max(1, len(ends))))
        corners = [np.clip(to_axes.transform(end), 0, 1) for end, _, _ in ends]
        places = spread_apart([y for _, y in corners], 1.25 * fitting / height, -0.06, 1.06)
        for (x, y), text, place in zip(corners, texts, places):
            text.set(y=place, size=fitting)
            look = {"color": text.get_color(), "linewidth": 0.6, "alpha": 0.7}
            ax.add_artist(Line2D((x + 0.008, 1.03), (y, place), transform=ax.transAxes, clip_on=False, **look))


def label_points(ax, points, size=7.5):
    """Names points inside the axes, each beside its marker where it covers least of the rest.

    points: (x, y, text, colour) in data. The figure must be complete but for these names.
    """
    figure = ax.figure
    lay_out(figure)
    scale = figure.dpi / 72
    frame = ax.get_window_extent()
    centres = [ax.transData.transform((x, y)) for x, y, _, _ in points]
    reach = 5 * scale
    taken = [(1, x - reach, y - reach, x + reach, y + reach) for x, y in centres]
    for line in ax.lines:  # thin, so their few square pixels count more
        box = line.get_path().transformed(line.get_transform()).get_extents().padded(1.5)
        taken.append((4, box.x0, box.y0, box.x1, box.y1))
    for (x, y, text, colour), centre in zip(points, centres):
        width, height = 0.67 * size * len(text) * scale, 1.15 * size * scale
        best = min(
            (
                _cost((centre[0] + dx * scale, centre[1] + dy * scale), side, (width, height), taken, frame)
                + 4 * np.hypot(dx, dy),
                (dx, dy, side),
            )
            for dx, dy, side in _PLACES
        )
        dx, dy, side = best[1]
        taken.append((10, *_box((centre[0] + dx * scale, centre[1] + dy * scale), side, (width, height))))
        far = np.hypot(dx, dy) > 16
        ax.annotate(
            text,
            (x, y),
            xytext=(dx, dy),
            textcoords="offset points",
            color=colour,
            size=size,
            ha=side,
            va="center",
            zorder=5,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkB": 3} if far else None,
        )


_PLACES = [
    (across * reach, up * reach, side)
    for reach in (1, 2, 3.5)
    for across, up, side in (
        (7, 6, "left"),
        (7, -6, "left"),
        (-7, 6, "right"),
        (-7, -6, "right"),
        (0, 9, "center"),
        (0, -9, "center"),
        (9, 0, "left"),
        (-9, 0, "right"),
    )
]


def _box(place, side, size):
    left = place[0] - {"left": 0, "right": 1, "center": 0.5}[side] * size[0]
    return left, place[1] - size[1] / 2, left + size[0], place[1] + size[1] / 2


def _cost(place, side, size, taken, frame):
    """How many square pixels of a label here are covered by something, or lie outside the axes (worse)."""
    x0, y0, x1, y1 = _box(place, side, size)

    def shared(a0, b0, a1, b1):
        return max(0, min(x1, a1) - max(x0, a0)) * max(0, min(y1, b1) - max(y0, b0))

    outside = size[0] * size[1] - shared(frame.x0, frame.y0, frame.x1, frame.y1)
    return sum(weight * shared(*box) for weight, *box in taken) + 5 * outside


def point_to_better(ax):
    """Says in the lower left corner that lower is better on both axes."""
    arrow = {"arrowstyle": "->", "color": QUIET, "linewidth": 0.9}
    ax.annotate("", (0.015, 0.02), (0.10, 0.02), "axes fraction", arrowprops=arrow)
    ax.annotate("", (0.015, 0.02), (0.015, 0.14), "axes fraction", arrowprops=arrow)
    ax.text(0.03, 0.055, "both better", color=QUIET, size=7, style="italic", transform=ax.transAxes)
