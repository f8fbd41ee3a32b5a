"""Sections on several architectures or studies: sensitivity by architecture, sources of randomness, arithmetic."""

import copy
from collections.abc import Callable, Sequence

import plot_utils
from analysis import results, significance
from analysis.labels import architecture_label
from analysis.results import MEASURES, Study
from analysis.words import brief_p, decimals_for, listing, plural, with_interval
from common import json_files
from common.errors import UserError
from report.document import Figure, Section, Table
from report.view import PAIRS_METHOD, View, counted, difference, headed, shown
from training.identity import complete

U_BAND = "95% intervals over trials (variance of a U-statistic)"

# --- architectures --------------------------------------------------------------------------------------------------


def architectures(view: View) -> Section | None:
    """Whether the activation matters, by architecture; None if there is only one architecture."""
    if len(view.study.architectures) < 2:
        return None
    sensitivities = {
        name: results.activation_sensitivity(cells, view.margins) for name, cells in view.study.architectures.items()
    }
    content: list = _counts(sensitivities)
    if view.missing:
        content.append(f"**{plural(len(view.missing), 'thing')} missing or left out**: see What was run.")
    for name in ("val_loss", "relative_pd"):
        content += [_heat_map(view, name), _sensitivity_table(view.study, sensitivities, name)]
    return Section("Does the activation matter to every architecture?", content, brief=True)


def _sensitivity_table(study, sensitivities, name):
    rows = []
    for architecture, cells in study.architectures.items():
        found = (sensitivities[architecture] or {}).get(name)
        parameters = sorted({cell.result["n_parameters"] for cell in cells})
        row = [cells[0].architecture_label, f"{parameters[0]:,}", str(len(cells))]
        if found is None:
            rows.append([*row, *["-"] * 6, "fewer than two activations"])
            continue
        between = with_interval(found.between_sd, decimals_for(found.between_sd, MEASURES[name].decimals))
        spread = "-" if found.range_over_minimum is None else f"{found.range_over_minimum:.2%}"
        equal = "-" if found.equal_means_p is None else f"{found.equal_means_p:.2g} ({found.smallest_p:.2g})"
        tests = [brief_p(found.minimum_effect_p), brief_p(found.equivalence_p)]
        rows.append([*row, str(found.between_sd.n), between, spread, *tests, equal, found.verdict_text])
    headers = ["Architecture", "Parameters", "Activations", "n", "SD between activations"]
    headers += ["Range / min.", "p (beyond)", "p (within)", "p (equal)", "Verdict"]
    caption = (
        f"{headed(name)}: standard deviation between activations, sampling variance subtracted, with its 95% interval"
        " (noncentral chi-square, trials as blocks); n: trials that all activations have. Sensitive: some difference is shown"
        " to exceed the margin (minimum-effect tests, Holm over all pairs). Insensitive: every one is shown to be within it"
        " (two one-sided tests). Else inconclusive."
    )
    note = (
        "p (equal): the largest |t|, activations permuted within trials, in brackets the smallest p possible. Range / min. of"
        " the activations' means grows with noise. Neither is part of the verdict."
    )
    return Table(headers, rows, caption, note)


def _counts(sensitivities):
    """The number of architectures with each verdict, for each measure."""
    items = []
    for name in ("val_loss", "relative_pd"):
        kinds = {a: found[name].verdict for a, found in sensitivities.items() if found}
        texts = []
        for kind in ("sensitive", "insensitive", "inconclusive"):
            names = [architecture_label(a) for a in kinds if kinds[a] == kind]
            texts.append(f"**{len(names)} {kind}**" + (f" ({listing(names)})" if names else ""))
        items.append(f"{MEASURES[name].label}, of {plural(len(kinds), 'architecture')}: {', '.join(texts)}.")
    return items


def _heat_map(view, name):
    caption = (
        f"{MEASURES[name].label}, means ({counted(view.study.cells)}). Shades: percent from the row's reference, on a scale that"
        " reaches at least to the margin of interest; 95% intervals are in the tables."
    )
    return Figure(
        caption, plot_utils.architecture_heatmap, [cell.result for cell in view.study.cells], (name, view.margins)
    )


# --- several studies ------------------------------------------------------------------------------------------------

MAY_DIFFER = ("vary", "device")  # and ARITHMETIC, fields of the configuration
ARITHMETIC = ("dtype", "threads_per_trial")


def check_comparable(studies: Sequence[Study]) -> None:
    """Raises UserError unless the studies differ only in what varies between trials, and in the arithmetic."""
    first = studies[0]
    for other in studies[1:]:
        ours, theirs = (
            study.identity.get("corpus_sha256", study.identity.get("data_sha256")) for study in (first, other)
        )
        if ours != theirs:
            raise UserError(
                f"{first.folder} and {other.folder} were made on different data ({first.corpus_label}, SHA-256"
                f" {ours[:12]}..., against {other.corpus_label}, {theirs[:12]}...); only equal ones can be compared"
            )
    allowed = "--vary, dtype, device and threads_per_trial"
    check_alike(studies, _without_differences, "cannot be compared", allowed)


