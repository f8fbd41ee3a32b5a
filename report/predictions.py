"""The report of compare_predictions.py: verdicts, all measures, input data, methods; also as JSON and CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import metrics
from analysis import results
from analysis.laws import laws
from analysis.predictions import FEWEST_BLOCKS, Variants, error_over_examples, measures_of, primary_of
from analysis.results import Cell
from analysis.words import brief_p, decimals_for, listing, number, plural, with_interval
from common import json_files, provenance
from common.files import write_atomically
from common.prediction_files import MOST_BLOCKS
from report.document import Document, Figure, Section, Table

OWN_LABELS = {"loss": "Cross-entropy", "accuracy": "Accuracy"}
OWN_UNITS = {"loss": "nats"}
BETTER = {"loss": "lower", "accuracy": "higher"}
FILE_OF_NUMBERS = "comparison.json"
FIGURE_TITLE = "Each variant, and its difference from the reference"


def label(name: str) -> str:
    """'Accuracy', 'Relative PD', 'Cross-entropy (nats)'."""
    unit = OWN_UNITS.get(name) or (metrics.METRICS[name].unit if name in metrics.METRICS else "")
    return _name(name) + (f" ({unit})" if unit else "")


def _name(name):
    return OWN_LABELS.get(name) or metrics.METRICS[name].label


def better(name: str) -> str | None:
    """Whether "lower" or "higher" is better, or more reproducible."""
    return BETTER.get(name) or metrics.METRICS[name].better


def document(variants: Variants) -> Document:
    """The report on all variants."""
    reference, others = variants.reference, variants.cells[1:]
    title = f"Predictions in {variants.predictions.folder}: {listing([cell.activation for cell in variants.cells])}"
    sections = [_answer(variants), _values(variants)]
    if others:
        measures = [name for name in measures_of(variants.predictions) if name not in primary_of(variants.predictions)]
        note = f"Each measure is a family of its own: {plural(_pairs_of(variants.cells), 'pair')} of variants."
        tables = [_comparison_table(variants, measures, note)]
        sections.append(Section(f"Every other measure against {reference.activation}", tables, brief=True))
    if found := _laws(variants):
        sections.append(found)
    return Document(title, subtitle(variants), [*sections, _data(variants), _methods(variants)])


def subtitle(variants: Variants) -> str:
    """The data in one line."""
    predictions = variants.predictions
    counts = sorted({len(cell.trials) for cell in variants.cells})
    n = f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")
    parts = [_extent(predictions), predictions.kind, f"{n} trials each", pairing(variants)]
    return " · ".join(part for part in parts if part)


def pairing(variants: Variants) -> str:
    """Which variants share trial names with the reference and are therefore compared trial by trial."""
    alone = [name for name, paired in variants.paired.items() if not paired]
    if not alone:
        return "paired by trial name" if variants.paired else ""
    whose = "" if len(alone) == len(variants.paired) else f" for {listing(alone)}, others paired by trial name"
    return f"not paired: no trial name in common{whose}"


def _extent(predictions):
    shape = predictions.shape
    rows = f"{shape[0]:,} windows of {shape[1]:,} positions" if len(shape) == 3 else f"{shape[0]:,} examples"
    return f"{rows}, {len(predictions.classes or ()) if len(shape) == 1 else shape[-1]:,} classes"


def _pairs_of(cells):
    return len(cells) * (len(cells) - 1) // 2


# --- the answer -----------------------------------------------------------------------------------------------------


def _answer(variants):
    reference, others = variants.reference, variants.cells[1:]
    primary = primary_of(variants.predictions)
    paragraphs: list = []
    if min(len(cell.trials) for cell in variants.cells) < 3:
        paragraphs.append(
            "**Two trials make one pair**: a disagreement can be computed, but no interval and no test of it, which need"
            " three trials."
        )
    if not others:
        paragraphs.append(f"There is one variant, {reference.activation}, and nothing to compare it with.")
    else:
        paragraphs += [[_in_words(variants, cell, primary) for cell in others]]
    if variants.together:
        judged = [f"**{verdict}** in {_name(name)}" for name, (verdict, _, _) in variants.together.items()]
        paragraphs.append(
            f"All {len(variants.cells)} variants together (does the choice matter by more than the margin?): {listing(judged)}."
        )
    paragraphs += _remarks(variants, primary)
    count = len(others) * len(primary)
    note = (
        f"Intervals are 95% over trials, not corrected. The family is {plural(count, 'comparison')}: p (Holm) and p"
        " (equiv.), of two one-sided tests against the margin (Bonferroni), are corrected over it. SE, examples: what"
        " another set of examples like these would change, with the same models."
    )
    tables = [_comparison_table(variants, primary, note)] if others else []
    return Section("The answer", [*paragraphs, _figure(variants), *tables], brief=True)


def _in_words(variants, cell, primary):
    """'gelu against relu: **different** in loss (lower); **equivalent** in relative PD.'"""
    found: dict[str, list[str]] = {}
    for name in primary:
        comparison = variants.comparisons[cell.activation, name]
        sign = f" ({comparison.sign})" if comparison.sign else ""
        seeds = f" ({comparison.trials_needed} seeds needed)" if comparison.trials_needed else ""
        found.setdefault(comparison.verdict, []).append(_name(name) + sign + seeds)
    order = ("different", "equivalent", "inconclusive")
    verdicts = "; ".join(f"**{verdict}** in {listing(found[verdict])}" for verdict in order if verdict in found)
    return f"{cell.activation} against {variants.reference.activation}: {verdicts}."


def _remarks(variants, primary):
    """Caveats: unpaired variants, infinite measures, identical and outlying trials."""
    found = []
    if alone := [name for name, paired in variants.paired.items() if not paired]:
        found.append(
            f"No trial of {listing(alone)} is named as one of {variants.reference.activation}, so these trials are not paired."
            " If they share their seeds, give those with the same seed the same name: differences are then known better."
        )
    found += _copies(variants.predictions)
    for cell in variants.cells:
        for name, count in cell.result["infinite"].items():
            of = "trials" if name == "loss" else "pairs"
            found.append(
                f"{label(name)} of {cell.activation} is infinite in {count} of its {of}, where a probability is 0; so it has"
                " no mean and is not compared. Smooth or clip the probabilities before saving them if it should be."
            )
        same = [pair for pair in cell.pairs if pair["prediction_differences"] == 0 and not pair.get("relative_pd")]
        if same:
            names = listing(f"{variants.names[p['trial_a']]} and {variants.names[p['trial_b']]}" for p in same[:3])
            more = f" (and {len(same) - 3} more)" if len(same) > 3 else ""
            found.append(
                f"**Trials of {cell.activation} that predict exactly the same**: {names}{more}. Are they copies?"
            )
        found += [_outlying(variants, cell, name) for name in primary if results.outlying(cell, name)]
    return [found] if found else []


def _copies(predictions):
    """A sentence if trials of two variants are the same file."""
    first: dict[str, str] = {}
    copies = []
    for name, digest in predictions.sha256.items():
        original = first.setdefault(digest, name)
        if original.partition("/")[0] != name.partition("/")[0]:
            copies.append(f"{name} is the same file as {original}")
    more = f" (and {len(copies) - 1} more)" if len(copies) > 1 else ""
    return [f"**{copies[0]}**{more}. Was a folder copied?"] if copies else []


def _outlying(variants, cell, name):
    numbers = results.outlying(cell, name)
    rest = results.estimate(results.without(cell, numbers), name)
    trials = listing(variants.names[k] for k in numbers)
    return (
        f"**{cell.activation}, {label(name)}: {trials} lies far from all others**; without: {_shown(rest, name)}, with:"
        f" {_shown(results.estimate(cell, name), name)}. It stays in every verdict; no interval survives rare runs like this."
    )


# --- tables ---------------------------------------------------------------------------------------------------------


def _shown(estimate, name, signed=False):
    return with_interval(estimate, decimals_for(estimate, 4, 6), signed=signed)


def _comparison_table(variants, measures, note) -> Table:
    rows = []
    for name in measures:
        for cell in variants.cells[1:]:
            comparison = variants.comparisons[cell.activation, name]
            difference = comparison.difference
            error = error_over_examples(variants, name, cell.activation, variants.reference.activation)
            percent = results.in_percent(comparison, variants.reference, name)
            row = [label(name), cell.activation, str(difference.n), _shown(difference, name, signed=True)]
            row += [number(None if percent is None else percent.mean, 1, signed=True), _short(error)]
            row += [brief_p(comparison.p_adjusted), brief_p(comparison.equivalence_p), _verdict(comparison)]
            rows.append(row)
    headers = ["Measure", "Variant", "n", f"Minus {variants.reference.activation}", "in %", "SE, examples"]
    caption = f"Each variant minus {variants.reference.activation} ({pairing(variants)}; n counts trials)."
    return Table([*headers, "p (Holm)", "p (equiv.)", "Verdict"], rows, caption, note)


def _verdict(comparison):
    if comparison.verdict == "inconclusive" and not comparison.trials_needed:
        return f"inconclusive: {comparison.reason}"
    return comparison.verdict_text


def _short(value):
    return "-" if value is None else f"{value:.2g}"


def _values(variants):
    measures = measures_of(variants.predictions)
    rows = []
    for name in measures:
        for cell in variants.cells:
            estimate = results.estimate(cell, name)
            shown = "infinite" if name in cell.result["infinite"] else _shown(estimate, name)
            error = error_over_examples(variants, name, cell.activation)
            row = [label(name), cell.activation, str(len(cell.trials)), shown]
            rows.append(
                [*row, "-" if estimate.sd is None else f"{estimate.sd:.2g}", _short(error), better(name) or "-"]
            )
    caption = (
        "Means over trials (cross-entropy, accuracy: Student's t) or over pairs of trials (all others: U-statistic, its"
        " interval over trials), with 95% intervals; SD over trials or pairs."
    )
    headers = ["Measure", "Variant", "n", "Mean", "SD", "SE, examples", "Better"]
    return Section("All measures", [Table(headers, rows, caption)], brief=True)


def _laws(variants):
    """Disagreement against error, and the variance of accuracy; None without true classes or with too few trials."""
    rows = []
    for cell in variants.cells:
        if (found := laws(variants, cell)) is None:
            continue
        accuracy = results.estimate(cell, "accuracy")
        row = [cell.activation, str(found.sd.n), number(None if accuracy.mean is None else 1 - accuracy.mean, 4)]
        row += [_shown(results.estimate(cell, "top1_disagreement"), "top1_disagreement")]
        row += [_shown(found.disagreement_minus_error, "top1_disagreement", signed=True)]
        row += [with_interval(found.sd, 5), number(found.sd_if_independent, 5), brief_p(found.p)]
        row.append(number(found.sd_if_calibrated, 5))
        rows.append(row)
    if not rows:
        return None
    caption = (
        "Two laws of classifiers that differ in their seed (analysis/laws.py). Disagreement minus error, with a 95% interval over"
        " runs and examples, is 0 in expectation if the ensemble of all runs is calibrated (Jiang et al. 2022). The SD of accuracy"
        " between runs should be that of the next column if errors on different examples are independent (p: chi-square test of"
        " that), and that of the last one if the ensemble is also calibrated (Jordan 2023)."
    )
    headers = ["Variant", "n", "Error", "Disagreement", "Minus error", "SD of accuracy"]
    headers += ["if independent", "p", "if calibrated too"]
    return Section("Variance between runs", [Table(headers, rows, caption)], brief=True)


# --- data and methods -----------------------------------------------------------------------------------------------


def _data(variants):
    predictions = variants.predictions
    n_blocks = int(predictions.blocks.max()) + 1
    truth = "known" if predictions.truth is not None else "not given: no accuracy, no cross-entropy"
    blocks = {
        "examples": f"examples count as independent (summed in {n_blocks:,} blocks)",
        "groups": f"examples of one group count as dependent (summed in {n_blocks:,} blocks of whole groups)",
        "windows": f"windows in their order, ten neighbours together (summed in {n_blocks:,} blocks)",
    }[predictions.blocks_are]
    if n_blocks < FEWEST_BLOCKS:
        blocks += f"; fewer than {FEWEST_BLOCKS}, so no SE over examples"
    items = [
        f"{cell.activation}: {plural(len(cell.trials), 'trial')} ({listing(variants.names[k] for k in cell.numbers[:3])}"
        + (", ...)" if len(cell.trials) > 3 else ")")
        for cell in variants.cells
    ]
    items += [f"{_extent(predictions)}, {predictions.kind}; truth: {truth}.", f"SE, examples: {blocks}."]
    items.append(f"Every file's SHA-256 is in {FILE_OF_NUMBERS}.")
    return Section("What was read", [items], brief=True)


def _methods(variants):
    measures = [name for name in measures_of(variants.predictions) if name in metrics.METRICS]
    rows = [[metrics.METRICS[n].label, metrics.METRICS[n].formula, metrics.METRICS[n].source] for n in measures]
    margins = variants.margins
    items = [
        "A trial is one training run; a pair is two trials of one variant. n counts trials everywhere, since pairs share"
        " models and are not independent.",
        "Variants whose trials have the same names are compared trial by trial and pair by pair. Without a common name:"
        " Welch's t test, whose variance is the sum of both.",
        "Equivalent: two one-sided tests place the difference within the margin (p < 0.05, Bonferroni over the family). Else"
        " different: p < 0.05 (Holm). Else inconclusive; the seeds needed give 80% power for a true difference as large as"
        f" the margin, and for none. Margins: {margins.loss:g} (cross-entropy in nats, accuracy as a fraction), and"
        f" {margins.pairs:.2g} of {variants.reference.activation}'s value for measures of pairs.",
        "Three variants or more together: sensitive if some difference is shown to exceed the margin (minimum-effect tests,"
        " Holm over all pairs), insensitive if all are shown to lie within it (two one-sided tests), else inconclusive.",
        f"SE, examples: of at most {MOST_BLOCKS:,} blocks of examples (ratio estimator); the trials are held fixed, as the"
        " examples are in the intervals over trials.",
        "Where these rules break (rare outlying runs, above all): docs/statistics.md.",
    ]
    caption = "Measures of a pair: p and q are two models' probabilities for one example, y its true class."
    return Section("Methods", [items, Table(["Measure", "Formula", "Source"], rows, caption)])


# --- JSON and CSV ---------------------------------------------------------------------------------------------------


def as_json(variants: Variants) -> dict:
    """The content of comparison.json: estimates, comparisons, trials and pairs."""
    predictions = variants.predictions
    measures, primary = measures_of(predictions), primary_of(predictions)
    reference = variants.reference.activation
    return {
        "schema_version": json_files.SCHEMA_VERSION,
        "folder": str(predictions.folder),
        "kind": predictions.kind,
        "shape": list(predictions.shape),
        "classes": None if predictions.classes is None else list(predictions.classes),
        "reference": reference,
        "margins": {"loss_and_accuracy": variants.margins.loss, "pairs": variants.margins.pairs},
        "blocks": {"of": predictions.blocks_are, "n": int(predictions.blocks.max()) + 1},
        "primary": primary,
        "together": {
            name: {"verdict": verdict, "minimum_effect_p": exceeds, "equivalence_p": within}
            for name, (verdict, exceeds, within) in variants.together.items()
        },
        "variants": {
            cell.activation: {
                "trials": [_named(trial, variants) for trial in cell.result["trials"]],
                "pairs": [_named(pair, variants) for pair in cell.result["pairs"]],
                "infinite": cell.result["infinite"],
                "laws": None if (found := laws(variants, cell)) is None else asdict(found),
                "summary": {
                    name: results.estimate(cell, name).as_dict()
                    | {"se_examples": error_over_examples(variants, name, cell.activation)}
                    for name in measures
                },
            }
            for cell in variants.cells
        },
        "comparisons": [
            {"variant": variant, "measure": name, "primary": name in primary, "paired": variants.paired[variant]}
            | comparison.as_dict()
            | {"se_examples": error_over_examples(variants, name, variant, reference)}
            for (variant, name), comparison in variants.comparisons.items()
        ],
        "provenance": {**provenance.program(), "sha256": predictions.sha256},
    }


def _named(record, variants):
    """A trial or pair with its trials' names instead of numbers."""
    return {
        key: variants.names[value] if key in ("trial", "trial_a", "trial_b") else value
        for key, value in record.items()
        if key != "status"
    }


