"""The command line of a study: what it refuses, what it keeps, and what it says."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import studies
import torch
from studies import ROOT

from common import json_files, storage
from config_cpu import ConfigCPU
from study.choices import split_list
from training.published_protocol import FIELDS
from training.step import build
from training.trial import Trial, stream_seeds

SCRIPT = "run_all_experiments.py"


@pytest.fixture(scope="module")
def corpus(tiny_corpus_file):
    return f"--corpus={tiny_corpus_file}"


@pytest.fixture(scope="module")
def study(corpus):
    return (SCRIPT, *studies.TINY, corpus, "--activations=relu")


@pytest.fixture(scope="module")
def three(study, tmp_path_factory):
    """A folder with a study of three trials."""
    folder = tmp_path_factory.mktemp("three")
    assert studies.run(*study, "--trials=3", folder=folder).status == 0
    return folder


def files(folder):
    """The bytes of everything in a folder but what a run says and the lock it holds."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith((".run_", ".lock"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def result(folder, kind=""):
    return json_files.read_json(folder / "results" / kind / "charlm_relu.json")


# --- mistakes ---------------------------------------------------------------------------------------------------------

TEXTS = {"short.txt": b"too short", "latin.txt": "caf\xe9 ".encode("latin-1") * 999, "empty.txt": b""}

MISTAKES = [
    (["--activations=gelo"], "unknown activation 'gelo'; did you mean 'gelu'? known: "),
    (["--activations", "relu,swich"], "unknown activation 'swich'; did you mean 'swish'?"),
    (["--activations", ""], "an option that takes names was given an empty value; name some, or leave it out"),
    (["--vary=,"], "an option that takes names was given an empty value"),
    (["--vary=none,init"], "--vary none cannot be combined with other sources"),
    (["--max-iter=20"], "unrecognized arguments: --max-iter=20"),
    (["--vary=int"], "unknown source of randomness (--vary) 'int'; did you mean 'init'? known: init, data, dropout, bit"),
    (["--architectures=charml"], "unknown architecture 'charml'; did you mean 'charlm'? known: charlm, "),
    (["--corpus=shakespare"], "unknown corpus 'shakespare'; did you mean 'shakespeare'? known: auto, shakespeare, pydoc"),
    (["--corpus=nosuchfile"], "corpus file nosuchfile does not exist; built-in corpora: auto, shakespeare, pydoc"),
    (["--corpus=short.txt"], "corpus short.txt is too short: its train split has 8 characters"),
    (["--corpus=latin.txt"], "UTF-8"),
    (["--corpus=empty.txt"], "empty"),
    (["--corpus=."], "is a folder, not a file with data"),
    (["--n-embd=9"], "n_embd must be a multiple of n_head, but 9 is not a multiple of 2"),
    *[([f"--{name}=0"], f"{name.replace('-', '_')} must be at least 1, but it is 0") for name in (
        "n-layer", "n-head", "n-embd", "block-size", "batch-size", "max-iters", "eval-interval", "curve-windows",
        "threads-per-trial")],
    (["--trials=0"], "--trials must be at least 1, but it is 0"),
    (["--trials=-3"], "--trials must be at least 1, but it is -3"),
    (["--workers=0"], "--workers must be at least 1, but it is 0"),
    (["--seed-base=-1"], "--seed-base must be from 0 to 2^32 - 1 - trials, but it is -1"),
    (["--seed-base=4294967295"], "--seed-base must be from 0"),
    (["--learning-rate=nan"], "learning_rate must be positive, but it is nan"),
    (["--learning-rate=-1"], "learning_rate must be positive, but it is -1"),
    (["--learning-rate=inf"], "learning_rate must be positive, but it is inf"),
    (["--dropout=nan"], "dropout must be at least 0 and less than 1, but it is nan"),
    (["--dropout=1"], "dropout must be at least 0 and less than 1, but it is 1.0"),
    (["--weight-decay=nan"], "weight_decay must not be negative, but it is nan"),
    (["--n-layer=two"], "invalid int value: 'two'"),
    (["--dtype=float16"], "unknown dtype 'float16'; did you mean 'bfloat16'? known: float32, bfloat16"),
    (["--eval-iters=5"], "--eval-iters has no effect under the matched protocol"),
    (["--ray-address=auto"], "--ray-address needs --engine ray"),
    (["--no-such-option"], "unrecognized arguments: --no-such-option"),
    (["--device=tpu"], "invalid choice: 'tpu'"),
    (["--activation-file=missing.py"], "missing.py"),
    (["--protocol=published"], "--curve-windows has no effect under the published protocol"),
    (["--n-embd=200000"], "a trial of charlm at this size needs at least 7,153 GiB"),
    (["--n-embd=99999996", "--dry-run"], "take a smaller n_embd, n_layer, block_size or batch_size"),
    (["--n-layer=1000000000", "--architectures=convlm"], "a trial of convlm at this size needs at least"),
    (["--batch-size=1000000000"], "a trial of charlm at this size needs at least"),
]  # fmt: skip

