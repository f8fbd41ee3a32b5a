"""Claims about one trial: a pure function of its identity, however it is evaluated, interrupted or repeated."""

import copy
import json
import re
import shutil

import numpy as np
import pytest
import studies
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from studies import TINY, a_trial, assert_same, stop_after

import train
from common import checkpoint_files, json_files
from common.errors import RunError
from training.trial import Interrupted, stream_seeds

# --- a pure function --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_trial_gives_the_same_bits_whatever_ran_before(task, dtype):
    trial = a_trial(dtype=dtype)
    first = train.run_trial(trial, task)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    state = torch.get_rng_state()
    train.run_trial(a_trial(number=2, activation="gelu"), task)
    assert_same(train.run_trial(trial, task), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert first["record"]["weights_sha256"] == checkpoint_files.weights_sha256(first["weights"])


def test_training_changes_the_model_and_lowers_the_loss(task):
    """Without this, the equalities of this file could hold between models that never learn."""
    outcome = train.run_trial(a_trial(max_iters=60, eval_interval=60, learning_rate=1e-2), task)
    before, after = outcome["record"]["history"]
    assert after["val_loss"] < before["val_loss"] - 0.3
    assert outcome["record"]["val_loss"] < before["val_loss"] - 0.3
    assert before["val_loss"] == pytest.approx(np.log(task.n_classes), abs=0.05)


def test_every_seed_and_every_configuration_is_another_trial(task):
    trials = [
        a_trial(),
        a_trial(number=2),
        a_trial(activation="gelu"),
        a_trial(learning_rate=1e-3),
        a_trial(weight_decay=0.5),
        a_trial(dropout=0.1),
        a_trial(dropout=0.0),
        a_trial(max_iters=5),
        a_trial(dtype="bfloat16"),
        *[a_trial(number=2, vary=(stream,)) for stream in ("init", "data", "dropout", "bit")],
    ]
    found = {train.run_trial(trial, task)["record"]["weights_sha256"] for trial in trials}
    assert len(found) == len(trials)


@pytest.mark.parametrize("vary", [("data",), ("dropout",), ("data", "dropout")])
def test_trials_are_the_same_up_to_the_branch_step_and_part_after_it(vary, task):
    """Their curves, at every step; and trial 1 is the same wherever the others branch."""
    sizes = {"max_iters": 6, "eval_interval": 1, "dropout": 0.3, "branch_step": 3}
    one, two = (train.run_trial(studies.a_trial(number, vary=vary, **sizes), task)["record"] for number in (1, 2))
    same = [a["val_loss"] == b["val_loss"] for a, b in zip(one["history"], two["history"], strict=True)]
    assert same == [True] * 4 + [False] * 3
    early = train.run_trial(studies.a_trial(1, vary=vary, **{**sizes, "branch_step": 0}), task)["record"]
    assert early["weights_sha256"] == one["weights_sha256"] != two["weights_sha256"]


def test_a_stream_that_is_not_varied_keeps_the_seed_of_trial_one():
    assert stream_seeds(42, 5, ()) == {"init": 42, "data": 42, "dropout": 42, "bit": None}
    assert stream_seeds(42, 5, ("data", "bit")) == {"init": 42, "data": 46, "dropout": 42, "bit": 46}
    everything = ("init", "data", "dropout")
    assert stream_seeds(42, 1, everything) == {"init": 42, "data": 42, "dropout": 42, "bit": None}


@settings(max_examples=12)
@given(st.integers(1, 9), st.integers(1, 30))
def test_evaluating_more_often_leaves_the_trained_weights_bit_identical(task, eval_interval, curve_windows):
    expected = train.run_trial(a_trial(), task)
    found = train.run_trial(a_trial(eval_interval=eval_interval, curve_windows=curve_windows), task)
    assert found["record"]["weights_sha256"] == expected["record"]["weights_sha256"]
    for name in ("train_loss", "val_loss", "train_accuracy", "val_accuracy", "continuations"):
        assert found["record"][name] == expected["record"][name]
    steps = [point["step"] for point in found["record"]["history"]]
    assert steps == sorted({*range(0, 6, eval_interval), 6})
    if curve_windows == 4:
        common = {point["step"]: point for point in expected["record"]["history"]}
        assert all(common.get(point["step"], point) == point for point in found["record"]["history"])


def test_the_final_losses_are_those_of_all_windows_and_the_curve_those_of_some(task):
    record = train.run_trial(a_trial(curve_windows=1000), task)["record"]
    assert record["history"][-1]["val_loss"] == pytest.approx(record["val_loss"], rel=1e-12)
    assert record["history"][-1]["train_loss"] == pytest.approx(record["train_loss"], rel=1e-12)
    some = train.run_trial(a_trial(curve_windows=3), task)["record"]
    assert some["val_loss"] == record["val_loss"]
    assert some["history"][-1]["val_loss"] != record["val_loss"]


# --- interrupted ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(task):
    return {dtype: train.run_trial(a_trial(dtype=dtype), task) for dtype in ("float32", "bfloat16")}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6])
