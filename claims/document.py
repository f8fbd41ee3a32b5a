"""The audit's output: docs/audit.md, its figures, and a table for the terminal, from the claims and their answers."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from activations import REPORT
from analysis import curves, words
from analysis.labels import activation_label, study_line
from analysis.results import compare_cells, estimate, in_percent
from claims.comparisons import (
    MARGINS,
    VERDICTS,
    Answer,
    Evidence,
    Untested,
    cells_of,
    judged,
    number,
    steps_to_matched,
    with_interval,
)
from report.document import markdown_table

FIGURES = "figures"  # the folder next to the document
PUBLIC_CODE = Path(__file__).with_name("public_code.md")  # facts that no study here can produce, with their commits

# --- tables -----------------------------------------------------------------------------------------------------------


def summary_rows(evidence: Evidence, tables: dict) -> list[dict]:
    """Per activation: the report's PD, the repeat here, the same two models matched, and the matched study's mean."""
    rows = []
    for name, figure in tables["relative_pd"].items():
        row = {"activation": name, "reported": figure, "n": None}
        if name in evidence.cells.get("published", {}):
            steps = list(steps_to_matched(evidence.cells["published"][name], "relative_pd").values())
            row |= {"published": steps[0], "same_models": steps[2]}
        if name in evidence.cells.get("matched", {}):
            found = estimate(evidence.cells["matched"][name], "relative_pd")
            row |= {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n}
        rows.append(row)
    return rows


def table_lines(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; all columns except the first are right-aligned."""
    return [markdown_table(headers, rows, ["left", *["right"] * (len(headers) - 1)]), ""]


def summary_table(evidence: Evidence, tables: dict) -> list[str]:
    """Relative PD of each activation: as reported, repeated, of the same models on the same contexts, of more trials."""
    rows = summary_rows(evidence, tables)
    n = max((row["n"] or 0 for row in rows), default=0)
    headers = ["Activation", "The report's PD", "Its protocol, repeated", "The same two models, same contexts"]
    headers.append(f"{n} trials, same contexts [95% interval]")
    matched = evidence.cells.get("matched", {})
    lines = []
    for row in rows:
        values = [number(row.get(key), "relative_pd") for key in ("reported", "published", "same_models")]
        name = row["activation"]
        mean = words.with_interval(estimate(matched[name], "relative_pd"), 4) if name in matched else "none"
        lines.append([activation_label(name), *values, mean.removesuffix(" (no interval)")])
    return table_lines(headers, lines)


def three_steps(evidence: Evidence, tables: dict, measure: str) -> list[str]:
    """Per activation: the report's figure and ours, the same contexts at the last position, and at all positions."""
    table = tables[measure]
    steps = {
        name: steps_to_matched(cell, measure) for name, cell in zip(table, cells_of(evidence, "published", list(table)))
    }
    columns = list(next(iter(steps.values())))
    headers = ["Activation", "The report", *(f"{i}. {name}" for i, name in enumerate(columns, 1))]
    rows = [
        [activation_label(name), number(table[name], measure), *(number(value, measure) for value in values.values())]
        for name, values in steps.items()
    ]
    lines = table_lines(headers, rows)
    for i, column in enumerate(columns, 1):
        values = {name: found[column] for name, found in steps.items() if found[column] is not None}
        ordered = " < ".join(activation_label(name) for name in sorted(values, key=values.get))
        lines.append(f"{'- ' if values else ''}Order at step {i}: {ordered}." if values else "")
    return [*lines, ""]


def loss_table(evidence: Evidence) -> list[str]:
    """Loss and PD of the matched study side by side."""
    cells = dict(zip(REPORT, cells_of(evidence, "matched", REPORT)))
    relu, rows = cells["relu"], []
    for name, cell in cells.items():
        row = [activation_label(name)]
        row += [with_interval(estimate(cell, m)).partition(", n")[0] for m in ("val_loss", "relative_pd")]
        if cell is relu:
            rows.append([*row, "-", "-"])
            continue
        for measure in ("val_loss", "relative_pd"):
            found = in_percent(compare_cells(cell, relu, measure), relu, measure)
            row.append(with_interval(found, 2, signed=True, unit="%").partition(", n")[0])
        rows.append(row)
    headers = ["Activation", "Validation loss", "Relative PD", "Loss against ReLU", "PD against ReLU"]
    return table_lines(headers, rows)


