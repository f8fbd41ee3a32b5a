"""The tables of docs/answer.md and README's first screen, computed from the shipped studies.

python -m tests.helpers.answer_page      # writes them into the pages, between their markers
"""

import re
from pathlib import Path

import analyze_results
from analysis.contrasts import Contrast, contrasts
from analysis.curves import CommonLoss
from analysis.equal_loss import LOG_MARGIN
from analysis.pooled import rows
from analysis.results import MEASURES, Margins
from report import contrasts as report
from report import pooled

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "results" / "reference" / "answer"
GROUPS = ("primary", "primary_2")
CONTRASTS = (("gelu", "relu"), ("swish", "relu"), ("smelu_1_centred", "relu"), ("smelu_1", "smelu_1_centred"))
OWN_RATES = (
    ("gelu", "relu=2e-3"),
    ("swish", "relu=2e-3"),
    ("smelu_1_centred", "relu=2e-3"),
    ("smelu_1=2e-3", "smelu_1_centred"),
)
RATES = tuple((f"{name}={rate}", f"{name}=1e-3") for name in ("relu", "smelu_1_centred") for rate in ("5e-4", "2e-3"))
COMMON = CommonLoss(2.05, last_step=800)
LOSSES = (2.02, 2.05, 2.1, 2.15)
FULL_SIZE = (("swish", "relu"), ("smelu_1_centred", "relu"))
FULL_SIZE_LOSSES = (1.7, 1.6, 1.55, 1.52)
OTHER_MEASURES = ("relative_pd", "top1_disagreement", "js_divergence", "symmetric_kl")


def studies(*names):
    return [analyze_results.read_study(FOLDER / name) for name in names if (FOLDER / name / "study.json").exists()]


def family(cells, named=CONTRASTS) -> list[list[tuple]]:
    """The groups of each contrast of the primary study."""
    return [report.groups_named(cells, pair) for pair in named]


def cells_of(*names):
    return [cell for study in studies(*names) for cell in study.cells]


def found_at(cells, name="relative_pd", common=COMMON, named=CONTRASTS) -> list[Contrast]:
    return contrasts(family(cells, named), name, LOG_MARGIN, common)


def blocks() -> dict[str, str]:
    """Marker -> the text between it and the next <!-- end -->."""
    primary, cells = studies(*GROUPS), cells_of(*GROUPS)
    found = report.endpoints(primary, CONTRASTS, Margins(), COMMON)
    made = {"contrasts": report.text(report.cells_used(primary, found), found, Margins())}
    made["means"] = report.means_table(report.cells_used(primary, found))
    header = ["Common loss", *(" / ".join(c.names) for c in found_at(cells))]
    made["losses"] = table(
        header,
        [
            [
                f"{loss:g}",
                *(
                    f"{report.in_percent(c.comparison.difference)}, {c.comparison.verdict}"
                    for c in found_at(cells, common=CommonLoss(loss, last_step=800))
                ),
            ]
            for loss in LOSSES
        ],
    )
    made["measures"] = table(
        ["At the end of training", *header[1:]],
        [
            [MEASURES[name].label, *(report.in_percent(c.comparison.difference) for c in found_at(cells, name, None))]
            for name in OTHER_MEASURES
        ],
    )
    for block, others, named in (
        ("own rates", ("secondary",), OWN_RATES),
        ("rates", ("secondary", "rate_5e-4", "rate_2e-3"), RATES),
    ):
        joined = studies("primary", *others)
        if len(joined) == 1 + len(others):
            ends = report.endpoints(joined, named, Margins(), COMMON)
            made[block] = report.text(report.cells_used(joined, ends), ends, Margins())
    made["pooled"] = pooled.factor_table(rows(pooled_studies()))
    made["full size"] = full_size()
    return made


def full_size() -> str:
    """The contrasts of the full-size study at several losses and at the end of training."""
    cells = analyze_results.read_study(FOLDER.parent / "full_size").cells
    lines = []
    for at in (*FULL_SIZE_LOSSES, None):
        found = found_at(cells, common=at and CommonLoss(at), named=FULL_SIZE)
        values = (f"{report.in_percent(c.comparison.difference)}, {c.comparison.verdict}" for c in found)
        lines.append([f"{at:g} nats" if at else "end of training", *values])
    return table(["At", *(" / ".join(c.names) for c in found)], lines)


def pooled_studies():
    """Every shipped study of CharLM and its rivals that varies everything, tuning included."""
    folders = [FOLDER.parent / name for name in ("matched", "longer", "architectures")]
    folders += [FOLDER / "primary", FOLDER / "secondary", *sorted(FOLDER.glob("rate_*"))]
    return [analyze_results.read_study(path) for path in (*folders, *sorted((FOLDER / "tuning").iterdir()))]


def table(header, rows) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, [":--"] * len(header), *rows))


def filled(page: str, made: dict[str, str]) -> str:
    """A page with its blocks replaced."""
    for name, text in made.items():
        page = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda m, text=text: f"{m[1]}{text}\n{m[2]}",
            page,
            flags=re.DOTALL,
        )
    return page


if __name__ == "__main__":
    made = blocks()
    for path in (ROOT / "docs" / "answer.md", ROOT / "README.md"):
        path.write_text(filled(path.read_text(encoding="utf-8"), made), encoding="utf-8")
