"""Tables and figures of docs/diagnostics.md, computed from the shipped measurements.

python -m tests.helpers.diagnostics_page              # writes them into the page, between their markers
python -m tests.helpers.diagnostics_page STUDIES      # first collects the gradient probes of the studies in that folder
"""

import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

import analyze_results
from analysis.associations import associations
from analysis.labels import architecture_label
from analysis.results import Margins
from analysis.sensitivity import sensitivity_of_means
from analysis.words import brief_p
from common import json_files
from report.diagnostics import branch_table
from sensitivity.truth import FILE as CASES
from study import diagnose
from tests.helpers.answer_page import ROOT, filled, table

PAGE = ROOT / "docs" / "diagnostics.md"
FOLDER = ROOT / "results" / "reference" / "diagnostics"
STEPS = (0, 30, 100, 200, 300)
KEY = re.compile(r"(\w+) (\w+) trial (\d+), (\w+) trial (\d+)")
ACTIVATIONS = ("smelu_1_centred", "relu", "gelu", "swish")


def blocks(plots: Path) -> dict[str, str]:
    """Marker -> the text between it and the next <!-- end -->."""
    return {"barriers": barriers(), "branch": branch(plots), "gradients": gradients()}


def barriers() -> str:
    """Means over activations and pairs, with the smallest and the largest."""
    entries = _json(FOLDER / "diagnostics.json")["entries"]
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


def _json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def _range(values):
    return "-" if not values else f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f}; {len(values)})"


def branch(plots: Path) -> str:
    measured = []
    for step in STEPS:
        folder = FOLDER / f"branch_{step}"
        study = analyze_results.read_study(folder)
        measured.append((study, diagnose.entries(study, ["barrier"]), diagnose.read(folder, study)))
    return branch_table(measured, plots).partition("\n\nFigure:")[0]


# --- gradients along training ---------------------------------------------------------------------------------------

GRADIENTS = FOLDER / "gradients.json"
SIZES = ("medium", "small", "shallow", "deep", "many_heads")  # of the ground truth
COLUMNS = ("step", "gradient norm", "variance tr(S)", "squared norm |G|^2")
PHASES = {"first quarter": (0, 0.25), "second half": (0.5, 1)}  # of training; step 0 is left out


def collect(folder: Path) -> None:
    """Writes the numbers of the gradient probes of every case (<size>/<architecture>) to GRADIENTS."""
    cases, commits = {}, set()
    for size in SIZES:
        for cell in analyze_results.read_study(folder / size).cells:
            commits.add(cell.result["provenance"]["git_commit"])
            cases.setdefault(f"{size}/{cell.architecture}", {})[cell.activation] = [
                {"weights_sha256": trial["weights_sha256"], "points": [_point(p) for p in trial["history"]]}
                for trial in cell.trials.values()
            ]
    json_files.write_json(GRADIENTS, {"columns": COLUMNS, "git_commits": sorted(commits), "cases": cases})


def _point(point):
    noise = point["probes"]["noise_scale"]
    values = point["probes"]["gradient_norm"]["all"], noise["variance"], noise["squared_norm"]
    return [point["step"], *(float(f"{value:.5g}") for value in values)]


def points_of(case) -> np.ndarray:
    """(trials of all activations, points, len(COLUMNS)) of a case."""
    return np.array([trial["points"] for trials in case.values() for trial in trials])


def noise_scale(points) -> float | None:
    """Mean variance by mean |G|^2 over trials and points; None if the latter cannot be told from 0."""
    variance, squared_norm = points[..., 2].mean(), points[..., 3].mean()
    return float(variance / squared_norm) if squared_norm > 0 else None


def phases_of(case) -> dict[str, float | None]:
    """Diagnostic -> its value for a case, by phase of training."""
    points, found = points_of(case), {}
    share = points[0, :, 0] / points[0, -1, 0]
    for phase, (low, high) in PHASES.items():
        part = points[:, (share > low) & (share <= high)]
        found[f"gradient norm, {phase}"] = float(part[..., 1].mean())
        found[f"variance of a sequence's gradient, {phase}"] = float(part[..., 2].mean())
        found[f"noise scale, {phase}"] = noise_scale(part)
    return found


