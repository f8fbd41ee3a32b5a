"""Claims about a user-defined model or activation: checked before it trains, used where given, never mistaken."""

import pytest
import studies

from common import json_files

MODEL = """
import torch
from torch import nn
from torch.nn import functional as F


class MyModel(nn.Module):
    def __init__(self, config, make_activation, vocabulary_size):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, config.n_embd)
        self.hidden = nn.Linear(2 * config.n_embd, 4 * config.n_embd)
        self.activation, self.dropout = make_activation(), nn.Dropout(config.dropout)
        self.head = nn.Linear(4 * config.n_embd, vocabulary_size)

    def forward(self, tokens):  # (B, T) -> (B, T, V)
        x = self.embedding(tokens)
        neighbour = F.pad(x, (0, 0, 1, 0))[:, :-1]
        return self.head(self.dropout(self.activation(self.hidden(torch.cat([x, neighbour], dim=-1)))))
"""
LOOKS_AHEAD = MODEL.replace("F.pad(x, (0, 0, 1, 0))[:, :-1]", "F.pad(x, (0, 0, 0, 1))[:, 1:]")
ACTIVATION = "import torch\n\n\ndef soft_step(x):\n    return x * torch.sigmoid(4 * x)\n"
FILES = {
    "my_model.py": MODEL,
    "ahead.py": LOOKS_AHEAD,
    "soft.py": ACTIVATION,
    "sums.py": "def sums(x):\n    return x.sum(-1)\n",
    "logs.py": "def logs(x):\n    return x.log()\n",
    "broken.py": "def broken(x) return x\n",
    "raises.py": MODEL.replace("super().__init__()", "raise OSError('no such luck')"),
}


def write_files(folder):
    for name, text in FILES.items():
        (folder / name).write_text(text)


@pytest.fixture
def folder(tmp_path, tiny_corpus_file):
    write_files(tmp_path)
    (tmp_path / "text.txt").write_bytes(tiny_corpus_file.read_bytes())
    return tmp_path


STUDY = ("run_all_experiments.py", "--corpus", "text.txt", "--trials", "2", "--workers", "2", *studies.TINY)


# --- test_cpu.py, as a user types it ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_installation_is_checked_in_one_command(run_script):
    done = run_script("test_cpu.py", timeout=600)  # a busy machine
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bit-identical when repeated" in done.stdout and "this installation works" in done.stdout


def test_a_broken_optimizer_is_noticed(monkeypatch):
    import test_cpu
    from common.errors import RunError
    from training import step

    monkeypatch.setattr(step.SingleTrial, "minimize", lambda self, loss: None)
    with pytest.raises(RunError, match="training does not lower the loss"):
        test_cpu.check_training()


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        ("--architecture-file my_model.py", 0, "my_model with relu: all checks passed; it can be trained"),
        ("--architecture-file my_model.py --activation-file soft.py", 0, "my_model with soft_step: all checks passed"),
        ("--architecture-file ahead.py", 1, "FAILED  position 1 sees position 2: the model looks ahead"),
        ("--architecture-file raises.py", 1, "cannot be built: OSError: no such luck"),
        ("--activation-file sums.py", 1, "FAILED  the activation sums turns the shape (3, 5, 8) into (3, 5)"),
        ("--activation-file logs.py", 1, "FAILED  the activation logs is nan at -100"),
        ("--activation-file broken.py", 2, "does not run: SyntaxError"),
        ("--activation-file missing.py", 2, "cannot read the activation file missing.py"),
        ("--activation-file my_model.py", 2, "cannot be created"),
    ],
)
def test_the_checks_say_in_plain_words_what_fails(folder, options, status, says):
    done = studies.run("test_cpu.py", *options.split(), folder=folder)
    assert (done.status, says in done.out + done.err) == (status, True), done.out + done.err
    assert "Traceback" not in done.out + done.err


