"""The Colab notebook, run from top to bottom on a CPU."""

import pathlib
import re

import pytest

NOTEBOOK = pathlib.Path(__file__).parent.parent.parent / "launch" / "colab.ipynb"


@pytest.mark.slow
def test_every_cell_runs(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # as a user has it
    monkeypatch.setenv("STEPS", "70")
    monkeypatch.setenv("WORKDIR", str(tmp_path / "runs" / "colab"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": NOTEBOOK.parent}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    printed = "".join(output.get("text", "") for output in outputs)
    assert len(pictures) >= 5
    assert "step 70 of 70, complete" in printed
    assert "fox" in printed
    right = dict(re.findall(r"(before|after) fine-tuning: (\d+) of", printed))
    assert int(right["after"]) > int(right["before"]), right


def test_the_notebook_is_stored_without_outputs():
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
