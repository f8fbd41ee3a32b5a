"""Figures of one activation: training curves, the matrix of pairs, a summary, a passage of the text."""

import numpy as np

import metrics
from analysis import results as results_module
from analysis.labels import complete
from analysis.results import MEASURES, PAIR_MEASURES, Cell
from analysis.series import mean_curve, pair_curves, trained, trial_curves
from analysis.words import plural, with_interval
from figures.style import (
    FAINT,
    INK,
    NATS,
    QUIET,
    SHADES,
    NothingToDraw,
    activation_style,
    draw_interval,
    draw_mean,
    figure,
    from_zero,
    legend_at_right,
    over_steps,
    panels,
    rows_named,
    show_message,
    within_range,
    write_at_right,
    write_in_cell,
)

__all__ = ["disagreement_passage", "reproducibility", "summary", "training_curves"]

LEAST_SHADED = 0.15  # the colour scale covers at least this fraction above and below the middle value


def _why_no_pair(result):
    n = len(complete(result))
    if n > 1:
        return f"{n} trials are complete, but not compared with each other yet; the study must be resumed."
    return f"Reproducibility needs two complete trials, compared with each other; complete here: {n}."


@figure("Training curves")
def training_curves(result):
    """Loss along training: each trial thin, their mean bold; at the right each trial minus the mean."""
    trials, style = complete(result), activation_style(result["activation"])
    steps, validation = trial_curves(trials, "val_loss")
    if not len(steps):
        raise NothingToDraw("No complete trial has a curve.")
    drawn, ((left, right),) = panels(3.0, 1, 2)
    grey = {"color": QUIET, "marker": "none", "linestyle": (0, (4, 1.5))}
    for measure, label, look in (("train_loss", "training", grey), ("val_loss", "validation", style)):
        at, values = trial_curves(trials, measure)
        left.plot(at, values.T, color=look["color"], linewidth=0.5, alpha=0.5)
        draw_mean(left, at, mean_curve(values), look | {"label": f"{label}, mean"}, band=False)
    left.plot([], [], color=INK, linewidth=0.5, alpha=0.6, label="each trial")
    frozen = left.get_ylim()
    _draw_lost(left, result)
    left.set(ylim=frozen, ylabel=f"loss ({NATS})", title="Loss")
    over_steps(left)
    left.legend(loc="upper right")
    _draw_deviations(right, trials, steps, validation)
    return drawn


def _draw_lost(ax, result):
    """Diverged trials, dotted; the axis limits are those of the complete trials."""
    lost = [trial for trial in result["trials"] if trial["status"] == "diverged" and trial["history"]]
    for index, trial in enumerate(lost):
        steps, values = trial_curves([trial], "val_loss")
        look = {"color": "#D55E00", "linewidth": 1, "linestyle": ":", "marker": "x", "markersize": 4}
        ax.plot(steps, values[0], **look, label="_" if index else "diverged")


def _draw_deviations(ax, trials, steps, values):
    """Each trial's validation loss minus the mean of all, in thousandths."""
    if len(trials) < 2:
        return show_message(ax, "One trial: nothing to compare it with.")
    away = 1000 * (values - np.array([estimate.mean for estimate in mean_curve(values)], dtype=float))
    ax.axhline(0, color=QUIET, linewidth=0.7)
    for index, (trial, line) in enumerate(zip(trials, away)):
        shade = str(0.15 + 0.6 * index / len(away))
        ax.plot(steps, line, color=shade, linewidth=0.9, marker=".", markersize=4, label=f"trial {trial['trial']}")
    ax.set(ylabel=f"difference (10⁻³ {NATS})")
    over_steps(ax)
    ax.set_title("Validation loss of each trial minus their mean")
    if len(trials) <= 12:
        legend_at_right(ax)


# --- pairs ----------------------------------------------------------------------------------------------------------


@figure("Reproducibility")
def reproducibility(result):
    """Relative PD and top-1 disagreement of every pair of trials, and along training with a 95% interval."""
    if not result["pairs"]:
        raise NothingToDraw(_why_no_pair(result))
    has_history = any(pair["history"] for pair in result["pairs"])
    above, below = 1.3 if len(complete(result)) == 2 else 3.3, 2.3 if has_history else 0
    heights = {"height_ratios": [above, below]} if has_history else {}
    drawn, axes = panels(above + below, 1 + has_history, 2, **heights)
    for column, name in enumerate(("relative_pd", "top1_disagreement")):
        _draw_matrix(axes[0, column], result, name)
        if has_history:
            _draw_pair_curves(axes[1, column], result, name)
    return drawn


