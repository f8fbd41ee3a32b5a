"""A study's predictions, exported and compared as somebody's own, give the study's numbers."""

import json

import numpy as np
import pytest
import studies

import analyze_results
from study.export_predictions import export_predictions


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_corpus_file):
    folder = tmp_path_factory.mktemp("exported")
    options = (*studies.TINY, "--activations", "relu", "gelu", "--trials", "3", "--corpus", tiny_corpus_file)
    assert studies.run("run_all_experiments.py", *options, folder=folder).status == 0
    return folder


def export(folder, *options):
    return studies.run("analyze_results.py", "--export-predictions", "predictions", *options, folder=folder)


def test_exported_predictions_give_the_numbers_of_the_study(study, tiny_corpus_file):
    run = export(study, "--corpus", tiny_corpus_file)
    assert run.status == 0, run.out + run.err
    compared = studies.run("compare_predictions.py", "predictions", "--reference", "relu", folder=study)
    assert compared.status == 0, compared.out + compared.err
    found = json.loads((study / "predictions/comparison.json").read_text())["variants"]
    for activation in ("relu", "gelu"):
        result = json.loads((study / f"results/charlm_{activation}.json").read_text())
        for name in ("relative_pd", "top1_disagreement", "js_divergence", "ensemble_gain"):
            expected = np.mean([pair[name] for pair in result["pairs"]])
            assert found[activation]["summary"][name]["mean"] == pytest.approx(expected, rel=1e-4, abs=1e-7)
        losses = [trial["val_loss"] for trial in result["trials"]]
        assert found[activation]["summary"]["loss"]["mean"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_nothing_is_overwritten_and_a_missing_checkpoint_is_named(study, tiny_corpus_file, tmp_path):
    (study / "notes").mkdir()
    (study / "notes/mine.txt").write_text("mine")
    run = export(study, "--export-predictions", "notes", "--corpus", tiny_corpus_file)
    assert run.status == 2 and "notes is not an empty folder" in run.err
    run = export(study, "--export-predictions", "new", "--checkpoints-dir", str(tmp_path), "--corpus", tiny_corpus_file)
    assert run.status == 2 and "trial_1.pt, which does not exist (see --checkpoints-dir)" in run.err
    run = export(study, "--export-predictions", "new", "--across", "results", "--by-frequency")
    assert (run.status, run.err) == (
        2,
        "error: --export-predictions does nothing else; leave out --across, --by-frequency\n",
    )
    assert not (study / "new").exists()


def test_models_trained_on_a_device_that_is_missing_predict_on_the_cpu(study, tiny_corpus_file, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cells, said = analyze_results.read_study(study / "results").cells, []
    for cell in cells:
        cell.result["identity"]["device"] = "cuda"
    export_predictions(cells, study / "checkpoints", tmp_path / "out", data=tiny_corpus_file, say=said.append)
    assert said[0].startswith("trained on cuda, which this machine lacks: predicting on the CPU")
    assert np.load(tmp_path / "out/relu/trial_1.npy").sum(-1) == pytest.approx(1, abs=1e-4)
