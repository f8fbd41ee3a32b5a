"""The figure of a study's contrasts: relative PD against validation loss, next to the contrasts."""

from collections.abc import Mapping, Sequence

import numpy as np

from analysis.contrasts import Contrast, by_activation, percent
from analysis.curves import CommonLoss, loss_at_step
from analysis.estimates import at_level, combined
from analysis.results import Cell
from analysis.series import pair_curves
from figures.across_activations import VERDICTS
from figures.style import (
    FAINT,
    INK,
    NATS,
    QUIET,
    activation_style,
    draw_interval,
    draw_mean,
    figure,
    legend_at_right,
    panels,
    write_at_right,
)

__all__ = ["pd_against_loss"]

LINES = ("-", (0, (5, 1.5)), (0, (2, 1)), (0, (6, 1, 1, 1)))  # of an activation's learning rates
ALPHA = 0.05  # of the family
FIRST_LOSS = 0.5  # nats above the common loss at which curves start


@figure("Relative PD against validation loss, and the contrasts between activations", "contrasts")
def pd_against_loss(
    results: Sequence[dict], endpoints: Mapping[str, Sequence[Contrast]], margin: float, common: CommonLoss | None
):
    """Relative PD against validation loss (left), and the contrasts of each endpoint (right), with 95% intervals.

    Parameters
    ----------
    results : sequence of dict
        Of the activations.
    endpoints : mapping
        Title of an endpoint -> its contrasts.
    margin : float
        As a fraction; drawn as a band.
    common : CommonLoss or None
        Drawn as a vertical line; the cooldown after its last step is dotted.
    """
    drawn, ((left, right),) = panels(4.1, 1, 2, width=10.2, gridspec_kw={"width_ratios": [1.25, 1]})
    drawn_before: list[str] = []
    for label, cells in by_activation(map(Cell, results)).items():
        activation = cells[0].activation
        _draw_course(left, cells, label, LINES[drawn_before.count(activation)], common)
        drawn_before.append(activation)
    if common is not None:
        left.axvline(common.loss, color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)))
        left.annotate("common loss", (common.loss, 1), (3, -2), **_AT_THE_TOP)
    left.invert_xaxis()
    left.set_xlabel(f"validation loss ({NATS}), training progresses →")
    left.set_ylabel("relative PD")
    left.set_title("Means over pairs of trials, 95% CI over trials")
    legend_at_right(left)
    _draw_contrasts(right, endpoints, margin)
    return drawn


_AT_THE_TOP = {
    "xycoords": ("data", "axes fraction"),
    "textcoords": "offset points",
    "size": 7,
    "va": "top",
    "color": QUIET,
}


def _draw_course(ax, cells, label, line, common):
    """An activation's curve; cells: one for each group of trials."""
    curves = [pair_curves(cell.result, "relative_pd") for cell in cells]
    steps = curves[0][0]
    estimates = [combined(groups) for groups in zip(*(curve[2] for curve in curves))]
    losses = np.array([combined([loss_at_step(cell, step) for cell in cells]).mean for step in steps], dtype=float)
    first = np.inf if common is None else common.loss + FIRST_LOSS
    last = steps[-1] if common is None or common.last_step is None else common.last_step
    shown, cooldown = (losses <= first) & (np.array(steps) <= last), np.array(steps) >= last
    look = activation_style(cells[0].activation) | {"markersize": 2.5, "linestyle": line}
    draw_mean(ax, losses[shown], [e for e, here in zip(estimates, shown) if here], look | {"label": label})
    if cooldown.sum() > 1:
        dotted = look | {"linestyle": ":", "alpha": 0.8}
        draw_mean(ax, losses[cooldown], [e for e, here in zip(estimates, cooldown) if here], dotted, band=False)


def _draw_contrasts(ax, endpoints, margin):
    """One row per contrast, grouped by endpoint; the band is the margin."""
    ax.axvspan(100 * (1 / (1 + margin) - 1), 100 * margin, color=FAINT, alpha=0.6, linewidth=0)
    ax.axvline(0, color=INK, linewidth=0.8)
    place, ticks = 0.0, []
    for title, family in endpoints.items():
        ticks.append((place, title))
        for contrast in family:
            place += 1
            comparison = contrast.comparison
            look = VERDICTS.get(comparison.verdict, VERDICTS["inconclusive"])
            mean, low, high = percent(comparison.difference)
            if mean is not None:
                corrected = percent(at_level(comparison.difference, 1 - 2 * ALPHA / len(family)))[1:]
                ax.plot(corrected, [place, place], color=look["color"], linewidth=0.8, solid_capstyle="butt")
                draw_interval(ax, mean, place, x_range=(low, high), **look)
            text = comparison.verdict_text.replace(" seeds needed", "")
            write_at_right(ax, place, text)
            ticks.append((place, " / ".join(contrast.names).replace(", centred", " centred")))
        place += 1.4
    ax.set_yticks(*zip(*ticks))
    for label in ax.get_yticklabels():
        label.set_weight("bold" if label.get_text() in endpoints else "normal")
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(place - 0.8, -0.6)
    ax.set_xlabel("difference in relative PD (%)")
    ax.set_title(
        f"Contrasts; grey: margin. Thick: 95% CI;\nthin: {1 - 2 * ALPHA / len(family):.1%} CI, which decides equivalence"
    )
