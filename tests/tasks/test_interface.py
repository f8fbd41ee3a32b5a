"""Claims about the task interface: nothing above a task assumes text, several positions, or one loss per step."""

import json

import numpy as np
import other_tasks
import pytest
import studies
import torch

import train
from common import checkpoint_files, json_files
from common.errors import UserError
from config_cpu import ConfigCPU
from tasks.registry import load_recorded, load_task
from training import compiled
from training.trial import Interrupted, Trial, stream_seeds

SIZES = {"n_embd": 8, "n_head": 2, "max_iters": 30, "eval_interval": 10, "learning_rate": 0.02, "curve_windows": 40}
PRELUDE = "import sys\nsys.path.insert(0, {folder!r})\nimport other_tasks\nother_tasks.register()\n"


@pytest.fixture(autouse=True)
def known():
    other_tasks.register()
    yield
    other_tasks.forget()


def a_trial(task, number=1, activation="relu", **changes):
    config = ConfigCPU(**{**SIZES, **changes})
    seeds = stream_seeds(42, number, ("init", "data", "dropout"))
    return Trial(f"sectors_{task}", activation, config, number, 41 + number, seeds)


@pytest.mark.parametrize("name", ["points", "walk"])
def test_a_model_learns_a_task_that_is_no_text_and_repeats_bit_for_bit(name):
    task = load_task(name)
    outcome = train.run_trial(a_trial(name), task)
    record = outcome["record"]
    assert outcome["log_probabilities"].shape == (120, 1, 3) and outcome["window_loss"].shape == (120,)
    np.testing.assert_allclose(np.exp(outcome["log_probabilities"]).sum(-1), 1, rtol=1e-5)
    assert record["val_loss"] < record["history"][0]["val_loss"] and record["val_accuracy"] > 0.5
    assert "continuations" not in record
    studies.assert_same(train.run_trial(a_trial(name), task), outcome)
    json.dumps(record, allow_nan=False)


def test_a_tasks_own_score_is_recorded():
    record = train.run_trial(a_trial("walk"), load_task("walk"))["record"]
    assert record["score"] == {
        "name": "sectors found",
        "value": pytest.approx(record["val_accuracy"]),
        "higher_is_better": True,
    }


@pytest.mark.parametrize("name", ["points", "walk"])
@pytest.mark.parametrize("steps", [1, 10, 17, 29])
def test_a_task_with_a_state_of_its_own_resumes_to_the_same_bits(name, steps, tmp_path):
    task, partial = load_task(name), tmp_path / "trial_1.partial.pt"
    expected = train.run_trial(a_trial(name), task)
    with pytest.raises(Interrupted):
        train.run_trial(a_trial(name), task, partial, should_stop=studies.stop_after(steps))
    studies.assert_same(train.run_trial(a_trial(name), task, partial), expected)


def test_a_task_whose_step_is_its_own_cannot_be_compiled():
    task = load_task("walk")
    with pytest.raises(UserError, match="walk cannot be compiled"):
        compiled.check_can_be_compiled("sectors_walk", "relu", ConfigCPU(**SIZES), task)


def test_a_supervised_task_can_be_compiled(not_compiled):
    task, trial = load_task("points"), a_trial("points")
    compiled.check_can_be_compiled("sectors_points", "relu", trial.config, task)
    plain = train.run_trial(trial, task)["log_probabilities"]
    found = train.run_trial(studies.replace(trial, compiled=True), task)["log_probabilities"]
    np.testing.assert_allclose(found, plain, atol=1e-4)


