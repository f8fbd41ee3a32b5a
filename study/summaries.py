"""Summary statistics of a study's experiments: the summary in each result, and all_experiments_summary.json."""

import contextlib
from pathlib import Path

import metrics
from analysis.estimates import mean_interval, pair_interval, pair_matrix
from common import json_files, storage
from common.errors import RunError
from common.provenance import program


def summarize(result: dict) -> dict:
    """Name -> {mean, sd, n (trials), ci95, method} of every measure, over a result's complete trials and pairs."""
    records = [record for record in result["trials"] if record["status"] == "complete"]
    summary = {name: mean_interval([record[name] for record in records]).as_dict() for name in TRIAL_SUMMARY}
    if scores := [record["score"]["value"] for record in records if "score" in record]:
        summary["score"] = mean_interval(scores).as_dict()
    numbers = [record["trial"] for record in records]
    index = {number: position for position, number in enumerate(numbers)}
    for name in metrics.METRICS:
        values = [
            (index[pair["trial_a"]], index[pair["trial_b"]], pair[name])
            for pair in result["pairs"]
            if pair.get(name) is not None and pair["trial_a"] in index and pair["trial_b"] in index
        ]
        summary[name] = pair_interval(pair_matrix(values, len(numbers))).as_dict()
    return summary


def write_summary(plan, task, experiments, others=()) -> None:
    """Writes all_experiments_summary.json.

    Parameters
    ----------
    experiments : list of Experiment
        Of this run.
    others : list of dict
        Results of other experiments, from earlier runs in the same folder.
    """
    found = {experiment.name: experiment.summary() for experiment in experiments}
    found |= {storage.name_of(result): summary_of(result) for result in others}
    path = plan.results_dir / storage.SUMMARY_FILE
    known = ()  # kept in this order, which is that of every table
    with contextlib.suppress(RunError):  # missing, or damaged and rewritten
        known = json_files.read_json(path, json_files.SUMMARY)["experiments"]
    content = {
        "kind": json_files.SUMMARY,
        "schema_version": json_files.SCHEMA_VERSION,
        "identity": plan.identity(task),
        **task.result_facts(),
        "experiments": {name: found[name] for name in dict.fromkeys([*known, *found]) if name in found},
        "provenance": program(),
    }
    json_files.write_json(path, content)


def summary_of(result):
    """The entry of one result in all_experiments_summary.json."""
    statuses = [record["status"] for record in result["trials"]]
    return {
        "architecture": result["architecture"],
        "activation": result["activation"],
        "n_trials": statuses.count("complete"),
        "n_diverged": statuses.count("diverged"),
        "n_pairs": len(result["pairs"]),
        "summary": result["summary"],
    }


def other_results(plan, experiments, say) -> list[dict]:
    """The results in the study's folder that this run does not touch; `say` is called about files that are not results."""
    names = {experiment.path.name for experiment in experiments}
    return [result for result in storage.read_study(plan.results_dir, say)[1] if Path(result["path"]).name not in names]


TRIAL_SUMMARY = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
