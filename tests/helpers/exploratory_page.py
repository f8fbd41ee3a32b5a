"""The tables of docs/exploratory.md, computed from the shipped studies.

python -m tests.helpers.exploratory_page      # writes them into the page, between their markers
"""

import numpy as np

import analyze_results
from analysis import results
from analysis.contrasts import contrasts
from analysis.curves import CommonLoss, loss_at_step
from analysis.equal_loss import LOG_MARGIN
from analysis.estimates import pair_interval
from analysis.results import Cell, Margins, estimate, pair_values, primary_comparisons, reference_of
from analysis.series import truncated
from analysis.words import with_interval
from report import contrasts as report
from report import scales
from tests.helpers.answer_page import ROOT, filled, in_percent, table

PAGE = ROOT / "docs" / "exploratory.md"
REFERENCE = ROOT / "results" / "reference"
FOLDER = REFERENCE / "exploratory"
BETAS = ("0.1", "0.5", "1", "2", "4", "8")
BETA_LOSSES = (2.4, 2.15)
SOURCE_STEPS = (25, 50, 100, 200, 400, 600, 800, 1000)
SOURCES = ("init", "data", "dropout", "bit")
SIZES = ("0.1M", "0.2M", "0.4M", "0.8M", "1.6M")


def study(path):
    return analyze_results.read_study(path)


def cell_of(path, activation):
    return next(cell for cell in study(path).cells if cell.activation == activation)


def pd_at(cell: Cell, step: int):
    """Estimate of relative PD at a point of the curves."""

    def of(pair):
        return next(point["relative_pd"] for point in pair["history"] if point["step"] == step)

    return truncated(pair_interval(pair_values(cell, of)), "relative_pd")


def alike(cell: Cell, step: int) -> str | None:
    """'4 of 5 identical; 0.0211 to the other' if some trials make the same predictions: a mean over pairs would mislead."""
    values = pair_values(cell, lambda pair: next(p["relative_pd"] for p in pair["history"] if p["step"] == step))
    same = int((values == 0).sum(axis=1).max()) + 1
    if same == 1:
        return None
    n = len(values)
    return "all identical" if same == n else f"{same} of {n} identical; {np.nanmax(values):.4f} to the other"


def blocks() -> dict[str, str]:
    """Marker -> the text between it and the next <!-- end -->."""
    return {make.__name__: make() for make in (phases, sources, beta, sizes, activations)}


def phases() -> str:
    cells = study(FOLDER / "phases").cells
    steps = [point["step"] for point in cells[0].trials[1]["history"]]
    rows = [
        [
            f"{step:,}",
            *(x for c in cells for x in (with_interval(loss_at_step(c, step), 3), with_interval(pd_at(c, step), 4))),
        ]
        for step in steps
    ]
    return table(["Step", *(f"{c.label}, {what}" for c in cells for what in ("validation loss", "relative PD"))], rows)


def sources() -> str:
    """Relative PD of each source in percent of that of all; a bit's in float32 as well, of the first trials of the answer."""
    (everything,) = study(REFERENCE / "answer" / "bfloat16").cells
    columns = [(study(FOLDER / f"vary_{name}").cells[0], everything) for name in SOURCES]
    in_float32 = cell_of(REFERENCE / "answer" / "primary", "relu")
    columns.append((cell_of(FOLDER / "vary_bit_float32", "relu"), in_float32))
    rows = []
    for step in SOURCE_STEPS:
        row = [f"{step:,}", with_interval(pd_at(everything, step), 4)]
        for cell, whole in columns:
            found = pd_at(cell, step)
            share = f"{with_interval(found, 4)}: {100 * found.mean / pd_at(whole, step).mean:.2g}%"
            row.append(alike(cell, step) or share)
        rows.append(row)
    return table(
        ["Step", "All", "Initial weights", "Order of the data", "Dropout", "One bit", "One bit, float32"], rows
    )


