"""Figures of probes: what diagnostics/probes.py measured along training, from the results' histories."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps

from analysis.labels import architecture_label, complete, short_label, study_line
from analysis.series import mean_curve
from figures.style import (
    NATS,
    activation_style,
    draw_mean,
    interval_note,
    label_line_ends,
    new_figure,
    save,
    say_only,
    styled,
)

MOST_LAYERS = 12  # in a panel; with more, those with the largest norm at the end


@styled
def gradient_norms(results: list[dict], folder) -> Path:
    """The gradient's norm along training: in all for every activation (left), and per layer for the first (right)."""
    architecture, device = results[0]["architecture"], results[0]["identity"]["device"]
    title, name = f"Gradient norm along training: {architecture_label(architecture)}", "gradient_norms"
    curves = {r["activation"]: found for r in results if (found := _curves(r, "gradient_norm"))}
    if not curves:
        why = "No complete trial has the probe gradient_norm (--probes gradient_norm)."
        return say_only(title, study_line(results), why, folder, architecture, device, name)
    figure, ((left, right),) = new_figure(title, study_line(results), 3.2, 1, 2)
    ends = []
    for activation, (steps, values) in curves.items():
        style = activation_style(activation)
        estimates = mean_curve(values["all"])
        draw_mean(left, steps, estimates, style)
        ends.append(((steps[-1], estimates[-1].mean), short_label(activation), style["color"]))
    left.set_title(f"Whole gradient: mean over trials{interval_note(left)}")
    left.set(yscale="log", xlabel="training steps", ylabel=f"norm ({NATS} per unit of the weights)")
    first = next(iter(curves))
    steps, values = curves[first]
    means = {layer: line.mean(axis=0) for layer, line in values.items() if layer != "all"}
    shown = sorted(means, key=lambda layer: -means[layer][-1])[:MOST_LAYERS]
    for layer, colour in zip(shown, colormaps["viridis"](np.linspace(0, 0.9, len(shown)))):
        right.plot(steps, means[layer], color=colour, linewidth=1.1, label=layer)
    right.legend(loc="upper left", bbox_to_anchor=(1.0, 1.03), fontsize=6, title="largest first", title_fontsize=6)
    right.set(yscale="log", xlabel="training steps", title=f"Per layer, {short_label(first)}: mean over trials")
    label_line_ends([(left, ends)])
    return save(figure, folder, architecture, device, name)


def _curves(result, probe):
    """(steps, name -> (trials, steps) values) of a probe over the complete trials that have it; None without any."""
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
