"""Figures of diagnostics: gradient norms and other probes along training, pre-activations over the activations."""

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps

from analysis.estimates import Estimate
from analysis.labels import activation_label, architecture_label, complete, short_label
from analysis.series import mean_curve, pair_curves, trained
from figures.functions import value_and_slope
from figures.style import (
    FAINT,
    INK,
    NATS,
    NothingToDraw,
    activation_style,
    draw_curves,
    draw_mean,
    figure,
    interval_note,
    legend_at_right,
    over_steps,
    panel_height,
    panels,
)

__all__ = ["barriers_by_branch", "gradient_norms", "pre_activation_histograms", "probes_along_training"]

MOST_LAYERS = 12  # shown; those with the largest final norm


@figure("Gradient norm along training")
def gradient_norms(results):
    """The gradient's norm along training: in total for every activation (left), per layer for the first one (right)."""
    curves = {r["activation"]: found for r in results if (found := _probe_curves(r, "gradient_norm"))}
    if not curves:
        raise NothingToDraw("No complete trial has the probe gradient_norm (--probes gradient_norm).")
    drawn, ((left, right),) = panels(3.2, 1, 2)
    draw_curves(left, {name: (steps, mean_curve(values["all"])) for name, (steps, values) in curves.items()})
    left.set_title(f"Whole gradient: mean over trials{interval_note(left)}")
    over_steps(left)
    left.set(yscale="log", ylabel=f"norm ({NATS} per unit of the weights)")
    legend_at_right(left)
    first = next(iter(curves))
    steps, values = curves[first]
    means = {layer: line.mean(axis=0) for layer, line in values.items() if layer != "all"}
    shown = sorted(means, key=lambda layer: -means[layer][-1])[:MOST_LAYERS]
    for layer, colour in zip(shown, colormaps["viridis"](np.linspace(0, 0.9, len(shown)))):
        right.plot(steps, means[layer], color=colour, linewidth=1.1, label=layer)
    right.legend(loc="upper left", bbox_to_anchor=(1.0, 1.03), fontsize=6, title="largest first", title_fontsize=6)
    over_steps(right)
    right.set(yscale="log", title=f"Per layer, {short_label(first)}: mean over trials")
    return drawn


def _probe_curves(result, probe):
    """(steps, name -> (trials, steps) values) of a probe over the complete trials that have it; None if there are none."""
    histories = [
        [point for point in trial["history"] if probe in point.get("probes", {})] for trial in complete(result)
    ]
    histories = [history for history in histories if history]
    if not histories:
        return None
    steps = sorted(set.intersection(*({point["step"] for point in history} for history in histories)))
    at = [{point["step"]: point["probes"][probe] for point in history} for history in histories]
    names = at[0][steps[0]]
    return np.array(steps), {name: np.array([[one[step][name] for step in steps] for one in at]) for name in names}


SHOWN = {  # probe, its number -> label
    ("gradient_norm", "all"): f"gradient norm ({NATS} per unit)",
    ("noise_scale", "noise_scale"): "noise scale (sequences)",
    ("pre_activations", "sd"): "SD of pre-activations",
    ("pre_activations", "effective_rank"): "effective rank",
    ("curvature", "hessian_largest"): "largest Hessian eigenvalue",
    ("curvature", "gauss_newton_largest"): "largest Gauss-Newton eigenvalue",
    ("kernel_target", "alignment"): "alignment of tangent\nkernel and targets",
}

WIDE = 20  # largest mean over smallest from which an axis is logarithmic


@figure("Diagnostics along training, and against relative PD")
def probes_along_training(results):
    """Every probe of SHOWN that was measured, against the step (left) and against relative PD at that step (right)."""
    found = {
        (probe, key): curves
        for probe, key in SHOWN
        if (curves := {r["activation"]: c for r in results if (c := _number_curve(r, probe, key)) is not None})
    }
    if not found:
        raise NothingToDraw("No complete trial has a probe that is drawn along training (--probes gradient_norm).")
    drawn, axes = panels(panel_height(len(results)) * len(found), len(found), 2, sharey="row", sharex="col")
    for (left, right), (which, curves) in zip(axes, found.items()):
        draw_curves(left, {name: (steps, mean_curve(values)) for name, (steps, values) in curves.items()})
        means = np.concatenate([_means(values) for _, values in curves.values()])
        wide = np.nanmin(means) > 0 and np.nanmax(means) > WIDE * np.nanmin(means)
        left.set(ylabel=SHOWN[which], yscale="log" if wide else "linear")
        for result in results:
            if result["activation"] in curves and result["pairs"]:
                _against_pd(right, result, *curves[result["activation"]])
    legend_at_right(axes[0, 1])
    axes[0, 0].set_title(f"Against the step{interval_note(axes[0, 0])}")
    axes[0, 1].set_title("Against relative PD; from the first point after step 0 (ring)")
    over_steps(axes[-1, 0])
    axes[-1, 1].set_xlabel("relative PD, mean over pairs")
    return drawn


