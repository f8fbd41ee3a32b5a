"""A study's state on disk, and how it is brought to completion.

Why it is not in run_all_experiments.py: that script says which study; this module carries one out, and is the only
writer of its folders. Every result is a pure function of (identity, trial), so the order in which workers finish
changes nothing: records are kept by trial number and pairs by their two numbers.

    trial job -> checkpoint, predictions -> comparison of each pair whose two trials are there -> result file
"""

import contextlib
import itertools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import metrics
from analysis import significance
from common import storage
from common.errors import RunError, UserError
from common.provenance import program
from config import Config
from randomness import numerics_version
from study.jobs import Job
from training import packed
from training.identity import config_with_own_rate, difference_of_identities, identity_of
from training.trial import Trial, arithmetic, checkpoint_content, stream_seeds

TRIAL_SUMMARY = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
PER_WINDOW = "pair_{}_{}_{}"  # names of the arrays beside a result
WINDOW_LOSS = "trial_{}_loss"


@dataclass(frozen=True)
class Plan:
    """What a run of the study is asked to do. `pack` and `compiled` are as in a Trial.

    experiments: (architecture, activation) pairs.
    learning_rates: activation or architecture -> its own learning rate; the others have the configuration's.
    probes: measured at each point of the curves; no part of the identity.
    """

    config: Config
    device: str
    protocol: str
    seed_base: int
    vary: tuple[str, ...]
    n_trials: int
    experiments: tuple[tuple[str, str], ...]
    results_dir: Path
    checkpoints_dir: Path
    plots_dir: Path
    pack: int | None = None
    compiled: bool = False
    learning_rates: dict[str, float] = field(default_factory=dict)
    probes: tuple[str, ...] = ()

    def identity(self, task) -> dict:
        """What makes this another study than the next one."""
        return {
            "protocol": self.protocol,
            **task.identity(),
            "device": self.device,
            "seed_base": self.seed_base,
            "vary": list(self.vary),
            "config": self.config.as_dict(),
            "numerics_version": numerics_version(self.config.dtype),
            **arithmetic(self.pack, self.compiled),
            **({"learning_rates": self.learning_rates} if self.learning_rates else {}),
        }

    def config_of(self, architecture, activation) -> Config:
        """The configuration of one experiment, with its own learning rate."""
        return config_with_own_rate(self.config, self.learning_rates, architecture, activation)

    def trial(self, architecture, activation, number) -> Trial:
        """The identity of one trial."""
        seeds = stream_seeds(self.seed_base, number, self.vary)
        seed = self.seed_base + number - 1
        how = (self.device, self.protocol, self.pack, self.compiled)
        config = self.config_of(architecture, activation)
        return Trial(architecture, activation, config, number, seed, seeds, *how)


