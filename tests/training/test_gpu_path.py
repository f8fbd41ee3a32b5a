"""Claims about what a GPU does otherwise, as far as a machine without one can show them.

A trial on the device "cpu:0" takes every branch of a device that is not "cpu", and must still give the CPU's bits.
"""

import importlib
import math
import multiprocessing
import os
import re
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
import studies
import torch
from studies import Reads

import randomness
import train
from activations import ACTIVATIONS
from architectures.registry import architectures_of
from benchmarks import gpu
from benchmarks.gpu import attention_times, trials_per_hour
from common import checkpoint_files, json_files, provenance
from common.memory import is_out_of_memory
from config_cpu import ConfigCPU
from model import Attention, levels_on_device
from run_all_experiments import default_workers
from study import choices, cost
from study.jobs import Context, predict
from training import evaluate, step
from training.compiled import CompiledTrial
from training.step import SingleTrial
from training.trial import Interrupted, checkpoint_content
from training.workload import Workload, random_text

fork = multiprocessing.get_context("fork")
no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


def a_trial(device="cpu", **changes):
    return studies.a_trial(activation="gelu", device=device, **changes)


# --- the loop of a device that must not be waited for ---------------------------------------------------------------


def test_the_loop_of_another_device_is_the_same_training(task):
    here, there = (train.run_trial(a_trial(device), task) for device in ("cpu", "cpu:0"))
    assert json_files.first_difference(json_files.stable(here["record"]), json_files.stable(there["record"])) is None
    assert np.array_equal(here["log_probabilities"], there["log_probabilities"])


@pytest.mark.parametrize(("device", "expected"), [("cpu", 6), ("cpu:0", 0)])
def test_no_step_reads_a_value_back_from_a_device_but_the_cpu(device, expected, task, monkeypatch):
    """Reads between the evaluations: one per step on a CPU, where it costs nothing, and none elsewhere."""
    real, in_evaluations = evaluate.curve_point, 0

    def counted(*arguments):
        nonlocal in_evaluations
        before = reads.count
        found = real(*arguments)
        in_evaluations += reads.count - before
        return found

    monkeypatch.setattr(evaluate, "curve_point", counted)
    monkeypatch.setattr(evaluate, "final_evaluation", lambda *arguments: pytest.skip("not reached"))
    with Reads() as reads, pytest.raises(pytest.skip.Exception):
        train.run_trial(a_trial(device), task)
    assert reads.count - in_evaluations == expected


def test_a_trial_that_diverges_on_another_device_is_noticed_at_the_next_point_of_its_curve(task):
    outcome = train.run_trial(a_trial("cpu:0", learning_rate=1e30, max_iters=9, eval_interval=4), task)
    record = outcome["record"]
    assert record["status"] == "diverged" and record["reason"] == "the loss was no longer finite at step 4"
    assert [point["step"] for point in record["history"]] == [0] and outcome["weights"] is None


