"""The figure of disagreement along training by frequency of the true class."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps

from analysis.estimates import pair_interval
from analysis.labels import short_label
from analysis.series import truncated
from figures.style import INK, figure, legend_at_right, panels

__all__ = ["disagreement_by_frequency"]

PANELS = {"relative_pd": "relative PD", "js_divergence": "JS divergence (nats)"}
FIRST = 0.5  # where step 0 is drawn on the logarithmic axis


@figure("Disagreement along training, by how frequent the true character is", "by_frequency")
def disagreement_by_frequency(results, courses: Sequence):
    """Means over pairs at each step, over all positions and over four groups of them; one row per activation.

    courses: of study/frequency.py.
    """
    drawn, axes = panels(2.6 * len(courses), len(courses), len(PANELS), sharex=True, sharey="col")
    for row, course in zip(axes, courses):
        steps = [max(step, FIRST) for step in course.steps]
        colours = colormaps["viridis"](np.linspace(0, 0.9, len(course.groups)))
        for ax, (name, label) in zip(row, PANELS.items()):
            names = ["all", *(f"group {k}" for k in range(1, len(course.groups) + 1))]
            for k, (line, colour) in enumerate(zip(names, [INK, *colours])):
                found = [truncated(pair_interval(matrix), name) for matrix in course.values[name][:, k]]
                mean, low, high = np.array([(e.mean, e.low, e.high) for e in found], dtype=float).T
                ax.plot(
                    steps, mean, color=colour, label=line, linewidth=2 if k == 0 else 1.1, marker="o", markersize=2.5
                )
                if k == 0:  # bands of all groups would hide one another
                    ax.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
            ax.set(xscale="log", ylabel=label)
            ax.set_title(f"{short_label(course.cell.activation)}; band: 95% CI over trials, all")
        legend_at_right(row[-1])
    for ax in axes[-1]:
        ax.set_ylim(bottom=0)
        ax.set_xlabel("training steps (log scale; step 0 at the left end)")
    return drawn
