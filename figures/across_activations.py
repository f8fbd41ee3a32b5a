"""Figures across activations of one architecture: comparisons with the reference, curves, the plane of loss and PD."""

import itertools

import numpy as np
from matplotlib.lines import Line2D

import metrics
from analysis import curves as curves_module
from analysis import results as results_module
from analysis.labels import activation_label, complete, short_label
from analysis.results import MEASURES, PRIMARY, Cell, Margins
from analysis.sensitivity import pareto_front
from analysis.series import mean_curve, pair_curves, trained, trial_curves
from figures.style import (
    FAINT,
    INK,
    MOST_BANDS,
    NATS,
    QUIET,
    NothingToDraw,
    draw_curves,
    draw_interval,
    figure,
    interval_note,
    legend_at_right,
    over_steps,
    panel_height,
    panels,
    point_style,
    rows_named,
    write_at_right,
)

__all__ = ["all_validation_curves", "forest", "pareto", "pd_at_equal_loss"]

VERDICTS = {  # style of each verdict
    "different": {"marker": "o", "markerfacecolor": INK, "color": INK},
    "equivalent": {"marker": "s", "markerfacecolor": "#56B4E9", "color": "#0072B2"},
    "inconclusive": {"marker": "D", "markerfacecolor": "white", "color": "#8A8A8A"},
}


@figure("Activations compared with the reference", "forest")
def forest(results, margins=Margins()):  # noqa: B008 - it is frozen
    """Each activation minus the reference in the four primary measures: difference, 95% interval, margin, verdict."""
    cells = [Cell(result) for result in results]
    reference = results_module.reference_of(cells)
    others = [cell for cell in cells if cell is not reference]
    if not others:
        raise NothingToDraw("There is one activation, and nothing to compare it with.")
    compared = results_module.primary_comparisons(cells, margins)
    drawn, axes = panels(0.21 * len(others) + 0.95, 1, len(PRIMARY), width=9.6, sharey=True)
    for ax, name in zip(axes[0], PRIMARY):
        margin = results_module.margin_of(name, reference, margins)
        if margin:
            ax.axvspan(-margin, margin, color=FAINT, alpha=0.6, linewidth=0)
        ax.axvline(0, color=INK, linewidth=0.8)
        for row, cell in enumerate(others):
            found = compared[cell.activation, name]
            if found.difference.mean is not None:
                ends = (found.difference.low, found.difference.high)
                draw_interval(ax, found.difference.mean, row, x_range=ends, **VERDICTS[found.verdict])
        ax.locator_params(axis="x", nbins=5)
        ax.tick_params(axis="y", length=0)
        unit = f" ({MEASURES[name].unit})" if MEASURES[name].unit else ""
        ax.set_title(f"{MEASURES[name].label}{unit}")
        ax.set_xlabel("← better · worse →", size=7, color=QUIET)  # of all primary measures, less is better
    rows_named(axes[0, 0], [short_label(cell.activation) for cell in others])
    handles = [Line2D([], [], linestyle="none", label=verdict, **look) for verdict, look in VERDICTS.items()]
    handles.append(Line2D([], [], color=FAINT, linewidth=6, label=f"margin of interest around {reference.label}"))
    drawn.legend(handles=handles, loc="outside lower center", ncols=4)
    return drawn


# --- along training -------------------------------------------------------------------------------------------------


@figure("Validation loss along training")
def all_validation_curves(results):
    """Mean validation loss of every activation, and below it the paired difference from the reference."""
    if not any(trial["history"] for result in results for trial in complete(result)):
        raise NothingToDraw("No complete trial has a curve.")
    reference = results_module.reference_of([Cell(result) for result in results]).result
    rows = 2 if len(results) > 1 else 1
    drawn, axes = panels(rows * panel_height(len(results)), rows, sharex=True)
    losses = {r["activation"]: trial_curves(complete(r), "val_loss") for r in results}
    draw_curves(axes[0, 0], {name: (at, mean_curve(values, "val_loss")) for name, (at, values) in losses.items()})
    axes[0, 0].set_ylabel(f"loss ({NATS})")
    axes[0, 0].set_title("Mean of the trials" + interval_note(axes[0, 0]))
    legend_at_right(axes[0, 0])
    if rows == 2:
        axes[1, 0].axhline(0, color=QUIET, linewidth=0.8)
        others = {r["activation"]: _paired_difference(r, reference) for r in results if r is not reference}
        draw_curves(axes[1, 0], others)
        axes[1, 0].set_ylabel(f"difference ({NATS})")
        minus = f"Minus {activation_label(reference['activation'])}, trial by trial with the same seed: mean"
        axes[1, 0].set_title(minus + interval_note(axes[1, 0]))
        legend_at_right(axes[1, 0])
    over_steps(axes[-1, 0])
    return drawn