def test_of_several_classes_the_one_that_takes_an_activation_is_the_architecture(folder):
    helper = "class Block:\n    def __init__(self, width):\n        self.width = width\n\n\n"
    (folder / "two.py").write_text(helper + (folder / "my_model.py").read_text())
    done = studies.run("test_cpu.py", "--architecture-file", "two.py", folder=folder)
    assert done.status == 0 and "my_model with relu: all checks passed" in done.out
    assert "ok      A gradient reaches every parameter." in done.out
    (folder / "two.py").write_text(helper + helper.replace("Block", "Other"))
    done = studies.run("test_cpu.py", "--architecture-file", "two.py", folder=folder)
    assert done.status == 2 and "it has: Block, Other" in done.err


def test_the_checks_by_the_command_a_user_types(run_script, tmp_path):
    write_files(tmp_path)
    done = run_script("test_cpu.py", "--architecture-file", "ahead.py")
    assert done.returncode == 1
    assert "position 1 sees position 2" in done.stdout and "my_model with relu: cannot be trained" in done.stdout


def test_a_model_for_another_task_is_checked_on_it(folder):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed (requirements-tasks.txt)")
    model = "from architectures.images import ImageMLP\nTASK = 'images'\n\n\nclass Mine(ImageMLP):\n    pass\n"
    (folder / "mine.py").write_text(model)
    done = studies.run("test_cpu.py", "--architecture-file", "mine.py", folder=folder)
    assert done.status == 0 and "mine with relu: all checks passed" in done.out, done.out + done.err
    (folder / "mine.py").write_text(model.replace("TASK = 'images'\n", ""))
    done = studies.run("train.py", "--task", "images", "--architecture-file", "mine.py", folder=folder)
    assert done.status == 2 and 'its task is text, and a line TASK = "images" in its file says otherwise' in done.err, (
        done.err
    )
    done = studies.run("test_cpu.py", "--task", "images", folder=folder)
    assert done.status == 2 and "give its file" in done.err


# --- a study --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_of_a_readers_own_model_and_activation_runs_in_worker_processes(folder):
    """By the command a user types: workers are processes that have loaded nothing yet."""
    files = ("--architecture-file", "my_model.py", "--activation-file", "soft.py")
    done = studies.run(*STUDY, *files, folder=folder, really=True, seconds=300)
    assert done.status == 0, done.out + done.err
    result = json_files.read_json(folder / "results" / "my_model_soft_step.json")
    assert [record["status"] for record in result["trials"]] == ["complete", "complete"]
    assert sorted(result["source_sha256"]) == ["activation", "architecture"]
    assert not list((folder / "results").glob("charlm*"))

    result_file, checkpoint = "results/my_model_soft_step.json", "checkpoints/my_model_soft_step/trial_1.pt"
    verified = studies.run("train.py", "--verify", result_file, "--corpus", "text.txt", *files, folder=folder)
    assert verified.status == 0 and "identical: weights_sha256" in verified.out, verified.out + verified.err
    sampled = studies.run("train.py", "--sample", checkpoint, "--prompt", "the", "--length", 9, *files, folder=folder)
    assert sampled.status == 0 and sampled.out.startswith("the"), sampled.err

    recompute = ("analyze_results.py", "--recompute", "--no-figures")
    recomputed = studies.run(*recompute, *files, folder=folder)
    assert recomputed.status == 0 and ": identical, 1 pairs" in recomputed.out, recomputed.out + recomputed.err
    diagnose = ("diagnose.py", "--comparisons", "gradient_cosine", "--corpus", "text.txt")
    for command in (recompute, diagnose):
        without = studies.run(*command, folder=folder)
        assert without.status == 2 and "give its file with --architecture-file" in without.err, without.err
    assert studies.run(*diagnose, *files, folder=folder).status == 0

    for options in (("--verify", result_file, "--corpus", "text.txt"), ("--sample", checkpoint, "--prompt", "the")):
        without = studies.run("train.py", *options, *files[:2], folder=folder)
        says = "soft_step is a user-defined activation; give its file with --activation-file"
        assert (without.status, says in without.err) == (2, True), without.err

    (folder / "soft.py").write_text(ACTIVATION.replace("4", "5"))
    again = studies.run(*STUDY, *files, folder=folder)
    assert again.status == 2 and "source_sha256.activation: " in again.err, again.out + again.err
    assert again.err.count("\n") == 1
    for options in (("--verify", result_file, "--corpus", "text.txt"), ("--sample", checkpoint, "--prompt", "the")):
        changed = studies.run("train.py", *options, *files, folder=folder)
        assert changed.status == 2 and "source_sha256.activation: " in changed.err


