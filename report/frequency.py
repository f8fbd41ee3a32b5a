"""Disagreement along training by frequency of the true class: `analyze_results.py STUDY --by-frequency`."""

from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from analysis.curves import loss_at_step
from analysis.estimates import pair_interval
from analysis.series import truncated
from analysis.words import with_interval

MEASURES = {"relative_pd": "Relative PD", "js_divergence": "JS divergence (nats)"}


def publish_frequency(courses: Sequence, plots: Path | None) -> int:
    """Prints a table per activation; draws the figure unless `plots` is None; returns the exit status.

    courses: of study/frequency.py.
    """
    for course in courses:
        n = len(course.cell.numbers)
        print(f"\n{course.cell.architecture_label}, {course.cell.label}, n = {n} trials, curve windows. Exploratory.\n")
        for k, symbols in enumerate(course.groups, 1):
            print(f"group {k} (the {'most' if k == 1 else 'next'} frequent quarter): {symbols}")
        print(f"\n{_table(course)}")
    if plots is not None:
        from figures.frequency import disagreement_by_frequency

        print(f"\nFigure: {disagreement_by_frequency([c.cell.result for c in courses], plots, courses)}")
    return 0


def _table(course):
    rows = []
    for s, step in enumerate(course.steps):
        estimates = [truncated(pair_interval(m), name) for name in MEASURES for m in course.values[name][s]]
        loss = loss_at_step(course.cell, step)
        rows.append([f"{step:,}", with_interval(loss, 3), *(with_interval(e, 4) for e in _shown(estimates))])
    n_groups = len(course.groups)
    headers = ["Step", "Validation loss", *MEASURES.values(), *(f"PD, group {k}" for k in range(1, n_groups + 1))]
    return tabulate(rows, headers, "pipe", disable_numparse=True)


def _shown(estimates):
    """Both measures over all positions, then relative PD by group."""
    half = len(estimates) // 2
    return [estimates[0], estimates[half], *estimates[1:half]]