# Of these, TINY's own options would be in the way.
PUBLISHED_MISTAKES = [
    (["--vary=init"], "--vary has no effect under the published protocol"),
    (["--config=gpu"], "the published protocol runs on the CPU only"),
    (["--device=cuda"], "the published protocol runs on the CPU only"),
    (["--dtype=bfloat16"], "the published protocol computes in float32, but --dtype is bfloat16"),
    (["--dtype=auto"], "the published protocol computes in float32, but --dtype is auto"),
    (["--engine=ray"], "the published protocol needs the local engine"),
    (["--architectures=mlp"], "the published protocol supports charlm only, but --architectures names mlp"),
    *[([f"--{name.replace('_', '-')}={getattr(ConfigCPU, name)}"], f"--{name.replace('_', '-')} has no effect under")
        for name in ConfigCPU().as_dict() if name not in (*FIELDS, "dtype")],
]  # fmt: skip


def check_mistake(folder, arguments, says):
    for name, data in TEXTS.items():
        (folder / name).write_bytes(data)
    done = studies.run(SCRIPT, *arguments, folder=folder)
    assert done.status == 2, done.out + done.err
    assert says in done.err
    assert len(done.err.splitlines()) == 1 and done.out == ""
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".run_")} == set(TEXTS)


@pytest.mark.parametrize(("arguments", "says"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_gets_one_sentence_before_any_folder_is_made(corpus, tmp_path, arguments, says):
    check_mistake(tmp_path, [*studies.TINY, corpus, *arguments], says)


@pytest.mark.parametrize(("arguments", "says"), PUBLISHED_MISTAKES, ids=[" ".join(a) for a, _ in PUBLISHED_MISTAKES])
def test_an_option_that_the_published_protocol_ignores_is_a_mistake(corpus, tmp_path, arguments, says):
    check_mistake(tmp_path, ["--protocol=published", corpus, *arguments], says)


def test_an_unknown_name_is_answered_with_every_known_one(corpus, tmp_path):
    from activations import ACTIVATIONS
    from architectures.registry import architectures_of

    for option, known in (("--activations", ACTIVATIONS), ("--architectures", architectures_of("text"))):
        done = studies.run(SCRIPT, *studies.TINY, corpus, f"{option}=nonsense", folder=tmp_path)
        assert done.status == 2
        assert set(known) <= set(re.split(r"[\s,]+", done.err.split("known: ")[1]))


# --- the dtype that auto stands for -----------------------------------------------------------------------------------

COMPUTED_BY = "import training.options\ntraining.options.native_bfloat16 = lambda device: {!r}"
NATIVE, EMULATED = COMPUTED_BY.format("AMX"), COMPUTED_BY.format(None)


@pytest.mark.parametrize(
    ("prelude", "dtype", "why"),
    [
        (NATIVE, "bfloat16", "this machine's cpu supports it natively: AMX"),
        (EMULATED, "float32", "this machine's cpu does not support bfloat16 natively"),
    ],
    ids=["native", "emulated"],
)
def test_auto_is_bfloat16_where_it_is_native_and_results_record_which_it_was(study, prelude, dtype, why, tmp_path):
    said = f"--dtype auto: {dtype} ({why})\n"
    assert said in studies.run(*study, "--dtype=auto", "--dry-run", folder=tmp_path, prelude=prelude).out
    done = studies.run(*study, "--dtype=auto", "--trials=1", folder=tmp_path, prelude=prelude)
    assert done.status == 0 and said in done.out
    for name in ("study", "charlm_relu"):
        assert json_files.read_json(tmp_path / f"results/{name}.json")["identity"]["config"]["dtype"] == dtype
    again = studies.run(*study, f"--dtype={dtype}", "--trials=1", folder=tmp_path)
    assert "0 trials to train, 1 already done" in again.out, "auto is no identity of its own"


def test_auto_is_the_dtype_of_the_study_that_is_there(study, three, tmp_path):
    shutil.copytree(three, tmp_path, dirs_exist_ok=True)
    done = studies.run(*study, "--dtype=auto", "--trials=3", folder=tmp_path, prelude=NATIVE)
    assert "--dtype auto: float32 (that of the study in this folder)" in done.out and "3 already done" in done.out
    fresh = studies.run(*study, "--dtype=auto", "--fresh", "--dry-run", folder=tmp_path, prelude=NATIVE)
    assert "--dtype auto: bfloat16" in fresh.out


def test_auto_does_not_continue_a_bfloat16_study_by_emulation(study, tmp_path):
    assert studies.run(*study, "--dtype=bfloat16", "--trials=1", folder=tmp_path).status == 0
    before = files(tmp_path)
    done = studies.run(*study, "--dtype=auto", "--trials=2", folder=tmp_path, prelude=EMULATED)
    assert done.status == 2 and "the study in this folder uses bfloat16, which this machine's cpu" in done.err
    assert files(tmp_path) == before
    assert studies.run(*study, "--dtype=bfloat16", "--trials=2", folder=tmp_path, prelude=EMULATED).status == 0


# --- what changes nothing ---------------------------------------------------------------------------------------------


def test_help_answers_without_torch_and_writes_nothing(tmp_path):
    program = (
        "import sys, run_all_experiments\n"
        "try:\n    run_all_experiments.main(['--help'])\n"
        "finally:\n    assert not {'torch', 'numpy', 'scipy'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for option in "--trials --protocol --vary --fresh --dry-run --n-layer --threads-per-trial".split():
        assert option in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_a_study_takes_and_writes_nothing(study, tmp_path):
    done = studies.run(*study, "--trials=7", "--workers=2", "--dry-run", folder=tmp_path)
    assert done.status == 0, done.err
    assert "7 trials, 7 of them to train: about" in done.out
    assert "with 2 worker(s)" in done.out and "GB of disk" in done.out
    assert "estimated from short timings of starting, training, evaluating and comparing" in done.out
    assert files(tmp_path) == {} and not (tmp_path / "results").exists()


def test_a_dry_run_of_a_study_that_is_there_says_what_is_left(study, three, tmp_path):
    before = files(three)
    done = studies.run(*study, "--trials=5", "--dry-run", folder=three)
    assert done.status == 0, done.err
    assert "5 trials, 2 of them to train" in done.out
    assert files(three) == before


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["--trials=3"], ([], 0)),
        (["--trials=5"], (["predict"] * 3 + ["trial"] * 2, 7)),
        (["--trials=2", "--activations=gelu"], (["trial"] * 2, 1)),
        (["--trials=5", "--fresh"], (["trial"] * 5, 10)),
    ],
)
def test_an_estimate_is_of_the_tasks_and_pairs_that_are_left(study, three, options, left):
    prelude = (
        "from study import cost\ndef said(plan, corpus, facts, tasks, n_pairs, workers):\n"
        "    print('left:', (sorted(kind for _, kind in tasks), n_pairs))\n    return 0, 0\ncost.estimate = said"
    )
    done = studies.run(*study, *options, "--dry-run", folder=three, prelude=prelude)
    assert f"left: {left}\n" in done.out, done.out + done.err


