"""Setting a study aside: its own files are moved, including damaged ones, and no others."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

from common import storage
from training.identity import results_in

FIGURE = r"({})_(.+_)?(cpu|cuda|mps)_\w+\.(png|pdf|svg)"  # see figures/style.py


def set_study_aside(plan) -> list[Path]:
    """Moves an old study's results, checkpoints and figures into aside_<time>/ in the same folders; returns these."""
    folders = (plan.results_dir, plan.checkpoints_dir, plan.plots_dir)
    stamp = time.strftime("aside_%Y%m%d_%H%M%S")
    while any((folder / stamp).exists() for folder in folders):
        stamp += "_again"
    old = list(dict.fromkeys(own_files(*folders)))
    old.sort(key=lambda path: path.name == storage.STUDY_FILE)  # last: the others are identified by it
    for path in old:
        (path.parent / stamp).mkdir(parents=True, exist_ok=True)
        path.rename(path.parent / stamp / path.name)
    return [folder / stamp for folder in folders if (folder / stamp).exists()]


def own_files(results_dir: Path, checkpoints_dir: Path, plots_dir: Path) -> Iterator[Path]:
    """The files and folders of the study in these folders."""
    trained = sorted({path.parent for path in checkpoints_dir.glob("*_*/trial_[0-9]*")})
    names = {path.stem for path in results_in(results_dir)} | {path.name for path in trained}
    yield from trained
    for name in (storage.STUDY_FILE, storage.SUMMARY_FILE, storage.DIAGNOSTICS_FILE, "REPORT.md", "report.html"):
        yield from results_dir.glob(name)
    yield from checkpoints_dir.glob(storage.STUDY_FILE)
    for name in sorted(names):
        yield from (path for path in (results_dir / f"{name}{end}" for end in (".json", ".npz", "")) if path.exists())
    architectures = {name.partition("_")[0] for name in names} | {"all"}
    figures = re.compile(FIGURE.format("|".join(map(re.escape, sorted(architectures)))))
    yield from sorted(path for path in plots_dir.glob("*_*") if figures.fullmatch(path.name))