class Experiment:
    """One architecture with one activation: its records, pairs and arrays, and their files."""

    def __init__(self, plan, task, architecture, activation, model_facts):
        self.plan, self.task = plan, task
        self.architecture, self.activation = architecture, activation
        self.name = f"{architecture}_{activation}"
        self.model_facts = model_facts  # n_parameters and the sizes used
        self.path = plan.results_dir / f"{self.name}.json"
        self.arrays_path = self.path.with_suffix(".npz")
        self.folder = plan.checkpoints_dir / self.name
        self.records, self.pairs, self.arrays = {}, {}, {}
        self.published_pairs = None
        self.published_submitted = False
        self.ready = set()  # trials whose predictions are on disk
        self._load()

    def _load(self):
        if not self.path.exists():
            return
        from architectures.registry import check_reader_sources

        result = storage.read_json(self.path)
        check_reader_sources(result)
        difference = difference_of_identities(result["identity"], self.identity())
        if difference:
            raise UserError(
                f"{self.path} belongs to another study ({difference}); move it away, or choose another folder"
            )
        self.records = {record["trial"]: record for record in result["trials"] if record["status"] != "failed"}
        self.pairs = {(pair["trial_a"], pair["trial_b"]): pair for pair in result["pairs"]}
        self.published_pairs = result.get("published_pairs")
        if self.arrays_path.exists():
            self.arrays = storage.read_arrays(self.arrays_path)
        # a pair or trial whose arrays are missing (the .npz was moved away) is measured again
        self.pairs = {
            key: pair for key, pair in self.pairs.items() if PER_WINDOW.format(*key, "relative_pd") in self.arrays
        }

    def identity(self):
        """The study's identity with this experiment's complete configuration."""
        return identity_of(self.plan.identity(self.task), self.architecture, self.activation)

    def checkpoint_path(self, number):
        return self.folder / f"trial_{number}.pt"

    def partial_path(self, number):
        """Where a running trial, or the running pack that it belongs to, saves itself."""
        if self.plan.pack is None:
            return self.folder / f"trial_{number}.partial.pt"
        first = number - (number - 1) % self.plan.pack
        return self.folder / f"trial_{first}_to_{first + self.plan.pack - 1}.partial.pt"

    def predictions_path(self, number):
        return self.folder / f"trial_{number}.{self.records[number]['weights_sha256'][:16]}.npy"

    def complete_trials(self):
        """Numbers of the complete trials that this run asks for."""
        return [k for k in range(1, self.plan.n_trials + 1) if self.records.get(k, {}).get("status") == "complete"]

    def missing_pairs(self):
        """Pairs of complete trials that have not been compared."""
        return [pair for pair in itertools.combinations(self.complete_trials(), 2) if pair not in self.pairs]

    def pairs_to_come(self):
        """Pairs that have not been compared, or cannot be yet because one of the two is still to be trained."""
        numbers = [k for k in range(1, self.plan.n_trials + 1) if self.records.get(k, {}).get("status") != "diverged"]
        return [pair for pair in itertools.combinations(numbers, 2) if pair not in self.pairs]

    def prediction_job(self, number):
        """The job that makes a trained trial's predictions again."""
        arguments = {"checkpoint": str(self.checkpoint_path(number)), "device": self.plan.device}
        return Job(f"{self.name} predictions {number}", "predict", arguments)

    def needed_predictions(self):
        """Trials of the pairs to come."""
        return set(itertools.chain.from_iterable(self.pairs_to_come()))

    def partners_predictions(self, number):
        """Jobs that make the predictions which the trial's missing pairs need; some may be under way already.

        A trial that was trained again to other bits needs those of its partners, which were compared and forgotten.
        """
        partners = {k for pair in self.missing_pairs() if number in pair for k in pair} - self.ready
        for k in sorted(partners):
            if self.checkpoint_path(k).exists():
                yield self.prediction_job(k)

    def check_checkpoints(self, say):
        """Sets damaged checkpoints aside; their trials will be trained again."""
        for number in self.complete_trials():
            path = self.checkpoint_path(number)
            if not path.exists():
                continue
            try:
                content = storage.read_checkpoint(path)
                sound = storage.weights_sha256(content["model"]) == self.records[number]["weights_sha256"]
                reason = f"{path} holds other weights than {self.path} says"
            except RunError as error:
                sound, reason = False, str(error)
            if not sound:
                aside = storage.set_aside(path)
                say(f"{reason}; set aside as {aside.name}, and trial {number} of {self.name} is trained again")

    def set_aside_before(self, number):
        """Whether a checkpoint of the trial was set aside, so that one which is missing has not been made again."""
        return any(self.folder.glob(f"{self.checkpoint_path(number).name}.aside-*"))

    def jobs(self):
        """The work that is missing: trials to train, and trained ones whose predictions a pair needs."""
        needed, to_train = self.needed_predictions(), []
        for number in range(1, self.plan.n_trials + 1):
            record = self.records.get(number)
            complete = record is not None and record["status"] == "complete"
            without_arrays = complete and WINDOW_LOSS.format(number) not in self.arrays  # the .npz was moved away
            wanted = number in needed or without_arrays
            lost = complete and not self.checkpoint_path(number).exists()
            if record is None or (lost and (wanted or self.set_aside_before(number))):
                to_train.append(self.plan.trial(self.architecture, self.activation, number))
            elif complete and wanted:
                if self.predictions_path(number).exists() and not without_arrays:
                    self.ready.add(number)
                else:
                    yield self.prediction_job(number)
        for path, trials in itertools.groupby(to_train, lambda trial: str(self.partial_path(trial.number))):
            yield self.training_job(path, tuple(trials))

    def training_job(self, partial_path, trials):
        """The job that trains one trial, or those of a pack that are missing."""
        numbers = ", ".join(str(trial.number) for trial in trials)
        if self.plan.pack is None:
            return Job(f"{self.name} trial {numbers}", "trial", {"trial": trials[0], "partial_path": partial_path})
        pack = packed.pack_of(trials[0], self.plan.seed_base, self.plan.vary)
        arguments = {"trials": pack, "wanted": trials, "partial_path": partial_path}
        return Job(f"{self.name} pack of trials {numbers}", "pack", arguments)

    def add_trial(self, trial, outcome):
        """Writes a trained trial: checkpoint, predictions, result, in this order: a result never promises more."""
        record, number = outcome["record"], trial.number
        if record["status"] == "complete":
            before = self.records.get(number)
            if before and before["weights_sha256"] != record["weights_sha256"]:
                self.forget_pairs_of(number)
            content = checkpoint_content(trial, self.task, outcome)
            if "generator_state" in outcome:
                content["generator_state"] = outcome["generator_state"]
            self.keep_another_checkpoint(number, record["weights_sha256"])
            storage.write_checkpoint(self.checkpoint_path(number), content)
            record["checkpoint"] = f"{self.name}/trial_{number}.pt"
            self.records[number] = record
            self.arrays[WINDOW_LOSS.format(number)] = outcome["window_loss"]
            self.write_predictions(number, outcome["log_probabilities"])
        self.records[number] = record
        self.save()

    def forget_pairs_of(self, number):
        """Its comparisons with the others were those of another model."""
        for key in [key for key in self.pairs if number in key]:
            del self.pairs[key]
            for metric in metrics.MEANS:
                self.arrays.pop(PER_WINDOW.format(*key, metric), None)
        self.published_pairs = None

    def keep_another_checkpoint(self, number, weights_sha256):
        """Sets aside what lies in the place of a trial's checkpoint, where it is not that trial's model."""
        path = self.checkpoint_path(number)
        if not path.exists():
            return
        try:
            known = storage.read_checkpoint(path).get("weights_sha256") == weights_sha256
        except RunError:
            known = False
        if not known:
            storage.set_aside(path)

    def add_failure(self, trial, reason):
        """Notes a trial that could not be trained; the next run tries it again. What it gave before is kept."""
        before = self.records.get(trial.number)
        if before is not None and before["status"] == "complete":
            return {**before, "status": "failed", "reason": reason}
        empty = dict.fromkeys((*TRIAL_SUMMARY, "training_time_s", "evaluation_time_s", "checkpoint", "weights_sha256"))
        record = {"trial": trial.number, "seed": trial.seed, "seeds": trial.seeds, "status": "failed", **empty}
        self.records[trial.number] = {**record, "history": [], "reason": reason, "environment": None}
        self.save()
        return self.records[trial.number]

    def add_predictions(self, number, log_probabilities):
        """Takes predictions that were made again, and from them the losses per window where these were lost."""
        if WINDOW_LOSS.format(number) not in self.arrays:
            targets = self.task.targets("validation", self.plan.config)
            self.arrays[WINDOW_LOSS.format(number)] = metrics.window_losses(log_probabilities, targets)
            self.save()
        self.write_predictions(number, log_probabilities)

    def write_predictions(self, number, log_probabilities):
        """Keeps a trial's predictions until all its pairs are measured."""
        storage.write_array(self.predictions_path(number), log_probabilities)
        self.ready.add(number)

    def comparison(self, number):
        """The job that compares a trial with every other that is ready; None where there is nothing to compare."""
        pairs = [
            pair
            for pair in self.missing_pairs()
            if number in pair and self.ready.issuperset(pair) and all(k <= self.plan.n_trials for k in pair)
        ]
        if not pairs:
            return None
        members = {}
        for k in sorted(set(itertools.chain.from_iterable(pairs))):
            members[k] = {
                "predictions": str(self.predictions_path(k)),
                "curve": str(self.checkpoint_path(k)),
                "continuations": self.records[k].get("continuations"),
            }
        arguments = {"members": members, "pairs": pairs, "config": self.plan.config}
        arguments["last_position"] = self.plan.protocol == "published"
        return Job(f"{self.name} pairs of {number}", "compare", arguments)

    def add_pairs(self, pairs):
        """Stores measured pairs, and forgets the predictions when none is missing."""
        for pair in pairs:
            key = pair["trial_a"], pair["trial_b"]
            for metric, values in pair.pop("per_window").items():
                self.arrays[PER_WINDOW.format(*key, metric)] = np.asarray(values, np.float32)
            self.pairs[key] = pair
        self.save()

    def forget_predictions(self):
        """Removes the predictions once every pair is measured; they can be made again from the checkpoints."""
        for path in self.folder.glob("trial_*.npy"):
            path.unlink()
        self.ready.clear()

    def save(self):
        """Writes the arrays, then the result that names them."""
        storage.write_arrays(self.arrays_path, dict(sorted(self.arrays.items())))
        storage.write_json(self.path, self.result())

    def result(self):
        """The content of the result file."""
        from architectures.registry import reader_sources

        content = {
            "schema_version": storage.SCHEMA_VERSION,
            "numerics_version": numerics_version(self.plan.config.dtype),
            "architecture": self.architecture,
            "activation": self.activation,
            **reader_sources(self.architecture, self.activation),
            "identity": self.identity(),
            **self.task.result_facts(),
            **self.model_facts,
            "trials": [self.records[k] for k in sorted(self.records)],
            "pairs": [self.pairs[k] for k in sorted(self.pairs)],
        }
        if self.plan.protocol == "published":
            content["published_pairs"] = self.published_pairs
        return {**content, "summary": summarize(content), "provenance": program()}