@pytest.mark.parametrize("name", ["points", "walk"])
def test_a_study_of_it_is_trained_resumed_and_analysed(name, tmp_path):
    prelude = PRELUDE.format(folder=str(studies.ROOT / "tests" / "helpers"))
    options = [word for key, value in SIZES.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    study = ("run_all_experiments.py", "--task", name, "--architectures", f"sectors_{name}", *options, "--workers", "1")
    study += ("--activations", "relu", "swish")
    first = studies.run(*study, "--trials", "2", folder=tmp_path, prelude=prelude)
    assert first.status == 0, first.out + first.err
    again = studies.run(*study, "--trials", "3", folder=tmp_path, prelude=prelude)
    assert again.status == 0 and "2 trials to train, 4 already done" in again.out, again.out + again.err
    result = json_files.read_json(tmp_path / "results" / name / f"sectors_{name}_relu.json")
    assert result["task"]["label"] == other_tasks.Points.label if name == "points" else "corpus" not in result
    assert len(result["pairs"]) == 3 and result["pairs"][0]["total_predictions"] == 120
    analysed = studies.run("analyze_results.py", f"results/{name}", "--no-figures", folder=tmp_path, prelude=prelude)
    assert analysed.status == 0, analysed.out + analysed.err
    verified = studies.run(
        "train.py", "--verify", f"results/{name}/sectors_{name}_relu.json", folder=tmp_path, prelude=prelude
    )
    assert verified.status == 0 and "identical: weights_sha256" in verified.out, verified.out + verified.err

    model = f"checkpoints/{name}/sectors_{name}_relu/trial_1.pt"
    sampled = studies.run("train.py", "--sample", model, folder=tmp_path, prelude=prelude)
    says = f"error: {model} is a model of the task {name}, which writes no text\n"
    assert (sampled.status, sampled.err) == (2, says)


OWN_ACTIVATION = "import torch\n\n\ndef soft(x):\n    return x * torch.sigmoid(4 * x)\n"
OWN_ARCHITECTURE = """
from torch import nn

TASK = "points"


class TwoLayers(nn.Module):
    def __init__(self, config, make_activation, n_classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 9), make_activation(), nn.Linear(9, n_classes))

    def forward(self, x):
        return self.layers(x)[:, None]
"""


def test_files_of_ones_own_serve_every_task(tmp_path):
    prelude = PRELUDE.format(folder=str(studies.ROOT / "tests" / "helpers"))
    (tmp_path / "soft.py").write_text(OWN_ACTIVATION)
    (tmp_path / "two.py").write_text(OWN_ARCHITECTURE)
    (tmp_path / "flat.py").write_text(OWN_ARCHITECTURE.replace("[:, None]", ""))
    command = ("run_all_experiments.py", "--config", "cpu", "--dry-run", "--activation-file", "soft.py")
    taken = studies.run(*command, "--task", "points", folder=tmp_path, prelude=prelude)
    assert taken.status == 0 and "sectors_points with soft" in taken.out, taken.out + taken.err
    taken = studies.run(*command, "--task", "points", "--architecture-file", "two.py", folder=tmp_path, prelude=prelude)
    assert taken.status == 0 and "two_layers with soft" in taken.out, taken.out + taken.err
    other = studies.run(*command, "--architecture-file", "two.py", folder=tmp_path, prelude=prelude)
    assert other.status == 2 and other.err.startswith("error: two_layers cannot be trained on text; its task is points")

    checked = ("test_cpu.py", "--task", "points", "--architecture-file")
    assert studies.run(*checked, "two.py", folder=tmp_path, prelude=prelude).status == 0
    flat = studies.run(*checked, "flat.py", folder=tmp_path, prelude=prelude)
    says = "FAILED  for a batch of the task points the model returns the shape (8, 3), not (8, 1, 3)"
    assert flat.status == 1 and says in flat.out, flat.out + flat.err


def test_a_task_has_defaults_of_its_own_and_refuses_options_without_effect(tmp_path):
    prelude = PRELUDE.format(folder=str(studies.ROOT / "tests" / "helpers"))
    train_it = ("train.py", "--task", "walk", "--config", "cpu", "--output", "walk.pt")
    done = studies.run(*train_it, "--learning-rate", "0.5", folder=tmp_path, prelude=prelude)
    assert done.status == 0 and "sectors_walk_relu, seed 42" in done.out, done.out + done.err
    config = checkpoint_files.read_checkpoint(tmp_path / "walk.pt")["config"]
    assert (config["max_iters"], config["learning_rate"]) == (7, 0.5)
    refused = studies.run(*train_it, "--block-size", "8", folder=tmp_path, prelude=prelude)
    assert (refused.status, refused.err) == (
        2,
        "error: --block-size has no effect on the task walk; leave it out\n",
    )
    refused = studies.run("run_all_experiments.py", "--task=walk", "--scale=1M", folder=tmp_path, prelude=prelude)
    assert refused.status == 2 and refused.err.startswith("error: --scale is for CharLM on text")
    refused = studies.run(*train_it, "--architecture", "charlm", folder=tmp_path, prelude=prelude)
    assert refused.status == 2 and "charlm cannot be trained on walk" in refused.err


def test_a_result_of_other_data_is_not_verified():
    recorded = {"task": load_task("points").facts() | {"sha256": "0" * 64}}
    with pytest.raises(UserError, match="the result was made on points in the plane, SHA-256 000000000000"):
        load_recorded(recorded)


def test_an_architecture_of_another_task_is_refused(tmp_path):
    run = studies.run(
        "run_all_experiments.py", "--task", "text", "--architectures", "charlm", "--task=nope", folder=tmp_path
    )
    assert run.status == 2 and "unknown task 'nope'" in run.err and run.err.count("\n") == 1


def test_training_on_a_task_draws_only_from_the_trials_own_seeds():
    task = load_task("points")
    torch.manual_seed(1)
    expected = train.run_trial(a_trial("points"), task)
    torch.manual_seed(2)
    studies.assert_same(train.run_trial(a_trial("points"), task), expected)
