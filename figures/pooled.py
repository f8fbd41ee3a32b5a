"""The figure of pooled studies: relative PD against validation loss, one dot per pair."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps

from analysis.labels import activation_label, architecture_label
from analysis.pooled import Row
from figures.style import NATS, figure, panels

__all__ = ["pd_of_all_pairs"]

PANELS = {
    "architecture": lambda row: architecture_label(row.architecture),
    "activation": lambda row: activation_label(row.activation),
    "learning rate, training steps": lambda row: f"{row.learning_rate:g}, {row.steps:,}",
}


@figure("Relative PD against validation loss, every pair of models of several studies", "pooled")
def pd_of_all_pairs(results, table: Sequence[Row]):
    """Every pair's final relative PD against the mean final loss of its two models, coloured in three ways."""
    drawn, axes = panels(4.0, 1, len(PANELS), width=11.0, sharey=True)
    for ax, (title, name_of) in zip(axes[0], PANELS.items()):
        names = sorted({name_of(row) for row in table})
        colours = colormaps["tab20" if len(names) > 10 else "tab10"](np.arange(len(names)))
        for name, colour in zip(names, colours):
            points = np.concatenate([_pairs(row) for row in table if name_of(row) == name])
            ax.plot(*points.T, "o", color=colour, markersize=2.2, alpha=0.55, markeredgewidth=0, label=name)
        ax.set(title=f"By {title}", xlabel=f"validation loss ({NATS})")
        ax.invert_xaxis()
        legend = ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=6.5, markerscale=2)
        for handle in legend.legend_handles:
            handle.set_alpha(1)
    axes[0, 0].set_ylabel("relative PD")
    return drawn


def _pairs(row):
    """(pairs, 2): mean loss of the two models, relative PD."""
    losses = {k: record["val_loss"] for k, record in row.cell.trials.items()}
    return np.array([[(losses[p["trial_a"]] + losses[p["trial_b"]]) / 2, p["relative_pd"]] for p in row.cell.pairs])