def test_another_device_reports_the_step_and_the_loss_of_the_last_evaluation(task, monkeypatch):
    monkeypatch.setattr(train, "REPORT_EVERY_S", 0.0)
    events = []
    record = train.run_trial(a_trial("cpu:0"), task, report=events.append)["record"]
    losses = {point["step"]: point["train_loss"] for point in record["history"]}
    assert [event["step"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert [event["loss"] for event in events] == [losses[step] for step in (0, 0, 2, 2, 4, 4)]


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_time_alone_decides_when_a_state_is_written(device, task, tmp_path, monkeypatch):
    """However many points the curves have: a state is as large as the model and all that was measured."""
    steps = []
    monkeypatch.setattr(
        checkpoint_files, "save_state", lambda path, identity, where, content, say: steps.append(content["step"])
    )
    train.run_trial(a_trial(device), task, partial_path=tmp_path / "state.pt")
    assert steps == []
    monkeypatch.setattr(train, "SAVE_EVERY_S", 0.0)
    train.run_trial(a_trial(device), task, partial_path=tmp_path / "state.pt")
    assert steps == [1, 2, 3, 4, 5, 6]


def test_levels_drawn_as_whole_words_are_uniform_and_the_generators_own():
    def levels(seed, shape=(3, 100_001)):
        return levels_on_device(shape, torch.Generator("cpu").manual_seed(seed))

    drawn = levels(1)
    assert drawn.shape == (3, 100_001) and drawn.dtype == torch.int16
    assert torch.equal(drawn, levels(1)) and not torch.equal(drawn, levels(2))
    for bit in range(16):
        assert (drawn.int() >> bit & 1).float().mean() == pytest.approx(0.5, abs=5 * 0.5 / 300_003**0.5)
    threshold, keep = randomness.dropout_threshold(0.2)
    assert (drawn >= threshold).float().mean() == pytest.approx(keep, abs=5 * 0.4 / 300_003**0.5)


def test_a_dry_run_waits_for_what_it_has_timed(monkeypatch):
    """A GPU takes work faster than it does it: without waiting, a step would seem to take no time."""
    waits = []
    monkeypatch.setattr(step, "synchronize", lambda device: waits.append(device) or 0.0)
    experiments = (("charlm", "relu"),)
    plan = SimpleNamespace(config=a_trial("cpu").config, device="cpu:0", experiments=experiments)
    cost.measure(plan, "charlm", "relu", 1000, random_text())
    assert len(waits) >= 4 and set(waits) == {"cpu:0"}


@pytest.mark.parametrize(("device", "cores", "expected"), [("cuda", 16, 4), ("cuda", 2, 2), ("cpu", 16, 16)])
def test_the_default_number_of_workers_on_a_gpu_is_the_fastest_that_was_measured(device, cores, expected, monkeypatch):
    monkeypatch.setattr(provenance, "usable_cpus", lambda: cores)
    assert default_workers(SimpleNamespace(device=device, config=ConfigCPU())) == expected


def test_attention_is_timed_written_out_and_as_pytorchs_own():
    def timed(function, count):
        function()
        return 1e-3 * count

    rows = attention_times("cpu", ConfigCPU(**studies.SIZES), 2, timed)
    assert set(rows) == {f"attention_{name}_ms" for name in ("mask", "written_out", "of_pytorch")}


def test_a_trial_on_another_device_that_is_interrupted_goes_on_to_the_same_bits(task, tmp_path):
    expected = train.run_trial(a_trial("cpu:0"), task)
    for _ in range(6):
        with pytest.raises(Interrupted):
            train.run_trial(a_trial("cpu:0"), task, tmp_path / "partial.pt", should_stop=lambda: True)
    found = train.run_trial(a_trial("cpu:0"), task, tmp_path / "partial.pt", should_stop=lambda: False)
    assert found["record"]["weights_sha256"] == expected["record"]["weights_sha256"]
    history = [json_files.stable(outcome["record"])["history"] for outcome in (expected, found)]
    assert history[0] == history[1]


def test_predictions_are_made_again_on_the_device_of_the_trial(task, tmp_path, monkeypatch):
    """bfloat16 or not, another device would give other bits; so the task says where."""
    trial = a_trial()
    content = checkpoint_content(trial, task, train.run_trial(trial, task))
    asked = []
    real = torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: asked.append(device) or real(self, device))
    checkpoint_files.write_checkpoint(tmp_path / "trial_1.pt", content)
    predict(Context(task), None, None, tmp_path / "trial_1.pt", content["weights_sha256"], "cpu:0")
    assert asked == ["cpu:0"]


@no_cuda
def test_predictions_of_a_trial_on_a_gpu_are_not_made_on_a_cpu_instead(task, tmp_path):
    trial = a_trial()
    content = checkpoint_content(trial, task, train.run_trial(trial, task))
    checkpoint_files.write_checkpoint(tmp_path / "trial_1.pt", content)
    with pytest.raises((RuntimeError, AssertionError), match="CUDA"):
        predict(Context(task), None, None, tmp_path / "trial_1.pt", content["weights_sha256"], "cuda")


# --- what a user asks for that is not there -------------------------------------------------------------------------


@no_cuda
@pytest.mark.parametrize("script", ["run_all_experiments.py", "train.py"])
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--config", "gpu"],
            "--config gpu needs CUDA, but PyTorch finds none here; add --device cpu to run it on a CPU",
        ),
        (["--device", "cuda"], "device cuda: PyTorch finds no CUDA device here"),
    ],
)
def test_a_gpu_that_is_not_there_is_the_users_mistake(script, options, sentence, tmp_path, tiny_corpus_file):
    run = studies.run(script, *options, "--corpus", tiny_corpus_file, folder=tmp_path)
    assert (run.status, run.err) == (2, f"error: {sentence}\n")


@no_cuda
def test_the_benchmark_of_a_gpu_says_that_there_is_none(tmp_path):
    run = studies.run("benchmark.py", "cuda", folder=tmp_path)
    assert run.status == 2 and run.err.endswith("error: benchmark.py cuda needs CUDA, but PyTorch finds none here\n")


