"""Does the activation matter less in larger models? Sensitivity against size, from the studies of a sweep.

    python analyze_results.py --scales results/scale_1M results/scale_2M results/scale_5M

At each size and for each architecture, sensitivity is the standard deviation between the activations' true means
(sensitivity.between_group_sd) of validation loss and of relative PD. The trend is the slope of this SD against log10 of
the number of parameters: ordinary least squares, with Student's t interval from the residuals. The residuals contain
both the noise of the estimates and deviations from a line, so the intervals of the single sizes are not used. The SD is
fitted, not its logarithm, because it can be estimated as zero.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analysis.estimates import Estimate
from analysis.labels import activation_label, architecture_label
from analysis.results import MEASURES, Cell, Margins, Study, activation_sensitivity
from analysis.words import decimals_for, interval, listing, number, plural, with_interval
from architectures.sizes import FIELDS
from common import storage
from common.errors import UserError
from figures.of_analysis import sensitivity_against_size
from report.document import Document, Figure, Section, Table, publish
from report.several_studies import check_alike
from report.view import difference

FILES = ("SCALES.md", "scales.html")
NAMES = ("val_loss", "relative_pd")
FEWEST_SIZES = 3


def slope(sizes: Sequence[int], values: Sequence[float | None], confidence: float = 0.95) -> Estimate:
    """The change of a value per tenfold number of parameters; least squares, Student's t with S - 2 degrees of freedom.

    sizes, values: S of each; missing values (None) are skipped. Assumes independent residuals of equal variance around a
    straight line in log10(size). `n` of the result counts sizes, not trials.
    """
    from scipy.special import stdtrit

    method = "least squares on log10 of the number of parameters, Student's t over sizes"
    kept = [(math.log10(size), value) for size, value in zip(sizes, values) if value is not None]
    if len(kept) < FEWEST_SIZES:
        return Estimate(None, None, len(kept), None, None, None, None, method, f"fewer than {FEWEST_SIZES} sizes")
    x, y = np.array(kept).T
    x = x - x.mean()
    df, mean = len(kept) - 2, float(x @ y / (x @ x))
    residuals = y - y.mean() - mean * x
    error = math.sqrt(float(residuals @ residuals) / df / float(x @ x))
    reach = float(stdtrit(df, (1 + confidence) / 2)) * error
    return Estimate(mean, None, len(kept), mean - reach, mean + reach, df, error, method, None, None, confidence)


def trend_verdict(trend: Estimate) -> str:
    """'falls', 'rises' or 'inconclusive', from the interval of a slope."""
    if trend.low is None or trend.low <= 0 <= trend.high:
        return "inconclusive"
    return "falls" if trend.high < 0 else "rises"


def check_one_sweep(studies: Sequence[Study]) -> None:
    """Raises UserError unless the studies differ only in the fields set by the size."""
    check_alike(studies, _but_for_size, "are not of one sweep", ", ".join(FIELDS))


def _but_for_size(study):
    config = {name: value for name, value in study.identity["config"].items() if name not in FIELDS}
    return {**study.identity, "config": config}


def common_activations(studies: Sequence[Study], architecture: str) -> list[str]:
    """The activations with a complete trial at every size at which the architecture was trained."""
    sets = [
        [cell.activation for cell in study.architectures[architecture] if cell.trials]
        for study in studies
        if architecture in study.architectures
    ]
    return [name for name in sets[0] if all(name in others for others in sets)]


def size_of(cells: Sequence[Cell]) -> int:
    """The number of parameters of an architecture in one study: the smallest, since some activations have parameters."""
    return min(cell.result["n_parameters"] for cell in cells)


def rows_of(studies: Sequence[Study], architecture: str) -> list[dict]:
    """{n_parameters, measure: between-activation SD (an Estimate)} of each size, in order.

    Uses the activations that all sizes have, since the SD of another set would be another quantity.
    """
    wanted, rows = common_activations(studies, architecture), []
    for study in studies:
        cells = [cell for cell in study.architectures.get(architecture, ()) if cell.activation in wanted]
        if len(cells) < 2:
            continue
        found = activation_sensitivity(cells, Margins())
        rows.append({"n_parameters": size_of(cells), **{name: found[name].between_sd for name in NAMES}})
    return sorted(rows, key=lambda row: row["n_parameters"])


# --- the document ---------------------------------------------------------------------------------------------------


def build(studies: Sequence[Study]) -> Document:
    """The document of a sweep."""
    check_one_sweep(studies)
    names = list(dict.fromkeys(name for study in studies for name in study.architectures))
    tables = {name: rows_of(studies, name) for name in names}
    if not any(tables.values()):
        raise UserError("sensitivity needs two activations that every size has; these studies have no such two")
    sections = [_answer(tables), *(_section(studies, name, rows) for name, rows in tables.items() if rows), _methods()]
    identity = studies[0].identity
    subtitle = (
        f"Corpus: {studies[0].corpus_label} · {identity['protocol']} protocol · {plural(len(studies), 'size')} ·"
        f" {identity['config']['max_iters']:,} training steps · {identity['device']}"
    )
    return Document("Sensitivity to the activation, against size", subtitle, sections)


def _answer(tables):
    items = []
    for architecture, rows in tables.items():
        if not rows:
            items.append(f"{architecture_label(architecture)}: no two activations at every size, so no answer.")
            continue
        for name in NAMES:
            trend = slope([row["n_parameters"] for row in rows], [row[name].mean for row in rows])
            items.append(f"{architecture_label(architecture)}, {MEASURES[name].label}: {_in_words(name, trend, rows)}")
    return Section("Does sensitivity fall with size?", [items], brief=True)


def _in_words(name, trend, rows):
    if trend.mean is None:
        return f"**inconclusive**: {trend.reason}; a slope and its uncertainty need at least {FEWEST_SIZES}."
    unit = f" {MEASURES[name].unit}" if MEASURES[name].unit else ""
    decimals = decimals_for(trend, 5)
    counted = f"{plural(trend.n, 'size')}, n = {listing(sorted({str(row[name].n) for row in rows}))} trials at each"
    found = trend_verdict(trend)
    how = {"falls": "**falls with size**", "rises": "**rises with size**", "inconclusive": "**inconclusive**"}[found]
    text = f"{how}: {number(trend.mean, decimals, True)} {interval(trend, decimals, True)}{unit} per tenfold size"
    return f"{text} (95% interval; {counted})" + (", which includes no change." if found == "inconclusive" else ".")


def _section(studies, architecture, rows):
    label = architecture_label(architecture)
    names = listing([activation_label(name) for name in common_activations(studies, architecture)])
    headers = ["Parameters", "n", *(f"SD of {MEASURES[name].in_text}" for name in NAMES)]
    cells = [
        [
            f"{row['n_parameters']:,}",
            str(row["val_loss"].n),
            *(with_interval(row[name], decimals_for(row[name], MEASURES[name].decimals)) for name in NAMES),
        ]
        for row in rows
    ]
    caption = (
        f"Between-activation SD of {names}, sampling variance subtracted, with its 95% interval (noncentral chi-square, trials"
        " as blocks); n: trials that all of them have."
    )
    claims = {}
    for name in NAMES:
        trend = slope([row["n_parameters"] for row in rows], [row[name].mean for row in rows])
        change = f" ({difference(trend, name)} per tenfold size)" if trend.mean is not None else ""
        claims[name] = f"{MEASURES[name].label}: {trend_verdict(trend)}{change}"
    results = [cell.result for study in studies for cell in study.architectures.get(architecture, ())]
    figure = Figure(f"{label}: sensitivity against size. {caption}", sensitivity_against_size, results, (rows, claims))
    return Section(label, [Table(headers, cells, caption), figure], brief=True)


def _methods():
    items = [
        "Sensitivity is the standard deviation between the activations' true means; sampling variance is subtracted, so it"
        " can be zero.",
        "Trend: slope of this SD on log10 of the number of parameters, least squares, Student's t interval from the scatter of"
        " the sizes around the line (sizes - 2 degrees of freedom). It falls or rises where the interval excludes zero, else"
        " it is inconclusive.",
        "Width, depth and learning rate change with the size by the rules in architectures/sizes.py; steps, batch and data do"
        " not, so models of different sizes may end at different distances from convergence. A trend is that of this recipe,"
        " not of size alone.",
    ]
    return Section("Methods", [items], brief=True)


def publish_scales(studies: Sequence[Study], plots_dir: Path | None, draw: bool) -> int:
    """Prints the document of a sweep and writes it next to the studies' folders, figures to their plots/ folder."""
    folder = Path(studies[0].folder).parent
    plots = (plots_dir or storage.sibling(folder, "plots")) if draw else None
    return 0 if publish(build(studies), folder, FILES, plots) else 1