def test_a_trial_that_was_stopped_after_any_step_goes_on_to_the_same_bits(task, undisturbed, tmp_path, steps, dtype):
    partial = tmp_path / "trial_1.partial.pt"
    with pytest.raises(Interrupted):
        train.run_trial(a_trial(dtype=dtype), task, partial, should_stop=stop_after(steps))
    assert checkpoint_files.read_checkpoint(partial)["step"] == steps
    taken = []
    outcome = train.run_trial(a_trial(dtype=dtype), task, partial, should_stop=lambda: taken.append(1) or False)
    assert len(taken) == 6 - steps, "steps were trained again"
    assert_same(outcome, undisturbed[dtype])


def test_a_trial_that_is_stopped_after_each_step_ends_with_the_same_bits(task, undisturbed, tmp_path):
    partial = tmp_path / "trial_1.partial.pt"
    for _ in range(6):
        with pytest.raises(Interrupted):
            train.run_trial(a_trial(), task, partial, should_stop=lambda: True)
    assert_same(train.run_trial(a_trial(), task, partial, should_stop=lambda: True), undisturbed["float32"])


def test_a_trial_that_was_killed_goes_on_from_any_of_its_states_to_the_same_bits(
    task, undisturbed, tmp_path, monkeypatch
):
    """It saves its state by time, here after each step."""
    partial, states = tmp_path / "trial_1.partial.pt", []
    real = checkpoint_files.write_checkpoint
    monkeypatch.setattr(train, "SAVE_EVERY_S", 0)
    monkeypatch.setattr(
        checkpoint_files,
        "write_checkpoint",
        lambda path, content: (real(path, content), states.append(path.read_bytes())),
    )
    assert_same(train.run_trial(a_trial(), task, partial), undisturbed["float32"])
    monkeypatch.undo()
    assert len(states) == 6
    for state in states:
        partial.write_bytes(state)
        assert_same(train.run_trial(a_trial(), task, partial), undisturbed["float32"])


@pytest.mark.parametrize(
    "other",
    [
        {"number": 2},
        {"activation": "gelu"},
        {"max_iters": 7},
        {"learning_rate": 1e-3},
        {"dtype": "bfloat16"},
        {"threads_per_trial": 2},
        {"vary": ("bit",)},
    ],
)
def test_the_state_of_another_trial_is_not_gone_on_from(task, undisturbed, tmp_path, other):
    partial = tmp_path / "trial_1.partial.pt"
    with pytest.raises(Interrupted):
        train.run_trial(a_trial(**other), task, partial, should_stop=stop_after(3))
    assert_same(train.run_trial(a_trial(), task, partial), undisturbed["float32"])


def test_a_trial_is_not_gone_on_with_in_another_environment(task, undisturbed, tmp_path, monkeypatch):
    """Half of its steps would have other last digits, and nobody could repeat it."""
    partial, events = tmp_path / "trial_1.partial.pt", []
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")  # read by MKL when it is loaded, which it is
    with pytest.raises(Interrupted):
        train.run_trial(a_trial(), task, partial, should_stop=stop_after(3))
    monkeypatch.undo()
    outcome = train.run_trial(a_trial(), task, partial, report=events.append)
    assert_same(outcome, undisturbed["float32"])
    assert "resumed" not in {name for event in events for name in event}
    (warning,) = [event["warning"] for event in events if "warning" in event]
    assert "another environment (variables: {'MKL_CBWR': 'COMPATIBLE'} against missing)" in warning
    assert "variables" not in outcome["record"]["environment"]


def test_a_damaged_state_is_set_aside_and_the_trial_starts_over(task, undisturbed, tmp_path):
    partial = tmp_path / "trial_1.partial.pt"
    with pytest.raises(Interrupted):
        train.run_trial(a_trial(), task, partial, should_stop=stop_after(3))
    damaged = bytearray(partial.read_bytes())
    damaged[-200:] = bytes(200)
    partial.write_bytes(damaged)
    events = []
    assert_same(train.run_trial(a_trial(), task, partial, report=events.append), undisturbed["float32"])
    warnings = [event["warning"] for event in events if "warning" in event]
    assert len(warnings) == 1 and str(partial) in warnings[0] and "trial_1.partial.pt.aside-1" in warnings[0]
    assert (tmp_path / "trial_1.partial.pt.aside-1").read_bytes() == damaged