# --- what a study keeps -----------------------------------------------------------------------------------------------


def test_more_trials_extend_a_study_without_training_again_and_fewer_delete_nothing(study, three, tmp_path):
    assert studies.run(*study, "--trials=2", folder=tmp_path).status == 0
    first = result(tmp_path)["trials"]
    done = studies.run(*study, "--trials=3", folder=tmp_path)
    assert done.status == 0
    assert "1 trials to train, 2 already done" in done.out
    assert result(tmp_path)["trials"][:2] == first, "times included: these are the very trials of the first run"
    assert studies.difference(three, tmp_path) is None
    assert studies.run(*study, "--trials=1", folder=tmp_path).status == 0
    assert studies.difference(three, tmp_path) is None


def test_another_activation_joins_the_study_in_its_summary(study, three, tmp_path):
    assert studies.run(*study, "--trials=2", folder=tmp_path).status == 0
    before = files(tmp_path)["results/charlm_relu.json"]
    assert studies.run(*study, "--trials=2", "--activations=gelu", folder=tmp_path).status == 0
    assert files(tmp_path)["results/charlm_relu.json"] == before
    summary = json_files.read_json(tmp_path / "results" / storage.SUMMARY_FILE)
    assert set(summary["experiments"]) == {"charlm_relu", "charlm_gelu"}


