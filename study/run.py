"""Runs a study to completion: submits missing jobs to an engine and stores their results."""

import itertools
from collections import deque
from pathlib import Path

from common import files
from study.jobs import Job
from study.summaries import write_summary
from training.trial import Trial


def run(plan, task, experiments, others, jobs, engine, progress, interrupted, workers=None) -> bool:
    """Runs the study to completion.

    A free worker starts the next queued job before the previous result is stored here. So while the last trial of an
    experiment runs, nothing is queued behind it in the engine: its pairs are compared next, not one trial later.

    Parameters
    ----------
    plan : Plan
    task : tasks.base.Task
    experiments : list of Experiment
    others : list of dict
        Results that this run does not touch (from `other_results`), for the summary.
    jobs : list of (Experiment, Job)
        The missing jobs (from `Experiment.jobs`).
    engine : LocalEngine or RayEngine
    progress : Progress
    interrupted : callable
        Polled; when it returns true, running trials save their state and the run ends.
    workers : int or None
        Jobs that the engine runs at a time; None if trials and comparisons do not share workers.

    Returns
    -------
    bool
        Whether every trial was trained (or diverged) and every pair compared; False if a job failed.
    """
    owner, waiting = {}, deque(jobs)  # owner: name of a job in the engine -> its Experiment
    last = set({experiment.name: job.name for experiment, job in jobs}.values()) if plan.n_trials > 1 else set()

    def submit(experiment, job, first=False):
        if job is not None:
            owner[job.name] = experiment
            engine.submit(job, first)

    def feed():
        while waiting and (workers is None or len(owner) < workers * (1 if last & owner.keys() else 2)):
            submit(*waiting.popleft())

    for experiment in experiments:
        _submit_ready(experiment, submit)
        _submit_published(experiment, submit)
    feed()
    succeeded = True
    while not engine.idle:
        if interrupted():
            engine.stop()
            waiting.clear()
        for kind, job, payload in engine.events():
            experiment = owner[job.name] if kind in ("progress", "retry") else owner.pop(job.name)
            if kind == "progress":
                _show(progress, experiment, job, payload)
            elif kind == "retry":
                progress.say(f"{job.name}: {payload}")
            elif kind == "failed":
                succeeded = False
                _note_failure(experiment, job, payload, progress)
            elif kind == "done":
                for number in _finish(experiment, job, payload, progress):
                    under_way = {*owner, *(job.name for _, job in waiting)}
                    _submit_comparison(experiment, number, under_way, submit)
                _submit_published(experiment, submit)
                if not experiment.unsaved:
                    write_summary(plan, task, experiments, others)
        feed()
    remove_unfinished_files(plan, experiments)  # of workers that died
    for experiment in experiments:
        if experiment.unsaved:
            experiment.save()
    if interrupted():
        return succeeded
    complete = [experiment for experiment in experiments if not experiment.missing_pairs()]
    for experiment in complete:
        experiment.delete_predictions()
    write_summary(plan, task, experiments, others)
    return succeeded and len(complete) == len(experiments)


def _submit_ready(experiment, submit):
    """Submits the comparisons of trials whose predictions an earlier run left on disk."""
    ready, experiment.ready = sorted(experiment.ready), set()
    for number in ready:
        experiment.ready.add(number)
        submit(experiment, experiment.comparison(number), first=True)


def _submit_comparison(experiment, number, under_way, submit):
    """Submits a trial's comparison with the finished ones, and the prediction jobs it needs unless already queued."""
    for job in experiment.prediction_jobs(number):
        if job.name not in under_way:
            submit(experiment, job)
    submit(experiment, experiment.comparison(number), first=True)


def _note_failure(experiment, job, reason, progress):
    progress.say(f"{job.name} FAILED: {reason}")
    if trial := trial_of(job):
        progress.trial_done(experiment.name, experiment.add_failure(trial, reason))


def _show(progress, experiment, job, event):
    if "warning" in event:
        progress.say(f"{job.name}: {event['warning']}")
    elif "resumed" in event:
        progress.resumed(experiment.name, event["trial"], event["resumed"])
    else:
        progress.step(experiment.name, event["trial"], event["step"], event["loss"])


def trial_of(job) -> Trial | None:
    """The trial that a job trains; None for other jobs."""
    return job.arguments["trial"] if job.function == "trial" else None


def remove_leftovers(plan, experiments, jobs) -> None:
    """Removes what a killed run left: half-written files, and saved states of trials that need no more training."""
    remove_unfinished_files(plan, experiments)
    to_train = {job.arguments["partial_path"] for _, job in jobs if trial_of(job)}
    for experiment in experiments:
        for number in experiment.records:
            if str(experiment.partial_path(number)) not in to_train:
                experiment.partial_path(number).unlink(missing_ok=True)


def remove_unfinished_files(plan, experiments) -> None:
    """Removes half-written files; call only while nothing is being written."""
    folders = [plan.results_dir, plan.checkpoints_dir]
    folders += [folder for experiment in experiments for folder in experiment.folders()]
    for folder in folders:
        for path in folder.glob(f".*{files.UNFINISHED}"):
            path.unlink()


def _finish(experiment, job, payload, progress):
    """Stores the result of a job; yields each trial that can now be compared with the finished ones."""
    if trial := trial_of(job):
        experiment.add_trial(trial, payload)
        progress.trial_done(experiment.name, payload["record"])
        if payload["record"]["status"] == "complete":
            yield trial.number
        Path(job.arguments["partial_path"]).unlink(missing_ok=True)
    elif job.function == "predict":
        number = int(job.name.rsplit(" ", 1)[1])
        experiment.add_predictions(number, payload)
        yield number
    elif job.function == "published_pairs":
        experiment.published_pairs = payload
        experiment.save()
    else:
        experiment.add_pairs(payload)
        if len(experiment.complete_trials()) == experiment.plan.n_trials and not experiment.missing_pairs():
            experiment.delete_predictions()


def _submit_published(experiment, submit):
    """Submits the report's comparison once all of an activation's trials are done (its generator continues from the last).

    A diverged trial takes part without a model; if it is the last one, the generator state is unknown and there is no
    comparison.
    """
    complete, numbers = experiment.complete_trials(), range(1, experiment.plan.n_trials + 1)
    ended = [k for k in numbers if experiment.records.get(k, {}).get("status") in ("complete", "diverged")]
    if experiment.plan.protocol != "published" or len(ended) < max(len(numbers), 2) or ended[-1] not in complete:
        return
    if len(experiment.published_pairs or ()) >= len(list(itertools.combinations(numbers, 2))):
        return
    if experiment.published_submitted or not all(experiment.checkpoint_path(k).exists() for k in complete):
        return
    experiment.published_submitted = True
    paths = [str(experiment.checkpoint_path(k)) if k in complete else None for k in numbers]
    submit(experiment, Job(f"{experiment.name} published pairs", "published_pairs", {"checkpoints": paths}))
