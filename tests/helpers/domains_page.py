"""The tables and the figure of docs/domains.md, computed from the shipped studies.

python -m tests.helpers.domains_page      # writes them into the page, between their markers
"""

import json
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

import analyze_results
from analysis.results import Margins, Study, estimate, reference_of
from report import across
from tests.helpers.answer_page import ROOT, filled, table

PAGE = ROOT / "docs" / "domains.md"
FIGURES = ROOT / "docs" / "figures"
FOLDER = ROOT / "results" / "reference" / "domains"
STUDIES = ("digits", "fashion", "vowels", "spoken", "wave", "cora", "cartpole")  # in the order of the page
LEVELS = {"digits": 97, "fashion": 90, "spoken": 95, "cora": 80, "cartpole": 475}  # accuracy in %, or mean return


def studies() -> dict[str, Study]:
    return {name: analyze_results.read_study(FOLDER / name) for name in STUDIES}


def blocks() -> dict[str, str]:
    """Marker -> the text between it and the next <!-- end -->."""
    found = studies()
    return {
        "studies": across.table(across.comparable(list(found.values())), Margins()),
        "levels": levels(found),
        "loss": loss_and_pd(found),
        "laws": laws(),
        "tuning": tuning(),
    }


def best(study: Study) -> tuple[str, float]:
    """(model, its mean accuracy in percent, or mean score) of the cell with the highest."""
    scored = any(trial.get("score") for cell in study.cells for trial in cell.trials.values())
    name, unit = ("score", 1) if scored else ("val_accuracy", 100)
    means = {f"{c.architecture_label}, {c.label}": estimate(c, name).mean * unit for c in study.cells}
    return max(means.items(), key=lambda item: item[1])


def levels(found) -> str:
    """The best model of each study that has a level to reach."""
    rows = [[name, f"{level}", f"{best(found[name])[1]:.1f}", best(found[name])[0]] for name, level in LEVELS.items()]
    return table(["Study", "Level", "Reached", "By"], rows)


def ratios(found) -> dict[str, list[tuple[str, float, float]]]:
    """Architecture -> (activation, log loss ratio, log relative PD ratio) of every other activation to ReLU.

    Without control, whose losses say how much a policy acts like a reference.
    """
    rows = {}
    for name, study in found.items():
        for architecture, cells in study.architectures.items() if name != "cartpole" else ():
            loss, pd = ({c: estimate(c, measure).mean for c in cells} for measure in ("val_loss", "relative_pd"))
            relu = reference_of(cells)
            others = [c for c in cells if c is not relu]
            rows[f"{name}: {architecture}"] = [
                (c.activation, math.log(loss[c] / loss[relu]), math.log(pd[c] / pd[relu])) for c in others
            ]
    return rows


def loss_and_pd(found, resamples=4999) -> str:
    """Spearman's correlation of the two ratios, all activations and without uncentred SmeLU, bootstrapped over architectures."""
    of, rng = list(ratios(found).values()), np.random.default_rng(0)
    rows = []
    for label, left_out in (("all", ()), ("without SmeLU β=1, not centred", ("smelu_1",))):
        groups = [[(x, y) for name, x, y in group if name not in left_out] for group in of]
        points = np.array([point for group in groups for point in group])
        drawn = rng.integers(len(groups), size=(resamples, len(groups)))
        draws = [spearmanr(*np.array([point for k in row for point in groups[k]]).T).statistic for row in drawn]
        low, high = np.quantile(draws, (0.025, 0.975))
        rows.append(
            [
                label,
                str(len(points)),
                str(len(groups)),
                f"{spearmanr(*points.T).statistic:+.2f} [{low:+.2f}, {high:+.2f}]",
            ]
        )
    return table(["Activations", "Comparisons with ReLU", "Architectures", "Rank correlation"], rows)


def laws() -> str:
    """The two laws of runs that differ in their seed, from the comparison of the exported predictions."""
    variants = json.loads((FOLDER / "fashion_comparison.json").read_text(encoding="utf-8"))["variants"]
    rows = []
    for name, of in variants.items():
        error, sd = of["laws"]["disagreement_minus_error"], of["laws"]["sd"]
        disagreement = of["summary"]["top1_disagreement"]
        accuracy = of["summary"]["accuracy"]["mean"]
        rows.append(
            [
                {"relu": "ReLU", "gelu": "GELU"}[name],
                f"{1 - accuracy:.4f}",
                _interval(disagreement, 4),
                _interval(error, 4),
                _interval(sd, 4),
                f"{of['laws']['sd_if_independent']:.4f} (p = {of['laws']['p']:.2f})",
                f"{of['laws']['sd_if_calibrated']:.4f}",
            ]
        )
    heads = [
        "CNN with",
        "Error",
        "Disagreement",
        "minus error",
        "SD of accuracy",
        "if independent",
        "if calibrated too",
    ]
    return table(heads, rows)


def _interval(found, decimals):
    low, high = found["ci95"] if "ci95" in found else (found["low"], found["high"])
    return f"{found['mean']:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"


def tuning() -> str:
    """Means over two trials of the validation loss (of the score, for control) at each learning rate."""
    found = json.loads((FOLDER / "tuning.json").read_text(encoding="utf-8"))
    rows = [
        [name, architecture, "; ".join(f"{float(rate):g}: {value:.4g}" for rate, value in by_rate.items())]
        for name in STUDIES
        for architecture, by_rate in found[name].items()
    ]
    return table(["Study", "Architecture", "Learning rate: mean of two trials"], rows)


def draw(folder: Path) -> Path:
    """The first figure of the page."""
    from figures.across_studies import pd_by_task

    groups = across.comparable(list(studies().values()))
    return pd_by_task([cell.result for cells in groups for cell in cells], folder, groups, Margins())


def draw_loss_and_pd(path: Path) -> None:
    """The second figure of the page: relative PD against the loss, both in percent of ReLU's."""
    import matplotlib

    from analysis.labels import short_label
    from figures.style import FAINT, INK, STYLE, add_title, legend_at_right, panels, point_style, save

    with matplotlib.rc_context(STYLE):
        drawn, ((ax,),) = panels(3.2, width=6.2)
        ax.axhline(100, color=INK, linewidth=0.6)
        ax.axvline(100, color=INK, linewidth=0.6)
        for group in ratios(studies()).values():
            ends = [(100.0, 100.0), *((100 * math.exp(x), 100 * math.exp(y)) for _, x, y in group)]
            for (name, _, _), (x, y) in zip(group, ends[1:]):
                ax.plot([100, x], [100, y], color=FAINT, linewidth=0.7, zorder=0)
                ax.plot(x, y, **point_style(name))
        for name in ("gelu", "swish", "smelu_1_centred", "smelu_1"):
            ax.plot([], [], **point_style(name), label=short_label(name))
        ax.set(xscale="log", yscale="log", xlabel="validation loss, % of ReLU's", ylabel="relative PD, % of ReLU's")
        for axis, ticks in ((ax.xaxis, (70, 100, 140, 200)), (ax.yaxis, (80, 100, 140, 200))):
            axis.set_ticks(ticks, [str(tick) for tick in ticks])
            axis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        legend_at_right(ax)
        add_title(
            drawn,
            "Where an activation changes the loss, it changes relative PD",
            "Lines lead from an architecture's ReLU to its other activations · end of training · n = 10 trials, wave 5",
        )
        save(drawn, path)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), blocks()), encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(draw(Path(folder)), FIGURES / "domains.png")
    draw_loss_and_pd(FIGURES / "domains_loss.png")