def test_extending_one_activation_leaves_the_order_of_the_others(study, tmp_path):
    def order():
        return list(json_files.read_json(tmp_path / "results" / "all_experiments_summary.json")["experiments"])

    assert studies.run(*study, "--activations=swish,gelu", "--trials=1", folder=tmp_path).status == 0
    assert order() == ["charlm_swish", "charlm_gelu"]
    assert studies.run(*study, "--activations=gelu", "--trials=2", folder=tmp_path).status == 0
    assert order() == ["charlm_swish", "charlm_gelu"]


def test_fresh_leaves_the_old_study_where_the_new_one_cannot_begin(study, three, tmp_path):
    copied = shutil.copytree(three, tmp_path / "study")
    before = files(copied)
    done = studies.run(*study, "--fresh", "--engine=ray", "--ray-address=127.0.0.1:1", folder=copied)
    assert done.status == 2
    assert files(copied) == before


def test_fresh_moves_the_old_study_aside_says_where_and_loses_nothing(study, three, tmp_path):
    assert studies.run(*study, "--trials=2", "--dropout=0", folder=tmp_path).status == 0
    (tmp_path / "plots").mkdir()
    for name in ("charlm_relu_cpu_summary.png", "charlm_cpu_forest.png", "all_cpu_sensitivity.pdf"):
        (tmp_path / "plots" / name).write_bytes(b"a figure of the old study")
    (tmp_path / "results" / "charlm_swish.json").write_bytes(b"a damaged result")
    old = files(tmp_path)
    foreign = {
        f"{kind}/{name}": b"of somebody else"
        for kind, names in {
            "results": ("table.npz", "charlm_relu (copy).npz", "x.png"),
            "plots": ("photo.png", "my_photo.png", "charlm.png"),
            "checkpoints": ("trial_1.pt", "other/trial_1.pt"),
        }.items()
        for name in names
    }
    for name, data in foreign.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    done = studies.run(*study, "--trials=3", "--fresh", folder=tmp_path)
    assert done.status == 0
    new = files(tmp_path)
    (stamp,) = (path.name for path in (tmp_path / "results").glob("aside_*"))
    assert f"the old study is set aside in results/{stamp}, checkpoints/{stamp}, plots/{stamp}\n" in done.out
    for name, data in old.items():
        kind, rest = name.split("/", 1)
        assert new.pop(f"{kind}/{stamp}/{rest}") == data
    assert not any("aside_" in name for name in new)
    for name, data in foreign.items():
        assert new[name] == data
        (tmp_path / name).unlink()
    (tmp_path / "checkpoints" / "other").rmdir()
    for kind in ("results", "checkpoints"):
        (tmp_path / kind / stamp).rename(tmp_path / f"{kind}_{stamp}")
    assert studies.difference(three, tmp_path) is None


