"""The tables and the figure of docs/domains.md, computed from the shipped studies.

python -m tests.helpers.domains_page      # writes them into the page, between their markers
"""

import json

import analyze_results
from analysis.results import Margins
from report import across
from tests.helpers.answer_page import ROOT, filled, table

PAGE = ROOT / "docs" / "domains.md"
FOLDER = ROOT / "results" / "reference" / "domains"


def studies():
    """All studies of the folder, in the order of the page."""
    order = ("digits", "fashion", "vowels", "wave", "spoken", "cora", "cartpole")
    return [analyze_results.read_study(FOLDER / name) for name in order if (FOLDER / name).is_dir()]


def blocks() -> dict[str, str]:
    """Marker -> the text between it and the next <!-- end -->."""
    return {"studies": across.table(across.comparable(studies()), Margins()), "tuning": tuning()}


def tuning() -> str:
    """Means over two trials of the validation loss (of the score, for control) at each learning rate."""
    found = json.loads((FOLDER / "tuning.json").read_text())
    rows = [
        [name, architecture, "; ".join(f"{float(rate):g}: {value:.4g}" for rate, value in by_rate.items())]
        for name, of in found.items()
        for architecture, by_rate in of.items()
    ]
    return table(["Study", "Architecture", "Learning rate: mean"], rows)


def draw():
    """The figure of the page."""
    from figures.across_studies import pd_by_task

    groups = across.comparable(studies())
    results = [cell.result for cells in groups for cell in cells]
    return pd_by_task(results, ROOT / "docs" / "figures", groups, Margins())


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), blocks()), encoding="utf-8")
    print(draw())
