"""The section on a task's own score, where loss and accuracy do not say how good a model is."""

from analysis import significance
from analysis.results import compare_cells, estimate, score_sensitivity
from analysis.words import with_interval
from report.document import Section, Table
from report.view import View, counted, headed, shown

BESIDE = ("relative_pd", "top1_disagreement")


def score(view: View) -> Section | None:
    """The score of each activation beside its disagreement; the margin is that of pair metrics, 5% of the reference's."""
    scores = [record["score"] for cell in view.cells for record in cell.trials.values() if record.get("score")]
    if not scores:
        return None
    reference = view.reference
    name, margin, overall = score_sensitivity(view.cells, view.margins)
    found = [compare_cells(cell, reference, "score") for cell in view.compared]
    judged = dict(zip(view.compared, significance.verdicts(found, [margin] * len(found))))
    rows = []
    for cell in view.cells:
        row = [cell.label, str(len(cell.trials)), with_interval(estimate(cell, "score"), 2)]
        row += [shown(cell, beside) for beside in BESIDE]
        if view.compared:
            compared = judged.get(cell)
            row += (
                [with_interval(compared.difference, 2, signed=True), compared.verdict_text]
                if compared
                else ["", "reference"]
            )
        rows.append(row)
    label = name[0].upper() + name[1:]
    headers = ["Activation", "n", label, *map(headed, BESIDE)]
    headers += [f"Minus {reference.label}", "Verdict"] if view.compared else []
    better = "higher" if scores[0]["higher_is_better"] else "lower"
    caption = f"{label} ({better} is better), mean over trials with its 95% interval ({counted(view.cells)})."
    sentences = [note] if (note := reference.result["task"].get("note")) else []
    if view.compared and margin is not None:
        caption += f" The margin is {view.margins.pairs:.0%} of {reference.label}'s: {margin:.2f}."
        sentences.append(f"Does the choice of activation matter? {label}: **{overall.verdict_text}**.")
    return Section(f"{label} and disagreement", [*sentences, Table(headers, rows, caption)], brief=True)