def test_fresh_never_moves_a_study_onto_one_that_was_set_aside_before(study, tmp_path):
    """Not even within the same second; and where there is no study there is nothing to say."""
    same_second = "import time\ntime.strftime = lambda _: 'aside_then'"
    for place in ("results", "checkpoints", "plots"):
        (tmp_path / place / "aside_then").mkdir(parents=True)
    for number, stamp in ((1, None), (2, "aside_then_again"), (3, "aside_then_again_again")):
        options = ("--trials=1", f"--seed-base={number}", "--fresh")
        done = studies.run(*study, *options, folder=tmp_path, prelude=same_second)
        assert done.status == 0, done.err
        assert ("set aside" in done.out) == (stamp is not None)
        if stamp:
            aside = json_files.read_json(tmp_path / "results" / stamp / "charlm_relu.json")
            assert aside["identity"]["seed_base"] == number - 1
            assert (tmp_path / "checkpoints" / stamp / "charlm_relu" / "trial_1.pt").exists()
    assert list((tmp_path / "results" / "aside_then").iterdir()) == []


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--n-embd=16", "config.n_embd: 8 there, 16"),
        ("--dropout=0.1", "config.dropout: 0.2 there, 0.1"),
        ("--seed-base=1", "seed_base: 42 there, 1"),
        ("--max-iters=7", "config.max_iters: 6 there, 7"),
        ("--corpus=other.txt", "corpus_sha256: "),
        ("--vary=init", "vary: init, data, dropout there, init"),
        ("--threads-per-trial=2", "config.threads_per_trial: 1 there, 2"),
    ],
)
def test_another_identity_in_the_same_folder_is_refused_by_naming_the_field(study, three, option, says):
    (three / "other.txt").write_text("another text. " * 200)
    before = files(three)
    done = studies.run(*study, option, "--results-dir=results", folder=three)
    assert done.status == 2
    assert f"results holds a study with other settings ({says}" in done.err
    assert len(done.err.splitlines()) == 1
    assert files(three) == before


def test_a_dry_run_of_another_identity_names_the_folder_of_results_not_that_of_checkpoints(study, three):
    done = studies.run(*study, "--n-embd=16", "--dry-run", folder=three)
    assert done.status == 2 and "results holds a study with other settings" in done.err
    assert "choose another --results-dir" in done.err


@pytest.mark.parametrize("text", ["relu,gelu", "relu gelu", "relu, gelu", " relu ,gelu,"])
def test_a_list_takes_spaces_or_commas_also_within_one_argument(text):

    assert split_list([text]) == ["relu", "gelu"]
    assert split_list([*text.split()]) == ["relu", "gelu"]


def test_each_kind_of_study_has_folders_of_its_own(study, tmp_path):
    for options, folder in (
        (["--vary=none"], "vary_none"),
        (["--vary", "dropout", "init"], "vary_init_dropout"),
        (["--results-dir=results/mine"], "mine"),
    ):
        done = studies.run(*study, "--trials=1", *options, folder=tmp_path)
        assert done.status == 0
        assert ("--compare" in done.out) == (folder != "mine")
        assert (tmp_path / "results" / folder / "charlm_relu.json").exists()
        assert (tmp_path / "checkpoints" / folder / "charlm_relu" / "trial_1.pt").exists()
    assert not (tmp_path / "checkpoints" / "charlm_relu").exists()


# --- what it says -----------------------------------------------------------------------------------------------------


def test_one_trial_is_allowed_and_says_that_reproducibility_needs_two(study, tmp_path):
    done = studies.run(*study, "--trials=1", folder=tmp_path)
    assert done.status == 0
    assert "reproducibility needs at least two trials" in done.out
    assert result(tmp_path)["pairs"] == []
    assert result(tmp_path)["summary"]["val_loss"]["ci95"] is None


