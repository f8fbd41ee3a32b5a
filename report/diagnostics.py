"""Diagnostics of a study as tables: means over trials, or over disjoint pairs of trials."""

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from analysis.estimates import mean_interval
from analysis.words import decimals_for, listing, with_interval


def tables(wanted: Sequence, known: Mapping[str, dict]) -> str:
    """One Markdown table for each probe or comparison.

    Parameters
    ----------
    wanted : sequence of study.diagnose.Entry
    known : mapping
        Key -> what was measured, from `study.diagnose.run`.
    """
    blocks = []
    for name in dict.fromkeys(entry.name for entry in wanted):
        groups: dict[str, list[dict]] = {}
        reasons: dict[str, list[str]] = {}
        for entry in (entry for entry in wanted if entry.name == name):
            label = " / ".join(dict.fromkeys(f"{c.architecture_label}, {c.label}" for c in entry.cells))
            measured = known[entry.key]
            if "values" in measured:
                groups.setdefault(label, []).append(measured["values"])
            else:
                reasons.setdefault(measured["reason"], []).append(entry.key)
        blocks += [_table(name, groups)] if groups else []
        blocks += [f"Not measured: {listing(keys)} ({reason})." for reason, keys in reasons.items()]
    return "\n\n".join(blocks)


def _table(name, groups):
    """A row for each number, a column for each activation (or pair of them)."""
    keys = list(dict.fromkeys(key for values in groups.values() for one in values for key in one))
    rows = []
    for key in keys:
        estimates = [mean_interval([one.get(key) for one in values]) for values in groups.values()]
        rows.append([key, *(with_interval(e, decimals_for(e, 3)) for e in estimates)])
    headers = [name, *(f"{label} (n = {len(values)})" for label, values in groups.items())]
    return tabulate(rows, headers, "pipe", disable_numparse=True)
