"""Claims about steps that torch.compile makes: the same training to rounding, the same bits each time, another identity.

Here the compiler is the C++ one; what Triton makes for a GPU is compared in docs/gpu.md.
"""

import argparse
import importlib.util
import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import studies
import torch
from studies import SIZES, Reads, a_trial, assert_same, farthest, stop_after
from torch._inductor.utils import fresh_cache

from activations import ACTIVATIONS
from architectures import registry
from common import checkpoint_files, json_files, storage
from common.errors import UserError
from config_cpu import ConfigCPU
from study.plan import Plan
from train import run_trial
from training import compiled as compiled_trials
from training.compiled import CompiledTrial, check_can_be_compiled
from training.identity import complete
from training.options import choose_compiled
from training.step import SingleTrial
from training.trial import Interrupted

STREAMS = ("init", "data", "dropout")
NOT_COMPILED = {"hybridlm", "tinylstm", "gru", "lstm_attention", "rnn"}
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler (g++) here to compile with")


# --- the same training ------------------------------------------------------------------------------------------------


def compiled(trial):
    return replace(trial, compiled=True)


@pytest.mark.parametrize("architecture", [n for n in registry.architectures_of("text") if n not in NOT_COMPILED])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_what_is_compiled_is_the_step(architecture, activation, task, in_float64, not_compiled):
    trial = a_trial(architecture=architecture, activation=activation)
    found, expected = (run_trial(one, task) for one in (compiled(trial), trial))
    assert farthest(found["weights"], expected["weights"]) < 1e-10
    assert found["record"]["val_loss"] == pytest.approx(expected["record"]["val_loss"], rel=1e-6)


@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - {"gelu", "swiglu"}))
def test_what_is_compiled_is_the_step_with_every_activation(activation, task, in_float64, not_compiled):
    trial = a_trial(activation=activation, max_iters=3)
    assert farthest(*(run_trial(one, task)["weights"] for one in (compiled(trial), trial))) < 1e-10


@pytest.mark.parametrize("changes", [{"dropout": 0.0}, {"vary": ("bit",), "number": 2}])
def test_what_is_compiled_is_the_step_without_dropout_and_with_a_flipped_bit(changes, task, in_float64, not_compiled):
    trial = a_trial(**changes)
    assert farthest(*(run_trial(one, task)["weights"] for one in (compiled(trial), trial))) < 1e-10


@pytest.mark.parametrize("architecture", ["charlm", "minigpt", "nanotransformer", "mlp"])
def test_every_part_computes_in_the_type_that_it_has_in_the_plain_step(architecture, task, not_compiled):
    """Layer norms are left out: autocast treats them in one way on a CPU, and in another on a GPU."""

    def types_in(learner, model):
        found = {}
        for name, module in model.named_modules():
            if not isinstance(module, torch.nn.LayerNorm):
                module.register_forward_hook(lambda _, __, output, name=name: found.update({name: output.dtype}))
        learner.update(0)
        return found

    trial = a_trial(architecture=architecture, dtype="bfloat16")
    one, plain = CompiledTrial(trial, task), SingleTrial(trial, task)
    found, expected = types_in(one, one.skeleton), types_in(plain, plain.model)
    assert torch.bfloat16 in expected.values() and found == expected


def test_a_compiled_trial_reads_no_value_back_from_a_device_but_the_cpu(task, not_compiled):
    learner = CompiledTrial(a_trial(device="cpu:0"), task)
    with Reads() as reads:
        learner.update(0)
    assert reads.count == 0


# --- the compiler -----------------------------------------------------------------------------------------------------


def compiled_again(trial, task, **hooks):
    """What a trial gives whose step is compiled from the very beginning, as on a machine that has never compiled it."""
    compiled_trials._last_compiled.clear()
    with fresh_cache():
        return run_trial(compiled(trial), task, **hooks)


@needs_compiler
@pytest.mark.slow
def test_a_compiled_step_is_the_step(task, in_float64):
    trial = a_trial(activation="smelu_1", max_iters=3)
    assert farthest(compiled_again(trial, task)["weights"], run_trial(trial, task)["weights"]) < 1e-10


@needs_compiler
@pytest.mark.slow
def test_a_step_that_is_compiled_twice_gives_the_same_bits(task, tmp_path):
    """Before and after an interruption, too."""
    trial, partial_path = a_trial(activation="gelu"), tmp_path / "trial_1.partial.pt"
    expected = compiled_again(trial, task)
    with pytest.raises(Interrupted):
        run_trial(compiled(trial), task, partial_path=partial_path, should_stop=stop_after(3))
    assert_same(compiled_again(trial, task, partial_path=partial_path), expected)


@pytest.mark.slow
def test_the_next_trial_of_an_activation_is_not_compiled_again(task, monkeypatch):
    """Only where something else than seeds differs is there something to compile."""
    graphs = []
    monkeypatch.setattr(
        torch, "compile", partial(torch.compile, backend=lambda graph, _: graphs.append(graph) or graph)
    )
    one, two = (compiled(a_trial(k, architecture="mlp")) for k in (1, 2))  # which no other test compiles
    losses = [CompiledTrial(trial, task).update(0).item() for trial in (one, two, one)]
    assert len(graphs) == 1 and losses[0] == losses[2] != losses[1]
    CompiledTrial(replace(one, activation="swish"), task).update(0)
    assert len(graphs) == 2


