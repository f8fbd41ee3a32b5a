"""The ground truth: running its studies, the file of cases, and labels and features as arrays.

All cases are in results/reference/sensitivity/cases.json; the studies themselves are too large to ship.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.curves import CommonLoss, at_equal_loss
from analysis.results import Cell, matrix
from analysis.sensitivity import pseudo_values
from common import json_files, storage
from common.errors import RunError
from common.files import write_atomically
from common.provenance import program
from config import Config
from sensitivity import cases, labels
from sensitivity.features import FEATURES, SETS, measure

FILE = Path(__file__).resolve().parents[1] / "results" / "reference" / "sensitivity" / "cases.json"
FEWEST_CASES = 20  # below this no predictor is fitted
BIGRAM = 2.45  # nats; a case is well trained if its best activation is below this


# --- making it ------------------------------------------------------------------------------------------------------


def make(run_study: Callable[[list[str]], int], folder: Path, task, options: Sequence[str] = ()) -> int:
    """Trains what is missing of every group, and writes each group's cases when they are complete.

    The cases are collected next to the studies and copied to FILE at the end, since changing a tracked file would mark
    the commit recorded by later trials as modified.

    Parameters
    ----------
    run_study : function
        Options of run_all_experiments.py -> its exit status.
    folder : path
        Of the studies.
    options : sequence of str
        More options of every study: the number of workers.

    Returns
    -------
    int
        0, or the status of the study that ended otherwise.
    """
    path = Path(folder) / FILE.name
    known = load(path)
    for group in cases.GROUPS:
        if all(case_name(group, architecture) in known for architecture in group.architectures):
            continue
        for rate in cases.RATES:
            if status := run_study([*cases.study_options(group, "tuning", folder, rate=rate), *options]):
                return status
        tuned = tuning_losses(group, folder)
        chosen = cases.best_rates(tuned)
        rates = {architecture: rate for architecture, (rate, _) in chosen.items()}
        for kind in ("quick", "truth"):
            if status := run_study([*cases.study_options(group, kind, folder, rates), *options]):
                return status
        for architecture in group.architectures:
            tuning = {str(rate): table[architecture] for rate, table in tuned.items()}
            known[case_name(group, architecture)] = case_of(
                group, architecture, chosen[architecture], tuning, folder, task
            )
        json_files.write_json(
            path, {"schema_version": json_files.SCHEMA_VERSION, "cases": known, "provenance": program()}
        )
    write_atomically(FILE, path.read_bytes())
    return 0


def case_name(group, architecture: str) -> str:
    return f"{group.name}/{architecture}"


def load(path: Path | None = None) -> dict[str, dict]:
    """Name -> case, from a file (default: FILE); {} if there is no ground truth yet."""
    path = FILE if path is None else path
    return json_files.read_json(path)["cases"] if Path(path).exists() else {}


def tuning_losses(group, folder) -> dict[float, dict[str, dict[str, float | None]]]:
    """Learning rate -> architecture -> activation -> final validation loss, None where the trial diverged."""
    found: dict[float, dict[str, dict[str, float | None]]] = {}
    for rate in cases.RATES:
        _, results = storage.read_study(cases.study_folder(group, "tuning", folder, rate))
        for architecture in group.architectures:
            losses = {activation: values.get(1) for activation, values in losses_of(results, architecture).items()}
            found.setdefault(rate, {})[architecture] = losses
    return found


def losses_of(
    results: Sequence[dict], architecture: str, activations=cases.ACTIVATIONS
) -> dict[str, dict[int, float | None]]:
    """Activation -> trial number -> final validation loss (None: diverged), of the trials that every activation has."""
    trials = {
        r["activation"]: {t["trial"]: t for t in r["trials"]} for r in results if r["architecture"] == architecture
    }
    ended = [{k for k, t in trials.get(a, {}).items() if t["status"] in ("complete", "diverged")} for a in activations]
    numbers = sorted(set.intersection(*ended))
    return {a: {k: trials[a][k]["val_loss"] for k in numbers} for a in activations}


def case_of(group, architecture, chosen, tuning, folder, task) -> dict:
    """The entry of a case in the file."""
    rate, common_loss = chosen
    _, results = storage.read_study(cases.study_folder(group, "truth", folder))
    mine = {r["activation"]: r for r in results if r["architecture"] == architecture}
    config, losses = Config(**mine[cases.DEFAULT_ACTIVATION]["identity"]["config"]), losses_of(results, architecture)
    last_step = config.max_iters - round(config.cooldown * config.max_iters)
    cells = [Cell(mine[activation]) for activation in losses]
    numbers = list(range(1, cases.TRIALS["truth"] + 1))
    common = CommonLoss(common_loss, last_step=last_step)
    read = [at_equal_loss(cell, "relative_pd", common, numbers) for cell in cells]
    records = [trial for result in mine.values() for trial in result["trials"]]
    environments = {str(sorted(t["environment"].items())): t["environment"] for t in records if t.get("environment")}
    return {
        "group": group.name,
        "architecture": architecture,
        "family": cases.family_of(architecture),
        "n_parameters": mine[cases.DEFAULT_ACTIVATION]["n_parameters"],
        "learning_rate": rate,
        "common_loss": common_loss if math.isfinite(common_loss) else None,
        "config": config.as_dict(),
        "tuning": tuning,
        "truth": {
            "losses": {a: list(values.values()) for a, values in losses.items()},
            "relative_pd_end": {c.activation: _plain(matrix(c, "relative_pd", numbers)) for c in cells},
            "relative_pd": {c.activation: _plain(values) for c, (values, _) in zip(cells, read)},
            "unread": sorted({reason for _, reasons in read for reason in reasons}),
            "weights_sha256": {a: [t["weights_sha256"] for t in r["trials"]] for a, r in mine.items()},
            cases.PROBE: {a: [probed(t) for t in r["trials"][: cases.PROBED_TRIALS]] for a, r in mine.items()},
        },
        "quick": quick_part(cases.study_folder(group, "quick", folder), architecture, task),
        "environments": list(environments.values()),
    }


def probed(record: dict) -> list[float]:
    """The norm of the whole gradient at each curve point of a trial, to four digits."""
    return [float(f"{point['probes'][cases.PROBE]['all']:.4g}") for point in record["history"]]


def quick_part(folder: Path, architecture: str, task, activations=cases.ACTIVATIONS) -> dict:
    """losses, features and relative PD at the end of the quick trials in a study's folder.

    Only trials that every activation has count; the features are those of trials that diverged with none, None with fewer than two.
    """
    from training.trial import load_model, prepare_torch

    _, results = storage.read_study(folder)
    losses = losses_of(results, architecture, activations)
    mine = {r["activation"]: r for r in results if r["architecture"] == architecture}
    if len(losses[activations[0]]) < 2:
        raise RunError(
            f"the budget ended before every activation had two seeds (in {folder}); the same command resumes from there"
        )
    complete = [k for k in losses[activations[0]] if all(values[k] is not None for values in losses.values())]
    features: dict[str, float | None] = dict.fromkeys(FEATURES)
    config = Config(**mine[activations[0]]["identity"]["config"])
    if len(complete) > 1:
        prepare_torch(config)  # the same features on any number of cores
        checkpoints = storage.sibling(folder, "checkpoints")
        models = {
            (a, k): load_model(checkpoints / f"{architecture}_{a}" / f"trial_{k}.pt")[0]
            for a in losses
            for k in complete
        }
        values = np.array([[losses[a][k] for k in complete] for a in losses], dtype=np.float64)
        features = measure(models, values, task, config)
    return {
        "losses": {a: list(values.values()) for a, values in losses.items()},
        "features": features,
        "relative_pd_end": {a: _plain(matrix(Cell(mine[a]), "relative_pd", complete)) for a in losses},
    }


def _plain(values):
    """(n, n) as lists, None for NaN: ready for JSON."""
    return [[None if math.isnan(v) else float(v) for v in row] for row in values]


# --- reading it -------------------------------------------------------------------------------------------------------


def pd_probability(matrices: dict[str, list]) -> float | None:
    """P(two activations' mean log relative PD differ by more than the margin); None if a pair has no value."""
    values = pd_values(matrices)
    return None if values is None else labels.probability_matters(values, cases.LOG_PD_MARGIN)


def pd_values(matrices: dict[str, list]) -> np.ndarray | None:
    """(A, n) pseudo-values of trials for the log relative PD of pairs (`analysis.sensitivity.pseudo_values`)."""
    stack = np.array(
        [[[math.nan if v is None else v for v in row] for row in m] for m in matrices.values()], dtype=float
    )
    if stack.size == 0 or stack.shape[1] < 3:
        return None
    off_diagonal = ~np.eye(stack.shape[1], dtype=bool)
    if not (stack[:, off_diagonal] > 0).all():  # NaN is not
        return None
    logs = np.where(off_diagonal, np.log(np.where(off_diagonal, stack, 1.0)), np.nan)
    return pseudo_values(logs)


def label(case: dict, outcome: str) -> float | None:
    """q of a case: P(the activation matters for the outcome) under the full protocol; None: no label."""
    if outcome == "loss":
        return labels.loss_label(list(case["truth"]["losses"].values()), cases.LOSS_MARGIN)
    return pd_probability(case["truth"]["relative_pd"])


def briefly(case: dict, outcome: str) -> float:
    """ "Train all briefly": P(the activation matters) from the quick trials themselves; 0.5 if unknown."""
    if outcome == "loss":
        found = labels.loss_label(list(case["quick"]["losses"].values()), cases.LOSS_MARGIN)
    else:
        found = pd_probability(case["quick"]["relative_pd_end"])
    return 0.5 if found is None else found


@dataclass(frozen=True, eq=False)
class Table:
    """The labelled cases of an outcome as arrays: N cases, F features (NaN: missing)."""

    names: list[str]
    families: np.ndarray
    q: np.ndarray
    features: np.ndarray
    briefly: np.ndarray


def enough(known: dict[str, dict], outcome: str) -> bool:
    """Whether enough cases have a label for the outcome to fit a predictor."""
    return sum(label(case, outcome) is not None for case in known.values()) >= FEWEST_CASES


def table(known: dict[str, dict], outcome: str) -> Table:
    """The labelled cases of an outcome; raises RunError if there are fewer than FEWEST_CASES."""
    found = {name: q for name, case in known.items() if (q := label(case, outcome)) is not None}
    if len(found) < FEWEST_CASES:
        raise RunError(f"only {len(found)} cases have a label for {outcome}; a predictor needs {FEWEST_CASES}")
    chosen = [known[name] for name in found]
    return Table(
        list(found),
        np.array([case["family"] for case in chosen]),
        np.array(list(found.values())),
        np.array([feature_row(case["quick"]["features"]) for case in chosen]),
        np.array([briefly(case, outcome) for case in chosen]),
    )


def feature_row(features: dict[str, float | None]) -> list[float]:
    """The features in the order of FEATURES; NaN: missing."""
    return [math.nan if (value := features[name]) is None else value for name in FEATURES]


COLUMNS = {name: [FEATURES.index(feature) for feature in members] for name, members in SETS.items()}


def well_trained(case: dict) -> bool:
    """Whether the best activation's mean final loss is below BIGRAM."""
    means = [np.mean(v) for v in case["truth"]["losses"].values() if None not in v]
    return bool(means) and min(means) < BIGRAM


def validated_range(known: dict[str, dict]) -> dict[str, tuple[float, float]]:
    """The validated range: smallest and largest number of parameters and of training steps."""
    sizes, steps = (
        [f(case) for case in known.values()] for f in (lambda c: c["n_parameters"], lambda c: c["config"]["max_iters"])
    )
    return {"parameters": (min(sizes), max(sizes)), "training steps": (min(steps), max(steps))}
