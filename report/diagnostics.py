"""Diagnostics of a study as tables: means over trials, or over disjoint pairs of trials."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from analysis.associations import FEWEST, associations
from analysis.estimates import Estimate, mean_interval
from analysis.results import Margins, Study, activation_sensitivity, estimate
from analysis.words import brief_p, decimals_for, listing, with_interval
from diagnostics.probes import DRAWN
from training.identity import complete


def tables(wanted: Sequence, known: Mapping[str, dict]) -> str:
    """One Markdown table for each probe or comparison that is not drawn.

    Parameters
    ----------
    wanted : sequence of study.diagnose.Entry
    known : mapping
        Key -> what was measured, from `study.diagnose.run`.
    """
    blocks = []
    for name in dict.fromkeys(entry.name for entry in wanted if entry.name not in DRAWN):
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


def draw(study: Study, wanted: Sequence, known: Mapping[str, dict], folder: Path) -> list[Path]:
    """Draws the histograms of pre-activations, a figure for each architecture; returns the files."""
    from figures.diagnostics import pre_activation_histograms

    files = []
    for cells in study.architectures.values():
        shares: dict[str, list[dict]] = {}
        for entry in (e for e in wanted if e.name in DRAWN and e.cells[0] in cells):
            if "values" in known[entry.key]:
                shares.setdefault(entry.cells[0].activation, []).append(known[entry.key]["values"])
        if shares:
            means = {
                name: {float(low): float(np.mean([one[low] for one in found])) for low in found[0]}
                for name, found in shares.items()
            }
            results = [cell.result for cell in cells if cell.activation in shares]
            files.append(pre_activation_histograms(results, folder, means))
    return files


def _table(name, groups):
    """A row for each number and a column for each activation (or pair of them), or the other way round if that is narrower."""
    keys = list(dict.fromkeys(key for values in groups.values() for one in values for key in one))
    labels = [f"{label} (n = {len(values)})" for label, values in groups.items()]
    columns = [[_mean(values, key) for key in keys] for values in groups.values()]
    if len(labels) > len(keys):
        rows, headers = [[label, *column] for label, column in zip(labels, columns)], [name, *keys]
    else:
        rows, headers = [[key, *row] for key, row in zip(keys, zip(*columns))], [name, *labels]
    return tabulate(rows, headers, "pipe", disable_numparse=True)


def _mean(values, key):
    estimate = mean_interval([one.get(key) for one in values])
    return with_interval(estimate, decimals_for(estimate, 3))


def association_table(study: Study, wanted: Sequence, known: Mapping[str, dict]) -> str:
    """Rank correlations over a study's architectures of each diagnostic with relative PD and with the loss's sensitivity.

    A diagnostic's value for an architecture is the mean over activations and trials of a number that every architecture has.
    Empty with fewer than FEWEST architectures.
    """
    values: dict[str, dict[str, list[float]]] = {}
    for entry in (entry for entry in wanted if entry.name not in DRAWN):
        for key, value in known[entry.key].get("values", {}).items():
            architectures = values.setdefault(f"{entry.name}: {key}", {})
            architectures.setdefault(entry.cells[0].architecture, []).append(value)
    outcomes = {name: _outcomes(cells) for name, cells in study.architectures.items()}
    names = [name for name, found in outcomes.items() if None not in found]
    common = {
        key: np.array([np.mean(of[name]) for name in names])
        for key, of in values.items()
        if all(name in of for name in names)
    }
    titles = ("relative PD", "loss: SD between activations")
    found = associations(
        common, {title: np.array([outcomes[name][k] for name in names]) for k, title in enumerate(titles)}
    )
    if not found:
        return ""
    rows = [
        [
            a.diagnostic,
            a.outcome,
            f"{a.correlation:+.2f} [{a.low:+.2f}, {a.high:+.2f}]",
            brief_p(a.p),
            brief_p(a.p_adjusted),
        ]
        for a in found
    ]
    note = (
        f"Over n = {len(names)} architectures (at least {FEWEST} are needed), means over activations and trials: Spearman's"
        " correlation with a 95% bootstrap interval over architectures; p by permutation, corrected by Holm over the table. Exploratory."
    )
    return (
        tabulate(rows, ["Diagnostic", "with", "Correlation", "p", "p (Holm)"], "pipe", disable_numparse=True)
        + f"\n\n{note}"
    )


def branch_table(measured: Sequence[tuple[Study, Sequence, Mapping[str, dict]]], plots: Path) -> str:
    """The loss barrier by the step at which trials branch, for studies that differ in it; draws the figure.

    measured: study, its entries and what was measured. Empty unless two or more values of branch_step have a barrier.
    """
    from figures.diagnostics import barriers_by_branch

    found: dict[str, dict[int, Estimate]] = {}
    pds: dict[tuple[str, int], Estimate] = {}
    results = []
    for study, wanted, known in measured:
        step = complete(study.identity)["config"]["branch_step"]
        for cell in study.cells:
            own = [e for e in wanted if e.name == "barrier" and set(e.cells) == {cell} and "values" in known[e.key]]
            if own:
                label = f"{cell.architecture_label}, {cell.label}"
                found.setdefault(label, {})[step] = mean_interval([known[e.key]["values"]["barrier"] for e in own])
                pds[label, step] = estimate(cell, "relative_pd")
                results.append(cell.result)
    found = {label: dict(sorted(by_step.items())) for label, by_step in found.items() if len(by_step) > 1}
    if not found:
        return ""
    rows = [
        [label, f"{step:,}", str(barrier.n), with_interval(barrier, 3), with_interval(pds[label, step], 4)]
        for label, by_step in found.items()
        for step, barrier in by_step.items()
    ]
    headers = ["Model", "Branch step", "Pairs", "Loss barrier (nats)", "Relative PD at the end"]
    table = tabulate(rows, headers, "pipe", disable_numparse=True)
    return f"{table}\n\nFigure: {barriers_by_branch(results, plots, found)}"


def _outcomes(cells):
    """(mean relative PD over activations, between-activation SD of the final loss) of an architecture; None if unknown."""
    pds = [estimate(cell, "relative_pd").mean for cell in cells]
    sensitivity = activation_sensitivity(cells, Margins())
    return (
        None if None in pds else float(np.mean(pds)),
        None if sensitivity is None else sensitivity["val_loss"].between_sd.mean,
    )