# --- out of memory --------------------------------------------------------------------------------------------------

CROWDED = """
import os, time, torch
from study import jobs
real = jobs.FUNCTIONS["trial"]
def running():
    return sum(name.startswith("running_") for name in os.listdir())
def crowded(context, report, should_stop, trial, partial_path):
    mine = f"running_{{trial.activation}}_{{trial.number}}"
    os.mkdir(mine)
    try:
        end = time.monotonic() + 10
        while not os.path.exists("seen") and running() <= {room} and time.monotonic() < end:
            time.sleep(0.01)  # until it has been crowded once
        if running() > {room}:
            open("seen", "w").close()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(context, report, should_stop, trial, partial_path)
    finally:
        os.rmdir(mine)
jobs.FUNCTIONS["trial"] = crowded
"""
STUDY = (*studies.TINY, "--activations", "relu", "gelu", "--trials", "2")


def a_study(folder, corpus_file, *options, **more):
    return studies.run("run_all_experiments.py", *STUDY, "--corpus", corpus_file, *options, folder=folder, **more)


def test_out_of_memory_lowers_the_number_at_a_time_and_changes_no_bit(tmp_path, tiny_corpus_file):
    for name in ("alone", "crowded"):
        (tmp_path / name).mkdir()
    alone = a_study(tmp_path / "alone", tiny_corpus_file, "--workers", "1")
    crowded = a_study(tmp_path / "crowded", tiny_corpus_file, "--workers", "3", prelude=CROWDED.format(room=1))
    assert (alone.status, crowded.status) == (0, 0), crowded.out + crowded.err
    assert "out of memory; from now on at most 1 at a time" in crowded.out
    assert "out of memory" not in alone.out
    assert studies.difference(tmp_path / "alone", tmp_path / "crowded") is None


def test_jobs_that_run_out_of_memory_at_the_same_time_are_each_tried_alone(tmp_path, tiny_corpus_file):
    """None of them was the only job, not even the one whose failure is noticed last."""
    prelude = """
import os, time, torch
from study import jobs
real = jobs.FUNCTIONS["trial"]
def started():
    return sum(name.startswith("started_") for name in os.listdir())
def together(context, report, should_stop, trial, partial_path):
    if started() < 3:
        os.mkdir(f"started_{trial.activation}_{trial.number}")
        end = time.monotonic() + 60
        while started() < 3 and time.monotonic() < end:
            time.sleep(0.01)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return real(context, report, should_stop, trial, partial_path)
jobs.FUNCTIONS["trial"] = together
"""
    run = a_study(tmp_path, tiny_corpus_file, "--workers", "3", prelude=prelude)
    assert run.status == 0, run.out + run.err
    assert run.out.count("out of memory; from now on") == 3


def test_a_worker_whose_gpu_is_lost_is_replaced_and_costs_the_other_trials_nothing(tmp_path, tiny_corpus_file):
    """After such an error every call of CUDA fails in that process, whatever trial it is for."""
    prelude = """
import os
from study import jobs
real, lost = jobs.FUNCTIONS["trial"], []
def fragile(context, report, should_stop, trial, partial_path):
    if not os.path.exists("once"):
        open("once", "w").close()
        lost.append(True)
    if lost:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return real(context, report, should_stop, trial, partial_path)
jobs.FUNCTIONS["trial"] = fragile
"""
    run = a_study(tmp_path, tiny_corpus_file, "--workers", "1", prelude=prelude)
    assert run.status == 0, run.out + run.err
    assert "its worker lost its GPU (RuntimeError: CUDA error: an illegal memory access" in run.out
    assert "attempt 2 of 3" in run.out


def test_room_for_two_keeps_two_at_a_time(tmp_path, tiny_corpus_file):
    run = a_study(tmp_path, tiny_corpus_file, "--workers", "3", prelude=CROWDED.format(room=2))
    assert run.status == 0, run.out + run.err
    assert "at most 2 at a time" in run.out


def test_what_does_not_fit_even_alone_has_failed_and_says_so(tmp_path, tiny_corpus_file):
    run = a_study(tmp_path, tiny_corpus_file, "--workers", "2", prelude=CROWDED.format(room=0))
    assert run.status == 1
    assert "out of memory, even as the only job (OutOfMemoryError: CUDA out of memory" in run.out
    again = a_study(tmp_path, tiny_corpus_file, "--workers", "2")
    assert again.status == 0, "rerun the same command to retry it"


