"""Claims about steps that torch.compile makes: the same training to rounding, the same bits each time, another identity.

On a machine without a GPU the compiler is the C++ one; what Triton makes for a GPU is tested nowhere here.
"""

import argparse
import importlib.util
import json
import shutil
from dataclasses import replace
from functools import partial

import pytest
import studies
import torch
from studies import a_pack, assert_same, farthest, stop_after
from torch._inductor.utils import fresh_cache

from common import checkpoint_files, json_files
from common.errors import UserError
from train import run_pack
from training import packed
from training.options import choose_compiled
from training.trial import Interrupted, arithmetic

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler (g++) here to compile with")


def compiled_again(trials, task, **hooks):
    """What a pack gives whose step is compiled from the very beginning, as on a machine that has never compiled it."""
    trials = tuple(replace(trial, compiled=True) for trial in trials)
    packed._last_compiled.clear()
    with fresh_cache():
        return run_pack(trials, trials, task, **hooks)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("size", "activation"), [(1, "smelu_1"), (2, "gelu")])
def test_a_compiled_step_is_the_step(size, activation, task, in_float64):
    trials = a_pack(size, activation=activation, max_iters=3)
    expected = run_pack(trials, trials, task)
    for outcome, plain in zip(compiled_again(trials, task), expected):
        assert farthest(outcome["weights"], plain["weights"]) < 1e-10


@needs_compiler
@pytest.mark.slow
def test_a_step_that_is_compiled_twice_gives_the_same_bits(task, tmp_path):
    """Before and after an interruption, too."""
    trials = a_pack(2)
    expected = compiled_again(trials, task)
    with pytest.raises(Interrupted):
        compiled_again(trials, task, partial_path=tmp_path / "pack.pt", should_stop=stop_after(3))
    for outcome, before in zip(compiled_again(trials, task, partial_path=tmp_path / "pack.pt"), expected):
        assert_same(outcome, before)


@pytest.mark.slow
def test_the_next_trial_of_an_activation_is_not_compiled_again(task, monkeypatch):
    """Only where something else than seeds differs is there something to compile."""
    graphs = []
    monkeypatch.setattr(
        torch, "compile", partial(torch.compile, backend=lambda graph, _: graphs.append(graph) or graph)
    )
    one, two = a_pack(2, max_iters=1, architecture="mlp")  # an architecture that no other test compiles
    losses = [packed.Stack((replace(trial, compiled=True),), task).update(0).item() for trial in (one, two, one)]
    assert len(graphs) == 1 and losses[0] == losses[2] != losses[1]
    packed.Stack((replace(one, compiled=True, activation="swish"),), task).update(0)
    assert len(graphs) == 2


@needs_compiler
@pytest.mark.slow
def test_a_compiled_step_sums_nothing_by_scattering(task):
    """Scattered sums that are deterministic go one by one over all places of a character: slow on a GPU."""
    from torch._inductor.utils import run_and_get_code

    (trial,) = a_pack(1)
    with fresh_cache():
        stack = packed.Stack((replace(trial, compiled=True, activation="elu"),), task)
        _, code = run_and_get_code(stack.update, 0)
    assert len(code) >= 2  # forward and backward
    assert not any(word in text for text in code for word in ("index_put", "scatter", "atomic_add"))


@pytest.mark.slow
def test_a_process_can_compile_any_number_of_steps(task, monkeypatch):
    """PyTorch's compiler stops at eight versions of a function; a worker trains more trials than that."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    (trial,) = a_pack(1, max_iters=1)
    others = [replace(trial, compiled=True, config=trial.config.replace(learning_rate=0.01 * k)) for k in range(1, 11)]
    losses = {packed.Stack((other,), task).update(0).item() for other in others}
    assert losses == {packed.Stack((trial,), task).update(0).item()}


@needs_compiler
@pytest.mark.slow
def test_a_compiled_study_says_so_in_its_identity_and_which_compiler_ran(tmp_path, tiny_corpus_file):
    command = ("run_all_experiments.py", *studies.TINY, "--corpus", tiny_corpus_file, "--activations", "relu")
    done = studies.run(*command, "--trials", "1", "--compile", "on", folder=tmp_path)
    assert done.status == 0, done.out + done.err
    result = json_files.read_json(tmp_path / "results" / "charlm_relu.json")
    assert result["identity"]["compiled"] is True and "pack" not in result["identity"]
    assert result["trials"][0]["environment"]["compiler"]
    content = checkpoint_files.read_checkpoint(tmp_path / "checkpoints" / "charlm_relu" / "trial_1.pt")
    assert content["compiled"] is True
    again = studies.run(*command, "--trials", "1", folder=tmp_path)
    assert again.status == 2 and "compiled: True against missing" in again.err
    verify = ("--verify", "results/charlm_relu.json", "--corpus", tiny_corpus_file)
    run = studies.run("train.py", *verify, folder=tmp_path)
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
        ("run_all_experiments.py --architectures gru --compile on", "gru with smelu_05 cannot be packed or compiled"),
        ("train.py --architecture tinylstm --compile on", "tinylstm with relu cannot be packed or compiled"),
        ("train.py --sample x.pt --compile on", "--compile has no effect on --sample"),
    ],
)
def test_what_cannot_be_compiled_is_one_sentence(command, words, tmp_path, tiny_corpus_file):
    script, *options = command.split()
    more = () if {"published", "--sample"} & set(options) else (*studies.TINY, "--corpus", tiny_corpus_file)
    run = studies.run(script, *options, *more, folder=tmp_path)
    assert run.status == 2 and words in run.err and run.err.count("\n") == 1, run.err


def test_an_identity_says_only_what_differs_from_an_ordinary_trial():
    assert arithmetic(None, False) == {}
    assert json.loads(json.dumps(arithmetic(4, True))) == {"pack": 4, "compiled": True}
