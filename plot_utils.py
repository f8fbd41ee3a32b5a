"""Every figure: takes results, writes a PNG, returns its path.

    training_curves(result, folder)             # one of the report's three figures per activation
    python plot_utils.py activations            # all activations with their derivatives

Per activation here: `training_curves`, `reproducibility` and `summary`. Across activations in figures/across_activations.py,
and of what the analysis computed in figures/of_analysis.py; they are imported here, so that every figure is found
under one name. What they share is in figures/style.py. A figure that has nothing to show says so in words.
"""

if __name__ == "__main__":
    import common.interrupts  # noqa: F401 - first, for Ctrl-C while the others are imported

from pathlib import Path

import numpy as np

import metrics
from analysis.labels import activation_label, architecture_label, complete, study_line
from analysis.series import mean_curve, pair_curves, trial_curves, value_of
from common.scripts import Parser, run
from figures.across_activations import (
    accuracy_against_reproducibility,
    all_validation_curves,
    pareto,
    pd_along_training,
)
from figures.of_analysis import (
    architecture_heatmap,
    disagreement_passage,
    forest,
    pd_at_equal_loss,
    published_against_matched,
    sensitivity_against_size,
    sources,
)
from figures.probes import gradient_norms
from figures.style import (
    FAINT,
    INK,
    NATS,
    QUIET,
    SHADES,
    activation_style,
    draw_interval,
    draw_mean,
    from_zero,
    label_line_ends,
    mean_and_interval,
    new_figure,
    number,
    save,
    save_as,
    say_instead,
    say_only,
    styled,
    within_range,
    write_in_cell,
)

__all__ = [
    "accuracy_against_reproducibility",
    "activation_shapes",
    "all_validation_curves",
    "architecture_heatmap",
    "disagreement_passage",
    "forest",
    "gradient_norms",
    "pareto",
    "pd_along_training",
    "pd_at_equal_loss",
    "published_against_matched",
    "reproducibility",
    "sensitivity_against_size",
    "smelu_printed_formula",
    "sources",
    "study_line",
    "summary",
    "training_curves",
]


def _name(result, kind):
    return result["architecture"], result["activation"], result["identity"]["device"], kind


def _title(what, result):
    return f"{what}: {architecture_label(result['architecture'])}, {activation_label(result['activation'])}"


def _why_no_pair(result):
    n = len(complete(result))
    if n > 1:
        return f"{n} trials are complete, but not compared with each other yet; the study has to go on."
    return f"Reproducibility needs two complete trials, compared with each other; complete here: {n}."


# --- one activation -----------------------------------------------------------------------------------------


LEAST_SHADED = 0.15  # shades reach at least this share of a value above and below it


@styled
def training_curves(result: dict, folder) -> Path:
    """Loss along training: every trial thin, their mean bold; beside it each trial's distance from that mean."""
    title, line, name = _title("Training curves", result), study_line([result]), _name(result, "training_curves")
    trials, style = complete(result), activation_style(result["activation"])
    steps, validation = trial_curves(trials, "val_loss")
    if not len(steps):
        return say_only(title, line, "No complete trial has a curve.", folder, *name)
    figure, ((left, right),) = new_figure(title, line, 3.0, 1, 2)
    grey = {"color": QUIET, "marker": "none", "linestyle": (0, (4, 1.5))}
    for measure, label, look in (("train_loss", "training", grey), ("val_loss", "validation", style)):
        at, values = trial_curves(trials, measure)
        left.plot(at, values.T, color=look["color"], linewidth=0.5, alpha=0.5)
        draw_mean(left, at, mean_curve(values), look | {"label": f"{label}, mean"}, band=False)
    left.plot([], [], color=INK, linewidth=0.5, alpha=0.6, label="each trial")
    frozen = left.get_ylim()
    _draw_lost(left, result)
    left.set(ylim=frozen, xlabel="completed updates", ylabel=f"loss ({NATS})", title="Loss")
    left.legend(loc="upper right")
    _draw_deviations(right, trials, steps, validation)
    return save(figure, folder, *name)


def _draw_lost(ax, result):
    """Diverged trials as far as they came, dotted; the limits of the axes stay those of the complete ones."""
    lost = [trial for trial in result["trials"] if trial["status"] == "diverged" and trial["history"]]
    for trial in lost:
        steps, values = trial_curves([trial], "val_loss")
        ax.plot(steps, values[0], color="#D55E00", linewidth=1, linestyle=":", marker="x", markersize=4)
    if lost:
        ax.plot([], [], color="#D55E00", linestyle=":", marker="x", markersize=4, label="diverged")


