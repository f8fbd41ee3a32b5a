"""The notebook runs from its first cell to its last, on a study of its own kind."""

import nbformat
import pytest
from nbclient import NotebookClient
from studies import ROOT

pytestmark = pytest.mark.slow


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