def export(variants: Variants, folder: Path) -> list[Path]:
    """Writes trials.csv, pairs.csv and comparisons.csv, one row per observation, and tables.tex; returns the paths."""
    from report.export import latex

    content = as_json(variants)
    tables = {
        f"{kind}.csv": [
            {"variant": name, **record} for name, variant in content["variants"].items() for record in variant[kind]
        ]
        for kind in ("trials", "pairs")
    }
    tables["comparisons.csv"] = [_flat(entry) for entry in content["comparisons"]]
    texts = {name: _csv(rows) for name, rows in tables.items()} | {"tables.tex": latex(document(variants))}
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())
    return [folder / name for name in texts]


def _flat(entry):
    """A comparison as one row, with the fields of its difference, and the interval as low and high."""
    difference = entry["difference"]
    low, high = difference["ci95"] or (None, None)
    fields = {
        "difference": difference["mean"],
        "low": low,
        "high": high,
        "n": difference["n"],
        "method": difference["method"],
    }
    return {**{key: value for key, value in entry.items() if key != "difference"}, **fields}


def _csv(rows: Sequence[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


# --- the figure -----------------------------------------------------------------------------------------------------


def panels(variants: Variants) -> list[dict]:
    """The panels for `figures.predictions.forest`: every primary measure that some variant has."""
    found = []
    for name in primary_of(variants.predictions):
        rows = [_figure_row(variants, cell, name) for cell in variants.cells]
        if any(row["value"].mean is not None for row in rows):
            margin = results.margin_of(name, variants.reference, variants.margins)
            panel = {"label": label(name), "better": better(name), "reference": variants.reference.activation}
            found.append(panel | {"margin": margin, "rows": rows})
    return found


def _figure(variants: Variants) -> Figure:
    from figures.predictions import forest

    caption = (
        "Left: means with 95% intervals over trials. Right: differences from the reference with 95% intervals, not"
        " corrected; grey: the margin of interest. Filled circles: different; squares: equivalent; diamonds: inconclusive."
    )
    return Figure(caption, forest, panels(variants), (FIGURE_TITLE, subtitle(variants)))


def _figure_row(variants: Variants, cell: Cell, name: str) -> dict:
    comparison = variants.comparisons.get((cell.activation, name))
    row = {"name": cell.activation, "value": results.estimate(cell, name)}
    if comparison is None:
        return row | {"difference": None, "verdict": None, "text": "reference"}
    return row | {"difference": comparison.difference, "verdict": comparison.verdict, "text": comparison.verdict_text}
