"""One architecture with one activation of a study: its records and pairs, its files, and the jobs it still lacks.

Every result is a pure function of (identity, trial), so the order in which workers finish changes nothing: records are
kept by trial number and pairs by their two numbers.

    trial job -> checkpoint, predictions -> comparison of each pair whose two trials are finished -> result file
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
from training import curve_files, packed
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
SHARE_UNSAVED = 10  # a result file lacks at most one in so many


class Experiment:
    """One architecture with one activation: its records and pairs, and the files of them and of their values per window.

    A finished trial or comparison writes one file, with its record or pairs and their values per window. The result file
    names these and repeats all but the values; it is written when it lacks a tenth of them (of few: always) and at the
    end, so that a study of n trials writes no n results of n trials. What it lacks after a kill is read from the files.
    """

    def __init__(self, plan, task, architecture, activation, model_facts):
        self.plan, self.task = plan, task
        self.architecture, self.activation = architecture, activation
        self.name = f"{architecture}_{activation}"
        self.model_facts = model_facts  # n_parameters and the sizes used
        self.path = plan.results_dir / f"{self.name}.json"
        self.folder = plan.checkpoints_dir / self.name
        self.records, self.pairs = {}, {}
        self.values = {}  # file with values per window, as the result names it -> its SHA-256
        self.file_of = {}  # trial, or pair of trials -> its file among these
        self._summary = None
        self.unsaved = 0  # files that the result file does not name yet
        self.left_alone = []  # sentences on files that are not this experiment's
        self.published_pairs = None
        self.published_submitted = False
        self.ready = set()  # trials whose predictions are on disk
        self._load()
        self._adopt()

    def _load(self):
        """Reads the result, and of the values that it names whether they are there and in order."""
        if not os.path.lexists(self.path):
            return
        from architectures.registry import check_reader_sources

        result = storage.read_result(self.path)
        check_reader_sources(result)
        difference = difference_of_identities(result["identity"], self.identity())
        if difference:
            raise UserError(
                f"{self.path} belongs to another study ({difference}); move it away, or choose another folder"
            )
        self.records = {record["trial"]: record for record in result["trials"] if record["status"] != "failed"}
        pairs = {(pair["trial_a"], pair["trial_b"]): pair for pair in result["pairs"]}
        self.published_pairs = result.get("published_pairs")
        for place, file in storage.files_of_values(result):
            self.values[place] = file.sha256
            trials = [k for k in self.records if WINDOW_LOSS.format(k) in file.arrays]
            measured = [key for key in pairs if PER_WINDOW.format(*key, "relative_pd") in file.arrays]
            self.file_of |= dict.fromkeys([*trials, *measured], place)
        # a pair whose values are missing (their file was moved away) is measured again
        self.pairs = {key: pair for key, pair in pairs.items() if key in self.file_of}

    def _adopt(self):
        """Takes over what an earlier run measured and did not come to name in the result file."""
        folder = self.plan.results_dir / self.name
        for kind, take in (("trial", self._adopt_trial), ("pairs", self._adopt_pairs)):
            for path in sorted(folder.glob(f"{kind}_*{array_files.ARRAY_SUFFIX}")):
                place = f"{self.name}/{path.name}"
                if place in self.values or path.name.endswith(PREDICTIONS):
                    continue
                file = array_files.read_arrays(path)
                try:
                    content = file.about.pop("content", None)
                    check_belongs(path, file.about, self._about(kind))
                    adopted = take(content, path.name)
                except (RunError, KeyError, TypeError, ValueError, AttributeError) as error:
                    reason = error if isinstance(error, RunError) else f"{path} is no file of this program"
                    self.left_alone.append(f"{reason}; it is left alone")
                    continue
                if adopted:
                    self.values[place] = file.sha256
                    self.file_of |= dict.fromkeys(adopted, place)
                    self.unsaved += 1
                else:
                    self.left_alone.append(f"{path} is a copy, or was replaced by another file; it is left alone")

    def _adopt_trial(self, content, name):
        """[its number] if the record in a file is one that this experiment lacks."""
        record = content["record"]
        number = record["trial"]
        known = self.records.get(number)
        same = known is None or known["weights_sha256"] == record["weights_sha256"]
        if name != f"trial_{number}{array_files.ARRAY_SUFFIX}" or number in self.file_of or not same:
            return []
        self.records[number] = record
        return [number]

    def _adopt_pairs(self, content, name):
        """Those pairs in a file that this experiment lacks, of the models that it has."""
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
        """What a file of this experiment belongs to."""
        about = {"kind": kind, "architecture": self.architecture, "activation": self.activation}
        return {**about, "identity": self.identity()}

    def _keep(self, kind, name, content, keys, arrays):
        """Writes what one job gave."""
        place = f"{self.name}/{name}"
        about = {**self._about(kind), "content": content}
        self.values[place] = array_files.write_arrays(self.plan.results_dir / place, about, arrays)
        self.file_of |= dict.fromkeys(keys, place)
        self.unsaved += 1
        if self.unsaved * SHARE_UNSAVED > len(self.values):
            self.save()

    def _keep_trial(self, number, arrays):
        name = f"trial_{number}{array_files.ARRAY_SUFFIX}"
        self._keep("trial", name, {"record": self.records[number]}, [number], arrays)

    def identity(self):
        """The study's identity with this experiment's complete configuration."""
        return identity_of(self.plan.identity(self.task), self.architecture, self.activation)

    def checkpoint_path(self, number):
        return self.folder / f"trial_{number}.pt"

    def folders(self):
        """Every folder in which this experiment has files of its own."""
        return [self.plan.results_dir / self.name, self.folder, *self.folder.glob("trial_*.curve")]

    def partial_path(self, number):
        """Where a running trial, or the running pack that it belongs to, saves itself."""
        if self.plan.pack is None:
            return self.folder / f"trial_{number}.partial.pt"
        first = number - (number - 1) % self.plan.pack
        return self.folder / f"trial_{first}_to_{first + self.plan.pack - 1}.partial.pt"

    def predictions_path(self, number):
        return self.folder / f"trial_{number}{PREDICTIONS}"

    def member(self, number):
        """A trained trial as comparisons take it."""
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
        """Whether a trial's predictions are on disk, and in order."""
        member = self.member(number)
        try:
            read_belonging(member.predictions, member.about)
        except (FileNotFoundError, RunError):
            return False
        return True

    def fault_of_curve(self, number):
        """Why the points of a trial's curve cannot be used, in words; None where all are there and in order."""
        member = self.member(number)
        return curve_files.what_is_wrong(member.curve_folder, member.about_curve, member.steps)

    def unpack_curve(self, number, content):
        """Writes the points that a checkpoint of schema_version 1 holds into files of their own, if a pair needs them."""
        if content.get("curve") and number in self.needed_predictions() and self.fault_of_curve(number):
            member = self.member(number)
            for step, log_p in content["curve"]:
                curve_files.write_point(member.curve_folder, member.about_curve, step, log_p.numpy())

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
        member = self.member(number)
        arguments = {name: getattr(member, name) for name in ("checkpoint", "weights_sha256", "device")}
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
            try:
                content = checkpoint_files.read_checkpoint(path, checkpoint_files.TRAINED_MODEL)
                sound = checkpoint_files.weights_sha256(content["model"]) == self.records[number]["weights_sha256"]
                reason = f"{path} holds other weights than {self.path} says"
            except FileNotFoundError:
                continue
            except (RunError, KeyError, TypeError, AttributeError) as error:
                sound, reason = False, str(error) if isinstance(error, RunError) else f"{path} holds no model"
            if sound:
                self.unpack_curve(number, content)
            else:
                aside = set_aside(path)
                say(f"{reason}; set aside as {aside.name}, and trial {number} of {self.name} is trained again")

    def lost_curves(self):
        """Number -> why, of the trials that a pair needs and that have a checkpoint, but no complete curve."""
        numbers = [k for k in self.complete_trials() if k in self.needed_predictions()]
        faults = {k: self.fault_of_curve(k) for k in numbers if os.path.lexists(self.checkpoint_path(k))}
        return {k: fault for k, fault in faults.items() if fault and not self._has_old_curve(k)}

    def _has_old_curve(self, number):
        """Whether the checkpoint itself holds the curve, as in schema_version 1."""
        try:
            return bool(checkpoint_files.read_checkpoint(self.checkpoint_path(number)).get("curve"))
        except (FileNotFoundError, RunError):
            return False

    def set_aside_before(self, number):
        """Whether a checkpoint of the trial was set aside, so that one which is missing has not been made again."""
        return any(self.folder.glob(f"{self.checkpoint_path(number).name}.aside-*"))

    def jobs(self):
        """The work that is missing: trials to train, and trained ones whose predictions a pair needs."""
        needed, without_curve, to_train = self.needed_predictions(), self.lost_curves(), []
        for number in range(1, self.plan.n_trials + 1):
            record = self.records.get(number)
            complete = record is not None and record["status"] == "complete"
            without_values = complete and number not in self.file_of  # their file was moved away
            wanted = number in needed or without_values
            lost = complete and not os.path.lexists(self.checkpoint_path(number))
            if record is None or (lost and (wanted or self.set_aside_before(number))) or number in without_curve:
                to_train.append(self.plan.trial(self.architecture, self.activation, number))
            elif complete and wanted:
                if self.has_predictions(number) and not without_values:
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
        """Writes a trained trial: checkpoint, predictions, values, result, in this order: a result never promises more."""
        record, number = outcome["record"], trial.number
        if before := self.records.pop(number, None):
            if before["weights_sha256"] != record["weights_sha256"]:
                self.forget_pairs_of(number)
            self.forget_values_of([number])
            self.save()  # the result must not name a file that is about to change
        self.records[number] = record
        if record["status"] != "complete":
            shutil.rmtree(curve_files.curve_folder(self.folder, number), ignore_errors=True)
            return self._keep_trial(number, {})
        content = checkpoint_content(trial, self.task, outcome)
        if "generator_state" in outcome:
            content["generator_state"] = outcome["generator_state"]
        self.keep_another_checkpoint(number, record["weights_sha256"])
        checkpoint_files.write_checkpoint(self.checkpoint_path(number), content)
        record["checkpoint"] = f"{self.name}/trial_{number}.pt"
        member = self.member(number)
        for step, log_p in outcome["curve"]:
            if not isinstance(log_p, str):  # from a cluster, or there was no room on the disk
                curve_files.write_point(member.curve_folder, member.about_curve, step, log_p)
        self.write_predictions(number, outcome["log_probabilities"])
        self._keep_trial(number, {WINDOW_LOSS.format(number): outcome["window_loss"]})

    def forget_pairs_of(self, number):
        """Its comparisons with the others were those of another model."""
        keys = [key for key in self.pairs if number in key]
        files = {self.file_of[key] for key in keys} - {f"{self.name}.npz"}
        keys += [key for key in self.pairs if self.file_of[key] in files and key not in keys]  # no file is half true
        for key in keys:
            del self.pairs[key]
        self.forget_values_of(keys)
        self.published_pairs = None

    def forget_values_of(self, keys):
        """Of trials or pairs; a file in which nothing else lies goes."""
        for key in keys:
            self.file_of.pop(key, None)
        for place in self.values.keys() - self.file_of.values() - {f"{self.name}.npz"}:
            del self.values[place]
            (self.plan.results_dir / place).unlink(missing_ok=True)

    def keep_another_checkpoint(self, number, weights_sha256):
        """Sets aside what lies in the place of a trial's checkpoint, where it is not that trial's model."""
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
        if number not in self.file_of:
            targets = self.task.targets("validation", self.plan.config)
            self._keep_trial(number, {WINDOW_LOSS.format(number): metrics.window_losses(log_probabilities, targets)})
        self.write_predictions(number, log_probabilities)

    def write_predictions(self, number, log_probabilities):
        """Keeps a trial's predictions until all its pairs are measured."""
        arrays = {"log_probabilities": log_probabilities}
        array_files.write_arrays(self.predictions_path(number), self.member(number).about, arrays)
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
        self._keep("pairs", _name_of_pairs(content), content, found, arrays)

    def forget_predictions(self):
        """Removes the predictions once every pair is measured; they can be made again from the checkpoints."""
        for pattern in (f"trial_*{PREDICTIONS}", "trial_*.npy"):
            for path in self.folder.glob(pattern):
                path.unlink()
        self.ready.clear()

    def save(self):
        """Writes the result, which names the values."""
        content = self.result()
        json_files.write_json(self.path, content)
        self.unsaved, self._summary = 0, summary_of(content)

    def summary(self):
        """This experiment in a few numbers, as the result file has them."""
        if self._summary is None:
            self._summary = summary_of(self.result())
        return self._summary

    def result(self):
        """The content of the result file."""
        from architectures.registry import reader_sources

        content = {
            "kind": json_files.RESULT,
            "schema_version": json_files.SCHEMA_VERSION,
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
        content["values"] = [{"file": place, "sha256": self.values[place]} for place in sorted(self.values)]
        return {**content, "summary": summarize(content), "provenance": program()}


def _name_of_pairs(content):
    """The file of a comparison: another one for other pairs, and for other models."""
    keys = [[pair["trial_a"], pair["trial_b"]] for pair in content["pairs"]]
    text = json.dumps([keys, content["weights"]], sort_keys=True)
    return f"pairs_{hashlib.sha256(text.encode()).hexdigest()[:16]}{array_files.ARRAY_SUFFIX}"
