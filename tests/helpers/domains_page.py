"""The tables and the figure of docs/domains.md, computed from the shipped studies.

python -m tests.helpers.domains_page      # writes them into the page, between their markers
"""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

import analyze_results
from analysis.labels import architecture_label
from analysis.results import Margins, Study, estimate, reference_of
from report import across
from tests.helpers.answer_page import ROOT, filled, table

PAGE = ROOT / "docs" / "domains.md"
FIGURES = ROOT / "docs" / "figures"
FOLDER = ROOT / "results" / "reference" / "domains"
STUDIES = ("digits", "fashion", "vowels", "next", "spoken", "wave", "cora", "cartpole")  # in the order of the page
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


def reached(study: Study) -> dict[str, float]:
    """Architecture -> mean accuracy in percent, or mean score, of its ReLU models."""
    scored = any(trial.get("score") for cell in study.cells for trial in cell.trials.values())
    name, unit = ("score", 1) if scored else ("val_accuracy", 100)
    relu = [reference_of(cells) for cells in study.architectures.values()]
    return {cell.architecture_label: estimate(cell, name).mean * unit for cell in relu}


def levels(found) -> str:
    """What the ReLU models of each study reach, and the level that the study asks of its best architecture."""
    rows = []
    for name, study in found.items():
        values = sorted(reached(study).items(), key=lambda item: -item[1])
        rows.append([name, str(LEVELS.get(name, "-")), "; ".join(f"{label} {value:.1f}" for label, value in values)])
    return table(["Study", "Level", "Reached with ReLU"], rows)


def logs(found) -> dict[str, dict[str, np.ndarray]]:
    """Architecture -> activation -> log of (mean validation loss, mean relative PD).

    Without control, whose losses say how much a policy acts like a reference controller.
    """
    return {
        f"{name}: {architecture}": {
            c.activation: np.log([estimate(c, "val_loss").mean, estimate(c, "relative_pd").mean]) for c in cells
        }
        for name, study in found.items()
        if name != "cartpole"
        for architecture, cells in study.architectures.items()
    }


def ratios(found) -> dict[str, dict[str, np.ndarray]]:
    """As `logs`, of every other activation minus ReLU's."""
    return {
        name: {activation: values - of["relu"] for activation, values in of.items() if activation != "relu"}
        for name, of in logs(found).items()
    }


def centred(found, *left_out) -> dict[str, dict[str, np.ndarray]]:
    """As `logs`, minus the architecture's mean over the activations that are not left out; those with one are dropped."""
    kept = {name: {a: v for a, v in of.items() if a not in left_out} for name, of in logs(found).items()}
    return {
        name: {activation: values - np.mean(list(of.values()), axis=0) for activation, values in of.items()}
        for name, of in kept.items()
        if len(of) > 1
    }


def rank_correlation(groups, resamples=4999) -> tuple[float, float, float]:
    """Spearman's correlation over all points of all architectures, with a 95% bootstrap interval over architectures."""
    rng = np.random.default_rng(0)
    blocks = [np.array(list(of.values())) for of in groups.values()]
    drawn = rng.integers(len(blocks), size=(resamples, len(blocks)))
    draws = [spearmanr(np.concatenate([blocks[k] for k in row])).statistic for row in drawn]
    return float(spearmanr(np.concatenate(blocks)).statistic), *map(float, np.quantile(draws, (0.025, 0.975)))


def loss_and_pd(found) -> str:
    """How relative PD goes with the loss over activations, in three ways."""
    ways = {
        "each activation against ReLU": ratios(found),
        "against the architecture's mean, without ReLU": centred(found, "relu"),
        "the same without uncentred SmeLU": centred(found, "relu", "smelu_1"),
    }
    rows = []
    for label, groups in ways.items():
        correlation, low, high = rank_correlation(groups)
        points = sum(len(of) for of in groups.values())
        rows.append([label, str(points), str(len(groups)), f"{correlation:+.2f} [{low:+.2f}, {high:+.2f}]"])
    return table(["Ratios of loss and of relative PD", "Points", "Architectures", "Rank correlation"], rows)


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
    rates = sorted({float(rate) for of in found.values() for by_rate in of.values() for rate in by_rate})
    rows = []
    for name in STUDIES:
        for architecture, by_rate in found[name].items():
            values = {float(rate): value for rate, value in by_rate.items()}
            best = (max if name == "cartpole" else min)(values.values())
            texts = {rate: f"{value:.4g}" if value < 100 else f"{value:.0f}" for rate, value in values.items()}
            chosen = {rate for rate, value in values.items() if value == best} if name != "cartpole" else {1e-3}
            cells = [f"**{texts[r]}**" if r in chosen else texts.get(r, "") for r in rates]
            rows.append([name, architecture_label(architecture), *cells])
    return table(["Study", "Architecture", *(f"{rate:g}" for rate in rates)], rows)


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
        for of in ratios(studies()).values():
            for name, values in of.items():
                x, y = 100 * np.exp(values)
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
            "Relative PD tends to change in the same direction as the loss",
            "Lines lead from an architecture's ReLU to its other activations · end of training · n = 10 trials, wave 5",
        )
        save(drawn, path)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), blocks()), encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(draw(Path(folder)), FIGURES / "domains.png")
    draw_loss_and_pd(FIGURES / "domains_loss.png")