def _draw_deviations(ax, trials, steps, values):
    """Each trial's validation loss minus the mean of all, in thousandths; the last point is named."""
    if len(trials) < 2:
        return say_instead(ax, "One trial: nothing to compare it with.")
    away = 1000 * (values - np.array([estimate.mean for estimate in mean_curve(values)], dtype=float))
    ax.axhline(0, color=QUIET, linewidth=0.7)
    for index, line in enumerate(away):
        shade = 0.15 + 0.6 * index / len(away)
        ax.plot(steps, line, color=str(shade), linewidth=0.9, marker=".", markersize=4)
    ax.set(xlabel="completed updates", ylabel=f"difference (10⁻³ {NATS})")
    ax.set_title("Validation loss of each trial minus their mean")
    if len(trials) <= 12:
        ends = [((steps[-1], line[-1]), f"trial {t['trial']}", INK) for t, line in zip(trials, away)]
        label_line_ends([(ax, [end for end in ends if not np.isnan(end[0][1])])], size=7)


@styled
def reproducibility(result: dict, folder) -> Path:
    """Relative PD and top-1 disagreement of every pair of trials, and along training with a 95 % interval."""
    has_history = any(pair["history"] for pair in result["pairs"])
    title, line = _title("Reproducibility", result), study_line([result])
    measures = ("relative_pd", "top1_disagreement")
    if not result["pairs"]:
        return say_only(title, line, _why_no_pair(result), folder, *_name(result, "reproducibility"))
    above, below = 1.3 if len(complete(result)) == 2 else 3.3, 2.3 if has_history else 0
    heights = {"height_ratios": [above, below]} if has_history else {}
    figure, axes = new_figure(title, line, above + below, 1 + has_history, 2, **heights)
    for column, name in enumerate(measures):
        _draw_matrix(axes[0, column], result, name)
        if has_history:
            _draw_pair_curves(axes[1, column], result, name)
    return save(figure, folder, *_name(result, "reproducibility"))


def _draw_matrix(ax, result, name):
    """A labelled triangle, trial by trial; its title gives the mean and the interval."""
    values = {(p["trial_a"], p["trial_b"]): p.get(name) for p in result["pairs"]}
    numbers = sorted({number for pair in values for number in pair})
    n = len(numbers)
    grid = np.full((n, n), np.nan)
    for (a, b), value in values.items():
        grid[numbers.index(b), numbers.index(a)] = np.nan if value is None else value
    grid = grid[1:, :-1]  # the first row and the last column of a triangle are empty
    mean, low, high = value_of(result, name)
    label = metrics.METRICS[name].label
    if mean is not None:
        interval = f", 95 % CI {number(low)} to {number(high)}" if low is not None else " (no 95 % CI)"
        ax.set_title(f"{label} of each pair\nmean {number(mean)}{interval}")
    shown = grid[~np.isnan(grid)]
    if not len(shown):
        return say_instead(ax, f"{label} was not measured.")
    middle, half = (shown.min() + shown.max()) / 2, np.ptp(shown) / 2
    half = max(half, LEAST_SHADED * middle)  # or shades would make much of pairs that hardly differ
    low, high = (middle - half, middle + half) if middle else (0, 1)
    # of the aspect "equal" the layout knows nothing, and would let labels overlap
    image = ax.imshow(grid, cmap=SHADES, vmin=low, vmax=high, aspect="auto")
    in_numbers = n <= 11
    if in_numbers:
        _annotate(ax, image, grid, size=7 if n <= 8 else 6)
    every = -(-n // 12)
    ax.set_xticks(range(0, n - 1, every), numbers[:-1:every])
    ax.set_yticks(range(0, n - 1, every), numbers[1::every])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlabel="trial", ylabel="trial")
    if in_numbers:  # which a scale would only repeat
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
    steps, values, estimates = pair_curves(result, name)
    style = activation_style(result["activation"]) | {"linestyle": "-"}
    ax.plot(steps, values.T, color=QUIET, linewidth=0.4, alpha=0.3)
    draw_mean(ax, steps, estimates, style)
    has_interval = any(estimate.low is not None for estimate in estimates)
    ax.set(xlabel="completed updates", ylabel=metrics.METRICS[name].label, ylim=(0, None))
    within_range(ax, name)
    several = ": each pair, their mean" if len(values) > 1 else ""
    ax.set_title(f"Along training{several}{', 95 % CI' if has_interval else ''}")


