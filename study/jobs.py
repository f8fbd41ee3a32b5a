"""The jobs that an engine runs: train a trial, predict, compare pairs. Pure functions of their arguments."""

import functools
import itertools
from dataclasses import dataclass, field

PAIRS_AT_A_TIME = 32  # bounds the number of open files


@dataclass
class Job:
    """One job: `function` names an entry of FUNCTIONS; the arguments can be pickled."""

    name: str  # unique; shown in the log
    function: str
    arguments: dict = field(repr=False)
    attempts: int = 0


def finished(engine, say):
    """Yields (job, what it gave) as an engine finishes its jobs; a RunError if one fails. Jobs may be added meanwhile."""
    from common.errors import RunError

    while not engine.idle:
        for kind, job, payload in engine.events():
            if kind == "failed":
                raise RunError(f"{job.name} failed: {payload}")
            if kind == "retry":
                say(f"{job.name}: {payload}")
            if kind == "done":
                yield job, payload


@dataclass(frozen=True)
class Context:
    """What all jobs of a study share; sent to each worker once.

    task: a tasks.base.Task. user_files: (kind, path, content) of user-defined models, read by the driver.
    """

    task: object
    user_files: tuple[tuple[str, str, bytes], ...] = ()
    probes: tuple[str, ...] = ()

    def prepare(self):
        """Loads user-defined architectures and activations in this process."""
        if self.user_files:
            from architectures.registry import load_user_files

            load_user_files(self.user_files)


def train_trial(context, report, should_stop, trial, partial_path):
    """Trains and evaluates one trial."""
    import train

    hooks = {"partial_path": partial_path, "report": report, "should_stop": should_stop, "probes": context.probes}
    return train.run_protocol(trial, context.task, **hooks)


def predict(context, report, should_stop, checkpoint, weights_sha256, device):
    """Predictions of a trained model from its checkpoint, on the device of its trial so that they are bit-identical."""
    model, config = _model(checkpoint, weights_sha256)
    return context.task.predict(model.to(device), "validation", config)


def evaluate(context, report, should_stop, checkpoint, weights_sha256, device):
    """`training.evaluate.final_evaluation` of a trained model, from its checkpoint."""
    from training.evaluate import final_evaluation

    model, config = _model(checkpoint, weights_sha256)
    return final_evaluation(model.to(device), context.task, config)


def _model(checkpoint, weights_sha256):
    """(model, configuration) of a checkpoint; raises RunError if the weights are not the expected ones."""
    from common.checkpoint_files import weights_sha256 as digest
    from common.errors import RunError
    from config import Config
    from training.trial import load_model, prepare_torch

    model, content = load_model(checkpoint)
    if digest(content["model"]) != weights_sha256:
        raise RunError(f"the weights in {checkpoint} are not those of its trial's result")
    config = Config(**content["config"])
    prepare_torch(config)
    return model, config


@dataclass(frozen=True)
class Member:
    """A trained trial that is compared with others: the paths of its predictions and their expected identity.

    predictions: a cache; if it is missing or damaged, predictions are recomputed from the checkpoint.
    steps: of the curve points, one file each in curve_folder.
    """

    checkpoint: str
    weights_sha256: str
    device: str
    predictions: str
    about: dict
    curve_folder: str
    about_curve: dict
    steps: tuple[int, ...]
    continuations: list[str] | None


def compare(context, report, should_stop, members, pairs, config, last_position):
    """The metrics of pairs of trials. members: trial number -> Member."""
    from training.evaluate import compare_trials

    targets = context.task.targets("validation", config)
    found = []
    for start in range(0, len(pairs), PAIRS_AT_A_TIME):
        part = pairs[start : start + PAIRS_AT_A_TIME]
        numbers = dict.fromkeys(itertools.chain.from_iterable(part))
        opened = {number: _opened(context, members[number]) for number in numbers}
        found += compare_trials(targets, opened, part, last_position)
    return found


def _opened(context, member):
    """The entry of a Member for evaluate.compare_trials."""
    from common.errors import RunError
    from training.curve_files import read_point
    from training.identity import read_belonging

    try:
        predictions = read_belonging(member.predictions, member.about)["log_probabilities"]
    except (FileNotFoundError, RunError):
        predictions = predict(context, None, None, member.checkpoint, member.weights_sha256, member.device)
    point = functools.partial(read_point, member.curve_folder, member.about_curve)
    curve = {step: functools.partial(point, step) for step in member.steps}
    return {"predictions": predictions, "curve": curve, "continuations": member.continuations}


def compare_published(context, report, should_stop, checkpoints):
    """The 2025 report's comparison of an activation's models."""
    from training import published_trials

    return published_trials.compare_checkpoints(checkpoints, context.task)


def diagnose(context, report, should_stop, name, members, activations, seed):
    """A probe of one trained model or a comparison of two: (numbers by name, or the reason why there are none; seconds).

    members: (checkpoint, SHA-256 of its weights) of each model. activations: their names. seed: of the generator.
    """
    from diagnostics.measure import measure

    models, config = [], None
    for checkpoint, digest in members:
        model, config = _model(checkpoint, digest)
        models.append(model)
    return measure(name, models, context.task, config, activations, seed)


FUNCTIONS = {
    "trial": train_trial,
    "predict": predict,
    "evaluate": evaluate,
    "compare": compare,
    "published_pairs": compare_published,
    "diagnose": diagnose,
}