def summarize(result: dict) -> dict:
    """Name -> {mean, sd, n (trials), ci95, method} of every measure of a result's complete trials and pairs."""
    records = [record for record in result["trials"] if record["status"] == "complete"]
    summary = {
        name: significance.mean_interval([record[name] for record in records]).as_dict() for name in TRIAL_SUMMARY
    }
    numbers = [record["trial"] for record in records]
    index = {number: position for position, number in enumerate(numbers)}
    for name in metrics.METRICS:
        values = [
            (index[pair["trial_a"]], index[pair["trial_b"]], pair[name])
            for pair in result["pairs"]
            if pair.get(name) is not None and pair["trial_a"] in index and pair["trial_b"] in index
        ]
        summary[name] = significance.pair_interval(significance.pair_matrix(values, len(numbers))).as_dict()
    return summary


def write_summary(plan, task, experiments, others=()) -> None:
    """all_experiments_summary.json: every experiment of the folder in a few numbers.

    Args:
      experiments: those of this run.
      others: the results of earlier runs on the folder, of other experiments.
    """
    results = {name_of(r): r for r in [*(experiment.result() for experiment in experiments), *others]}
    path = plan.results_dir / storage.SUMMARY_FILE
    known = ()  # their order is the order of every table
    with contextlib.suppress(RunError):  # there is none, or a damaged one, which is written anew
        known = storage.read_json(path)["experiments"]
    results = {name: results[name] for name in dict.fromkeys([*known, *results]) if name in results}
    content = {
        "schema_version": storage.SCHEMA_VERSION,
        "identity": plan.identity(task),
        **task.result_facts(),
        "experiments": {name: summary_of(result) for name, result in results.items()},
        "provenance": program(),
    }
    storage.write_json(path, content)


def name_of(result: dict) -> str:
    """How a result's files and folders are called."""
    return f"{result['architecture']}_{result['activation']}"


def summary_of(result):
    statuses = [record["status"] for record in result["trials"]]
    return {
        "architecture": result["architecture"],
        "activation": result["activation"],
        "n_trials": statuses.count("complete"),
        "n_diverged": statuses.count("diverged"),
        "n_pairs": len(result["pairs"]),
        "summary": result["summary"],
    }


def other_results(plan, experiments) -> list[dict]:
    """The results in the study's folder that this run does not touch."""
    names = {experiment.path.name for experiment in experiments}
    return [result for result in storage.read_study(plan.results_dir)[1] if Path(result["path"]).name not in names]


# --- carrying it out ------------------------------------------------------------------------------------------------