def outcomes_of(case) -> tuple[float, float]:
    """(relative PD at the end, mean over activations; SD of the loss between activations) of a case of the ground truth."""
    pds = [np.nanmean(np.array(m, dtype=float)) for m in case["truth"]["relative_pd_end"].values()]
    losses = np.array(list(case["truth"]["losses"].values()), dtype=float)  # (activations, trials)
    return float(np.mean(pds)), sensitivity_of_means(losses, Margins().loss).between_sd.mean


def gradients() -> str:
    """Spearman's correlations over the medium-sized architectures, and over all cases."""
    cases, truth = _json(GRADIENTS)["cases"], _json(CASES)["cases"]
    values = {name: phases_of(case) for name, case in cases.items()}
    medium, every = [n for n in cases if n.startswith("medium/")], list(cases)

    def found_over(names):
        wanted = [key for key in values[names[0]] if all(values[name][key] is not None for name in names)]
        ends = np.array([outcomes_of(truth[name]) for name in names])
        diagnostics = {key: np.array([values[name][key] for name in names]) for key in wanted}
        return associations(diagnostics, {"relative PD": ends[:, 0], "loss": ends[:, 1]})

    over_all = {(a.diagnostic, a.outcome): a.correlation for a in found_over(every)}
    rows: dict[str, list[str]] = {}
    for a in found_over(medium):
        text = f"{a.correlation:+.2f} [{a.low:+.2f}, {a.high:+.2f}]"
        other = over_all.get((a.diagnostic, a.outcome))
        rows.setdefault(a.diagnostic, []).extend(
            [text, brief_p(a.p_adjusted), "-" if other is None else f"{other:+.2f}"]
        )
    heads = ["Diagnostic", *("Relative PD", "p (Holm)", "38 cases"), *("SD of the loss", "p (Holm)", "38 cases")]
    return table(heads, [[name, *cells] for name, cells in rows.items()])


def draw_gradients(path: Path) -> None:
    """The gradient norm and the noise scale of the medium-sized models along training, by family of architectures."""
    import matplotlib

    from figures.style import STYLE, add_title, over_steps, panels, save

    cases, truth = _json(GRADIENTS)["cases"], _json(CASES)["cases"]
    with matplotlib.rc_context(STYLE):
        drawn, axes = panels(2.9, 1, 2, sharex=True)
        colours: dict[str, str] = {}
        for name in (n for n in cases if n.startswith("medium/")):
            points, family = points_of(cases[name]), truth[name]["family"]
            colour = colours.setdefault(family, f"C{len(colours)}")
            steps = points[0, :, 0]
            windows = [points[:, max(0, k - 1) : k + 2] for k in range(len(steps))]
            look = {"color": colour, "linewidth": 1, "label": "MLP" if family == "mlp" else family}
            axes[0, 0].plot(steps[1:], points[:, 1:, 1].mean(axis=0), **look)
            axes[0, 1].plot(steps[1:], [noise_scale(w) or np.nan for w in windows][1:], **look)
        axes[0, 0].set(ylabel="gradient norm", ylim=(0, None))
        axes[0, 1].set(ylabel="noise scale (sequences)", yscale="log")
        axes[0, 1].yaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
        for ax in axes[0]:
            over_steps(ax)
        lines = {line.get_label(): line for line in axes[0, 1].lines}
        axes[0, 1].legend(lines.values(), lines, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        add_title(
            drawn,
            "Gradients along training",
            "18 architectures of about 110,000 parameters, means over four activations x two trials; noise scale: averaged"
            " over three neighbouring points before dividing",
        )
        save(drawn, path)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        collect(Path(sys.argv[1]))
    draw_gradients(ROOT / "docs" / "figures" / "gradients.png")
    with tempfile.TemporaryDirectory() as plots:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), blocks(Path(plots))), encoding="utf-8")
        shutil.copy(next(Path(plots).glob("*_barriers.png")), ROOT / "docs" / "figures" / "barriers.png")
