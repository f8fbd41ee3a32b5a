"""The jobs that an engine runs: train a trial or a pack, predict, compare pairs. Each is a pure function of its arguments."""

from dataclasses import dataclass, field


@dataclass
class Job:
    """One piece of work: `function` names an entry of FUNCTIONS; arguments can be pickled."""

    name: str  # unique, and readable in a log
    function: str
    arguments: dict = field(repr=False)
    attempts: int = 0


@dataclass(frozen=True)
class Context:
    """What every job of a study shares; sent to each worker once.

    task: a tasks.base.Task. user_files: (kind, path, content) of user-defined models, as the driver read them.
    """

    task: object
    user_files: tuple[tuple[str, str, bytes], ...] = ()
    probes: tuple[str, ...] = ()

    def prepare(self):
        """Makes user-defined architectures and activations known in this process."""
        if self.user_files:
            from architectures.registry import load_user_files

            load_user_files(self.user_files)


def train_trial(context, report, should_stop, trial, partial_path):
    """Trains and evaluates one trial."""
    import train

    hooks = {"partial_path": partial_path, "report": report, "should_stop": should_stop, "probes": context.probes}
    return train.run_protocol(trial, context.task, **hooks)


def train_pack(context, report, should_stop, trials, wanted, partial_path):
    """Trains a pack of trials, and evaluates those that are wanted."""
    import train

    hooks = {"partial_path": partial_path, "report": report, "should_stop": should_stop, "probes": context.probes}
    return train.run_pack(trials, wanted, context.task, **hooks)


def predict(context, report, should_stop, checkpoint, device):
    """Predictions of a trained model, from its checkpoint: on the device of its trial, or the bits would differ."""
    from config import Config
    from training.trial import load_model, prepare_torch

    model, content = load_model(checkpoint)
    config = Config(**content["config"])
    prepare_torch(config)
    return context.task.predict(model.to(device), "validation", config)


def compare(context, report, should_stop, members, pairs, config, last_position):
    """The metrics of pairs of trials."""
    from training import evaluate

    targets = context.task.targets("validation", config)
    return evaluate.compare_trials(targets, members, pairs, last_position)


def compare_published(context, report, should_stop, checkpoints):
    """The 2025 report's own comparison of an activation's models, in the order of its draws."""
    from training import published_trials

    return published_trials.compare_checkpoints(checkpoints, context.task)


FUNCTIONS = {
    "trial": train_trial,
    "pack": train_pack,
    "predict": predict,
    "compare": compare,
    "published_pairs": compare_published,
}
