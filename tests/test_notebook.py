"""The notebook runs from its first cell to its last, and shows whatever study there is."""

import re
import shutil
import tempfile

import nbformat
import pytest
import studies
from made_results import summarized
from nbclient import NotebookClient
from studies import ROOT

from common import json_files


@pytest.mark.slow
def test_the_notebook_runs_from_start_to_end():
    notebook = nbformat.read(ROOT / "experiments.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}})
    client.execute()
    text = "".join(
        output.get("text", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if cell.cell_type == "code"
    )
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert "weights_sha256" in text
    assert "problems: []" in text
    assert "soft step: {'relative_pd'" in text
    assert len(pictures) >= 4


def test_the_notebook_is_stored_without_outputs():
    notebook = nbformat.read(ROOT / "experiments.ipynb", as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs")]


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_corpus_file):
    """A study of two trials with ReLU, whose windows have 16 characters; of GELU all trials diverge."""
    folder = tmp_path_factory.mktemp("study")
    options = ("--learning-rate", "1e-3", "gelu=1e20", "--activations", "relu", "gelu", "--trials", "2")
    command = ("run_all_experiments.py", *studies.TINY, "--corpus", tiny_corpus_file, *options)
    assert studies.run(*command, folder=folder).status == 0
    return folder


def one_trial(folder):
    """Takes one of two trials away."""
    path = folder / "results" / "charlm_relu.json"
    result = json_files.read_json(path)
    result["trials"], result["pairs"] = result["trials"][:1], []
    json_files.write_json(path, summarized(result))


def just_begun(folder):
    """Takes all results away."""
    for path in (folder / "results").glob("charlm_*.json"):
        path.unlink()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: None, "trials 1 and 2, 37 windows of 16 characters"),
        (one_trial, "there is no pair yet: it takes two complete trials"),
        (just_begun, "trials 1 and 2, 871 windows of 128 characters"),
    ],
    ids=["of two trials", "of one trial", "just begun"],
)
def test_any_study_is_shown_and_nothing_is_left_behind(study, tmp_path, change, says, monkeypatch, capsys):
    folder = tmp_path / "folder"
    shutil.copytree(study, folder)
    (folder / "results" / "reference").symlink_to(ROOT / "results" / "reference")
    change(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = sorted(path for path in tmp_path.rglob("*"))
    names = {}
    for cell in nbformat.read(ROOT / "experiments.ipynb", as_version=4).cells:
        if cell.source.startswith("## Train a tiny trial"):  # from here on no study is looked at
            break
        if cell.cell_type == "code":
            exec(cell.source, names)
    out = capsys.readouterr().out
    assert says in out
    starts = re.search(r"of the validation split: \[(.*)\]", out)
    if change is not just_begun and starts:
        assert all(0 <= int(start) <= 600 - 17 for start in starts[1].split(","))
    assert sorted(path for path in tmp_path.rglob("*")) == before