def _draw_matrix(ax, result, name):
    """The lower triangle of pairs; the title gives the mean and its interval."""
    values = {(p["trial_a"], p["trial_b"]): p.get(name) for p in result["pairs"]}
    numbers = sorted({number for pair in values for number in pair})
    n = len(numbers)
    grid = np.full((n, n), np.nan)
    for (a, b), value in values.items():
        grid[numbers.index(b), numbers.index(a)] = np.nan if value is None else value
    grid = grid[1:, :-1]  # the first row and the last column of a triangle are empty
    label, estimate = MEASURES[name].label, results_module.estimate(Cell(result), name)
    shown = grid[~np.isnan(grid)]
    if not len(shown):
        return show_message(ax, f"{label} was not measured.")
    note = " (95% CI)" if estimate.low is not None else ""
    ax.set_title(f"{label} of each pair\nmean {with_interval(estimate, MEASURES[name].decimals)}{note}")
    middle, half = (shown.min() + shown.max()) / 2, np.ptp(shown) / 2
    half = max(half, LEAST_SHADED * middle)  # else tiny differences would span the whole scale
    low, high = (middle - half, middle + half) if middle else (0, 1)
    # the layout ignores aspect="equal" and would let labels overlap
    image = ax.imshow(grid, cmap=SHADES, vmin=low, vmax=high, aspect="auto")
    every = -(-n // 12)
    ax.set_xticks(range(0, n - 1, every), numbers[:-1:every])
    ax.set_yticks(range(0, n - 1, every), numbers[1::every])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlabel="trial", ylabel="trial")
    if n <= 11:
        _annotate(ax, image, grid, size=7 if n <= 8 else 6)
        return
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.85, aspect=25, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=6.5, length=2)