def test_a_study_of_built_in_activations_is_extended_by_a_readers_own(folder):
    first = studies.run(*STUDY, "--activations", "relu", folder=folder)
    before = studies.content(folder)
    second = studies.run(*STUDY, "--activation-file", "soft.py", folder=folder)
    assert (first.status, second.status) == (0, 0), second.err
    after = studies.content(folder)
    assert "results/charlm_soft_step.json" in after and "source_sha256" not in before["results/charlm_relu.json"]
    summary = "results/all_experiments_summary.json"
    assert all(after[name] == content for name, content in before.items() if name != summary)
    assert list(after[summary]["experiments"]) == ["charlm_relu", "charlm_soft_step"]


def test_a_changed_file_goes_on_from_no_state_of_the_old_one(folder, tmp_path):
    import activations
    from config_cpu import ConfigCPU
    from tasks.corpus import make_corpus
    from tasks.text import Text
    from training.trial import Trial, partial_identity

    trial, task = Trial("charlm", "soft_step", ConfigCPU(), 1, 1, {}), Text(make_corpus("x", "ab" * 500))
    identities = []
    try:
        for text in (ACTIVATION, ACTIVATION.replace("4", "5")):
            (tmp_path / "soft.py").write_text(text)
            activations.load_activation_file(tmp_path / "soft.py")
            identities.append(partial_identity(trial, task))
    finally:
        activations.ACTIVATIONS.pop("soft_step")
    assert json_files.first_difference(*identities).startswith("source_sha256.activation: ")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--architecture-file ahead.py", "my_model with smelu_05 cannot be trained: position 1 sees position 2"),
        ("--activation-file sums.py", "charlm with sums cannot be trained: the activation sums turns the shape"),
        (
            "--activation-file logs.py --architectures mlp",
            "mlp with logs cannot be trained: the activation logs is nan",
        ),
        ("--activation-file soft.py --activations relu", "--activation-file defines soft_step, which is not used here"),
        ("--activation-file broken.py", "does not run: SyntaxError"),
        ("--architecture-file my_model.py --activations swiglu", "my_model cannot use swiglu: swiglu is gated"),
        ("--architecture-file missing.py", "cannot read the architecture file missing.py"),
        ("--architecture-file my_model.py --n-embd 200000", "a trial of my_model at this size needs at least 4,"),
    ],
)
def test_a_model_or_activation_that_will_not_do_starts_nothing(folder, options, says):
    before = sorted(folder.iterdir())
    done = studies.run(*STUDY, *options.split(), folder=folder)
    assert (done.status, says in done.err, done.err.count("\n")) == (2, True, 1), done.out + done.err
    assert [path for path in sorted(folder.iterdir()) if not path.name.startswith(".run_")] == before


# --- what every trial of a process shares ------------------------------------------------------------------------------

SHARED = {
    "torch.set_default_dtype(torch.float64)": "the default dtype (torch.float32 before, torch.float64 now)",
    "torch.set_float32_matmul_precision('medium')": "the precision of float32 matrix products (highest before",
    "torch.set_num_threads(3)": "the number of threads",
    "torch.use_deterministic_algorithms(not torch.are_deterministic_algorithms_enabled())": "algorithms are determ",
    "torch.set_flush_denormal(True)": "whether small numbers are flushed to zero",
    "torch.nn.modules.module.register_module_forward_hook(lambda *_: None)": "the hooks of every module",
    "torch.nn.functional.relu = torch.nn.functional.gelu": "torch.nn.functional.relu",
    "torch.nn.ReLU.forward = lambda self, x: x.clamp(0, 1)": "torch.nn.modules.activation.ReLU.forward",
    "import randomness; randomness.generator = print": "randomness.generator",
    "from architectures import networks; networks.INITIAL_SD = 0.5": "architectures.networks.INITIAL_SD",
    "import activations; activations.ACTIVATIONS['relu'] = activations.ACTIVATIONS['gelu']": "what relu computes",
}


