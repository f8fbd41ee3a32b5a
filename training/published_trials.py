"""Trials of a study under the report's protocol (training/published_protocol.py).

They are resumable, save a checkpoint, and get a matched evaluation of the same model.
"""

import time

from config import Config
from training import published_protocol


def run_trial(trial, task, partial_path=None, report=None, should_stop=None, probes=()) -> dict:
    """Trains one trial under the published protocol, then evaluates its model on the matched windows.

    Parameters and result are those of train.run_trial; `probes` must be empty. The record's losses and accuracies are
    sampled estimates, as in the report; `matched` holds the exact ones. The outcome also has `generator_state`.
    """
    from common.checkpoint_files import weights_sha256
    from training import evaluate
    from training.trial import REPORT_EVERY_S, SAVE_EVERY_S, Interrupted, environment_of, prepare_torch

    corpus = task.corpus
    last_report = last_save = time.perf_counter()

    def after_update(step, loss, snapshot):
        nonlocal last_report, last_save
        now = time.perf_counter()
        if report and now - last_report > REPORT_EVERY_S:
            report({"trial": trial.number, "step": step, "loss": loss})
            last_report = now
        stop = should_stop is not None and should_stop()
        if stop or now - last_save > SAVE_EVERY_S:
            _save(partial_path, trial, task, snapshot(), report)
            last_save = now
        if stop:
            raise Interrupted

    found = published_protocol.train_published_trial(
        trial.activation,
        trial.number - 1,
        trial.seed,
        trial.config,
        corpus,
        report=after_update,
        start_state=_load(partial_path, trial, task, report),
        one_by_one=False,
    )
    weights = found.pop("model")
    generator_state = found.pop("generator_state")
    environment = environment_of(trial)
    record = found | {"seeds": trial.seeds, "checkpoint": None, "weights_sha256": None, "environment": environment}
    outcome = {"record": record, "weights": None, "curve": None, "log_probabilities": None, "window_loss": None}
    if record["status"] != "complete":
        return outcome | {"record": record | {"reason": "a loss is not finite", "matched": None}}
    started = time.perf_counter()
    prepare_torch(trial.config)
    model = _model(trial.activation, trial.config, corpus.vocabulary_size, weights)
    final = evaluate.final_evaluation(model, task, trial.config)
    record["matched"] = {name: final[name] for name in ("train_loss", "val_loss", "train_accuracy", "val_accuracy")}
    record["continuations"] = task.continuations(model, trial.config)
    record["evaluation_time_s"] += time.perf_counter() - started
    record["weights_sha256"] = weights_sha256(weights)
    return outcome | {
        "weights": weights,
        "curve": [],
        "log_probabilities": final["log_probabilities"],
        "window_loss": final["window_loss"],
        "generator_state": generator_state,
    }


def _model(activation, config, vocabulary_size, weights):
    from architectures.registry import build_model

    model = build_model("charlm", activation, config, vocabulary_size)
    model.load_state_dict(weights)
    return model


def _save(path, trial, task, snapshot, report):
    from common import checkpoint_files
    from common.provenance import numeric_environment
    from training.trial import environment_of, partial_identity

    environment = numeric_environment(environment_of(trial))
    checkpoint_files.save_state(path, partial_identity(trial, task), environment, {"snapshot": snapshot}, report)


def _load(path, trial, task, report):
    """The snapshot from which the trial resumes, or None."""
    from common import checkpoint_files
    from common.provenance import numeric_environment
    from training.trial import environment_of, partial_identity

    environment = numeric_environment(environment_of(trial))
    content = checkpoint_files.load_state(path, partial_identity(trial, task), environment, report)
    if content is None:
        return None
    if report:
        report({"trial": trial.number, "resumed": content["snapshot"]["step"]})
    return content["snapshot"]


def compare_checkpoints(checkpoints, task) -> list[dict]:
    """The report's comparison of an activation's models.

    checkpoints: paths in trial order; None: a trial that diverged (not allowed for the last one, whose generator state
    is needed). The pairs depend on the number of trials, see `published_protocol.compare_published`.
    """
    from common.checkpoint_files import read_checkpoint

    corpus = task.corpus
    contents = [read_checkpoint(path) if path else None for path in checkpoints]
    config = Config(**contents[-1]["config"])
    models = [
        content and _model(content["activation"], config, corpus.vocabulary_size, content["model"]).eval()
        for content in contents
    ]
    return published_protocol.compare_published(
        models, contents[-1]["generator_state"], config, corpus, one_by_one=False
    )