# --- figures ----------------------------------------------------------------------------------------------------------


def draw_figures(evidence: Evidence, tables: dict, folder: Path) -> None:
    """The figures of the document: PD as reported and as measured, and the two formulas of SmeLU."""
    import plot_utils

    plot_utils.smelu_printed_formula(folder / "smelu_printed_formula.png")
    results = [cell.result for role in ("matched", "published") for cell in evidence.cells.get(role, {}).values()]
    if results:
        plot_utils.published_against_matched(results, folder, summary_rows(evidence, tables))


# --- for the terminal -------------------------------------------------------------------------------------------------


def verdict_counts(answers: Sequence[Answer]) -> str:
    """'41 reproduced, 5 contradicted'."""
    counts = Counter(answer.verdict for answer in answers)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])


def terminal_text(evidence: Evidence, claims: Sequence[dict], answers: Sequence[Answer], tables: dict) -> str:
    """Every claim with its answer as a table, the three steps, counts of verdicts, and notes on unused studies."""
    from tabulate import tabulate

    rows = [
        [c["section"], f"{c['claim']}\n({c['id']})", c["report"], a.verdict.upper(), a.ours or "-", a.why]
        for c, a in zip(claims, answers)
    ]
    headers = ["§", "The report's claim", "Its figure", "Verdict", "Ours", "Why"]
    widths = [5, 34, 20, 13, 38, 44]
    wrapped = [
        ["\n".join(textwrap.fill(line, width) for line in text.split("\n")) for text, width in zip(row, widths)]
        for row in rows
    ]
    parts = [tabulate(wrapped, headers, tablefmt="grid", disable_numparse=True)]
    if evidence.cells.get("published"):
        parts.append(
            "Relative PD in three steps, the same two models:\n"
            + "\n".join(three_steps(evidence, tables, "relative_pd"))
        )
    parts.append(f"{len(claims)} claims: {verdict_counts(answers)}.")
    return "\n\n".join([*parts, *evidence.notes])


# --- the document -----------------------------------------------------------------------------------------------------