def beta() -> str:
    cells = study(FOLDER / "beta").cells
    by_name = {cell.activation: cell for cell in cells}
    rows = [["ReLU", *["reference"] * 2, with_interval(loss_at_step(by_name["relu"], 500), 3), *["-"] * 3]]
    for value in BETAS:
        row = [value]
        for name in ("smelu_05" if value == "0.5" else f"smelu_{value}", f"smelu_{value}_centred"):
            pair = report.groups_named(cells, (name, "relu"))
            for loss in BETA_LOSSES:
                (found,) = contrasts([pair], "relative_pd", LOG_MARGIN, CommonLoss(loss))
                row.append(in_percent(found) if found.comparison.difference.n else found.comparison.verdict)
            row.append(with_interval(loss_at_step(by_name[name], 500), 3))
        rows.append(row)
    heads = [
        f"{kind}, {what}"
        for kind in ("plain", "centred")
        for what in (*(f"{x:g} nats" for x in BETA_LOSSES), "final loss")
    ]
    return table(["β", *heads], rows)


def rounding() -> str:
    """Differences in validation loss of the same trial (activation and seed) between two instruction sets or machines."""
    here, narrow, other = (
        {c.activation: c for c in study(path).cells}
        for path in (FOLDER / "cpu_avx512", FOLDER / "cpu_avx2", REFERENCE / "matched")
    )
    rows = []
    for what, first, second in (
        ("AVX-512 against AVX2, both Intel", here, narrow),
        ("AVX-512 (Intel) against AVX2 (AMD)", here, other),
    ):
        for name, cell in first.items():
            if name not in second:
                continue
            theirs = second[name].trials
            moved = np.array([abs(t["val_loss"] - theirs[k]["val_loss"]) for k, t in cell.trials.items()])
            rows.append([what, cell.label, str(len(moved)), f"{np.median(moved):.1e}", f"{moved.max():.1e}"])
    return table(["Compared", "Activation", "n", "Median", "Largest"], rows)


def one_bit() -> str:
    """Relative PD caused by the lowest bit of one weight, in float32."""
    short = [*study(REFERENCE / "vary_bit").cells, *study(FOLDER / "vary_bit_100").cells]
    rows = [["100, at 3e-4", c.label, str(len(c.trials)), f"{estimate(c, 'relative_pd').mean:.1e}"] for c in short]
    for step in (0, 100, 400, 800, 1000):
        for cell in study(FOLDER / "vary_bit_float32").cells:
            rows.append(
                [f"{step:,} of 1,000, at 1e-3", cell.label, str(len(cell.trials)), f"{pd_at(cell, step).mean:.1e}"]
            )
    return table(["Steps", "Activation", "n", "Relative PD"], rows)


def sizes() -> str:
    studies = [study(FOLDER / "sizes" / f"scale_{size}") for size in SIZES]
    rows = []
    for architecture in ("charlm", "minigpt"):
        for row in scales.rows_of(studies, architecture):
            label = next(s.architectures[architecture][0].architecture_label for s in studies)
            rows.append([label, f"{row['n_parameters']:,}", *(with_interval(row[name], 4) for name in scales.NAMES)])
        found = scales.rows_of(studies, architecture)
        trend = [
            scales.slope([r["n_parameters"] for r in found], [r[name].mean for r in found]) for name in scales.NAMES
        ]
        rows.append(
            [
                label,
                "per tenfold size",
                *(f"{with_interval(t, 4, signed=True)}: {scales.trend_verdict(t)}" for t in trend),
            ]
        )
    return table(["Architecture", "Parameters", "SD of validation loss (nats)", "SD of relative PD"], rows)


def activations() -> str:
    """Every activation minus ReLU after 300 steps, sorted by the loss in CharLM."""
    by_architecture = study(FOLDER / "activations").architectures
    rows: dict[str, list] = {}
    for cells in by_architecture.values():
        reference = reference_of(cells)
        found = primary_comparisons(cells, Margins())
        for cell in sorted(cells, key=lambda c: estimate(c, "val_loss").mean):
            row = rows.setdefault(cell.activation, [cell.label])
            row += [with_interval(estimate(cell, name), 3) for name in ("val_loss", "relative_pd")]
            if cell is reference:
                row += ["reference"] * 2
                continue
            loss, pd = (found[cell.activation, name] for name in ("val_loss", "relative_pd"))
            row += [loss.verdict, f"{with_interval(results.in_percent(pd, reference, 'relative_pd'), 0, signed=True)}%"]
    heads = [
        f"{cells[0].architecture_label}, {what}"
        for cells in by_architecture.values()
        for what in ("loss", "relative PD", "loss against ReLU", "relative PD against ReLU")
    ]
    return table(["Activation", *heads], list(rows.values()))


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), blocks()), encoding="utf-8")