def test_a_state_that_cannot_be_saved_does_not_end_the_trial(task, undisturbed, tmp_path, monkeypatch):
    def full(path, content):
        raise RunError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(checkpoint_files, "write_checkpoint", full)
    monkeypatch.setattr(train, "SAVE_EVERY_S", 0)
    events = []
    outcome = train.run_trial(a_trial(), task, tmp_path / "x.pt", report=events.append)
    assert_same(outcome, undisturbed["float32"])
    warnings = [event["warning"] for event in events if "warning" in event]
    assert len(warnings) == 6 and all("No space left on device; the trial continues" in text for text in warnings)


# --- divergence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learning_rate", [1e2, 1e10, 1e20, 1e38, 1e300])
@pytest.mark.parametrize("max_iters", [1, 6])
@pytest.mark.parametrize("activation", ["relu", "gelu", "squared_relu"])
def test_a_learning_rate_that_is_far_too_high_ends_in_a_valid_record(task, learning_rate, max_iters, activation):
    """Complete with finite numbers, or diverged with none; never NaN, never an exception."""
    outcome = train.run_trial(a_trial(learning_rate=learning_rate, max_iters=max_iters, activation=activation), task)
    record = outcome["record"]
    json.dumps(record, allow_nan=False)
    losses = [record[name] for name in ("train_loss", "val_loss")]
    if record["status"] == "complete":
        assert np.isfinite(losses).all() and np.isfinite(outcome["window_loss"]).all()
    else:
        assert record["status"] == "diverged" and losses == [None, None] and record["reason"]
        figures = ("train_accuracy", "val_accuracy", "checkpoint", "weights_sha256")
        assert [record[name] for name in figures] == [None] * 4
        assert outcome["weights"] is None and outcome["log_probabilities"] is None
    if learning_rate >= 1e38:
        assert record["status"] == "diverged"


# --- the script -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_corpus_file):
    """A folder with the task tiny.txt, and a study of two trials of CharLM with ReLU in results/."""
    folder = tmp_path_factory.mktemp("train")
    shutil.copy(tiny_corpus_file, folder / "tiny.txt")
    run = studies.run(
        "run_all_experiments.py", *"--corpus tiny.txt --activations relu --trials 2".split(), *TINY, folder=folder
    )
    assert run.status == 0, run.err
    return folder


def run_train(folder, *arguments, **options):
    return studies.run("train.py", *arguments, folder=folder, **options)


@pytest.mark.slow
def test_training_twice_by_the_command_gives_the_same_weights(folder, tmp_path):
    """Once as a user does it, in a process of its own, and once as the study did."""
    really = run_train(folder, "--corpus", "tiny.txt", *TINY, "--output", tmp_path / "a.pt", really=True)
    again = run_train(folder, "--corpus", "tiny.txt", *TINY, "--output", tmp_path / "b.pt")
    digests = [re.search(r"weights_sha256 ([0-9a-f]{64})\n", run.out)[1] for run in (really, again)]
    result = json_files.read_json(folder / "results" / "charlm_relu.json")
    assert {*digests} == {result["trials"][0]["weights_sha256"]}
    assert really.status == again.status == 0
    contents = [checkpoint_files.read_checkpoint(tmp_path / name) for name in ("a.pt", "b.pt")]
    assert studies._digest(contents[0]) == studies._digest(contents[1])
    assert checkpoint_files.weights_sha256(contents[0]["model"]) == digests[0]


def test_a_trained_model_is_not_overwritten(folder):
    command = ["--corpus", "tiny.txt", *TINY, "--seed", "7"]
    assert run_train(folder, *command).status == 0
    path = folder / "checkpoints/single/charlm_relu_seed_7.pt"
    before = path.read_bytes()
    again = run_train(folder, *command)
    assert (again.status, again.err.count("\n")) == (2, 1) and "exists already" in again.err
    assert path.read_bytes() == before


@pytest.mark.slow
def test_verify_by_the_command_a_user_types(folder):
    run = run_train(folder, "--verify", "results/charlm_relu.json", "--trial", "2", "--corpus", "tiny.txt", really=True)
    assert run.status == 0, run.err
    expected = json_files.read_json(folder / "results" / "charlm_relu.json")["trials"][1]["weights_sha256"]
    assert f"identical: weights_sha256 {expected}" in run.out


