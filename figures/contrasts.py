"""The figure of a study's contrasts: relative PD against validation loss, and beside it the contrasts themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from analysis.contrasts import Contrast, percent
from analysis.curves import CommonLoss, loss_at_step
from analysis.labels import short_label, study_line
from analysis.results import Cell
from analysis.series import pair_curves
from figures.of_analysis import VERDICTS
from figures.style import (
    FAINT,
    INK,
    NATS,
    QUIET,
    activation_style,
    draw_interval,
    draw_mean,
    label_line_ends,
    new_figure,
    save,
    styled,
)

FIRST_LOSS = 0.5  # nats above the common loss: where the curves begin


@styled
def pd_against_loss(
    cells: Sequence[Cell],
    endpoints: Mapping[str, Sequence[Contrast]],
    margin: float,
    common: CommonLoss | None,
    folder: str | Path,
) -> Path:
    """Relative PD against validation loss (left), and the contrasts of each endpoint (right), with 95% intervals.

    Parameters
    ----------
    cells : sequence of Cell
        The activations.
    endpoints : mapping
        Title of an endpoint -> its contrasts.
    margin : float
        Share: the band of equivalence.
    common : CommonLoss or None
        Drawn as a vertical line; the cooldown after its last step is dotted.
    folder : path
        Where the PNG is written.
    """
    title = "Relative PD against validation loss, and the contrasts between activations"
    line = study_line([cell.result for cell in cells])
    figure, axes = new_figure(title, line, 4.1, 1, 2, width=9.6, gridspec_kw={"width_ratios": [1.25, 1]})
    left, right = axes[0]
    ends = [_draw_course(left, cell, common) for cell in cells]
    if common is not None:
        left.axvline(common.loss, color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)))
        left.annotate("common loss", (common.loss, 1), (3, -2), **_AT_THE_TOP)
    left.invert_xaxis()
    left.set_xlabel(f"validation loss ({NATS}); training goes to the right")
    left.set_ylabel("relative PD")
    left.set_title("Means over pairs of trials, 95% CI over trials")
    _draw_contrasts(right, endpoints, margin)
    label_line_ends([(left, ends)])
    return save(figure, folder, cells[0].architecture, cells[0].result["identity"]["device"], "contrasts")


_AT_THE_TOP = {
    "xycoords": ("data", "axes fraction"),
    "textcoords": "offset points",
    "size": 7,
    "va": "top",
    "color": QUIET,
}


def _draw_course(ax, cell, common):
    """An activation's curve; returns what `label_line_ends` takes."""
    style = activation_style(cell.activation)
    steps, _, estimates = pair_curves(cell.result, "relative_pd")
    losses = np.array([loss_at_step(cell, step).mean for step in steps], dtype=float)
    triples = np.array([(e.mean, e.low, e.high) for e in estimates], dtype=float)
    first = np.inf if common is None else common.loss + FIRST_LOSS
    last = steps[-1] if common is None or common.last_step is None else common.last_step
    shown, cooldown = (losses <= first) & (np.array(steps) <= last), np.array(steps) >= last
    end = draw_mean(ax, losses[shown], triples[shown], style | {"markersize": 2.5})
    if cooldown.sum() > 1:
        dotted = style | {"linestyle": ":", "markersize": 2.5, "alpha": 0.8}
        end = draw_mean(ax, losses[cooldown], triples[cooldown], dotted, band=False)
    return end, short_label(cell.activation), style["color"]


def _draw_contrasts(ax, endpoints, margin):
    """One row per contrast, the endpoints one below another; the band is the margin."""
    ax.axvspan(100 * (1 / (1 + margin) - 1), 100 * margin, color=FAINT, alpha=0.6, linewidth=0)
    ax.axvline(0, color=INK, linewidth=0.8)
    place, ticks = 0.0, []
    for title, family in endpoints.items():
        ax.text(0, place, title, transform=ax.get_yaxis_transform(), size=8, weight="bold", va="center")
        for contrast in family:
            place += 1
            comparison = contrast.comparison
            look = VERDICTS.get(comparison.verdict, VERDICTS["inconclusive"])
            mean, low, high = percent(comparison.difference)
            if mean is not None:
                draw_interval(ax, mean, place, x_range=(low, high), **look)
            text = comparison.verdict_text.replace(" seeds needed", "")
            ax.text(1.02, place, text, transform=ax.get_yaxis_transform(), va="center", size=7)
            names = (short_label(contrast.cell.activation), short_label(contrast.reference.activation))
            ticks.append((place, " / ".join(names)))
        place += 1.4
    ax.set_yticks(*zip(*ticks))
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(place - 0.8, -0.6)
    ax.set_xlabel("difference in relative PD (%)")
    ax.set_title("Contrasts, 95% CI; grey: margin")
