"""The jobs that an engine runs: train a trial, predict, compare pairs."""

from dataclasses import dataclass, field


@dataclass
class Task:
    """One piece of work: `function` names an entry of FUNCTIONS; arguments can be pickled."""

    name: str  # unique, and readable in a log
    function: str
    arguments: dict = field(repr=False)
    attempts: int = 0


@dataclass(frozen=True)
class Context:
    """What every task of a study shares; sent to each worker once."""

    corpus: object
    block_size: int
    user_files: tuple[tuple[str, str, bytes], ...] = ()  # (kind, path, content), as the driver read them

    def prepare(self):
        """Makes a reader's own architectures and activations known in this process."""
        if self.user_files:
            from architectures.registry import load_user_files

            load_user_files(self.user_files)


def run_trial_task(context, report, should_stop, trial, partial_path):
    """Trains and evaluates one trial."""
    import train

    return train.run_protocol(trial, context.corpus, partial_path=partial_path, report=report, should_stop=should_stop)


def run_pack_task(context, report, should_stop, trials, wanted, partial_path):
    """Trains a pack of trials, and evaluates those that are wanted."""
    from train import run_pack

    return run_pack(trials, wanted, context.corpus, partial_path=partial_path, report=report, should_stop=should_stop)


def predict_task(context, report, should_stop, checkpoint, device):
    """Predictions of a trained model, from its checkpoint: on the device of its trial, or the bits would differ."""
    from config import Config
    from training import evaluate
    from training.trial import load_model, prepare_torch

    model, content = load_model(checkpoint)
    config = Config(**content["config"])
    prepare_torch(config)
    x, _ = evaluate.evaluation_data(context.corpus, config, device).validation
    return evaluate.predict(model.to(device), x, config)


def compare_task(context, report, should_stop, members, pairs, last_position):
    """The metrics of pairs of trials."""
    from tasks import corpus as text
    from training import evaluate

    targets = text.evaluation_windows(context.corpus, "validation", context.block_size)[1]
    return evaluate.compare_trials(targets, members, pairs, last_position)


def published_pairs_task(context, report, should_stop, checkpoints):
    """The report's own comparison of an activation's models, in the order of its draws."""
    from training import published_trials

    return published_trials.compare_checkpoints(checkpoints, context.corpus)


FUNCTIONS = {
    "trial": run_trial_task,
    "pack": run_pack_task,
    "predict": predict_task,
    "compare": compare_task,
    "published_pairs": published_pairs_task,
}
