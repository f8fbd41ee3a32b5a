"""Claims about an estimate: it counts what a study does, and adds it up as workers share it."""

from dataclasses import replace
from pathlib import Path

import pytest
import studies

import train
from study import cost
from study.plan import Plan
from tasks import base
from training import published_protocol


@pytest.mark.parametrize(
    "changes",
    [{}, {"eval_interval": 1}, {"eval_interval": 4}, {"eval_interval": 9}, {"curve_windows": 999}, {"block_size": 300}],
)
def test_a_trial_evaluates_the_windows_that_are_counted(task, monkeypatch, changes):
    real, seen = base.log_probabilities, []
    monkeypatch.setattr(base, "log_probabilities", lambda model, x, c: seen.append(len(x)) or real(model, x, c))
    trial = studies.a_trial(**changes)
    texts = train.run_trial(trial, task)["record"]["continuations"]
    half_windows = sum(map(len, texts))  # each character comes of half a window, on average
    assert cost.evaluated_examples(trial.config, task, "matched") == sum(seen) + half_windows / 2


def test_a_trial_of_the_published_protocol_evaluates_the_windows_that_are_counted(task, monkeypatch):
    real, seen = published_protocol.published_forward, []

    def counted(model, tokens, training):
        seen.append(0 if training else len(tokens))
        return real(model, tokens, training)

    monkeypatch.setattr(published_protocol, "published_forward", counted)
    config = studies.a_trial(max_iters=4, eval_iters=3).config
    published_protocol.train_published_trial("relu", 0, 42, config, task.corpus, one_by_one=False)
    of_the_trained_model = cost.evaluated_examples(config.replace(curve_windows=1), task, "matched") - 2 * 3
    assert cost.evaluated_examples(config, task, "published") == sum(seen) + of_the_trained_model


def test_workers_take_one_task_after_another():
    assert cost.makespan([], 2) == 0
    assert cost.makespan([5, 5, 5], 2) == 10, "three equal trials keep two workers busy for two rounds"
    assert cost.makespan([9, 1, 1, 1], 2) == 9
    assert cost.makespan([1] * 10, 1) == cost.makespan([1] * 100, 10) == 10


def an_estimate(task, monkeypatch, tasks, n_pairs, workers, device="cpu"):
    """The estimate of a study on a machine where a step takes 2 s, a window 0.5 s and a pair 10 s."""
    monkeypatch.setattr(cost, "measure", lambda *_: (2.0, 0.5))
    monkeypatch.setattr(cost, "measure_pair", lambda *_: 10.0)
    folders = [Path(kind) for kind in ("results", "checkpoints", "plots")]
    experiments = (("charlm", "relu"), ("charlm", "gelu"))
    plan = Plan(studies.a_trial().config, device, "matched", 42, ("init", "data", "dropout"), 3, experiments, *folders)
    facts = {key: {"n_parameters": 1000} for key in experiments}
    return cost.estimate(plan, task, facts, [("charlm", kind) for kind in tasks], n_pairs, workers)


def test_an_estimate_is_training_evaluation_and_comparison_shared_by_the_workers(task, monkeypatch):
    trial_s = 6 * 2 + cost.evaluated_examples(studies.a_trial().config, task, "matched") * 0.5
    predict_s = (len(task.corpus.validation) - 1) // 16 * 0.5

    def seconds(*arguments):
        return an_estimate(task, monkeypatch, *arguments)[0]

    assert seconds([], 0, 1) == 0
    assert seconds(["trial"] * 3, 0, 1) == 3 * trial_s
    assert seconds(["trial"] * 3, 0, 2) == 2 * trial_s
    assert seconds(["trial"] * 3, 4, 2) == 2 * trial_s + 20
    assert seconds(["predict", "trial"], 3, 1) == predict_s + trial_s + 30
    assert seconds(["trial"] * 3, 4, 2, "cuda") == 3 * trial_s + 20, "what sharing a GPU gains is not counted on"


def test_probes_are_timed_once_and_counted_at_every_curve_point(task, monkeypatch):
    plain = Plan(studies.a_trial().config, "cpu", "matched", 42, (), 2, (("charlm", "relu"),), *[Path()] * 3)
    probed = replace(plain, probes=("gradient_norm",))
    assert cost.measure_probes(plain, "charlm", "relu", task) == 0 < cost.measure_probes(probed, "charlm", "relu", task)
    monkeypatch.setattr(cost, "measure", lambda *_: (0.0, 0.0))
    monkeypatch.setattr(cost, "measure_probes", lambda *_: 100.0)
    facts = {("charlm", "relu"): {"n_parameters": 1}}
    seconds, _ = cost.estimate(probed, task, facts, [("charlm", "trial")] * 2, 0, 1)
    assert seconds == 2 * 100.0 * len(probed.config.curve_steps())


def test_the_disk_holds_every_checkpoint_with_its_curves_a_running_state_and_two_activations_predictions(
    task, monkeypatch
):
    predictions = 4 * ((len(task.corpus.validation) - 1) // 16 * 16) * task.n_classes
    disk = an_estimate(task, monkeypatch, ["trial"] * 6, 6, 1)[1]
    checkpoint = 4 * 1000 + 4 * 4 * 4 * 16 * task.n_classes  # 4 points of 4 windows of 16 characters
    assert disk == 6 * checkpoint + 3 * checkpoint + 2 * 3 * predictions


def test_what_is_measured_is_a_step_a_window_and_a_pair_of_this_study(task, monkeypatch):
    """A large model is measured on few sequences, and the study's own sizes are the others'."""
    calls = []
    monkeypatch.setattr(cost, "timed", lambda function: (calls.append(function), function(), 8.0)[-1])
    plan = Plan(studies.a_trial(batch_size=16).config, "cpu", "matched", 42, (), 2, (("mlp", "relu"),), *[Path()] * 3)
    assert cost.measure(plan, "mlp", "relu", 1000, task) == (8.0, 8.0 / 16)
    large = cost.MEASURED_WHOLE + 1
    assert cost.measure(plan, "mlp", "relu", large, task) == (8.0 * 4, 8.0 / 4)
    n_windows = (len(task.corpus.validation) - 1) // 16
    curves = 4 * 4  # points of a curve, windows of each
    assert cost.measure_pair(plan, task, 0.0) == pytest.approx(8.0 / 16 * (n_windows + curves / 4))
    assert len(calls) == 5


@pytest.mark.parametrize(("disk", "words"), [(3e9, "3.0 GB"), (12, "0.1 GB")])
def test_a_small_study_does_not_take_no_disk(disk, words):
    assert cost.describe_cost(80, disk, 2) == f"about 80 s with 2 worker(s), at most {words} of disk"
