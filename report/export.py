"""A study as files for other tools: trials.csv, pairs.csv and curves.csv with one row per observation, and tables.tex.

Columns are documented in docs/results-format.md. A missing value is an empty field. Numbers have all of their digits.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tabulate import LATEX_ESCAPE_RULES, tabulate

import metrics
from analysis.results import Cell, Study
from common.files import write_atomically
from report.document import Document, Table, plain

CELL = ("study", "architecture", "activation")
TRIAL = (
    *("trial", "seed", "status", "train_loss", "val_loss", "train_accuracy", "val_accuracy"),
    *("training_time_s", "evaluation_time_s", "weights_sha256"),
)
PAIR = ("trial_a", "trial_b", *metrics.METRICS)
CURVE = ("trial", "trial_b", "step", "measure", "value")


def export(studies: Sequence[Study], document: Document, folder: Path) -> list[Path]:
    """Writes the four files to a folder, creating it, and returns their paths."""
    cells = [({"study": s.folder, **_names(cell)}, cell) for s in studies for cell in s.cells]
    pair_columns = [*PAIR, *_further(cells)]
    contents = {
        "trials.csv": _csv((*CELL, *TRIAL), (name | trial for name, cell in cells for trial in cell.result["trials"])),
        "pairs.csv": _csv((*CELL, *pair_columns), (name | pair for name, cell in cells for pair in _pairs(cell))),
        "curves.csv": _csv((*CELL, *CURVE), (name | point for name, cell in cells for point in _points(cell))),
        "tables.tex": latex(document),
    }
    for name, text in contents.items():
        write_atomically(folder / name, text.encode())
    return [folder / name for name in contents]


def _names(cell):
    return {"architecture": cell.architecture, "activation": cell.activation}


def _csv(columns: Sequence[str], rows: Iterable[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _pairs(cell: Cell) -> Iterator[dict]:
    """The pairs of a result; values of the published protocol have the prefix `published_`."""
    published = {(p["trial_a"], p["trial_b"]): p for p in cell.result.get("published_pairs") or []}
    for pair in cell.result["pairs"]:
        other = published.get((pair["trial_a"], pair["trial_b"]), {})
        yield pair | {f"published_{name}": x for name, x in other.items() if name not in ("trial_a", "trial_b")}


def _further(cells) -> list[str]:
    """Names of further fields of pairs: values at the last position, and of the published protocol."""
    names = dict.fromkeys(name for _, cell in cells for pair in _pairs(cell) for name in pair)
    return [name for name in names if name not in PAIR and name != "history"]


def _points(cell: Cell) -> Iterator[dict]:
    """The curves of trials (with probes) and of pairs: one row per step and measure."""
    for trial in cell.result["trials"]:
        yield from _history({"trial": trial["trial"]}, trial["history"])
    for pair in cell.result["pairs"]:
        yield from _history({"trial": pair["trial_a"], "trial_b": pair["trial_b"]}, pair["history"])


def _history(whose: dict, history: list[dict]) -> Iterator[dict]:
    for point in history:
        probes = {f"{probe}.{key}": x for probe, xs in point.get("probes", {}).items() for key, x in xs.items()}
        for measure, value in {**point, **probes}.items():
            if measure not in ("step", "probes"):
                yield whose | {"step": point["step"], "measure": measure, "value": value}


# --- LaTeX ----------------------------------------------------------------------------------------------------------

SYMBOLS = {"β": r"$\beta$", "±": r"$\pm$", "−": "$-$", "∞": r"$\infty$", "×": r"$\times$", "…": r"\ldots{}"}


def latex(document: Document) -> str:
    """The tables of a document, except those of folded sections, in booktabs style."""
    tables = [
        _latex_table(table, f"tab:{section.slug}-{number}")
        for section in document.sections
        for number, table in enumerate(section.all(Table), 1)
        if table.rows and not section.folded
    ]
    return "\n".join(["% \\usepackage{booktabs}", *tables])


def _latex_table(table: Table, label: str) -> str:
    rows = [[plain(cell) for cell in row] for row in table.rows]
    body = tabulate(rows, table.headers, "latex_booktabs", disable_numparse=True, colalign=table.aligned)  # it escapes
    caption = "".join(LATEX_ESCAPE_RULES.get(character, character) for character in plain(table.caption))
    text = f"\\caption{{{caption}}}\n\\label{{{label}}}\n{body}"
    text = re.sub(r"(^|[\s(\[])-(?=\d)", r"\1$-$", text)
    for symbol, command in SYMBOLS.items():
        text = text.replace(symbol, command)
    return f"\\begin{{table}}\n\\centering\n{text}\n\\end{{table}}\n"
