"""The tables of docs/answer.md and README's first screen, computed from the shipped studies.

python -m tests.helpers.answer_page      # writes them into the pages, between their markers
"""

import re
from pathlib import Path

import numpy as np

import analyze_results
from analysis.contrasts import Contrast, contrasts, learning_rate
from analysis.curves import CommonLoss, log_ratios
from analysis.equal_loss import LOG_MARGIN
from analysis.pooled import rows
from analysis.results import MEASURES, Margins, pair_values
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
RATES = (
    *((f"{name}={rate}", f"{name}=1e-3") for name in ("relu", "smelu_1_centred") for rate in ("5e-4", "2e-3")),
    *((f"smelu_1_centred={rate}", f"relu={rate}") for rate in ("5e-4", "1e-3", "2e-3")),
)
COMMON = CommonLoss(2.05, last_step=800)
LOSSES = (2.02, 2.05, 2.1, 2.15)
FULL_SIZE = (("swish", "relu"), ("smelu_1_centred", "relu"))
FULL_SIZE_LOSSES = (1.7, 1.6, 1.55, 1.52)
OTHER_MEASURES = ("relative_pd", "top1_disagreement", "js_divergence", "symmetric_kl")
STEPS = ((400, 475), (500, 575), (600, 675), (700, 800))  # ranges of the curve's steps, at equal numbers of steps


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
    stored = [(name, "2.05 nats", COMMON) for name in OTHER_MEASURES[:2]]  # the others have no curve
    stored += [(name, "the end", None) for name in OTHER_MEASURES]
    made["measures"] = table(
        ["Metric", *header[1:]],
        [
            [f"{MEASURES[name].label}, {at}", *map(in_percent, found_at(cells, name, common))]
            for name, at, common in stored
        ],
    )
    made["along"] = table(
        ["Steps", *header[1:]],
        [
            *([f"{a} to {b}", *map(in_percent, at_steps(family(cells), a, b))] for a, b in STEPS),
            ["1,000, after the cooldown", *map(in_percent, found_at(cells, common=None))],
        ],
    )
    made["summary"] = summary(cells, cells_of("primary", "secondary"))
    joined = studies("primary", "secondary")
    ends = report.endpoints(joined, OWN_RATES, Margins(), COMMON)
    made["own rates"] = report.text(report.cells_used(joined, ends), ends, Margins())
    arms = cells_of("primary", "secondary", "rate_5e-4", "rate_2e-3")
    made["rates"] = table(
        ["Relative PD", "n", "2.05 nats", "end of training"],
        [
            [
                " / ".join(first.names)
                + (
                    f", both at {learning_rate(first.groups[0][0]):g}"
                    if pair[1].startswith("relu") and pair[0].startswith("smelu")
                    else ""
                ),
                str(end.comparison.difference.n),
                in_percent(first) if first.comparison.difference.n else first.comparison.verdict,
                in_percent(end),
            ]
            for pair, first, end in zip(
                RATES, *(found_at(arms, common=common, named=RATES) for common in (COMMON, None))
            )
        ],
    )
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


def in_percent(contrast) -> str:
    """A Contrast's or Comparison's difference."""
    return report.in_percent(getattr(contrast, "comparison", contrast).difference)


def at_steps(contrasts_of, first, last):
    """The contrasts at equal numbers of steps: the geometric mean of relative PD over a range of the curve's steps."""

    def read(cell, numbers):
        def over_the_range(pair):
            logs = [np.log(point["relative_pd"]) for point in pair["history"] if first <= point["step"] <= last]
            return float(np.exp(np.mean(logs)))

        return pair_values(cell, over_the_range, numbers), []

    return log_ratios(contrasts_of, read, LOG_MARGIN)


def summary(one_rate, tuned) -> str:
    """The four contrasts in the primary and the secondary study, at the common loss and at the end of training."""

    def line(title, cells, common, named=CONTRASTS):
        found = found_at(cells, common=common, named=named)
        return [title, *(f"{in_percent(c)}, {c.comparison.verdict}" for c in found)]

    return table(
        ["", *(" / ".join(c.names) for c in found_at(one_rate))],
        [
            line("one rate, 2.05 nats (n = 20)", one_rate, COMMON),
            line("one rate, end of training (n = 20)", one_rate, None),
            line("tuned rates, 2.05 nats (n = 12)", tuned, COMMON, OWN_RATES),
            line("tuned rates, end of training (n = 12)", tuned, None, OWN_RATES),
        ],
    )


def pooled_studies():
    """Every shipped study on CPUs in float32 that varies everything and has 5 trials or more; no trial twice."""
    folders = [FOLDER.parent / name for name in ("replication", "longer", "architectures")]
    folders += [FOLDER / "primary", FOLDER / "primary_2", FOLDER / "secondary", *sorted(FOLDER.glob("rate_*"))]
    return [analyze_results.read_study(path) for path in folders]


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
