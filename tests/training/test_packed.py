"""Claims about packs: a trial that is trained in a batched model is the trial that it would be alone, and as much its own."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import studies
import torch
from studies import SIZES, Reads, a_pack, assert_same, farthest, stop_after

import run_all_experiments
import train
from activations import ACTIVATIONS
from architectures import registry
from common import checkpoint_files, json_files, storage
from common.errors import UserError
from config import Config
from config_cpu import ConfigCPU
from study.plan import Plan
from train import run_pack
from training import packed
from training.identity import complete
from training.step import SingleTrial, build
from training.trial import Interrupted, load_model

STREAMS = ("init", "data", "dropout")
RECURRENT = {"hybridlm", "tinylstm", "gru", "lstm_attention"}
REFERENCE = studies.ROOT / "results" / "reference" / "matched"


# --- the same training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [name for name in registry.architectures_of("text") if name not in RECURRENT])
@pytest.mark.parametrize("activation", ["relu", "smelu_1", "prelu", "swiglu"])
def test_the_trials_of_a_pack_are_those_trained_alone(architecture, activation, task, in_float64):
    if architecture == "rnn" and ACTIVATIONS[activation].gated:
        pytest.skip("a plain recurrence takes no gated unit")
    trials = a_pack(2, architecture, activation)
    together = run_pack(trials, trials, task)
    for trial, outcome in zip(trials, together):
        alone = train.run_trial(trial, task)
        assert farthest(outcome["weights"], alone["weights"]) < 1e-10
        assert outcome["record"]["val_loss"] == pytest.approx(alone["record"]["val_loss"], rel=1e-6)
    assert farthest(together[0]["weights"], together[1]["weights"]) > 1e-3


@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - {"relu", "smelu_1", "prelu", "swiglu"}))
def test_every_activation_can_be_packed(activation, task, in_float64):
    trials = a_pack(2, "charlm", activation, max_iters=3)
    for trial, outcome in zip(trials, run_pack(trials, trials, task)):
        assert farthest(outcome["weights"], train.run_trial(trial, task)["weights"]) < 1e-10


@pytest.mark.parametrize("vary", [("init",), ("data",), ("dropout",), ("bit",), ()])
def test_a_pack_varies_what_its_study_varies(vary, task, in_float64):
    trials = a_pack(2, vary=vary)
    together = run_pack(trials, trials, task)
    for trial, outcome in zip(trials, together):
        assert farthest(outcome["weights"], train.run_trial(trial, task)["weights"]) < 1e-10
    assert (farthest(together[0]["weights"], together[1]["weights"]) > 0) == bool(vary)


def test_without_dropout_there_is_no_mask_to_draw(task, in_float64):
    trials = a_pack(2, dropout=0.0)
    for trial, outcome in zip(trials, run_pack(trials, trials, task)):
        assert farthest(outcome["weights"], train.run_trial(trial, task)["weights"]) < 1e-10


def test_the_slot_of_a_trial_does_not_matter(task, in_float64):
    trials = a_pack(3)
    expected = {trial.number: o["weights"] for trial, o in zip(trials, run_pack(trials, trials, task))}
    for order in (trials[::-1], trials[1:] + trials[:1]):
        for trial, outcome in zip(order, run_pack(order, trials, task)):
            assert outcome["record"]["trial"] == trial.number
            assert farthest(outcome["weights"], expected[trial.number]) < 1e-10


@pytest.mark.parametrize("architecture", ["charlm", "minigpt", "nanotransformer", "mlp"])
def test_every_part_of_a_pack_computes_in_the_type_that_it_has_alone(architecture, task):
    """Under vmap, PyTorch's autocast gives a linear layer with a bias another type than it gives it alone.

    Layer norms are left out: autocast treats them in one way on a CPU, and in another on a GPU.
    """

    def types_in(learner, model):
        found = {}
        for name, module in model.named_modules():
            if not isinstance(module, torch.nn.LayerNorm):
                module.register_forward_hook(lambda _, __, output, name=name: found.update({name: output.dtype}))
        learner.update(0)
        return found

    trials = a_pack(2, architecture=architecture, dtype="bfloat16")
    stack, alone = packed.Stack(trials, task), SingleTrial(trials[:1], task)
    together, expected = types_in(stack, stack.base), types_in(alone, alone.model_of(0))
    assert torch.bfloat16 in expected.values() and together == expected


def test_bfloat16_is_bfloat16_in_a_pack_as_well(task):
    """Autocast reaches the batched products: near the trial alone in bfloat16, and not what float32 gives."""
    trials = a_pack(2, dtype="bfloat16", max_iters=1, learning_rate=1e-3)
    together = run_pack(trials, trials, task)
    for trial, outcome in zip(trials, together):
        alone = train.run_trial(trial, task)
        assert {tensor.dtype for tensor in outcome["weights"].values()} == {torch.float32}
        assert outcome["record"]["val_loss"] == pytest.approx(alone["record"]["val_loss"], rel=0.01)


def test_a_pack_reads_no_value_back_from_a_device_but_the_cpu(task):
    trials = a_pack(2, device="cpu:0")
    stack = packed.Stack(trials, task)
    with Reads() as reads:
        losses = stack.update(0)
    assert reads.count == 0 and losses.shape == (2,)


# --- each its own -----------------------------------------------------------------------------------------------------


def test_the_companions_of_a_trial_change_no_bit_of_it(task):
    trials = a_pack(3)
    others = (trials[0], *a_pack(3, activation="gelu", vary=("data",))[1:])
    expected, found = (run_pack(pack, pack[:1], task)[0] for pack in (trials, others))
    assert_same(found, expected)


def test_a_trial_that_diverges_leaves_its_companions_alone(task, monkeypatch):
    trials = a_pack(3)
    expected = run_pack(trials, trials, task)
    real = packed.Stack.update

    def update(self, step):
        if step == 3:
            with torch.no_grad():
                next(iter(self.parameters.values()))[1] = float("nan")
        return real(self, step)

    monkeypatch.setattr(packed.Stack, "update", update)
    found = run_pack(trials, trials, task)
    record = found[1]["record"]
    assert (record["status"], record["reason"]) == ("diverged", "the loss was no longer finite at step 4")
    assert [point["step"] for point in record["history"]] == [0, 2] and found[1]["weights"] is None
    json.dumps(record, allow_nan=False)
    for slot in (0, 2):
        assert_same(found[slot], expected[slot])


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_a_pack_whose_trials_all_diverge_ends_there(device, task):
    trials = a_pack(2, device=device, learning_rate=1e30, max_iters=9, eval_interval=4)
    records = [outcome["record"] for outcome in run_pack(trials, trials, task)]
    assert [record["status"] for record in records] == ["diverged"] * 2
    assert [[point["step"] for point in record["history"]] for record in records] == [[0]] * 2


def test_the_state_of_a_pack_is_that_of_exactly_these_trials(task, tmp_path):
    trials, partial = a_pack(2), tmp_path / "pack.pt"
    expected = run_pack(trials, trials, task)
    for others in (a_pack(3), a_pack(2, vary=("init",)), a_pack(2, activation="relu"), trials[::-1]):
        with pytest.raises(Interrupted):
            run_pack(others, others, task, partial_path=partial, should_stop=stop_after(3))
        for found, outcome in zip(run_pack(trials, trials, task, partial_path=partial), expected):
            assert_same(found, outcome)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6])
def test_a_pack_that_was_stopped_after_any_step_goes_on_to_the_same_bits(steps, task, tmp_path):
    trials, partial = a_pack(3), tmp_path / "pack.pt"
    expected = run_pack(trials, trials, task)
    with pytest.raises(Interrupted):
        run_pack(trials, trials, task, partial_path=partial, should_stop=stop_after(steps))
    taken = []
    found = run_pack(trials, trials, task, partial_path=partial, should_stop=lambda: taken.append(1) or False)
    assert len(taken) == 6 - steps, "steps were trained again"
    for one, other in zip(found, expected):
        assert_same(one, other)


def test_a_packs_report_names_each_trial_with_its_own_loss(task, monkeypatch):
    monkeypatch.setattr(train, "REPORT_EVERY_S", 0.0)
    events, trials = [], a_pack(2)
    run_pack(trials, trials, task, report=events.append)
    assert [(event["trial"], event["step"]) for event in events] == [(k, s) for s in range(1, 7) for k in (1, 2)]
    assert all(one["loss"] != other["loss"] for one, other in zip(events[::2], events[1::2]))


# --- a study of packs -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def command(tiny_corpus_file):
    return ("run_all_experiments.py", *studies.TINY, f"--corpus={tiny_corpus_file}", "--activations=relu", "--pack=4")


@pytest.fixture(scope="module")
def six(command, tmp_path_factory):
    """A folder with the study of six trials, run at once by one worker."""
    folder = tmp_path_factory.mktemp("six")
    done = studies.run(*command, "--trials=6", "--workers=1", folder=folder)
    assert done.status == 0, done.out + done.err
    return folder


def test_a_trial_of_a_pack_has_a_result_a_history_and_a_checkpoint_of_its_own(six):
    result = json_files.read_json(six / "results" / "charlm_relu.json")
    assert result["identity"]["pack"] == 4
    assert [record["trial"] for record in result["trials"]] == [1, 2, 3, 4, 5, 6]
    assert len(result["pairs"]) == 15
    assert len({record["weights_sha256"] for record in result["trials"]}) == 6
    assert len({json.dumps(record["history"]) for record in result["trials"]}) == 6
    for record in result["trials"]:
        model, content = load_model(six / "checkpoints" / record["checkpoint"])
        assert (content["trial"], content["pack"]) == (record["trial"], 4)
        assert checkpoint_files.weights_sha256(model.state_dict()) == record["weights_sha256"]
    assert not list(six.rglob("*.partial.pt"))


@pytest.mark.parametrize("before", [1, 4, 5])
def test_an_extended_study_of_packs_is_the_study_that_was_whole_from_the_start(before, command, six, tmp_path):
    """In steps that end within a pack, at its end, and with padding that later becomes trials."""
    for trials in (before, 6):
        done = studies.run(*command, f"--trials={trials}", "--workers=2", folder=tmp_path)
        assert done.status == 0, done.out + done.err
    assert f"{6 - before} trials to train, {before} already done" in done.out
    assert studies.difference(six, tmp_path) is None


def test_a_study_of_packs_that_is_killed_goes_on_to_the_same_bits(command, six, tmp_path):
    for kill_at in (7, 15, 25, 40):
        folder = tmp_path / str(kill_at)
        folder.mkdir()
        assert studies.run(*command, "--trials=6", folder=folder, kill_at=kill_at).status == -9
        done = studies.run(*command, "--trials=6", folder=folder)
        assert done.status == 0, done.out + done.err
        assert studies.difference(six, folder) is None, kill_at


def test_a_pack_whose_worker_dies_while_it_saves_goes_on_to_the_same_bits(command, six, tmp_path):
    done = studies.run(
        *command,
        "--trials=6",
        "--workers=2",
        folder=tmp_path,
        kill_at=60,
        victim="worker",
        prelude=studies.SAVE_TWICE,
    )
    assert done.status == 0, done.out + done.err
    assert "charlm_relu pack of trials 1, 2, 3, 4: its worker was killed by SIGKILL" in done.out
    assert studies.difference(six, tmp_path) is None


@pytest.mark.parametrize("trial", [2, 6])
def test_verify_trains_the_pack_of_a_trial_again(trial, six, tiny_corpus_file):
    options = ("--verify", "results/charlm_relu.json", "--trial", trial, "--corpus", tiny_corpus_file)
    run = studies.run("train.py", *options, folder=six)
    assert run.status == 0 and "identical: weights_sha256" in run.out, run.out + run.err


@pytest.mark.parametrize(("options", "words"), [((), "pack: 4 against missing"), (("--pack=2",), "pack: 4 against 2")])
def test_a_study_of_packs_is_another_study(options, words, command, six):
    run = studies.run(*command[:-1], *options, "--trials=6", folder=six)
    assert run.status == 2 and run.err.startswith("error: results holds a study with other settings"), run.err
    assert words in run.err and run.err.count("\n") == 1


def test_a_study_without_packs_has_the_identity_that_it_always_had():
    """The shipped studies are still resumed, extended and verified."""
    stored = json_files.read_json(REFERENCE / storage.STUDY_FILE)["identity"]
    nowhere = dict.fromkeys(("results_dir", "checkpoints_dir", "plots_dir"))
    plan = Plan(ConfigCPU(), "cpu", "matched", 42, STREAMS, 10, (), **nowhere)
    assert complete(
        plan.identity(SimpleNamespace(identity=lambda: {"corpus_sha256": stored["corpus_sha256"]}))
    ) == complete(stored)


CROWDED = """
import os, time, torch
from study import jobs
real = jobs.FUNCTIONS["pack"]
def crowded(context, report, should_stop, trials, wanted, partial_path):
    mine = f"running_{wanted[0].number}"
    os.mkdir(mine)
    try:
        end = time.monotonic() + 10
        others = lambda: [name for name in os.listdir() if name.startswith("running_") and name != mine]
        while not os.path.exists("seen") and not others() and time.monotonic() < end:
            time.sleep(0.01)
        if others() and not os.path.exists("seen"):
            open("seen", "w").close()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(context, report, should_stop, trials, wanted, partial_path)
    finally:
        os.rmdir(mine)
