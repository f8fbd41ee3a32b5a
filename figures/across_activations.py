"""Figures across activations, from their results; plot_utils.py offers them with all the others."""

import itertools
from pathlib import Path

import numpy as np

import metrics
from analysis.labels import activation_label, architecture_label, complete, short_label, study_line
from analysis.series import mean_curve, pair_curves, trial_curves, value_of
from figures.style import (
    FAINT,
    MOST_BANDS,
    NATS,
    QUIET,
    activation_style,
    draw_interval,
    draw_mean,
    interval_note,
    label_line_ends,
    label_points,
    new_figure,
    panel_height,
    point_style,
    point_to_better,
    save,
    say_instead,
    say_only,
    styled,
    within_range,
)

REFERENCE = "relu"


def _name(results, kind):
    return results[0]["architecture"], results[0]["identity"]["device"], kind


@styled
def all_validation_curves(results: list[dict], folder) -> Path:
    """Mean validation loss of every activation, and below it the paired difference from ReLU."""
    title = f"Validation loss along training: {architecture_label(results[0]['architecture'])}"
    if not any(trial["history"] for result in results for trial in complete(result)):
        why = "No complete trial has a curve."
        return say_only(title, study_line(results), why, folder, *_name(results, "all_validation_curves"))
    reference = next((r for r in results if r["activation"] == REFERENCE), results[0])
    rows = 2 if len(results) > 1 else 1
    figure, axes = new_figure(title, study_line(results), rows * panel_height(len(results)), rows, sharex=True)
    losses = {r["activation"]: trial_curves(complete(r), "val_loss") for r in results}
    means = {name: (at, mean_curve(values, "val_loss")) for name, (at, values) in losses.items()}
    panels = [_draw_curves(axes[0, 0], means)]
    axes[0, 0].set_ylabel(f"loss ({NATS})")
    axes[0, 0].set_title("Mean of the trials" + interval_note(axes[0, 0]))
    if rows == 2:
        others = {r["activation"]: _paired_difference(r, reference) for r in results if r is not reference}
        axes[1, 0].axhline(0, color=QUIET, linewidth=0.8)
        panels.append(_draw_curves(axes[1, 0], others))
        axes[1, 0].set_ylabel(f"difference ({NATS})")
        minus = f"Minus {activation_label(reference['activation'])}, trial by trial with the same seed: mean"
        axes[1, 0].set_title(minus + interval_note(axes[1, 0]))
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


@styled
def pd_along_training(results: list[dict], folder) -> Path:
    """Relative PD and top-1 disagreement of every activation along training, means over pairs."""
    title = f"Disagreement along training: {architecture_label(results[0]['architecture'])}"
    if not any(pair["history"] for result in results for pair in result["pairs"]):
        why = f"The {results[0]['identity']['protocol']} protocol keeps no curves of pairs."
        why = why if any(result["pairs"] for result in results) else "No two complete trials were compared."
        return say_only(title, study_line(results), why, folder, *_name(results, "pd_along_training"))
    figure, axes = new_figure(title, study_line(results), 2 * panel_height(len(results)), 2, sharex=True)
    panels = []
    for ax, name in zip(axes[:, 0], ("relative_pd", "top1_disagreement")):
        curves = {r["activation"]: pair_curves(r, name)[::2] for r in results}
        panels.append(_draw_curves(ax, curves, name))
        label = metrics.METRICS[name].label
        ax.set_title(f"{label}: mean over pairs{interval_note(ax)}")
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