def tampered(folder, tmp_path, change):
    """The path of a copy of the result, changed by `change` and given a valid checksum."""
    result = copy.deepcopy(json_files.read_json(folder / "results" / "charlm_relu.json"))
    change(result)
    json_files.write_json(tmp_path / "charlm_relu.json", result)
    return tmp_path / "charlm_relu.json"


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("trials", 0, "weights_sha256"), "0" * 64, r"weights_sha256: '0{64}' against '[0-9a-f]{64}'"),
        (("trials", 0, "val_loss"), 1.0, r"val_loss: 1\.0 against \d\.\d+"),
        (("trials", 0, "history", 1, "train_loss"), 1.0, r"history\[1\]\.train_loss: 1\.0 against \d\.\d+"),
        (("trials", 0, "continuations", 0), "no", r"continuations\[0\]: 'no' against "),
        (("trials", 0, "status"), "diverged", "status: 'diverged' against 'complete'"),
        (("trials", 0, "seeds", "data"), 43, "weights_sha256|train_loss|val_loss|history"),
        (("identity", "config", "learning_rate"), 1e-3, "weights_sha256|train_loss|val_loss|history"),
        (("activation",), "gelu", "weights_sha256|train_loss|val_loss|history"),
    ],
)
def test_verify_names_the_first_difference(folder, tmp_path, place, value, says):
    def change(result):
        for step in place[:-1]:
            result = result[step]
        assert result[place[-1]] != value
        result[place[-1]] = value

    path = tampered(folder, tmp_path, change)
    run = run_train(folder, "--verify", path, "--corpus", "tiny.txt")
    assert run.status == 1
    assert re.search(rf"^different: ({says}).* \(stored vs\. recomputed\)$", run.out, re.MULTILINE), run.out
    assert "Traceback" not in run.err


def test_verify_says_where_environments_differ(folder, tmp_path):
    def change(result):
        result["trials"][0]["environment"]["cpu"] = "another one"
        result["trials"][0]["val_loss"] = 1.0

    path = tampered(folder, tmp_path, change)
    run = run_train(folder, "--verify", path, "--corpus", "tiny.txt")
    assert run.status == 1
    assert "environments differ" in run.out and "cpu: 'another one' against" in run.out


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_result_of_a_device_that_is_not_here_is_the_users_mistake(folder, tmp_path):
    path = tampered(folder, tmp_path, lambda result: result["identity"].update(device="cuda"))
    run = run_train(folder, "--verify", path, "--corpus", "tiny.txt")
    assert (run.status, run.err) == (2, "error: device cuda: PyTorch finds no CUDA device here\n")


def test_a_result_of_other_numerics_is_not_compared(folder, tmp_path):
    path = tampered(folder, tmp_path, lambda result: result.update(numerics_version=0))
    run = run_train(folder, "--verify", path, "--corpus", "tiny.txt")
    assert run.status == 2 and re.search(
        "numerics_version 0 of float32, but this program has 1; check out commit", run.err
    )


