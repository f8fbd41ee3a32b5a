"""The figure of several tasks: relative PD of each activation, in percent of the reference's, for every architecture."""

from collections.abc import Sequence

from analysis.labels import data_facts, short_label
from analysis.results import Cell, Margins, reference_of, share_of
from figures.style import FAINT, INK, draw_interval, figure, panels, point_style, rows_named

__all__ = ["pd_by_task"]

MEASURES = {"relative_pd": "relative PD", "top1_disagreement": "top-1 disagreement"}


@figure("Does the activation matter in every task?", "across")
def pd_by_task(results, groups: Sequence[Sequence[Cell]], margins: Margins):
    """One row per architecture; the grey band is the margin around the reference.

    groups: the cells of each architecture.
    """
    names = list(
        dict.fromkeys(cell.activation for cells in groups for cell in cells if cell is not reference_of(cells))
    )
    drawn, axes = panels(max(0.34, 0.1 * len(names)) * len(groups) + 0.9, 1, len(MEASURES), width=9.6, sharey=True)
    for ax, (measure, label) in zip(axes[0], MEASURES.items()):
        ax.axvspan(100 - 100 * margins.pairs, 100 + 100 * margins.pairs, color=FAINT, alpha=0.6, linewidth=0)
        ax.axvline(100, color=INK, linewidth=0.8)
        for row, cells in enumerate(groups):
            reference = reference_of(cells)
            for cell in cells:
                share = share_of(cell, reference, measure) if cell is not reference else None
                if share is not None and share.mean is not None:
                    place = row + 0.7 * ((names.index(cell.activation) + 0.5) / len(names) - 0.5)
                    ends = (share.low, share.high)
                    draw_interval(ax, share.mean, place, x_range=ends, **point_style(cell.activation))
            if row:
                ax.axhline(row - 0.5, color=FAINT, linewidth=0.5)
        ax.set_xlim(left=max(0, ax.get_xlim()[0]))
        ax.set_xlabel(f"{label}, % of {short_label(reference_of(groups[0]).activation)}'s; bars: 95% CI")
        ax.tick_params(axis="y", length=0)
    rows_named(
        axes[0, 0], [f"{data_facts(cells[0].result)['label']}: {cells[0].architecture_label}" for cells in groups]
    )
    for name in names:
        axes[0, 0].plot([], [], **point_style(name), label=short_label(name))
    drawn.legend(loc="outside lower center", ncols=6)
    return drawn