def _number_curve(result, probe, key):
    """(steps, (trials, steps) values, NaN where there is none) of one number of a probe; None if it was not measured.

    The noise scale is one curve, the mean variance over trials by the mean |G|^2: a mean of noisy ratios is biased.
    """
    if key == "noise_scale":
        variance, norm = (_number_curve(result, probe, name) for name in ("variance", "squared_norm"))
        if variance is None:
            return None
        ratio = _means(variance[1]) / _means(norm[1])
        return variance[0], np.where(ratio > 0, ratio, np.nan)[None]
    histories = [
        {
            point["step"]: value
            for point in trial["history"]
            if (value := point.get("probes", {}).get(probe, {}).get(key)) is not None
        }
        for trial in complete(result)
    ]
    steps = sorted({step for history in histories for step in history})
    if not steps:
        return None
    return np.array(steps), np.array([[history.get(step, np.nan) for step in steps] for history in histories])


def _means(values):
    """(steps,) means over the trials that have a number, NaN where none has."""
    return np.ma.masked_invalid(values).mean(axis=0).filled(np.nan)


def _against_pd(ax, result, steps, values):
    """The means of a probe against those of relative PD, at the steps that have both."""
    at, _, estimates = trained(*pair_curves(result, "relative_pd"))
    pds = dict(zip(at.tolist(), (estimate.mean for estimate in estimates)))
    shared = [k for k, step in enumerate(steps.tolist()) if pds.get(step) is not None]
    if not shared:
        return
    look = activation_style(result["activation"]) | {"markersize": 2.5, "linewidth": 1.1}
    x, y = [pds[steps[k]] for k in shared], _means(values)[shared]
    ax.plot(x, y, **look, label=short_label(result["activation"]))
    ax.plot(x[:1], y[:1], marker="o", markersize=7, markerfacecolor="none", color=look["color"], linestyle="none")


@figure("What the activations receive", "pre_activations")
def pre_activation_histograms(results, shares: Mapping[str, Mapping[float, float]]):
    """Histogram of the pre-activations of each activation's models over the graph of the activation.

    shares: activation -> lower end of each bin -> mean share over trials.
    """
    import activations

    columns = min(3, len(shares))
    rows = -(-len(shares) // columns)
    drawn, axes = panels(2.0 * rows, rows, columns, sharex=True, sharey=True)
    for ax, (name, histogram) in zip(axes.flat, shares.items()):
        lows = np.array(list(histogram))
        width = lows[1] - lows[0]
        ax.bar(lows + width / 2, np.array(list(histogram.values())) / width, width, color=FAINT, edgecolor="none")
        graph = ax.twinx()
        x = np.linspace(lows[0], lows[-1] + width, 801)
        graph.plot(
            x, value_and_slope(name, activations.record(name).gated, x)[0], color=activation_style(name)["color"]
        )
        graph.axhline(0, color=INK, linewidth=0.5)
        graph.set(ylim=(-1.0, 4.0))
        ax.set(title=short_label(name), xlim=(-4, 4))
        last = ax in axes[:, -1] or ax is axes.flat[len(shares) - 1]
        graph.tick_params(labelright=last)
        graph.set_ylabel("activation (line)" if last else "")
    for ax in axes.flat[len(shares) :]:
        ax.set_axis_off()
    for ax in axes[:, 0]:
        ax.set_ylabel("density (grey)")
    for ax in axes[-1]:
        ax.set_xlabel("pre-activation")
    return drawn


@figure("Loss barrier between two trials, by the step at which they branch", "barriers")
def barriers_by_branch(results, found: Mapping[str, Mapping[int, Estimate]]):
    """Barrier with its 95% interval against the branch step, on a symmetric logarithmic axis.

    found: model -> branch step -> mean barrier over disjoint pairs of trials.
    """
    drawn, ((ax,),) = panels(2.6)
    names = {
        f"{architecture_label(r['architecture'])}, {activation_label(r['activation'])}": r["activation"]
        for r in results
    }
    for label, by_step in found.items():
        draw_mean(ax, list(by_step), list(by_step.values()), activation_style(names[label]) | {"label": label})
    smallest = min(step for by_step in found.values() for step in by_step if step > 0)
    ax.set_xscale("symlog", linthresh=smallest)
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.set(xlabel="branch step: data and dropout are shared before it (log scale)", ylabel=f"loss barrier ({NATS})")
    legend_at_right(ax)
    return drawn