def test_a_model_too_large_for_the_machine_is_said_before_the_start(tmp_path, tiny_corpus_file):
    full = "import torch\nfrom study import cost\ndef full(*_): raise torch.OutOfMemoryError('CUDA out of memory.')\ncost.measure = full"
    options = (
        "--scale",
        "1M",
        "--config",
        "cpu",
        "--block-size",
        "16",
        "--batch-size",
        "2",
        "--corpus",
        tiny_corpus_file,
    )
    run = studies.run("run_all_experiments.py", *options, folder=tmp_path, prelude=full)
    assert run.status == 2 and run.err.startswith("error: study in results/scale_1M: charlm with relu, smelu_1, gelu")
    assert "not even one trial fits into the memory of this machine's cpu" in run.err and run.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("memory"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


# --- operations -------------------------------------------------------------------------------------------------------

# What has no deterministic form on CUDA, by the documentation of torch.use_deterministic_algorithms, in ATen's names.
NOT_DETERMINISTIC = re.compile(
    r"avg_pool3d_backward|_adaptive_\w+_backward|adaptive_max_pool2d_backward|fractional_max_pool\w+|max_unpool\w+"
    r"|upsample_\w+_backward|reflection_pad\w+_backward|nll_loss2d\w*|_ctc_loss\w*|_embedding_bag\w*|put_?"
    r"|histc|bincount|kthvalue|median|cumsum|grid_sampler\w+_backward|resize_quantized"
)


@pytest.mark.parametrize(
    ("architecture", "activation"),
    [(name, "gelu") for name in architectures_of("text")]
    + [("charlm", name) for name in ACTIVATIONS if name != "gelu"],
)
def test_every_operation_of_a_trial_has_a_deterministic_form_on_a_gpu(architecture, activation, task, not_compiled):
    """A step forward and back, plain and what is compiled of it; with attention as a GPU computes it."""
    trial = studies.a_trial(architecture=architecture, activation=activation)
    learners = [SingleTrial(trial, task)]
    if architecture not in ("tinylstm", "gru", "hybridlm", "lstm_attention"):
        learners.append(CompiledTrial(trial, task))
    for module in learners[0].model.modules():
        if isinstance(module, Attention):
            module.written_out = True
    with studies.Operations() as found:
        for learner in learners:
            learner.update(0)
    assert any("backward" in name for name in found.names) and "_fused_adamw_" in found.names
    assert not [name for name in found.names if NOT_DETERMINISTIC.fullmatch(name)]


# --- the benchmark of processes that share a device -----------------------------------------------------------------


class NoRoom(Workload):
    """A workload whose steps find no memory left."""

    def step(self):
        raise torch.OutOfMemoryError("CUDA out of memory.")


class Dying(Workload):
    """A workload whose process ends without a word."""

    def step(self):
        os._exit(1)


def merged(rows):
    return {name: value for row in rows for name, value in row.items()}


@pytest.mark.parametrize("workload", [Workload, NoRoom, Dying])
def test_the_benchmark_counts_trials_of_all_processes_until_they_do_not_fit(workload, monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: fork)  # so that the workload is inherited
    monkeypatch.setattr(gpu, "Workload", workload)
    config = ConfigCPU(**{**studies.SIZES, "max_iters": 60})
    found = merged(trials_per_hour("cpu", config, (1, 2), False, steps=4))
    if workload in (NoRoom, Dying):
        assert found == {"trials_per_hour_1_processes": "out of memory"}
    else:
        assert set(found) == {"trials_per_hour_1_processes", "trials_per_hour_2_processes"}
        assert all(0 < rate < math.inf for rate in found.values())


# --- docs/gpu.md ----------------------------------------------------------------------------------------------------


def commands_of_the_page():
    page = (studies.ROOT / "docs" / "gpu.md").read_text()
    return re.findall(r"^ *(?:timeout [^\n]*?)?(python \w+\.py[^\n`]*)$", page, re.MULTILINE)


@pytest.mark.parametrize("command", commands_of_the_page())
def test_every_command_of_the_page_is_one_that_its_script_accepts(command):
    _, script, *options = shlex.split(command)
    if script == "benchmark.py":
        assert options[0] == "cuda" and options[1] == "--json"
        return
    args = importlib.import_module(script.removesuffix(".py")).parser().parse_args(options)
    if script == "run_all_experiments.py":
        assert len(choices.chosen_sizes(args)) == (7 if args.scale else 0)


def test_the_page_has_commands():
    assert len(commands_of_the_page()) >= 12