@needs_compiler
@pytest.mark.slow
def test_a_compiled_step_sums_nothing_by_scattering(task):
    """Scattered sums that are deterministic go one by one over all places of a character: slow on a GPU."""
    from torch._inductor.utils import run_and_get_code

    with fresh_cache():
        learner = CompiledTrial(a_trial(activation="elu"), task)
        _, code = run_and_get_code(learner.update, 0)
    assert len(code) >= 2  # forward and backward
    assert not any(word in text for text in code for word in ("index_put", "scatter", "atomic_add"))


@pytest.mark.slow
def test_a_process_can_compile_any_number_of_steps(task, monkeypatch):
    """PyTorch's compiler stops at eight versions of a function; a worker trains more trials than that."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    trials = [a_trial(architecture="mlp", learning_rate=0.01 * k) for k in range(1, 11)]
    assert len({CompiledTrial(trial, task).update(0).item() for trial in trials}) == 1


# --- studies ----------------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.slow
def test_a_compiled_study_says_so_in_its_identity_and_which_compiler_ran(tmp_path, tiny_corpus_file):
    command = ("run_all_experiments.py", *studies.TINY, "--corpus", tiny_corpus_file, "--activations", "relu")
    done = studies.run(*command, "--trials", "1", "--compile", "on", folder=tmp_path, really=True, seconds=600)
    assert done.status == 0 and "leaked" not in done.err, done.out + done.err
    result = json_files.read_json(tmp_path / "results" / "charlm_relu.json")
    assert result["identity"]["compiled"] is True
    assert result["trials"][0]["environment"]["compiler"]
    content = checkpoint_files.read_checkpoint(tmp_path / "checkpoints" / "charlm_relu" / "trial_1.pt")
    assert content["compiled"] is True
    again = studies.run(*command, "--trials", "1", folder=tmp_path)
    assert again.status == 2 and "compiled: True there, False asked for" in again.err
    verify = ("--verify", "results/charlm_relu.json", "--corpus", tiny_corpus_file)
    run = studies.run("train.py", *verify, folder=tmp_path, seconds=600)
    assert run.status == 0 and "identical: weights_sha256" in run.out, run.out + run.err


@pytest.mark.parametrize(
    ("compile_", "device", "compiler", "triton", "expected"),
    [
        ("auto", "cuda", True, True, True),
        ("auto", "cuda", True, False, False),
        ("auto", "cuda", False, True, False),
        ("auto", "cpu", True, True, False),
        ("on", "cpu", True, False, True),
        ("off", "cuda", True, True, False),
    ],
)
def test_what_is_compiled_by_default(compile_, device, compiler, triton, expected, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/cc" if compiler else None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there" if triton else None)
    assert choose_compiled(argparse.Namespace(compile=compile_), device) is expected


def test_compiling_without_a_compiler_is_the_users_mistake(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="--compile on needs a C compiler"):
        choose_compiled(argparse.Namespace(compile="on"), "cpu")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("run_all_experiments.py --protocol published --compile on", "--compile on has no effect under the published"),
        ("run_all_experiments.py --architectures gru --compile on", "gru with smelu_05 cannot be compiled: its GRU"),
        ("train.py --architecture tinylstm --compile on", "tinylstm with relu cannot be compiled: its LSTM"),
        ("train.py --sample x.pt --compile on", "--compile has no effect on --sample"),
    ],
)
def test_what_cannot_be_compiled_is_one_sentence(command, words, tmp_path, tiny_corpus_file):
    script, *options = command.split()
    more = () if {"published", "--sample"} & set(options) else (*studies.TINY, "--corpus", tiny_corpus_file)
    run = studies.run(script, *options, *more, folder=tmp_path)
    assert run.status == 2 and words in run.err and run.err.count("\n") == 1, run.err


BRANCHING = """
import torch


class Branching(torch.nn.Module):
    def __init__(self, config, make_activation, vocabulary_size):
        super().__init__()
        self.embedding = torch.nn.Embedding(vocabulary_size, config.n_embd)
        self.activation = make_activation()
        self.head = torch.nn.Linear(config.n_embd, vocabulary_size)

    def forward(self, tokens):
        x = self.activation(self.embedding(tokens))
        return self.head(x if x.sum() > 0 else 2 * x)
"""


def test_a_readers_model_that_cannot_be_compiled_is_refused_in_one_sentence(task, tmp_path, monkeypatch):
    (tmp_path / "branching.py").write_text(BRANCHING)
    monkeypatch.setattr(registry, "ARCHITECTURES", registry.ARCHITECTURES.copy())
    registry.load_architecture_file(tmp_path / "branching.py")
    with pytest.raises(UserError, match=r"^branching with relu cannot be compiled \(.*; give --compile off$"):
        check_can_be_compiled("branching", "relu", ConfigCPU(**SIZES), task)


def test_a_study_that_is_not_compiled_has_the_identity_that_it_always_had():
    """The shipped studies are still resumed, extended and verified."""
    reference = studies.ROOT / "results" / "reference" / "matched" / storage.STUDY_FILE
    stored = json_files.read_json(reference)["identity"]
    nowhere = dict.fromkeys(("results_dir", "checkpoints_dir", "plots_dir"))
    plan = Plan(ConfigCPU(), "cpu", "matched", 42, STREAMS, 10, (), **nowhere)
    text = SimpleNamespace(identity=lambda: {"corpus_sha256": stored["corpus_sha256"]})
    assert complete(plan.identity(text)) == complete(stored)
