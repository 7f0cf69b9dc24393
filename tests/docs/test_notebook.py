"""docs/notebook.ipynb runs from its first cell to its last, and shows what its text says."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.commands import ROOT

nbclient = pytest.importorskip("nbclient", reason="extra docs")
nbformat = pytest.importorskip("nbformat", reason="extra docs")
NOTEBOOK = ROOT / "docs/notebook.ipynb"


FIGURES = "import json; print(json.dumps({'scores': scores, 'kept': dict(table.groupby('writer')['kept'].mean())}))"
"""A cell that the test adds."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook with its outputs, and those of FIGURES."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(FIGURES))
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("TMPDIR", str(folder))
        nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def test_it_learns_what_its_text_says(run: Any) -> None:
    (output,) = run.cells[-1].outputs
    figures = json.loads(output.text)
    right, *wrong = figures["scores"]
    assert all(right > score for score in wrong)
    kept = figures["kept"]
    assert kept["expert"] == max(kept.values()) > 0.4 and kept["vague"] < 0.1 and kept["mismatcher"] < 0.2


def test_it_shows_the_image_and_the_scores(run: Any) -> None:
    shown = [
        output.data for cell in run.cells if cell.cell_type == "code" for output in cell.outputs if "data" in output
    ]
    assert sum("image/png" in data for data in shown) == 2
    assert any("share kept" in data.get("text/plain", "") for data in shown)


def test_it_is_committed_without_outputs() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)


def test_it_says_that_its_models_are_tiny() -> None:
    first = nbformat.read(NOTEBOOK, as_version=4).cells[0].source
    assert "two million parameters" in first and "nothing about real imagery" in " ".join(first.split())