SUMMARY_METRICS = (
    # bounded ones on one axis, those in nats on another
    ("relative_pd", "shamir_relative_pd", "top1_disagreement", "edit_distance"),
    ("top3_overlap", "top5_overlap", "cohen_kappa", "error_consistency", "perplexity_pearson", "perplexity_spearman"),
    ("symmetric_kl", "js_divergence", "ensemble_gain"),
)
SUMMARY_HEADINGS = ("Lower is more reproducible", "Higher is more reproducible", "Lower is more reproducible (nats)")


@styled
def summary(result: dict, folder) -> Path:
    """All of an activation's numbers: loss and accuracy of each trial, every pair measure with its interval."""
    ratios = [len(group) + 1.2 for group in SUMMARY_METRICS]
    line = study_line([result]) + (" · bars: 95 % CI · ticks: pairs" if result["pairs"] else "")
    figure, axes = new_figure(_title("Summary", result), line, 4.6, 3, 2, height_ratios=ratios)
    grid = axes[0, 0].get_gridspec()
    for ax in axes[:, 0]:
        ax.remove()
    halves = grid[:, 0].subgridspec(2, 1)
    loss, accuracy = figure.add_subplot(halves[0]), figure.add_subplot(halves[1])
    _draw_trials(loss, result, "loss", f"loss ({NATS})", 1)
    _draw_trials(accuracy, result, "accuracy", "accuracy (%)", 100)
    if not result["pairs"]:
        for ax, text in zip(axes[:, 1], ("", _why_no_pair(result), "")):
            say_instead(ax, text)
        return save(figure, folder, *_name(result, "summary"))
    for ax, group, heading in zip(axes[:, 1], SUMMARY_METRICS, SUMMARY_HEADINGS):
        _draw_metrics(ax, result, group, heading)
    return save(figure, folder, *_name(result, "summary"))


def _draw_trials(ax, result, name, label, scale):
    """Training (hollow) and validation (filled) of each trial, and beside them the means with 95 % intervals."""
    trials, style = complete(result), activation_style(result["activation"])
    if not trials:
        return say_instead(ax, "No trial is complete.")
    n = len(trials)
    beside = 1.08 * n + 0.2  # where the means stand
    looks = (("train", "training", QUIET, "white", -0.1), ("val", "validation", style["color"], style["color"], 0.1))
    for split, legend, colour, fill, aside in looks:
        look = {"color": colour, "marker": style["marker"], "markerfacecolor": fill, "linestyle": "none"}
        values = [np.nan if t[f"{split}_{name}"] is None else scale * t[f"{split}_{name}"] for t in trials]
        ax.plot(np.arange(n), values, **look, label=legend)
        mean, low, high = value_of(result, f"{split}_{name}")
        if mean is not None and n > 1:
            interval = (None, None) if low is None else (scale * low, scale * high)
            draw_interval(ax, beside + 0.03 * n * aside / 0.1, scale * mean, y_range=interval, **look, markersize=6)
    every = -(-n // 9)
    ticks = {place: str(trial["trial"]) for place, trial in list(enumerate(trials))[::every]}
    if n > 1:
        ticks[beside] = "mean"
        ax.axvline(n - 0.4, color=FAINT, linewidth=0.7)
    ax.set_xticks(list(ticks), ticks.values())
    ax.set(xlabel="trial", ylabel=label, xlim=(-0.6, beside + 0.08 * n + 0.3 if n > 1 else 0.6))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0, borderaxespad=0.3, handletextpad=0)


def _draw_metrics(ax, result, names, heading):
    """Pairs as faint ticks, mean and interval on them, the numbers beside."""
    style = activation_style(result["activation"])
    for row, name in enumerate(names):
        values = [pair[name] for pair in result["pairs"] if pair.get(name) is not None]
        mean, low, high = value_of(result, name)
        ax.plot(values, [row] * len(values), "|", color=style["color"], alpha=0.35, markersize=7)
        text = "not measured"
        if mean is not None:
            draw_interval(ax, mean, row, x_range=(low, high), color=style["color"], marker=style["marker"])
            text = mean_and_interval(mean, low, high)
        ax.text(1.02, row, text, transform=ax.get_yaxis_transform(), va="center", size=6.5)
    ax.set_yticks(range(len(names)), [metrics.METRICS[name].label for name in names])
    ax.set(ylim=(len(names) - 0.4, -0.6))
    from_zero(ax)
    ax.tick_params(axis="y", length=0, labelsize=7)
    ax.tick_params(axis="x", labelsize=6.5)
    ax.locator_params(axis="x", nbins=5)  # or labels with many decimals would collide
    ax.set_title(heading, size=7.5)
    ax.grid(axis="x", color=FAINT, linewidth=0.5)
    ax.set_axisbelow(True)


