"""One architecture with one activation of a study: its records and pairs, its files, and the missing jobs.

Every result is a pure function of (identity, trial), so the order in which workers finish does not matter: records are
indexed by trial number and pairs by two trial numbers.

    trial job -> checkpoint, predictions -> comparison of each pair of finished trials -> result file
"""

import hashlib
import itertools
import json
import os
import shutil

import numpy as np

import metrics
from common import array_files, checkpoint_files, json_files, storage
from common.errors import RunError, UserError
from common.files import set_aside
from common.provenance import program
from randomness import numerics_version
from study.jobs import Job, Member
from study.summaries import TRIAL_SUMMARY, summarize, summary_of
from training import curve_files
from training.identity import (
    check_belongs,
    difference_of_identities,
    identity_of,
    read_belonging,
)
from training.trial import checkpoint_content

PER_WINDOW = "pair_{}_{}_{}"  # names of a result's arrays
WINDOW_LOSS = "trial_{}_loss"
PREDICTIONS = f".predictions{array_files.ARRAY_SUFFIX}"
SHARE_UNSAVED = 10  # at most one in this many values files is missing from the result file


class Experiment:
    """The records, pairs and files of one architecture with one activation.

    A finished trial or comparison writes one file with its record or pairs and their values per window. The result file
    lists these files and repeats the records and pairs. It is rewritten at the end and whenever a tenth of the files are
    not listed yet, so that n trials do not rewrite n records n times. After a kill, unlisted files are read back.
    """

    def __init__(self, plan, task, architecture, activation, model_facts):
        self.plan, self.task = plan, task
        self.architecture, self.activation = architecture, activation
        self.name = f"{architecture}_{activation}"
        self.model_facts = model_facts  # n_parameters and the sizes used
        self.path = plan.results_dir / f"{self.name}.json"
        self.folder = plan.checkpoints_dir / self.name
        self.records, self.pairs = {}, {}
        self.values = {}  # file with values per window (relative to the results folder) -> its SHA-256
        self.file_of = {}  # trial, or pair of trials -> its file among these
        self._summary = None
        self.unsaved = 0  # files that the result file does not list yet
        self.notes = []  # on files that are ignored because they are not this experiment's
        self.published_pairs = None
        self.published_submitted = False
        self.ready = set()  # trials whose predictions are on disk
        self._load()
        self._adopt()

    def _load(self):
        """Reads the result file and checks the values files that it lists."""
        if not os.path.lexists(self.path):
            return
        from architectures.registry import check_user_sources

        result = storage.read_result(self.path)
        check_user_sources(result)
        difference = difference_of_identities(result["identity"], self.identity())
        if difference:
            raise UserError(
                f"{self.path} belongs to another study ({difference}); move it away, or choose another folder"
            )
        self.records = {record["trial"]: record for record in result["trials"] if record["status"] != "failed"}
        pairs = {(pair["trial_a"], pair["trial_b"]): pair for pair in result["pairs"]}
        self.published_pairs = result.get("published_pairs")
        for name, file in storage.files_of_values(result):
            self.values[name] = file.sha256
            trials = [k for k in self.records if WINDOW_LOSS.format(k) in file.arrays]
            measured = [key for key in pairs if PER_WINDOW.format(*key, "relative_pd") in file.arrays]
            self.file_of |= dict.fromkeys([*trials, *measured], name)
        # a pair whose values file is missing is measured again
        self.pairs = {key: pair for key, pair in pairs.items() if key in self.file_of}

    def _adopt(self):
        """Adds values files that an interrupted run wrote but did not list in the result file."""
        folder = self.plan.results_dir / self.name
        for kind, take in (("trial", self._adopt_trial), ("pairs", self._adopt_pairs)):
            for path in sorted(folder.glob(f"{kind}_*{array_files.ARRAY_SUFFIX}")):
                name = f"{self.name}/{path.name}"
                if name in self.values or path.name.endswith(PREDICTIONS):
                    continue
                file = array_files.read_arrays(path)
                try:
                    content = file.about.pop("content", None)
                    check_belongs(path, file.about, self._about(kind))
                    adopted = take(content, path.name)
                except (RunError, KeyError, TypeError, ValueError, AttributeError) as error:
                    reason = error if isinstance(error, RunError) else f"{path} was not written by this program"
                    self.notes.append(f"{reason}; it is ignored")
                    continue
                if adopted:
                    self.values[name] = file.sha256
                    self.file_of |= dict.fromkeys(adopted, name)
                    self.unsaved += 1
                else:
                    self.notes.append(f"{path} is a copy, or has been replaced by another file; it is ignored")

    def _adopt_trial(self, content, name):
        """Adds the record in a file if this experiment lacks it; returns [trial number], or []."""
        record = content["record"]
        number = record["trial"]
        known = self.records.get(number)
        same = known is None or known["weights_sha256"] == record["weights_sha256"]
        if name != f"trial_{number}{array_files.ARRAY_SUFFIX}" or number in self.file_of or not same:
            return []
        self.records[number] = record
        return [number]

    def _adopt_pairs(self, content, name):
        """Adds the pairs in a file that this experiment lacks and whose models it has; returns their keys."""
        if name != _name_of_pairs(content):
            return []
        models = {int(number): digest for number, digest in content["weights"].items()}
        found = {(pair["trial_a"], pair["trial_b"]): pair for pair in content["pairs"]}
        found = {
            key: pair
            for key, pair in found.items()
            if key not in self.pairs and all(self.records.get(k, {}).get("weights_sha256") == models[k] for k in key)
        }
        self.pairs |= found
        return list(found)

    def _about(self, kind):
        """The identity stored in a file of this experiment."""
        about = {"kind": kind, "architecture": self.architecture, "activation": self.activation}
        return {**about, "identity": self.identity()}

    def _store(self, kind, file_name, content, keys, arrays):
        """Writes the result of one job to a file."""
        name = f"{self.name}/{file_name}"
        about = {**self._about(kind), "content": content}
        self.values[name] = array_files.write_arrays(self.plan.results_dir / name, about, arrays)
        self.file_of |= dict.fromkeys(keys, name)
        self.unsaved += 1
        if self.unsaved * SHARE_UNSAVED > len(self.values):
            self.save()

    def _store_trial(self, number, arrays):
        file_name = f"trial_{number}{array_files.ARRAY_SUFFIX}"
        self._store("trial", file_name, {"record": self.records[number]}, [number], arrays)

    def identity(self):
        """The study's identity with this experiment's complete configuration."""
        return identity_of(self.plan.identity(self.task), self.architecture, self.activation)

    def checkpoint_path(self, number):
        return self.folder / f"trial_{number}.pt"

    def folders(self):
        """Every folder that holds files of this experiment."""
        return [self.plan.results_dir / self.name, self.folder, *self.folder.glob("trial_*.curve")]

    def partial_path(self, number):
        """File in which a running trial saves its state."""
        return self.folder / f"trial_{number}.partial.pt"

    def predictions_path(self, number):
        return self.folder / f"trial_{number}{PREDICTIONS}"

    def member(self, number):
        """A trained trial as input of a comparison."""
        record, trial = self.records[number], self.plan.trial(self.architecture, self.activation, number)
        about = {**self._about("predictions"), "weights_sha256": record["weights_sha256"]}
        return Member(
            checkpoint=str(self.checkpoint_path(number)),
            weights_sha256=record["weights_sha256"],
            device=self.plan.device,
            predictions=str(self.predictions_path(number)),
            about=about,
            curve_folder=str(curve_files.curve_folder(self.folder, number)),
            about_curve=curve_files.about_curve(trial, self.task, record["environment"]),
            steps=() if self.plan.protocol == "published" else tuple(point["step"] for point in record["history"]),
            continuations=record.get("continuations"),
        )

    def has_predictions(self, number):
        """Whether a trial's predictions are on disk and intact."""
        member = self.member(number)
        try:
            read_belonging(member.predictions, member.about)
        except (FileNotFoundError, RunError):
            return False
        return True

    def curve_problem(self, number):
        """Why a trial's curve points cannot be used; None if all of them can."""
        member = self.member(number)
        return curve_files.curve_problem(member.curve_folder, member.about_curve, member.steps)

    def unpack_curve(self, number, content):
        """Writes the curve points in a checkpoint of schema_version 1 to separate files, if a pair needs them."""
        if content.get("curve") and number in self.needed_predictions() and self.curve_problem(number):
            member = self.member(number)
            for step, log_p in content["curve"]:
                curve_files.write_point(member.curve_folder, member.about_curve, step, log_p.numpy())

    def complete_trials(self):
        """Numbers of the complete trials among those of this run."""
        return [k for k in range(1, self.plan.n_trials + 1) if self.records.get(k, {}).get("status") == "complete"]

    def missing_pairs(self):
        """Pairs of complete trials that have not been compared."""
        return [pair for pair in itertools.combinations(self.complete_trials(), 2) if pair not in self.pairs]

    def pending_pairs(self):
        """Pairs that have not been compared, including those with a trial still to be trained."""
        numbers = [k for k in range(1, self.plan.n_trials + 1) if self.records.get(k, {}).get("status") != "diverged"]
        return [pair for pair in itertools.combinations(numbers, 2) if pair not in self.pairs]

    def prediction_job(self, number):
        """The job that recomputes a trained trial's predictions."""
        member = self.member(number)
        arguments = {name: getattr(member, name) for name in ("checkpoint", "weights_sha256", "device")}
        return Job(f"{self.name} predictions {number}", "predict", arguments)

    def needed_predictions(self):
        """Trials of the pending pairs."""
        return set(itertools.chain.from_iterable(self.pending_pairs()))

    def prediction_jobs(self, number):
        """Jobs that recompute the predictions which the trial's missing pairs need; some may be running already.

        If a retrained trial differs, its pairs need the predictions of all others, which may have been deleted.
        """
        partners = {k for pair in self.missing_pairs() if number in pair for k in pair} - self.ready
        for k in sorted(partners):
            if self.checkpoint_path(k).exists():
                yield self.prediction_job(k)

    def check_checkpoints(self, say):
        """Sets damaged checkpoints aside; their trials will be retrained."""
        for number in self.complete_trials():
            path = self.checkpoint_path(number)
            try:
                content = checkpoint_files.read_checkpoint(path, checkpoint_files.TRAINED_MODEL)
                sound = checkpoint_files.weights_sha256(content["model"]) == self.records[number]["weights_sha256"]
                reason = f"the weights in {path} are not those of {self.path}"
            except FileNotFoundError:
                continue
            except (RunError, KeyError, TypeError, AttributeError) as error:
                sound, reason = False, str(error) if isinstance(error, RunError) else f"{path} contains no model"
            if sound:
                self.unpack_curve(number, content)
            else:
                aside = set_aside(path)
                say(f"{reason}; set aside as {aside.name}, trial {number} of {self.name} is retrained")

    def lost_curves(self):
        """Number -> problem, for trials that a pair needs and that have a checkpoint but no complete curve."""
        numbers = [k for k in self.complete_trials() if k in self.needed_predictions()]
        problems = {k: self.curve_problem(k) for k in numbers if os.path.lexists(self.checkpoint_path(k))}
        return {k: problem for k, problem in problems.items() if problem and not self._has_old_curve(k)}

    def _has_old_curve(self, number):
        """Whether the curve is in the checkpoint itself, as in schema_version 1."""
        try:
            return bool(checkpoint_files.read_checkpoint(self.checkpoint_path(number)).get("curve"))
        except (FileNotFoundError, RunError):
            return False

    def set_aside_before(self, number):
        """Whether a checkpoint of the trial was set aside: if it is missing, it has not been replaced yet."""
        return any(self.folder.glob(f"{self.checkpoint_path(number).name}.aside-*"))

    def jobs(self):
        """The missing jobs: trials to train, and predictions of trained trials that a pair needs."""
        needed, without_curve, to_train = self.needed_predictions(), self.lost_curves(), []
        for number in range(1, self.plan.n_trials + 1):
            record = self.records.get(number)
            complete = record is not None and record["status"] == "complete"
            without_values = complete and number not in self.file_of  # the values file is missing
            wanted = number in needed or without_values
            lost = complete and not os.path.lexists(self.checkpoint_path(number))
            if record is None or (lost and (wanted or self.set_aside_before(number))) or number in without_curve:
                to_train.append(self.plan.trial(self.architecture, self.activation, number))
            elif complete and wanted:
                if self.has_predictions(number) and not without_values:
                    self.ready.add(number)
                else:
                    yield self.prediction_job(number)
        for trial in to_train:
            arguments = {"trial": trial, "partial_path": str(self.partial_path(trial.number))}
            yield Job(f"{self.name} trial {trial.number}", "trial", arguments)

    def add_trial(self, trial, outcome):
        """Writes a trained trial: checkpoint, predictions, values, result, in this order, so what is listed exists."""
        record, number = outcome["record"], trial.number
        if before := self.records.pop(number, None):
            if before["weights_sha256"] != record["weights_sha256"]:
                self.drop_pairs_of(number)
            self.drop_values_of([number])
            self.save()  # the result must not list a file that is about to change
        self.records[number] = record
        if record["status"] != "complete":
            shutil.rmtree(curve_files.curve_folder(self.folder, number), ignore_errors=True)
            return self._store_trial(number, {})
        content = checkpoint_content(trial, self.task, outcome)
        if "generator_state" in outcome:
            content["generator_state"] = outcome["generator_state"]
        self.set_aside_other_checkpoint(number, record["weights_sha256"])
        checkpoint_files.write_checkpoint(self.checkpoint_path(number), content)
        record["checkpoint"] = f"{self.name}/trial_{number}.pt"
        member = self.member(number)
        for step, log_p in outcome["curve"]:
            if not isinstance(log_p, str):  # from a cluster, or the disk was full
                curve_files.write_point(member.curve_folder, member.about_curve, step, log_p)
        self.write_predictions(number, outcome["log_probabilities"])
        self._store_trial(number, {WINDOW_LOSS.format(number): outcome["window_loss"]})

    def drop_pairs_of(self, number):
        """Drops all pairs of a trial whose retrained model differs."""
        keys = [key for key in self.pairs if number in key]
        files = {self.file_of[key] for key in keys} - {f"{self.name}.npz"}
        keys += [key for key in self.pairs if self.file_of[key] in files and key not in keys]  # whole files only
        for key in keys:
            del self.pairs[key]
        self.drop_values_of(keys)
        self.published_pairs = None

    def drop_values_of(self, keys):
        """Drops the values of trials or pairs and deletes files that no other key uses."""
        for key in keys:
            self.file_of.pop(key, None)
        for name in self.values.keys() - self.file_of.values() - {f"{self.name}.npz"}:
            del self.values[name]
            (self.plan.results_dir / name).unlink(missing_ok=True)

    def set_aside_other_checkpoint(self, number, weights_sha256):
        """Sets aside an existing file at a trial's checkpoint path if it holds another model."""
        path = self.checkpoint_path(number)
        if not path.exists():
            return
        try:
            known = checkpoint_files.read_checkpoint(path).get("weights_sha256") == weights_sha256
        except RunError:
            known = False
        if not known:
            set_aside(path)

    def add_failure(self, trial, reason):
        """Records that a trial could not be trained; the next run retries it. An earlier complete record is kept."""
        before = self.records.get(trial.number)
        if before is not None and before["status"] == "complete":
            return {**before, "status": "failed", "reason": reason}
        empty = dict.fromkeys((*TRIAL_SUMMARY, "training_time_s", "evaluation_time_s", "checkpoint", "weights_sha256"))
        record = {"trial": trial.number, "seed": trial.seed, "seeds": trial.seeds, "status": "failed", **empty}
        self.records[trial.number] = {**record, "history": [], "reason": reason, "environment": None}
        self.save()
        return self.records[trial.number]

    def add_predictions(self, number, log_probabilities):
        """Stores recomputed predictions, and the losses per window if these are missing."""
        if number not in self.file_of:
            targets = self.task.targets("validation", self.plan.config)
            self._store_trial(number, {WINDOW_LOSS.format(number): metrics.window_losses(log_probabilities, targets)})
        self.write_predictions(number, log_probabilities)

    def write_predictions(self, number, log_probabilities):
        """Writes a trial's predictions to a file that is kept until all its pairs are measured."""
        arrays = {"log_probabilities": log_probabilities}
        array_files.write_arrays(self.predictions_path(number), self.member(number).about, arrays)
        self.ready.add(number)

    def comparison(self, number):
        """The job that compares a trial with every other that is ready; None if there is nothing to compare."""
        pairs = [
            pair
            for pair in self.missing_pairs()
            if number in pair and self.ready.issuperset(pair) and all(k <= self.plan.n_trials for k in pair)
        ]
        if not pairs:
            return None
        members = {k: self.member(k) for k in sorted(set(itertools.chain.from_iterable(pairs)))}
        arguments = {"members": members, "pairs": pairs, "config": self.plan.config}
        arguments["last_position"] = self.plan.protocol == "published"
        return Job(f"{self.name} pairs of {number}", "compare", arguments)

    def add_pairs(self, pairs):
        """Stores measured pairs."""
        arrays, found = {}, {}
        for pair in pairs:
            key = pair["trial_a"], pair["trial_b"]
            for metric, values in pair.pop("per_window").items():
                arrays[PER_WINDOW.format(*key, metric)] = np.asarray(values, np.float32)
            found[key] = pair
        self.pairs |= found
        numbers = sorted(set(itertools.chain.from_iterable(found)))
        content = {"weights": {str(k): self.records[k]["weights_sha256"] for k in numbers}, "pairs": pairs}
        self._store("pairs", _name_of_pairs(content), content, found, arrays)

    def delete_predictions(self):
        """Deletes the predictions once every pair is measured; they can be recomputed from the checkpoints."""
        for pattern in (f"trial_*{PREDICTIONS}", "trial_*.npy"):
            for path in self.folder.glob(pattern):
                path.unlink()
        self.ready.clear()

    def save(self):
        """Writes the result file."""
        content = self.result()
        json_files.write_json(self.path, content)
        self.unsaved, self._summary = 0, summary_of(content)

    def summary(self):
        """The entry of this experiment in all_experiments_summary.json."""
        if self._summary is None:
            self._summary = summary_of(self.result())
        return self._summary

    def result(self):
        """The content of the result file."""
        from architectures.registry import user_sources

        content = {
            "kind": json_files.RESULT,
            "schema_version": json_files.SCHEMA_VERSION,
            "numerics_version": numerics_version(self.plan.config.dtype, self.plan.compiled),
            "architecture": self.architecture,
            "activation": self.activation,
            **user_sources(self.architecture, self.activation),
            "identity": self.identity(),
            **self.task.result_facts(),
            **self.model_facts,
            "trials": [self.records[k] for k in sorted(self.records)],
            "pairs": [self.pairs[k] for k in sorted(self.pairs)],
        }
        if self.plan.protocol == "published":
            content["published_pairs"] = self.published_pairs
        content["values"] = [{"file": name, "sha256": self.values[name]} for name in sorted(self.values)]
        return {**content, "summary": summarize(content), "provenance": program()}


def _name_of_pairs(content):
    """File name of a comparison, a hash of its pairs and models."""
    keys = [[pair["trial_a"], pair["trial_b"]] for pair in content["pairs"]]
    text = json.dumps([keys, content["weights"]], sort_keys=True)
    return f"pairs_{hashlib.sha256(text.encode()).hexdigest()[:16]}{array_files.ARRAY_SUFFIX}"