def test_a_times_difference_is_no_difference(folder, tmp_path):
    path = tampered(folder, tmp_path, lambda result: result["trials"][0].update(training_time_s=1e6))
    assert run_train(folder, "--verify", path, "--corpus", "tiny.txt").status == 0


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ("--verify results/charlm_relu.json --trial 3 --corpus tiny.txt", 2, "has no trial 3; it has 1, 2"),
        ("--verify results/charlm_gelu.json", 2, "result not found: results/charlm_gelu.json"),
        ("--verify results/study.json", 2, "is not a result of one architecture and activation"),
        ("--verify results/all_experiments_summary.json", 2, "is not a result of one architecture and activation"),
        ("--verify results/charlm_relu.json --corpus other.txt", 2, "other.txt is another text"),
        ("--verify results/charlm_relu.json --sample x.pt", 2, "cannot be combined"),
        ("--verify tiny.txt", 1, "tiny.txt is damaged or was edited"),
        ("--verify results", 1, "cannot read results: Is a directory"),
        ("--sample none.pt", 2, "checkpoint not found: none.pt"),
        ("--sample tiny.txt", 1, "tiny.txt is damaged or is not plain data"),
        ("--sample checkpoints/charlm_relu/trial_1.pt --prompt ☃", 2, "'☃' does not occur in corpus tiny.txt"),
        ("--sample checkpoints/charlm_relu/trial_1.pt --length 0", 2, "--length must be at least 1"),
        ("--sample checkpoints/charlm_relu/trial_1.pt --temperature -1", 2, "--temperature"),
        ("--sample checkpoints/charlm_relu/trial_1.pt --temperature nan", 2, "--temperature"),
        ("--sample checkpoints/charlm_relu/trial_1.pt --seed -1", 2, "--seed"),
        ("--corpus tiny.txt --activation gelo", 2, "unknown activation 'gelo'; did you mean 'gelu'? known: smelu_05,"),
        ("--corpus tiny.txt --architecture charml", 2, "unknown architecture 'charml'; did you mean 'charlm'? known:"),
        ("--corpus tinny", 2, "corpus file tinny does not exist; built-in corpora: auto, shakespeare, pydoc"),
        ("--corpus tinny.txt", 2, "corpus file tinny.txt does not exist"),
        ("--corpus short.txt", 2, "short.txt is too short: its validation split has 3 characters"),
        ("--corpus latin.txt", 2, "latin.txt is not UTF-8: byte 0xe9 at offset 3"),
        ("--corpus tiny.txt --n-embd 9", 2, "n_embd must be a multiple of n_head"),
        ("--corpus tiny.txt --n-layer 0", 2, "n_layer must be at least 1, but it is 0"),
        ("--corpus tiny.txt --batch-size -4", 2, "batch_size must be at least 1, but it is -4"),
        ("--corpus tiny.txt --dropout 1", 2, "dropout must be at least 0 and less than 1, but it is 1.0"),
        ("--corpus tiny.txt --learning-rate nan", 2, "learning_rate must be positive, but it is nan"),
        ("--corpus tiny.txt --dtype float16", 2, "unknown dtype 'float16'; did you mean 'bfloat16'"),
        ("--corpus tiny.txt --seed -1", 2, "--seed must be from 0 to 2^32 - 1, but it is -1"),
        ("--corpus tiny.txt --n-layer two", 2, "argument --n-layer: invalid int value: 'two'"),
        ("--corpus tiny.txt --block-size 700", 2, "tiny.txt is too short"),
        ("--corpus tiny.txt --output tiny.txt", 2, "tiny.txt exists already"),
        ("--corpus tiny.txt --output tiny.txt/model.pt", 2, "tiny.txt is a file, not a folder"),
        ("--corpus tiny.txt --colour blue", 2, "unrecognized arguments: --colour blue"),
        ("--corpus tiny.txt --trial 2", 2, "--trial has no effect on training a matched trial"),
        ("--verify results/charlm_relu.json --n-embd 16", 2, "--n-embd has no effect on --verify"),
        ("--sample checkpoints/charlm_relu/trial_1.pt --corpus tiny.txt", 2, "--corpus has no effect on --sample"),
        ("--corpus tiny.txt --eval-iters 3", 2, "--eval-iters has no effect"),
    ],
)
def test_a_mistake_gets_one_sentence_and_changes_nothing(folder, arguments, status, says):
    (folder / "other.txt").write_text("another text, as long as it has to be. " * 100)
    (folder / "short.txt").write_text("a short one, of just 30 letters"[:30])
    (folder / "latin.txt").write_bytes("café".encode("latin-1") * 100)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if not path.name.startswith(".run_")}
    given = arguments.split()
    sizes = [] if "--verify" in given or "--sample" in given else TINY
    run = run_train(folder, *sizes, *given)
    assert run.status == status, run.out + run.err
    assert says in run.err
    assert not run.out, "work began before the mistake was noticed"
    assert run.err.count("\n") == 1 and "Traceback" not in run.err
    assert re.match(r"(error|train\.py: error): ", run.err)
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if not path.name.startswith(".run_")}
    after = {path: time for path, time in after.items() if path != folder}
    before.pop(folder, None)
    assert after == before


def test_a_sample_is_text_of_the_model(folder):
    def sample(*more):
        run = run_train(folder, "--sample", "checkpoints/charlm_relu/trial_1.pt", "--length", "40", *more)
        assert run.status == 0, run.err
        return run.out

    text = sample("--prompt", "the king ")
    assert text.startswith("the king ") and len(text) == len("the king ") + 40 + 1
    assert set(text) <= set((folder / "tiny.txt").read_text())
    assert sample("--prompt", "the king ") == text
    assert sample("--prompt", "the king ", "--seed", "1") != text
    greedy = sample("--prompt", "the king ", "--temperature", "0")
    assert greedy == sample("--prompt", "the king ", "--temperature", "0", "--seed", "1")
    assert greedy == sample("--prompt", "the king ", "--temperature", "1e-9")


def test_the_state_of_an_unfinished_trial_is_not_sampled_from(folder, task, tmp_path):
    partial = tmp_path / "trial_1.partial.pt"
    with pytest.raises(Interrupted):
        train.run_trial(a_trial(), task, partial, should_stop=lambda: True)
    run = run_train(folder, "--sample", partial)
    assert run.status == 2 and "is the state of an unfinished trial" in run.err