def test_a_log_is_plain_lines_with_step_loss_trial_and_time_left(study, tmp_path):
    done = studies.run(*study, "--trials=2", "--workers=1", folder=tmp_path, prelude=studies.SLOW)
    assert "\r" not in done.out and "\x1b" not in done.out and done.err == ""
    lines = done.out.splitlines()
    step = r"\[00:00:\d\d\] charlm_relu  trial 1 of 2  step +\d+ of 6  loss \d\.\d{4}  \| 0 of 2 trials done, .*left.*"
    end = (
        r"\[00:00:\d\d\] charlm_relu  trial 2 of 2  val loss \d\.\d{4}  val accuracy .*%  .* s  \| 2 of 2 trials done, "
    )
    assert any(re.fullmatch(step, line) for line in lines)
    assert any(re.match(end + "about 0 s left", line) for line in lines)
    assert "charlm with relu, 2 trials each, matched protocol, corpus tiny.txt, cpu, 6 steps" in lines[0]
    assert lines[-2:] == ["done: results", "next: python analyze_results.py"]


def test_results_can_be_read_while_the_study_is_running(study, tmp_path):
    """Each result is written as its trial ends: the second trial finds that of the first."""
    prelude = """
from study import jobs
real = jobs.FUNCTIONS["trial"]
def looking(context, report, should_stop, trial, partial_path):
    if trial.number == 3:
        from common import json_files, storage
        found = json_files.read_json("results/charlm_relu.json")
        open("seen", "w").write(f"{[r['trial'] for r in found['trials']]} {len(found['pairs'])}")
    return real(context, report, should_stop, trial, partial_path)
jobs.FUNCTIONS["trial"] = looking
"""
    assert studies.run(*study, "--trials=3", "--workers=1", folder=tmp_path, prelude=prelude).status == 0
    assert (tmp_path / "seen").read_text().startswith("[1")


# --- sources of randomness --------------------------------------------------------------------------------------------


def test_varying_nothing_gives_exactly_no_difference(study, tmp_path):
    assert studies.run(*study, "--trials=3", "--vary=none", folder=tmp_path).status == 0
    found = result(tmp_path, "vary_none")
    assert len({record["weights_sha256"] for record in found["trials"]}) == 1
    assert [(pair["relative_pd"], pair["top1_disagreement"]) for pair in found["pairs"]] == [(0, 0)] * 3


def test_varying_one_stream_leaves_the_others_at_the_seed_of_trial_one(study, tmp_path):
    done = studies.run(*study, "--trials=2", "--vary=init", folder=tmp_path)
    assert done.status == 0
    assert done.out.splitlines()[-2:] == [
        "next: python analyze_results.py results/vary_init",
        "compare with the study that varies everything: python analyze_results.py results --compare results/vary_init",
    ]
    found = result(tmp_path, "vary_init")
    assert [record["seeds"] for record in found["trials"]] == [
        {"init": 42, "data": 42, "dropout": 42, "bit": None},
        {"init": 43, "data": 42, "dropout": 42, "bit": None},
    ]
    assert found["pairs"][0]["relative_pd"] > 0


def test_varying_a_bit_changes_one_bit_of_one_weight():
    config = ConfigCPU(n_layer=1, n_head=2, n_embd=8, block_size=16)

    def weights(vary, number):
        trial = Trial("charlm", "relu", config, number, 41 + number, stream_seeds(42, number, vary))
        tensors = build(trial, 9).state_dict()
        return torch.cat([tensor.flatten().view(torch.int32) for _, tensor in sorted(tensors.items())])

    untouched = weights((), 1)
    assert torch.equal(untouched, weights((), 2))
    flipped = [untouched ^ weights(("bit",), number) for number in (1, 2, 3)]
    assert [sum(bin(word & 0xFFFFFFFF).count("1") for word in change.tolist()) for change in flipped] == [1, 1, 1]
    assert len({tuple(change.nonzero().flatten().tolist()) for change in flipped}) > 1
