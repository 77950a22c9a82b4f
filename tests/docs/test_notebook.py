"""The tutorial notebook runs in Jupyter's own kernel, and is kept without what it shows."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.docs.pages import ROOT

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"


def test_the_notebook_runs_and_shows_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader: Any = nbformat
    notebook = reader.read(NOTEBOOK, as_version=4)
    reader.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, kernel_name="python3", resources=where, timeout=200).execute()
    shown = [_shown(cell) for cell in notebook.cells if cell.cell_type == "code"]
    assert shown[1].count("<table>") == 2
    assert "a plan</caption>" in shown[3]
    # The bar is a widget, whose last state the notebook keeps; its first is what the cell shows as text.
    assert "merged:   0%" in shown[4]
    widgets = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    values = [str(each["state"].get("value", "")) for each in widgets.values()]
    assert any("36/36" in value for value in values)
    assert "<caption>merged: published</caption>" in shown[4]
    assert re.search(r"0\.\d\d overall, encoder\.layer", shown[5])
    assert shown[7].count("relative_error") == 3


def test_links_of_the_notebook_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", NOTEBOOK.read_text())
    assert links
    for link in links:
        assert (NOTEBOOK.parent / link).exists(), link


def _shown(cell: Any) -> str:
    parts = []
    for output in cell.outputs:
        data = output.get("data", {})
        parts.append(output.get("text") or data.get("text/html") or data.get("text/plain", ""))
    return "".join(parts)