def _annotate(ax, image, grid, size):
    """The values in their cells: .0588, .520, 2e-06."""
    largest = np.nanmax(grid)
    form = "{:.3f}" if largest >= 0.1 else "{:.4f}" if largest >= 0.01 else "{:.0e}" if largest > 0 else "{:.0f}"
    for (row, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            write_in_cell(ax, image, column, row, form.format(value).removeprefix("0") or "0", size=size)


def _draw_pair_curves(ax, result, name):
    steps, values, estimates = trained(*pair_curves(result, name))
    ax.plot(steps, values.T, color=QUIET, linewidth=0.4, alpha=0.3)
    draw_mean(ax, steps, estimates, activation_style(result["activation"]) | {"linestyle": "-"})
    ax.set(ylabel=metrics.METRICS[name].label, ylim=(0, None))
    over_steps(ax)
    within_range(ax, name)
    several = ": each pair, their mean" if len(values) > 1 else ""
    has_interval = any(estimate.low is not None for estimate in estimates)
    ax.set_title(f"Along training{several}{', 95% CI' if has_interval else ''}")


# --- everything -----------------------------------------------------------------------------------------------------


def _panel(metric):
    """Heading of a metric's panel in the summary; metrics in nats have their own panel."""
    return f"{metric.better.capitalize()} is more reproducible{' (nats)' if metric.unit else ''}"


SUMMARY_METRICS = {
    heading: [name for name in PAIR_MEASURES if _panel(metrics.METRICS[name]) == heading]
    for heading in dict.fromkeys(_panel(metrics.METRICS[name]) for name in PAIR_MEASURES)
}


@figure("Summary")
def summary(result):
    """All values of an activation: loss and accuracy of each trial, every pair metric with its interval."""
    ratios = [len(group) + 1.2 for group in SUMMARY_METRICS.values()]
    drawn, axes = panels(4.6, 3, 2, height_ratios=ratios)
    halves = axes[0, 0].get_gridspec()[:, 0].subgridspec(2, 1)
    for ax in axes[:, 0]:
        ax.remove()
    _draw_trials(drawn.add_subplot(halves[0]), result, "loss", f"loss ({NATS})", 1)
    _draw_trials(drawn.add_subplot(halves[1]), result, "accuracy", "accuracy (%)", 100)
    for ax, (heading, group) in zip(axes[:, 1], SUMMARY_METRICS.items()):
        if result["pairs"]:
            measured = [name for name in group if any(pair.get(name) is not None for pair in result["pairs"])]
            _draw_metrics(ax, result, measured or group, heading)
        else:
            show_message(ax, _why_no_pair(result) if ax is axes[1, 1] else "")
    return drawn


def _draw_trials(ax, result, name, label, scale):
    """Training (hollow) and validation (filled) of each trial, and at the right the means with 95% intervals."""
    trials, style = complete(result), activation_style(result["activation"])
    if not trials:
        return show_message(ax, "No trial is complete.")
    n, cell = len(trials), Cell(result)
    x_mean = 1.08 * n + 0.2  # position of the means
    looks = (("train", "training", QUIET, "white", -0.03), ("val", "validation", style["color"], style["color"], 0.03))
    for split, legend, colour, fill, offset in looks:
        look = {"color": colour, "marker": style["marker"], "markerfacecolor": fill, "linestyle": "none"}
        values = [np.nan if t[f"{split}_{name}"] is None else scale * t[f"{split}_{name}"] for t in trials]
        ax.plot(np.arange(n), values, **look, label=legend)
        mean = results_module.scaled(results_module.estimate(cell, f"{split}_{name}"), scale)
        if mean.mean is not None and n > 1:
            draw_interval(ax, x_mean + offset * n, mean.mean, y_range=(mean.low, mean.high), **look, markersize=6)
    every = -(-n // 9)
    ticks = {place: str(trial["trial"]) for place, trial in list(enumerate(trials))[::every]}
    if n > 1:
        ticks[x_mean] = "mean"
        ax.axvline(n - 0.4, color=FAINT, linewidth=0.7)
    ax.set_xticks(list(ticks), ticks.values())
    ax.set(xlabel="trial", ylabel=label, xlim=(-0.6, x_mean + 0.08 * n + 0.3 if n > 1 else 0.6))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0, borderaxespad=0.3, handletextpad=0)


def _draw_metrics(ax, result, names, heading):
    """Pairs as faint ticks, with mean and 95% interval, also as numbers at the right."""
    style, cell = activation_style(result["activation"]), Cell(result)
    for row, name in enumerate(names):
        values = [pair[name] for pair in result["pairs"] if pair.get(name) is not None]
        estimate, text = results_module.estimate(cell, name), "not measured"
        ax.plot(values, [row] * len(values), "|", color=style["color"], alpha=0.35, markersize=7)
        if estimate.mean is not None:
            ends, look = (estimate.low, estimate.high), {"color": style["color"], "marker": style["marker"]}
            draw_interval(ax, estimate.mean, row, x_range=ends, **look)
            text = with_interval(estimate, MEASURES[name].decimals)
        write_at_right(ax, row, text, size=6.5)
    rows_named(ax, [metrics.METRICS[name].label for name in names])
    from_zero(ax)
    ax.tick_params(labelsize=6.5)
    ax.locator_params(axis="x", nbins=5)  # else labels with many decimals would overlap
    ax.set_title(heading, size=7.5)
    ax.grid(axis="x", color=FAINT, linewidth=0.5)
    ax.set_axisbelow(True)


# --- a passage ------------------------------------------------------------------------------------------------------

MOST_COLUMNS, FEWEST_COLUMNS = 60, 30  # characters in a line of the passage
SIGNS = {"\n": "↵", " ": "·", "\t": "→"}


@figure("Where models disagree", "passage")
def disagreement_passage(result, text: str, share, n_models: int):
    """A passage of text, each character shaded by the fraction of pairs of models that disagree on it.

    share: (len(text),) fraction of pairs of models whose most likely characters at this position differ, given the true
    prefix; None or NaN: not predicted.
    """
    lines = _wrapped(text)
    shares = np.array([np.nan if value is None else value for value in share], dtype=float)
    if len(shares) != len(text):
        raise ValueError(f"{len(shares)} shares do not fit {len(text)} characters")
    grid = np.full((len(lines), max(FEWEST_COLUMNS, *map(len, lines))), np.nan)
    for row, line in enumerate(lines):
        for column, index in enumerate(line):
            grid[row, column] = shares[index]
    drawn, ((ax,),) = panels(0.197 * len(lines) + 0.65)
    image = ax.imshow(grid, cmap=SHADES, vmin=0, vmax=1, aspect="auto")
    for row, line in enumerate(lines):
        for column, index in enumerate(line):
            _draw_character(ax, image, text[index], row, column)
    ax.set_axis_off()
    bar = drawn.colorbar(image, ax=ax, orientation="horizontal", shrink=0.5, aspect=40, pad=0.02)
    pairs = n_models * (n_models - 1) // 2
    what = f"share of the {plural(pairs, 'pair')} of {n_models} models whose most likely character differs here"
    bar.set_label(what, size=7.5)
    bar.outline.set_visible(False)
    return drawn


def _wrapped(text):
    """The indices of the text's characters by line; a line ends after a newline, or when it is full."""
    lines = [[]]
    for index, character in enumerate(text):
        if len(lines[-1]) == MOST_COLUMNS:
            lines.append([])
        lines[-1].append(index)
        if character == "\n":
            lines.append([])
    return [line for line in lines if line] or [[]]


def _draw_character(ax, image, character, row, column):
    """One character in its cell; spaces and line ends as faint symbols, unprintable characters as a box."""
    sign = SIGNS.get(character) or (character if character.isprintable() else "□")
    look = {"size": 9, "family": "DejaVu Sans Mono", "alpha": 0.55 if character in SIGNS else 1}
    write_in_cell(ax, image, column, row, sign, **look)
