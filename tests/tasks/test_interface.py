"""Claims about the task interface: nothing above a task assumes text, several positions, or one loss per step."""

import json

import numpy as np
import other_tasks
import pytest
import studies
import torch

import train
from common import json_files
from common.errors import UserError
from config_cpu import ConfigCPU
from tasks.registry import load_task
from training import packed
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


def test_a_task_whose_step_is_its_own_cannot_be_packed():
    task = load_task("walk")
    with pytest.raises(UserError, match="walk cannot be packed or compiled"):
        packed.check_can_be_packed("sectors_walk", "relu", ConfigCPU(**SIZES), task)


def test_a_supervised_task_can_be_packed():
    task, trial = load_task("points"), a_trial("points")
    pack = packed.pack_of(studies.replace(trial, pack=2), 42, ("init", "data", "dropout"))
    alone = [train.run_trial(a_trial("points", k), task)["log_probabilities"] for k in (1, 2)]
    together = [outcome["log_probabilities"] for outcome in train.run_pack(pack, pack, task)]
    np.testing.assert_allclose(together, alone, atol=1e-4)


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


def test_an_activation_of_ones_own_serves_every_task_and_an_architecture_file_text(tmp_path):
    prelude = PRELUDE.format(folder=str(studies.ROOT / "tests" / "helpers"))
    (tmp_path / "soft.py").write_text(OWN_ACTIVATION)
    command = ("run_all_experiments.py", "--config", "cpu", "--task", "points", "--dry-run")
    taken = studies.run(*command, "--activation-file", "soft.py", folder=tmp_path, prelude=prelude)
    assert taken.status == 0 and "sectors_points with soft" in taken.out, taken.out + taken.err
    refused = studies.run(*command, "--architecture-file", "soft.py", folder=tmp_path, prelude=prelude)
    says = "error: --architecture-file is for the text task, not for points, whose architectures are added in"
    assert refused.status == 2 and refused.err.startswith(says) and refused.err.count("\n") == 1


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
