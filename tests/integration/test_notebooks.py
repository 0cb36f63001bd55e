"""The notebooks run from top to bottom in a fresh kernel, are stored with what they print, and say what they found."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "analysis" / "notebooks"
TOUR, STUDY = "fit_your_own_csv.ipynb", "native_multimodal_laws.ipynb"
MOST_BYTES = 700_000
CELL_SECONDS = 600


def environment() -> dict[str, str]:
    """One thread, so that the figures do not depend on the machine; this checkout first on the path."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return dict(os.environ) | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def executed(name: str, folder: Path) -> nbformat.NotebookNode:
    """The notebook after a run in a copy of its folder. Raises ``CellExecutionError`` when a cell fails."""
    copy = shutil.copytree(FOLDER, folder / "notebooks")
    notebook = nbformat.read(copy / name, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    where = {"metadata": {"path": str(copy)}}
    client = NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3", resources=where)
    client.execute(env=environment())
    return notebook


def printed(notebook: nbformat.NotebookNode) -> str:
    """All text and Markdown that the cells put out."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    texts = [output.get("text") or output.get("data", {}).get("text/markdown", "") for output in outputs]
    return "\n".join(texts)


def pictures(notebook: nbformat.NotebookNode) -> int:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_the_tour_finds_what_was_put_into_its_table(tmp_path: Path) -> None:
    found = executed(TOUR, tmp_path)
    text = printed(found)
    assert "new reaches a lower loss than baseline" in text
    assert "L = E + A / N^gamma + B / D^gamma" in text, "the law of one's own was fitted"
    assert re.search(r"N = 7e\+09: .*refused", text), "an extrapolation beyond the hold-outs is refused"
    assert pictures(found) == 3
    assert not (tmp_path / "notebooks" / "my_law.py").exists()


@pytest.mark.slow
def test_the_study_runs_and_its_assertions_hold(tmp_path: Path) -> None:
    """Its cells assert the findings that the prose states, so a run without an error is the test of them."""
    found = executed(STUDY, tmp_path)
    first = next(cell for cell in found.cells if cell.cell_type == "code")
    verdicts = first.outputs[0]["data"]["text/markdown"]
    assert re.findall(r"^(\d)\. ", verdicts, flags=re.M) == ["1", "2", "3", "4"]
    assert "not identified" in verdicts and pictures(found) == 6
    assert sum(cell.source.count("assert ") for cell in found.cells if cell.cell_type == "code") >= 6


@pytest.mark.parametrize("name", [TOUR, STUDY])
def test_notebooks_are_stored_with_outputs_of_a_run_in_order(name: str) -> None:
    path = FOLDER / name
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert pictures(nbformat.read(path, as_version=4)) >= 3
    assert path.stat().st_size < MOST_BYTES


def test_the_example_table_is_what_its_recipe_makes(tmp_path: Path) -> None:
    recipe = re.search(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(encoding="utf-8"), re.S)
    assert recipe is not None, "README.md holds the recipe of example_runs.csv"
    subprocess.run([sys.executable, "-c", recipe[1]], cwd=tmp_path, env=environment(), check=True)
    made, stored = (folder / "example_runs.csv" for folder in (tmp_path, FOLDER))
    assert made.read_text(encoding="utf-8") == stored.read_text(encoding="utf-8")
