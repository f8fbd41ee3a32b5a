"""Claims about probes: they measure what they say, are stored with the curves, and change no bit of a trial."""

import pytest
import studies
import torch

import train
from common import json_files
from common.errors import UserError
from diagnostics.measure import measure
from diagnostics.probes import PROBES, check_probes, gradient_norm, kernel_target, measure_probes
from tasks.base import cross_entropy
from tasks.registry import load_task
from training.step import build


def test_probing_changes_no_bit_of_a_trial(task):
    plain, probed = (train.run_trial(studies.a_trial(), task, probes=probes) for probes in ((), tuple(PROBES)))
    for point in probed["record"]["history"]:
        assert set(point.pop("probes")) == set(PROBES)
    studies.assert_same(plain, probed)


def test_the_gradient_norm_is_that_of_the_loss_on_the_batch(task):
    trial = studies.a_trial()
    model = build(trial, task.model_sizes)
    x, y = (part[:5] for part in task.examples("train", trial.config, "cpu"))
    found = gradient_norm(model, (x, y), None, trial.config)
    cross_entropy(model.eval()(x), y).backward()
    expected = torch.stack([p.grad.double().square().sum() for p in model.parameters()]).sum().sqrt().item()
    assert found["all"] == pytest.approx(expected, rel=1e-6)
    assert found["all"] ** 2 == pytest.approx(sum(v**2 for name, v in found.items() if name != "all"), rel=1e-6)
    assert {name.rpartition(".")[0] for name, _ in model.named_parameters()} == found.keys() - {"all"}


def test_a_probe_leaves_mode_and_gradients_as_they_were(task):
    trial = studies.a_trial()
    model = build(trial, task.model_sizes).train()
    measure_probes(PROBES, model, task, trial, 3)
    assert model.training and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("architecture", ["image_mlp", "vit"])
def test_the_curvature_of_a_model_of_real_numbers_is_measured(architecture):
    """Inputs of other tasks are floating-point numbers, which must become float64 as the weights do."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed (requirements-tasks.txt)")
    images = load_task("images")
    trial = studies.a_trial(architecture=architecture, n_embd=8, n_head=2, n_layer=1, batch_size=4)
    found = measure_probes(["curvature"], build(trial, images.model_sizes), images, trial, 0)["curvature"]
    assert found["hessian_largest"] > 0 and found["gauss_newton_trace"] > 0


def test_a_tangent_kernel_of_the_classes_is_aligned_with_the_targets_and_not_with_random_ones():
    """A linear model of one-hot classes has the kernel [same class]."""
    y = torch.randint(0, 5, (8, 16), generator=torch.Generator().manual_seed(0))
    x, config = torch.nn.functional.one_hot(y).float(), studies.a_trial().config
    model = torch.nn.Linear(5, 5, bias=False)
    assert kernel_target(model, (x, y), None, config)["alignment"] == pytest.approx(1, abs=1e-6)
    shuffled = y.flatten()[torch.randperm(y.numel(), generator=torch.Generator().manual_seed(1))].view(y.shape)
    assert abs(kernel_target(model, (x, shuffled), None, config)["alignment"]) < 0.2


def test_an_unknown_probe_names_the_nearest(task):
    with pytest.raises(UserError, match="did you mean 'gradient_norm'"):
        check_probes(["gradient_norms"], task, studies.a_trial().config)


def test_a_noise_scale_of_single_sequences_is_refused_before_training(tmp_path, tiny_corpus_file):
    options = (*studies.TINY, "--corpus", tiny_corpus_file, "--batch-size=1", "--probes=noise_scale", "--dry-run")
    run = studies.run("run_all_experiments.py", *options, folder=tmp_path)
    assert run.status == 2 and "noise_scale needs a --batch-size of at least 2" in run.err


def test_when_memory_runs_out_half_of_the_batch_is_measured_and_that_is_said(task, monkeypatch):
    trial = studies.a_trial()
    sizes = []

    def hungry(model, batch, generator, config):
        sizes.append(len(batch[0]))
        if len(batch[0]) > limit:
            raise MemoryError
        return {"norm": 1.0}

    monkeypatch.setitem(PROBES, "gradient_norm", hungry)
    model, whole = build(trial, task.model_sizes).eval(), trial.config.batch_size
    limit = whole // 4
    found, _ = measure("gradient_norm", [model], task, trial.config, ["relu"], 1)
    assert found == {"norm": 1.0, "examples used": float(limit)} and sizes == [whole, whole // 2, limit]
    limit = 0
    found, _ = measure("gradient_norm", [model], task, trial.config, ["relu"], 1)
    assert found == "out of memory, even for one example; try --workers 1"


def test_a_study_stores_its_probes_and_resumes_with_them(tmp_path, tiny_corpus_file):
    study = ("run_all_experiments.py", *studies.TINY, "--corpus", tiny_corpus_file, "--activations", "relu", "gelu")
    run = studies.run(*study, "--trials=2", "--probes", "gradient_norm", "pre_activations", folder=tmp_path)
    assert run.status == 0, run.out + run.err
    history = json_files.read_json(tmp_path / "results" / "charlm_gelu.json")["trials"][1]["history"]
    assert [point["step"] for point in history] == [0, 2, 4, 6]
    assert all(point["probes"]["gradient_norm"]["all"] > 0 for point in history)
    verify = ("train.py", "--verify", "results/charlm_gelu.json", "--trial=2", "--corpus", tiny_corpus_file)
    verified = studies.run(*verify, folder=tmp_path)
    assert verified.status == 0 and "identical: weights_sha256" in verified.out, verified.out + verified.err
    again = studies.run(*study, "--trials=3", folder=tmp_path)
    assert again.status == 0, "probes are no part of the identity"
    last = studies.run(*study, "--trials=3", "--probes", "gradient_norm", folder=tmp_path)
    assert "note: 2 finished trial(s) lack the probe gradient_norm" in last.out


def test_under_the_published_protocol_probes_are_refused(tmp_path):
    run = studies.run("run_all_experiments.py", "--protocol=published", "--probes=gradient_norm", folder=tmp_path)
    assert run.status == 2 and run.err.startswith("error: --probes has no effect under the published protocol")