LOADED = "import torch\n{}\n\n\ndef soft_step(x):\n    return x * torch.sigmoid(4 * x)\n"
RUN = "import torch\n\n\ndef soft_step(x):\n    {}\n    return x * torch.sigmoid(4 * x)\n"


@pytest.mark.parametrize(
    ("text", "statement"), [*((LOADED, one) for one in SHARED), *((RUN, one) for one in list(SHARED)[:8:2])]
)
def test_a_file_that_changes_what_all_trials_share_is_refused(folder, text, statement):
    """The reference of the same study would change with it, and nobody would know."""
    (folder / "soft.py").write_text(text.format(statement))
    command = ("run_all_experiments.py", "--dry-run", "--corpus", "text.txt", *studies.TINY)
    done = studies.run(*command, "--activations", "soft_step,relu", "--activation-file", "soft.py", folder=folder)
    assert (done.status, done.err.count("\n")) == (2, 1), done.out + done.err
    assert SHARED[statement] in done.err and "all trials share" in done.err, done.err


@pytest.mark.parametrize("place", ["super().__init__()", "x = self.embedding(tokens)"])
def test_a_model_that_ends_the_program_is_refused(folder, place):
    (folder / "my_model.py").write_text(MODEL.replace(place, f"import sys; sys.exit(0); {place}"))
    done = studies.run(*STUDY, "--architecture-file", "my_model.py", folder=folder)
    assert (done.status, done.err.count("\n")) == (2, 1) and "SystemExit" in done.err, done.out + done.err
    done = studies.run("test_cpu.py", "--architecture-file", "my_model.py", folder=folder)
    assert done.status == 1 and "SystemExit" in done.out, done.out + done.err


LATE_EXIT = """
class MyModel(_Model):
    calls = 0

    def forward(self, tokens):
        if len(tokens) == 5:  # a batch of the study, which no check makes
            raise SystemExit(0)
        return super().forward(tokens)
"""


def test_a_trial_whose_model_ends_the_program_has_failed(folder):
    (folder / "my_model.py").write_text(MODEL.replace("MyModel", "_Model") + LATE_EXIT)
    own = ("--architecture-file", "my_model.py", "--activations", "relu")
    done = studies.run(*STUDY, *own, "--batch-size", "5", folder=folder)
    assert done.status == 1 and "trial 1 FAILED: RunError: the model called sys.exit(0) during training" in done.out
    result = json_files.read_json(folder / "results" / "my_model_relu.json")
    assert [record["status"] for record in result["trials"]] == ["failed", "failed"]
    one = ("--corpus", "text.txt", *studies.TINY, "--batch-size", "5")
    alone = studies.run("train.py", *own[:2], *one, folder=folder)
    assert (alone.status, "called sys.exit(0)" in alone.err) == (1, True), alone.out + alone.err


# --- one trial --------------------------------------------------------------------------------------------------------


def test_one_trial_of_a_readers_own_is_checked_and_trained(folder):
    options = ("--corpus", "text.txt", *studies.TINY)
    done = studies.run("train.py", "--architecture-file", "my_model.py", *options, folder=folder)
    assert done.status == 0 and "my_model_relu, seed 42" in done.out, done.err
    refused = studies.run("train.py", "--architecture-file", "ahead.py", *options, "--seed", "1", folder=folder)
    assert refused.status == 2 and "my_model with relu cannot be trained: position 1 sees" in refused.err
    checkpoint = "checkpoints/single/my_model_relu_seed_42.pt"
    unused = studies.run("train.py", "--sample", checkpoint, "--activation-file", "soft.py", folder=folder)
    assert unused.status == 2 and "my_model is a user-defined architecture" in unused.err
