"""Tables of docs/diagnostics.md, computed from the shipped measurements.

python -m tests.helpers.diagnostics_page      # writes them into the page, between their markers
"""

import json
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np

import analyze_results
from analysis.labels import architecture_label
from report.diagnostics import branch_table
from study import diagnose
from tests.helpers.answer_page import ROOT, filled, table

PAGE = ROOT / "docs" / "diagnostics.md"
FOLDER = ROOT / "results" / "reference" / "diagnostics"
STEPS = (0, 30, 100, 200, 300)
KEY = re.compile(r"(\w+) (\w+) trial (\d+), (\w+) trial (\d+)")
ACTIVATIONS = ("smelu_1_centred", "relu", "gelu", "swish")


def blocks(plots: Path) -> dict[str, str]:
    """Marker -> the text between it and the next <!-- end -->."""
    return {"barriers": barriers(), "branch": branch(plots)}


def barriers() -> str:
    """Means over activations and pairs, with the smallest and the largest."""
    entries = json.loads((FOLDER / "diagnostics.json").read_text(encoding="utf-8"))["entries"]
    found: dict[str, dict[str, list[float]]] = {}
    for key, measured in entries.items():
        if (match := KEY.fullmatch(key)) and match[1].startswith("barrier") and "values" in measured:
            architecture = next(match[2].removesuffix(f"_{a}") for a in ACTIVATIONS if match[2].endswith(f"_{a}"))
            kind = "across" if match[2] != match[4] else match[1]
            found.setdefault(architecture, {}).setdefault(kind, []).append(measured["values"]["barrier"])
    rows = [
        [
            architecture_label(name).replace("_", " "),
            *(_range(of.get(k)) for k in ("barrier", "barrier_after_matching", "across")),
        ]
        for name, of in found.items()
    ]
    heads = ["Architecture", "Two trials", "After matching", "Two activations, same trial"]
    return table(heads, rows)


def _range(values):
    return "-" if not values else f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f}; {len(values)})"


def branch(plots: Path) -> str:
    measured = []
    for step in STEPS:
        folder = FOLDER / f"branch_{step}"
        study = analyze_results.read_study(folder)
        measured.append((study, diagnose.entries(study, ["barrier"]), diagnose.read(folder, study)))
    return branch_table(measured, plots).partition("\n\nFigure:")[0]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as plots:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), blocks(Path(plots))), encoding="utf-8")
        shutil.copy(next(Path(plots).glob("*_barriers.png")), ROOT / "docs" / "figures" / "barriers.png")