def markdown(evidence: Evidence, claims: Sequence[dict], answers: Sequence[Answer], tables: dict) -> str:
    """docs/audit.md."""
    lines = [
        "# The report, claim by claim",
        "",
        "*Generated by `python audit.py --write`; a test generates it again and compares.*",
        "",
        f"The report's {len(claims)} checkable claims: {verdict_counts(answers)}.",
        "",
        *_sources(evidence),
        *_if_tested(lambda: _at_a_glance(evidence, tables)),
        *_what_is_right(evidence, claims, answers),
        *_if_tested(lambda: _steps(evidence, tables)),
        *_if_tested(lambda: _loss_and_pd(evidence)),
        *_all_claims(claims, answers),
        PUBLIC_CODE.read_text(encoding="utf-8"),
        *_how(),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _if_tested(section):
    """The section's lines; [] if its evidence was not given."""
    try:
        return section()
    except Untested:
        return []


def _paragraph(text):
    return [textwrap.fill(" ".join(text.split()), 118), ""]


def _sources(evidence):
    """The studies that the answers come from."""
    names = {
        "published": "The report's protocol, repeated",
        "matched": "The matched protocol, same contexts for both models",
        "full size": "The full-size model",
    }
    lines = []
    for role, name in names.items():
        if role in evidence.cells:
            lines.append(f"- {name}: {study_line([cell.result for cell in evidence.cells[role].values()])}")
    architectures = [cells for role, cells in evidence.cells.items() if role.startswith("architecture")]
    if architectures:
        line = study_line([cell.result for cells in architectures for cell in cells.values()])
        lines.append(f"- {len(architectures)} architectures: {line}")
    if evidence.truth:
        lines.append(
            f"- The [ground truth of the quick sensitivity test](guide.md): {len(evidence.truth)} small models of text"
        )
    if evidence.timing:
        where = evidence.timing["environment"]
        lines.append(
            f"- A timing run: one process, one thread, {evidence.timing['repeats']} turns through the activations"
            f" ({where['cpu']}, torch {where['torch']})"
        )
    return ["It is answered from", "", *lines, ""] if lines else []


def _at_a_glance(evidence, tables):
    cells_of(evidence, "published", REPORT)
    lines = ["## In one table", ""]
    lines += _paragraph(
        "Relative PD (lower is more reproducible): as reported; as its protocol gives it here; of the same two models,"
        " evaluated on the same contexts; and the mean over all pairs of the matched trials."
    )
    lines += summary_table(evidence, tables)
    picture = f"{FIGURES}/charlm_cpu_published_against_matched.png"
    return [*lines, f"![Relative PD as reported and on the same contexts]({picture})", ""]


def _what_is_right(evidence, claims, answers):
    """The values that repeat, then the claims that hold."""
    lines = ["## What the report got right", ""]
    found = [(claim, answer) for claim, answer in zip(claims, answers) if answer.agreement]
    if found:
        exact, total = (sum(answer.agreement[i] for _, answer in found) for i in (0, 1))
        (cell, *_) = cells_of(evidence, "published")
        where = cell.trials[min(cell.trials)]["environment"]
        all_well = all(answer.verdict == "reproduced" for _, answer in found)
        lines += _paragraph(
            f"Its numbers. Run again with the report's protocol and seeds, {exact} of its {total} printed values are equal"
            f" to the last digit, on {where['system']} with torch {where['torch']} instead of an Apple M4 Pro with"
            f" torch 2.9.1{'; all are within the tolerances' if all_well else ''}. Few reports are reproduced this closely."
        )
        rows = [
            [
                claim["claim"].rstrip("."),
                claim["section"],
                f"{a.agreement[0]} of {a.agreement[1]}",
                f"{a.agreement[2]:.2g}",
            ]
            for claim, a in found
        ]
        headers = ["Values", "Section", "To the last digit", "Largest deviation"]
        lines += table_lines(headers, rows)
    others = [
        claim for claim, answer in zip(claims, answers) if answer.verdict == "reproduced" and not answer.agreement
    ]
    if others:
        lines += _paragraph("These claims hold as well:")
        lines += [f"- {claim['claim']} (§ {claim['section']})" for claim in others] + [""]
    return lines


def _steps(evidence, tables):
    cells_of(evidence, "published", REPORT)
    lines = ["## From one half to a tenth, in three steps", ""]
    lines += _paragraph(
        "The report trains two models per activation and evaluates each on about 1,000 random contexts of the validation"
        " text, but the second model on other contexts than the first. Its relative PD and its count of differing"
        " predictions therefore mostly measure how two random contexts in Shakespeare differ. The same trained models,"
        " measured three ways: (1) as the report did; (2) both on the same contexts, at the last position only; (3) both on"
        " the same contexts, at every position of the validation text."
    )
    lines += ["Relative PD:", "", *three_steps(evidence, tables, "relative_pd")]
    lines += ["Share of predictions that differ:", "", *three_steps(evidence, tables, "top1_disagreement")]
    lines += _paragraph(
        "Only steps 2 and 3 measure the models. Even there one pair of models per activation is one number, without an"
        " error bar, and no order can be read off it; the matched study has the error bars."
    )
    return lines


def _loss_and_pd(evidence):
    table = loss_table(evidence)
    n = min(len(cell.trials) for cell in cells_of(evidence, "matched", REPORT))
    lines = ["## Loss and reproducibility, side by side", ""]
    lines += _paragraph(
        f"How far two models agree depends on training progress: {_with_training(evidence)}. So a PD says little"
        f" without the loss. The matched study, n = {n} trials, 95% intervals:"
    )
    return [*lines, *table, *_paragraph(_movement(evidence))]


def _with_training(evidence):
    """How relative PD changes along the curves."""
    path = curves.along_training(cells_of(evidence, "matched", REPORT), "relative_pd")
    course = words.course(curves.turns(path), 4)
    return f"averaged over the activations relative PD {course} (curve windows, {len(path)} points)"


def _movement(evidence):
    """For which activations PD and loss differ from ReLU's in opposite directions."""
    opposite, together, open_ = [], [], []
    for name in REPORT:
        if name == "relu":
            continue
        signs = []
        for measure in ("val_loss", "relative_pd"):
            signs.append(judged(evidence, "matched", name, "relu", measure).sign)
        kind = open_ if None in signs else opposite if signs[0] != signs[1] else together
        kind.append(activation_label(name))
    parts = []
    if opposite:
        parts.append(f"one lower and the other higher for {', '.join(opposite)}")
    if together:
        parts.append(f"both lower or both higher for {', '.join(together)}")
    if open_:
        parts.append(f"not both shown to differ for {', '.join(open_)}")
    return f"Loss and PD against ReLU's are {'; '.join(parts)}."


VERDICT_NOTES = {
    "reproduced": "The value repeats, or the claim is shown on the matched study.",
    "artefact of the protocol": "The report's value repeats under its protocol, and is caused by it.",
    "contradicted": "The evidence, or the report's own table, shows the opposite.",
    "not reproduced": "Looked for and not there: another size, or no difference as large as the margin.",
    "inconclusive": "The evidence allows both; the seeds needed are for 80% power at the margin.",
    "untested": "Needs a study that was not given, or the report's own machine.",
}


def _all_claims(claims, answers):
    """Every claim with its answer, grouped by verdict, in the report's order."""
    lines = ["## Every claim", ""]
    for verdict in VERDICTS:
        group = [(claim, answer) for claim, answer in zip(claims, answers) if answer.verdict == verdict]
        if not group:
            continue
        lines += [f"### {verdict[0].upper()}{verdict[1:]} ({len(group)})", "", VERDICT_NOTES[verdict], ""]
        for claim, answer in group:
            ours = f" Here: {answer.ours}." if answer.ours else ""
            lines.append(f"- **§ {claim['section']}. {claim['claim']}** Report: {claim['report']}.{ours} {answer.why}")
            if claim["test"] == "printed_smelu":
                lines += [
                    "",
                    f"  ![The printed formula and the function that was run]({FIGURES}/smelu_printed_formula.png)",
                    "",
                ]
        lines.append("")
    return lines


def _how():
    lines = ["## How it was judged", ""]
    lines += _paragraph(
        "Claims and tolerances stand in `claims/claims.json`, in our own words; each names its test, a function of"
        " `claims/comparisons.py` or `claims/facts.py`. Our values come from the studies, the report's from that file. Values"
        " are compared with the published study, which follows the report's protocol draw by draw. Conclusions are"
        " judged on the matched study: paired by trial, 95% intervals over trials (t for losses; for pair measures the"
        f" U-statistic of `analysis/estimates.py`), Holm-corrected within a claim; equal means within {MARGINS.loss:g} nats,"
        f" or {100 * MARGINS.pairs:g}% of ReLU's value, by two one-sided tests. Claims are not corrected for one"
        " another: with this many, one or two of the differences called shown may be due to randomness."
    )
    return [
        *lines,
        *_paragraph(
            "To repeat it: `python run_all_experiments.py --protocol published --trials 2`, `python"
            " run_all_experiments.py`, `python run_all_experiments.py --architectures"
            " charlm,minigpt,nanotransformer,hybridlm,convlm,tinylstm --trials 5 --results-dir results/architectures`, `python"
            " audit_timing.py --repeats 4 --steps 12 --full-steps 2`, then `python audit.py results/published results"
            " results/architectures --timing results/timing.json`."
        ),
    ]
