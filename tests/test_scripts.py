"""Every benchmark, example and notebook runs: with ``--quick`` where there is one, which shows nothing else."""

import json
import subprocess
import sys

import pytest
from scripts import ROOT, scripts


@pytest.mark.scripts
@pytest.mark.parametrize("script", [*scripts("benchmarks"), *scripts("examples")], ids=lambda path: path.stem)
def test_it_runs(script):
    run = subprocess.run([sys.executable, script, "--quick"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]


@pytest.mark.scripts
@pytest.mark.parametrize("notebook", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_cells_of_a_notebook_run_in_order_and_what_they_said_is_stored(notebook, tmp_path):
    cells = [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    stored = "".join("".join(output.get("text", "")) for cell in cells for output in cell["outputs"])
    script = tmp_path / "cells.py"
    script.write_text("\n\n".join("".join(cell["source"]) for cell in cells), encoding="utf-8")
    run = subprocess.run([sys.executable, script], cwd=notebook.parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    last = stored.strip().splitlines()[-1]
    assert last in run.stdout  # how many networks, by how many programs
