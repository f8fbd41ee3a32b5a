"""The forest plot of compare_predictions.py: primary measures of each variant, and differences from the reference."""

import textwrap
from pathlib import Path

import matplotlib

from figures.across_activations import VERDICTS
from figures.style import FAINT, INK, STYLE, add_title, draw_interval, rows_named, save, write_at_right
from figures.style import panels as new_panels


@matplotlib.rc_context(STYLE)
def forest(panels: list[dict], folder, title: str, info: str) -> Path:
    """One row of panels per measure: each variant's mean on the left, its difference from the reference on the right.

    panels: {label, better, reference, margin (or None), rows}; rows: {name, value, difference (Estimates; None for the
    reference), verdict, text}. info: the second line of the title.
    """
    n_variants = len(panels[0]["rows"])
    height = len(panels) * (0.2 * n_variants + 0.62)
    drawn, axes = new_panels(height, len(panels), 2, sharey="row", width_ratios=(1, 1.25))
    for (left, right), panel in zip(axes, panels):
        names = [textwrap.shorten(row["name"], 26, placeholder="…") for row in panel["rows"]]
        for place, row in enumerate(panel["rows"]):
            _draw(left, row["value"], place, {"marker": "o", "color": INK})
            if row["difference"] is not None:
                _draw(right, row["difference"], place, VERDICTS[row["verdict"]])
            write_at_right(right, place, row["text"])
        if panel["margin"]:
            right.axvspan(-panel["margin"], panel["margin"], color=FAINT, alpha=0.6, linewidth=0)
        right.axvline(0, color=INK, linewidth=0.8)
        left.set_title(f"{panel['label']}: {panel['better']} is better")
        right.set_title(f"minus {panel['reference']}")
        rows_named(left, names)
        for ax in (left, right):
            ax.tick_params(axis="y", length=0)
            ax.locator_params(axis="x", nbins=5)
    add_title(drawn, title, info)
    return save(drawn, Path(folder) / "forest.png")


def _draw(ax, estimate, place, look):
    if estimate is not None and estimate.mean is not None:
        draw_interval(ax, estimate.mean, place, x_range=(estimate.low, estimate.high), **look)
