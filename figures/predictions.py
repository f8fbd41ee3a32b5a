"""Variants of somebody's own predictions: every primary measure, and its difference from the reference."""

import textwrap
from pathlib import Path

from figures.style import FAINT, INK, draw_interval, new_figure, save_as, styled

LOOKS = {  # of a verdict
    "different": {"marker": "o", "markerfacecolor": INK, "color": INK},
    "equivalent": {"marker": "s", "markerfacecolor": "#56B4E9", "color": "#0072B2"},
    "inconclusive": {"marker": "D", "markerfacecolor": "white", "color": "#8A8A8A"},
}


@styled
def forest(panels: list[dict], title: str, info: str, path: Path) -> Path:
    """One row of panels per measure: each variant's mean on the left, its difference from the reference on the right.

    panels: {label, better, reference, margin (or None), rows}; rows: {name, value, difference (Estimates; None for the
    reference), verdict, text}. info: the second line of the title.
    """
    n_variants = len(panels[0]["rows"])
    height = len(panels) * (0.2 * n_variants + 0.62)
    figure, axes = new_figure(title, info, height, len(panels), 2, sharey="row", width_ratios=(1, 1.25))
    for (left, right), panel in zip(axes, panels):
        names = [textwrap.shorten(row["name"], 26, placeholder="…") for row in panel["rows"]]
        for place, row in enumerate(panel["rows"]):
            _draw(left, row["value"], place, {"marker": "o", "color": INK})
            if row["difference"] is not None:
                _draw(right, row["difference"], place, LOOKS[row["verdict"]])
            text = {"transform": right.get_yaxis_transform(), "va": "center", "size": 7}
            right.text(1.02, place, row["text"], **text)
        if panel["margin"]:
            right.axvspan(-panel["margin"], panel["margin"], color=FAINT, alpha=0.6, linewidth=0)
        right.axvline(0, color=INK, linewidth=0.8)
        left.set_title(f"{panel['label']}: {panel['better']} is better")
        right.set_title(f"minus {panel['reference']}")
        left.set_yticks(range(n_variants), names)
        left.set_ylim(n_variants - 0.4, -0.6)
        for ax in (left, right):
            ax.tick_params(axis="y", length=0)
            ax.locator_params(axis="x", nbins=5)
    return save_as(figure, path)


def _draw(ax, estimate, place, look):
    if estimate is not None and estimate.mean is not None:
        draw_interval(ax, estimate.mean, place, x_range=(estimate.low, estimate.high), **look)
