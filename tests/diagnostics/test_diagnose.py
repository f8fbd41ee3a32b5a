"""Claims about diagnose.py: it measures what lacks, once; a model that was trained again is measured again; bad input is named."""

import json

import pytest
import studies

from diagnostics.comparisons import COMPARISONS
from diagnostics.probes import DRAWN, PROBES

SIZES = ("--n-layer=1", "--n-head=2", "--n-embd=8", "--block-size=16", "--batch-size=4", "--curve-windows=4")


@pytest.fixture
def study(tmp_path, tiny_corpus_file):
    options = (
        "--activations=relu,smelu_1",
        "--trials=2",
        "--max-iters=8",
        "--eval-interval=8",
        f"--corpus={tiny_corpus_file}",
    )
    assert studies.run("run_all_experiments.py", *SIZES, *options, folder=tmp_path).status == 0

    def diagnose(*more):
        return studies.run("diagnose.py", *more, f"--corpus={tiny_corpus_file}", "--workers=1", folder=tmp_path)

    return diagnose, tmp_path


def entries(folder):
    return json.loads((folder / "results" / "diagnostics.json").read_text())["entries"]


def test_every_probe_and_comparison_is_measured_once_and_tabulated(study):
    diagnose, folder = study
    run = diagnose("--probes", *PROBES, "--comparisons", *COMPARISONS)
    assert run.status == 0, run.err
    tabulated = [name for name in (*PROBES, *COMPARISONS) if name not in DRAWN]
    assert all(f"| {name} " in run.out for name in tabulated) and "| pre_activation_histogram" not in run.out, run.out
    assert "Figure: plots/charlm_cpu_pre_activations.png" in run.out
    assert (folder / "plots" / "charlm_cpu_pre_activations.png").stat().st_size > 10_000
    first = entries(folder)
    assert len(first) == 4 * len(PROBES) + 2 * len(COMPARISONS) and all("values" in e for e in first.values())
    run = diagnose("--probes", *PROBES, "--comparisons", *COMPARISONS)
    assert run.status == 0 and ", 0 to measure" in run.out and entries(folder) == first
    run = diagnose("--comparisons", "gradient_cosine", "--across")
    assert run.status == 0 and "2 to measure" in run.out and "CharLM, ReLU / CharLM, SmeLU β=1 (n = 2)" in run.out


def test_studies_with_several_branch_steps_end_with_the_barrier_by_step(tmp_path, tiny_corpus_file):
    options = (*SIZES, "--activations=relu", "--trials=4", "--vary=data", "--max-iters=8", "--eval-interval=8")
    for step in (0, 4, 7):
        where = (f"--branch-step={step}", f"--results-dir=results/branch_{step}", f"--corpus={tiny_corpus_file}")
        run = studies.run("run_all_experiments.py", *options, *where, folder=tmp_path)
        assert run.status == 0, run.out + run.err
    folders = [f"results/branch_{step}" for step in (7, 0, 4)]
    how = ("--comparisons", "barrier", f"--corpus={tiny_corpus_file}", "--workers=1")
    run = studies.run("diagnose.py", *folders, *how, folder=tmp_path)
    assert run.status == 0, run.out + run.err
    rows = [line.split("|")[2:4] for line in run.out.splitlines() if line.startswith("| CharLM, ReLU ")]
    assert [[int(cell) for cell in row] for row in rows] == [[0, 2], [4, 2], [7, 2]], "by step, two disjoint pairs each"
    assert (tmp_path / "plots" / "charlm_cpu_barriers.png").stat().st_size > 5_000
    refused = studies.run("diagnose.py", *folders, *how, "--checkpoints-dir=checkpoints", folder=tmp_path)
    assert refused.status == 2 and "--checkpoints-dir is one study's folder" in refused.err


def test_a_value_of_other_weights_is_measured_again_and_nothing_else_is(study):
    diagnose, folder = study
    assert diagnose("--probes", "gradient_norm").status == 0
    path = folder / "results" / "diagnostics.json"
    content = json.loads(path.read_text())
    content["entries"]["gradient_norm charlm_relu trial 2"]["weights_sha256"] = ["0" * 64]
    from common.json_files import write_json

    write_json(path, content)
    run = diagnose("--probes", "gradient_norm")
    assert run.status == 0 and "4 values wanted, 1 to measure" in run.out
    assert entries(folder)["gradient_norm charlm_relu trial 2"]["weights_sha256"] != ["0" * 64]


def test_what_an_architecture_cannot_do_is_named_and_the_rest_is_measured(tmp_path, tiny_corpus_file):
    options = (
        "--architectures=mlp",
        "--activations=relu",
        "--trials=2",
        "--max-iters=4",
        f"--corpus={tiny_corpus_file}",
    )
    assert studies.run("run_all_experiments.py", *SIZES, *options, folder=tmp_path).status == 0
    more = (f"--corpus={tiny_corpus_file}", "--workers=1")
    run = studies.run("diagnose.py", "--comparisons", "barrier", "barrier_after_matching", *more, folder=tmp_path)
    assert run.status == 0 and "| barrier " in run.out
    assert "Not measured: barrier_after_matching mlp_relu trial 1, mlp_relu trial 2" in run.out
    assert "symmetries of CharLM, MiniGPT and NanoTransformer" in run.out


def test_a_trial_without_a_checkpoint_is_named_and_measured_once_it_is_there(study):
    diagnose, folder = study
    checkpoint = folder / "checkpoints" / "charlm_relu" / "trial_2.pt"
    checkpoint.rename(folder / "elsewhere.pt")
    run = diagnose("--probes", "gradient_norm")
    assert run.status == 0 and "3 to measure" in run.out, run.out + run.err
    assert (
        "Not measured: gradient_norm charlm_relu trial 2 (checkpoints/charlm_relu/trial_2.pt does not exist)" in run.out
    )
    (folder / "elsewhere.pt").rename(checkpoint)
    run = diagnose("--probes", "gradient_norm")
    assert run.status == 0 and "1 to measure" in run.out and "Not measured" not in run.out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--probes gradient_nrom", "did you mean 'gradient_norm'"),
        ("--comparisons bar", "unknown comparison 'bar'"),
        ("--across", "it needs --comparisons"),
        ("--trials 0", "--trials must be at least 1"),
        ("--comparisons barrier --trials 1", "no trial (or no pair of trials)"),
        ("--checkpoints-dir elsewhere", "needs the checkpoint elsewhere/charlm_relu/trial_1.pt, which does not exist"),
    ],
)
def test_a_mistake_is_one_sentence(study, options, says):
    diagnose, _ = study
    run = diagnose(*options.split())
    assert run.status == 2 and says in run.err, run.err


def test_a_probe_leaves_the_model_as_it_was(task):
    import torch

    from diagnostics.probes import measure_probes
    from training.step import build

    trial = studies.a_trial()
    model = build(trial, task.model_sizes).train()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    state = torch.get_rng_state()
    first = measure_probes(PROBES, model, task, trial, 3)
    assert measure_probes(PROBES, model, task, trial, 3) == first and set(first) == set(PROBES)
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert all(p.grad is None and p.dtype == torch.float32 for p in model.parameters())
