"""The notebook runs from its first cell to its last, elsewhere than in the checkout."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.docs.pages import ROOT

NOTEBOOK = ROOT / "notebooks" / "first_steps.ipynb"


def test_the_notebook_is_committed_without_outputs_and_its_links_lead_somewhere() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    for cell in cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
            ast.parse(cell.source)
        else:
            for link in re.findall(r"\]\(([^)]+)\)", cell.source):
                assert (NOTEBOOK.parent / link).exists(), link


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    shown = [
        output.get("text", "") or "".join(output.get("data", {}))
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    text = "\n".join(shown)
    assert text.count("image/png") == 2
    assert re.search(r"top-1 \d+\.\d % of 8 videos\n2 clips", text)
    assert "'checkpoints'" in text