# --- the functions themselves -------------------------------------------------------------------------------


@styled
def activation_shapes(path) -> Path:
    """Every built-in activation and its derivative; of a gated unit the gate, its second half being 1."""
    import activations

    names, columns = activations.BUILT_IN, 4
    rows = -(-len(names) // columns)
    line = "Solid: the function. Dashed: its derivative. Learnable ones as they start. Of gated units the gate."
    title = f"The {len(names)} activations"
    figure, axes = new_figure(title, line, 1.55 * rows, rows, columns, sharex=True, sharey=True)
    for ax, name in zip(axes.flat, names):
        record, x = activations.record(name), np.linspace(-3.5, 3.5, 1401)
        y, slope = _value_and_slope(name, record.gated, x)
        colour = activation_style(name)["color"]
        ax.axhline(0, color=FAINT, linewidth=0.7)
        ax.axvline(0, color=FAINT, linewidth=0.7)
        ax.plot(x, y, color=colour)
        ax.plot(x, slope, color=INK, linewidth=0.9, linestyle=(0, (3, 1.5)))
        ax.set_title(record.label)
        notes = [
            record.smoothness.replace("-infinity", "∞"),
            "learnable" if record.learnable else "",
            "gated" if record.gated else "",
        ]
        ax.text(-3.4, 3.0, "\n".join(filter(None, notes)), size=6.5, color=QUIET, va="top")
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    for ax in axes.flat[len(names) - columns : len(names)]:  # the lowest of each column
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("x", labelpad=1)
    axes[0, 0].set(ylim=(-2.0, 3.2), xlim=(-3.5, 3.5))
    return save_as(figure, path)


def _value_and_slope(name, gated, x):
    import torch

    import activations

    inputs = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    module = activations.get_activation(name).double()
    full = torch.stack([inputs, torch.ones_like(inputs)], dim=1) if gated else inputs[:, None]
    outputs = module(full)[:, 0]
    (slope,) = torch.autograd.grad(outputs.sum(), inputs)
    return outputs.detach().numpy(), slope.numpy()


@styled
def smelu_printed_formula(path) -> Path:
    """The formula that section 2.3 of the report prints, beside the SmeLU that was run."""
    line = (
        "Printed: (x + β) / (1 + e⁻ˣ) if x ≥ β; x otherwise. It jumps at β, and lets negative inputs pass unchanged. "
        "Run: 0 up to −β; (x + β)² / 4β from there to β; x from β on."
    )
    figure, axes = new_figure(
        "SmeLU: the formula printed in the report, and the real one", line, 2.9, 1, 2, sharey=True
    )
    for ax, (name, beta) in zip(axes[0], (("smelu_05", 0.5), ("smelu_1", 1.0))):
        x = np.linspace(-3, 3, 1201)
        real, _ = _value_and_slope(name, False, x)
        for part in (x[x < beta], x[x >= beta]):
            printed = (part + beta) / (1 + np.exp(-part)) if part[0] >= beta else part
            ax.plot(part, printed, color="#D55E00", linestyle=(0, (4, 1.5)))
        ax.plot(x, real, color=activation_style(name)["color"])
        jump = 2 * beta / (1 + np.exp(-beta))
        ax.plot([beta, beta], [beta, jump], color="#D55E00", linewidth=0.8, linestyle=":")
        ax.text(-1.9, -2.2, "printed", color="#D55E00")
        ax.text(-2.6, 0.15, "run", color=activation_style(name)["color"])
        ax.text(beta - 0.1, jump, f"jump of {number(jump - beta)}", color="#D55E00", ha="right", va="bottom")
        ax.set(title=activation_label(name), xlabel="x")
    return save_as(figure, path)


def main(argv=None) -> int:
    """`python plot_utils.py activations`"""
    parser = Parser(description="Draws the activations, or the two formulas of SmeLU.")
    parser.add_argument("figure", choices=("activations", "smelu_printed_formula"), help="what to draw")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the PNG (default: plots/<figure>.png)")
    args = parser.parse_args(argv)
    draw = {"activations": activation_shapes, "smelu_printed_formula": smelu_printed_formula}[args.figure]
    print(draw(args.output or Path("plots") / f"{args.figure}.png"))
    return 0


if __name__ == "__main__":
    run(main)