def check_alike(studies: Sequence[Study], compared: Callable[[Study], dict], refusal: str, allowed: str) -> None:
    """Raises UserError if two studies have the same identity, or differ in the part returned by `compared`.

    refusal, allowed: for the message: why they are refused, and which fields may differ.
    """
    first = studies[0]
    for position, other in enumerate(studies[1:], 1):
        difference = json_files.first_difference(compared(first), compared(other))
        if difference:
            raise UserError(f"{first.folder} and {other.folder} {refusal}: {difference}; only {allowed} may differ")
        for earlier in studies[:position]:
            if earlier.identity == other.identity:
                raise UserError(
                    f"{earlier.folder} and {other.folder} are studies of the same identity; give one of them"
                )


def _without_differences(study):
    identity = copy.deepcopy(complete(study.identity))
    for name in MAY_DIFFER:
        identity.pop(name)
    for name in ARITHMETIC:
        identity["config"].pop(name)
    return identity


def arithmetic(study: Study) -> str:
    """'cpu, float32, 1 thread'."""
    config = study.identity["config"]
    return f"{study.identity['device']}, {config['dtype']}, {plural(config['threads_per_trial'], 'thread')}"


def sources(view: View) -> Section | None:
    """Each source of randomness alone compared with all of them; None if there is only one source."""
    studies = [view.study, *view.others]
    same = [study for study in studies if arithmetic(study) == arithmetic(studies[0])]
    same.sort(key=lambda study: -len(set(study.identity["vary"]) - {"bit"}))
    architecture = view.cells[0].architecture
    found = [(results.source_label(s.identity), cell) for s in same for cell in s.architectures.get(architecture, [])]
    labels = [label for label, _ in found]
    if len(set(labels)) < 2:
        return None
    everything = {cell.activation: cell for label, cell in found if label == results.ALL_SOURCES}
    rows = []
    for label, cell in found:
        whole, share, less = everything.get(cell.activation), "-", "-"
        if label != results.ALL_SOURCES and whole is not None:
            share = with_interval(results.share_of(cell, whole, "relative_pd"), 1)
            less = difference(results.compare_cells(cell, whole, "relative_pd").difference, "relative_pd")
        row = [label, cell.label, str(len(cell.trials)), shown(cell, "relative_pd")]
        rows.append([*row, share, less, shown(cell, "top1_disagreement")])
    headers = [
        "What differs",
        "Activation",
        "n",
        "Relative PD",
        "% of all",
        "Difference from all",
        "Top-1 disagreement",
    ]
    caption = (
        f"Relative PD where only one source of randomness differs between trials. {PAIRS_METHOD} Percent and difference are"
        " paired by trial (trial k has the same seed in what both vary), over the trials that both have. Shares need not add"
        " up to 100%: sources do not add up."
    )
    what = f"Relative PD by source ({counted([cell for _, cell in found])}). Points: means over pairs; bars: {U_BAND}."
    figure = Figure(what, plot_utils.sources, [cell.result for _, cell in found], (labels,))
    along = f"The same along training ({counted([cell for _, cell in found])}); bands: {U_BAND}."
    curves = Figure(along, plot_utils.sources_along_training, [cell.result for _, cell in found], (labels,))
    none = (
        [] if everything else ["No study in which everything varies was given, so there is no whole to compare with."]
    )
    return Section(
        "Where irreproducibility comes from", [*none, Table(headers, rows, caption), figure, curves], brief=True
    )


def arithmetics(view: View) -> Section | None:
    """Loss and PD of each arithmetic (dtype, device, threads) against the first study's; None if there is only one.

    All comparisons of an architecture are one family.
    """
    rows, comparisons, limits, studies = [], [], [], [view.study, *view.others]
    for other in view.others:
        base = next((s for s in studies if s.identity["vary"] == other.identity["vary"]), None)
        if base is None or arithmetic(base) == arithmetic(other):
            continue
        cells = {cell.activation: cell for cell in base.architectures.get(view.cells[0].architecture, [])}
        for cell in other.architectures.get(view.cells[0].architecture, []):
            for name in ("val_loss", "relative_pd") if cell.activation in cells else ():
                comparisons.append(results.compare_cells(cell, cells[cell.activation], name))
                limits.append(results.margin_of(name, cells[cell.activation], view.margins))
                found = comparisons[-1].difference
                row = [arithmetic(other), cell.label, MEASURES[name].label, str(found.n)]
                rows.append([*row, shown(cells[cell.activation], name), shown(cell, name), difference(found, name)])
    if not rows:
        return None
    judged = significance.verdicts(comparisons, limits)
    rows = [[*row, comparison.verdict_text] for row, comparison in zip(rows, judged)]
    headers = ["Arithmetic", "Activation", "Measure", "n", arithmetic(view.study), "This arithmetic", "Difference"]
    headers.append("Verdict")
    caption = (
        "What the arithmetic changes: paired by trial, with the same seeds and streams. Equivalent: within"
        f" {view.margins.loss:g} nats, or {view.margins.pairs:.0%} of the first value (two one-sided tests). {PAIRS_METHOD}"
    )
    return Section("What the arithmetic changes", [Table(headers, rows, caption)], brief=True)