def _paired_difference(result, reference):
    """Steps and Estimates of the validation loss minus the reference's, over the trials complete in both."""
    ours, theirs = ({t["trial"]: t for t in complete(r)} for r in (result, reference))
    shared = sorted(set(ours) & set(theirs))
    steps, x = trial_curves([ours[k] for k in shared], "val_loss")
    steps_y, y = trial_curves([theirs[k] for k in shared], "val_loss")
    common = np.intersect1d(steps, steps_y)
    difference = x[:, np.isin(steps, common)] - y[:, np.isin(steps_y, common)]
    return common, mean_curve(difference)


@figure("Disagreement along training, and at equal loss")
def pd_at_equal_loss(results):
    """Relative PD and top-1 disagreement against the step (left) and, up to the lowest loss, against the mean loss (right).

    The untrained model (step 0) is not shown: its top-1 disagreement of nearly 1 would compress the scale.
    """
    results = [result for result in results if any(pair["history"] for pair in result["pairs"])]
    if not results:
        raise NothingToDraw("There are no curves of pairs.")
    drawn, axes = panels(2 * panel_height(len(results)), 2, 2, sharex="col", sharey="row")
    for row, name in zip(axes, ("relative_pd", "top1_disagreement")):
        by_step, by_loss = {}, {}
        for result in results:
            steps, _, estimates = trained(*pair_curves(result, name))
            losses = np.array([curves_module.loss_at_step(Cell(result), step).mean for step in steps], dtype=float)
            until_lowest = np.argsort(
                -losses[: losses.argmin() + 1]
            )  # later points are overfitted: PD is no function of loss
            by_step[result["activation"]] = steps, estimates
            by_loss[result["activation"]] = losses[until_lowest], [estimates[i] for i in until_lowest]
        draw_curves(row[0], by_step)
        draw_curves(row[1], by_loss, name)
        row[0].set_ylabel(metrics.METRICS[name].label)
        legend_at_right(row[1])
    axes[0, 1].invert_xaxis()  # of both, for they share it
    axes[0, 0].set_title(f"Against the step{interval_note(axes[0, 0])}")
    axes[0, 1].set_title(f"Against the validation loss{interval_note(axes[0, 1])}")
    over_steps(axes[1, 0])
    axes[1, 1].set_xlabel(f"validation loss ({NATS}), until its lowest →")
    return drawn


# --- the plane of loss and PD ---------------------------------------------------------------------------------------


@figure("Pareto frontier of loss and disagreement")
def pareto(results, shares: dict[str, float] | None = None):
    """Validation loss against relative PD with 95% intervals, the Pareto frontier, and its bootstrap stability.

    shares: activation -> fraction of bootstrap resamples of the trials in which it is on the frontier, for the right panel.
    """
    cells = {result["activation"]: Cell(result) for result in results}
    found = {
        name: [results_module.estimate(cell, measure) for measure in ("val_loss", "relative_pd")]
        for name, cell in cells.items()
        if results_module.has_both(cell)
    }
    if not found:
        raise NothingToDraw(
            "No activation has a relative PD: that takes two complete trials, compared with each other."
        )
    drawn, ((plane, bars),) = panels(max(3.2, 0.17 * len(found) + 1), 1, 2, width_ratios=[1.9, 1])
    means = np.array([[loss.mean, pd.mean] for loss, pd in found.values()])
    best = [name for name, on in zip(found, pareto_front(*means.T)) if on]
    corners = sorted((found[name][0].mean, found[name][1].mean) for name in best)
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        plane.plot([x0, x1, x1], [y0, y0, y1], color="#AAAAAA", linewidth=2.5, zorder=1)
    for name, (loss, pd) in found.items():
        look = point_style(name) | {"markersize": 6, "faint": len(found) > MOST_BANDS}
        draw_interval(plane, loss.mean, pd.mean, (loss.low, loss.high), (pd.low, pd.high), **look)
    has_interval = any(estimate.low is not None for both in found.values() for estimate in both)
    plane.set_title(f"Means{' with 95% CI' if has_interval else ''}; grey: their frontier; ↙ both better")
    plane.set(xlabel=f"validation loss ({NATS})", ylabel="relative PD")
    plane.margins(0.12)
    _draw_shares(bars, {name: (shares or {}).get(name) for name in found}, best)
    return drawn


def _draw_shares(ax, shares, best):
    order = sorted(shares, key=lambda name: (-(shares[name] or 0), name not in best))
    for row, name in enumerate(order):
        x = 100 * (shares[name] or 0)
        ax.plot([0, x], [row, row], color=FAINT, linewidth=3, zorder=1, solid_capstyle="butt")
        ax.plot([x], [row], **point_style(name) | {"markersize": 6}, clip_on=False)
        text = "" if shares[name] is None else f"{x:.0f}%"
        write_at_right(ax, row, f"  {text}", size=7.5, weight="bold" if name in best else "normal")
    rows_named(ax, [short_label(name) for name in order])
    ax.set(xlim=(0, 100), xlabel="% of resamples of the trials")
    ax.tick_params(axis="y", pad=7)  # room for a marker at 0%
    ax.set_title("Share on the frontier\n(bold: on that of the means)")
    if not any(shares.values()):
        ax.set(title="Activations\n(too few trials to resample)", xlabel="", xticks=[])
        ax.spines[:].set_visible(False)