jobs.FUNCTIONS["pack"] = crowded
"""


def test_out_of_memory_lowers_the_number_of_packs_at_a_time_and_never_their_size(command, six, tmp_path):
    done = studies.run(*command, "--trials=6", "--workers=2", folder=tmp_path, prelude=CROWDED)
    assert done.status == 0, done.out + done.err
    assert "out of memory; from now on at most 1 at a time" in done.out
    assert studies.difference(six, tmp_path) is None


def test_a_pack_that_fails_fails_its_trials_and_the_next_run_tries_them_again(command, six, tmp_path):
    broken = "from study import jobs\njobs.FUNCTIONS['pack'] = lambda *a, **k: 1 / 0"
    failed = studies.run(*command, "--trials=6", folder=tmp_path, prelude=broken)
    assert failed.status == 1 and "pack of trials 1, 2, 3, 4 FAILED: ZeroDivisionError" in failed.out
    result = json_files.read_json(tmp_path / "results" / "charlm_relu.json")
    assert [record["status"] for record in result["trials"]] == ["failed"] * 6
    assert studies.run(*command, "--trials=6", folder=tmp_path).status == 0
    assert studies.difference(six, tmp_path) is None


# --- what cannot be packed, and what does not fit -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--pack", "1"], "--pack must be at least 2, but it is 1"),
        (
            ["--pack", "4", "--architectures", "tinylstm"],
            "tinylstm with relu cannot be packed or compiled: its LSTM is a single PyTorch operation",
        ),
        (
            ["--pack", "4", "--architectures", "charlm", "gru"],
            "gru with relu cannot be packed or compiled: its GRU is a single PyTorch operation",
        ),
        (["--pack", "4", "--engine", "ray"], "--pack needs the local engine"),
    ],
)
def test_what_cannot_be_packed_is_one_sentence_before_any_training(options, words, tmp_path, tiny_corpus_file):
    command = ("run_all_experiments.py", *studies.TINY, "--corpus", tiny_corpus_file, "--activations", "relu")
    run = studies.run(*command, *options, folder=tmp_path)
    assert run.status == 2 and words in run.err and run.err.count("\n") == 1, run.err
    assert not run.out and not (tmp_path / "results").exists()


def test_the_published_protocol_has_no_packs(tmp_path):
    run = studies.run("run_all_experiments.py", "--protocol", "published", "--pack", "2", folder=tmp_path)
    assert run.status == 2 and run.err.startswith("error: --pack has no effect under the published protocol")


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


def test_a_readers_model_that_cannot_be_batched_is_refused_in_one_sentence(task, tmp_path, monkeypatch):
    (tmp_path / "branching.py").write_text(BRANCHING)
    monkeypatch.setattr(registry, "ARCHITECTURES", registry.ARCHITECTURES.copy())
    registry.load_architecture_file(tmp_path / "branching.py")
    with pytest.raises(
        UserError, match=r"^branching with relu cannot be packed or compiled \(--pack, --compile\): "
    ) as e:
        packed.check_can_be_packed("branching", "relu", ConfigCPU(**SIZES), task)
    assert "\n" not in str(e.value)


def test_the_memory_of_a_slot_grows_with_model_batch_and_precision(task):
    def needs(**changes):
        return packed.check_can_be_packed("charlm", "relu", ConfigCPU(**{**SIZES, **changes}), task)

    base = needs()
    model = run_all_experiments.model_facts(
        SimpleNamespace(experiments=[("charlm", "relu")], config=ConfigCPU(**SIZES)), task
    )["charlm", "relu"]
    weights = 16 * model["n_parameters"]
    assert needs(batch_size=8) - weights == pytest.approx(2 * (base - weights), rel=0.1)
    assert needs(n_layer=2) > base and needs(dropout=0.0) < base and needs(dtype="bfloat16") < base


def test_the_memory_of_a_slot_is_what_autograd_keeps(task):
    """Counted on the meta device; here against the tensors of a real step."""
    trials, kept = a_pack(2), {}
    stack = packed.Stack(trials, task)

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        stack.update(0)
    n_parameters = sum(parameter.numel() for parameter in stack.parameters.values())
    needs = len(trials) * packed.check_can_be_packed("charlm", "gelu", trials[0].config, task)
    assert needs - 16 * n_parameters == pytest.approx(sum(kept.values()) - 4 * n_parameters, rel=0.1)


@pytest.mark.parametrize(
    ("slot_gb", "memory_gb", "words"),
    [
        (10, 79, "a pack of 8 of a model needs at least 80.0 GB of memory, and the GPU has 79.0 GB; --pack 7 may fit"),
        (39, 79, "--pack 2 may fit"),
        (40, 79, "leave out --pack"),
        (80, 79, "take a smaller size"),
    ],
)
def test_a_gpu_too_small_for_a_pack_is_said_with_what_fits(slot_gb, memory_gb, words):
    with pytest.raises(UserError) as error:
        packed.check_fits(8, slot_gb * 10**9, memory_gb * 10**9, "a model")
    assert words in str(error.value)
    packed.check_fits(memory_gb // slot_gb, slot_gb * 10**9, memory_gb * 10**9, "a model")


def test_a_study_asks_the_gpu_whether_its_packs_fit(task, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=2 * 10**9))
    nowhere = dict.fromkeys(("results_dir", "checkpoints_dir", "plots_dir"))
    plan = Plan(Config(), "cuda", "matched", 42, STREAMS, 5, (("charlm", "relu"),), **nowhere, pack=32)
    with pytest.raises(UserError, match=r"a pack of 32 of charlm with relu needs at least .* GB of memory"):
        run_all_experiments.check_packs(plan, task)


def test_a_mask_is_that_of_its_own_trial(task):
    """The masks of a pack are those that each trial draws alone."""
    trials = a_pack(3)
    stack = packed.Stack(trials, task)
    given = packed.draw_masks(stack.base, stack.shapes, trials, 5)
    assert set(given) == {
        "blocks.0.attention.weight_dropout.given",
        "blocks.0.attention.output_dropout.given",
        "blocks.0.feed_forward.dropout.given",
    }
    model = build(trials[2], task.model_sizes)
    from model import address_dropout

    address_dropout(model, trials[2].seeds["dropout"], 5)
    for name, mask in given.items():
        alone = model.get_submodule(name.removesuffix(".given")).mask(
            mask.shape[1:], torch.device("cpu"), torch.float32
        )
        assert np.array_equal(mask[2].numpy(), alone.numpy() == 1)
