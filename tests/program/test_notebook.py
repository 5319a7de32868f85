"""The program in a notebook: in a cell of its own, and called in the kernel where JAX is in use already.

And the notebook of the documentation, from top to bottom.
"""

import copy
import os
import sys
from pathlib import Path

import jax
import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers import POINTS

CELLS = """
import signal, sys
before = {number: signal.getsignal(number) for number in signal.valid_signals()}, list(sys.argv)
flags = FLAGS
!JAX_NUM_CPU_DEVICES=1 drl-jax train --config=points:ring --workdir=runs/own {" ".join(flags)}
assert _exit_code == 0
---
import jax
len(jax.devices())
---
from drl_jax.main import main
main(["train", "--config=points:ring", "--workdir=runs/kernel", *flags])
---
main(["train", "--workdir=runs/kernel", "--config.training.steps=3"])
---
main(["train", "--workdir=runs/kernel", "--config.training.step=8"])
---
main(["sample", "--workdir=runs/kernel"])
---
from IPython.display import Image
Image("runs/kernel/samples.png")
---
import matplotlib.pyplot as plt, numpy as np
plt.scatter(*np.load("runs/kernel/samples.npz")["arr_0"].T);
---
({number: signal.getsignal(number) for number in signal.valid_signals()}, sys.argv) == before
"""


DOCS = Path(__file__).parents[2] / "docs"
PARAMETERS = {"STEPS = 6000": "STEPS = 30", "CHAINS = 1024": "CHAINS = 64"}  # as of the notebook; of the test

pytestmark = pytest.mark.filterwarnings("default")  # of the kernel's libraries


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """A function that runs a notebook in an empty folder. It raises an error if a cell does."""
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.values["jax_compilation_cache_dir"])
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))

    def execute(notebook):
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()

    return execute


def test_a_notebook(execute):
    cells = CELLS.replace("FLAGS", repr(POINTS)).strip().split("\n---\n")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    execute(notebook)
    outputs = [cell["outputs"] for cell in notebook["cells"]]

    def printed(cell: int, stream: str = "stdout") -> str:
        return "".join(each["text"] for each in outputs[cell] if each.get("name") == stream)

    def shown(cell: int, kind: str = "text/plain") -> str:
        return next(each["data"][kind] for each in outputs[cell] if kind in each.get("data", {}))

    assert "step 2/2" in printed(0)
    assert shown(1) == "1"
    assert "runs on 1 cpu device in 1 process" in printed(2)
    assert "continuing from step 2" in printed(3)
    assert "did you mean config.training.steps?" in printed(4, "stderr")
    assert [shown(cell) for cell in (2, 3, 4, 5)] == ["0", "0", "1", "0"]
    assert "40 samples of step 3" in printed(5)
    assert shown(6, "image/png")
    assert shown(7, "image/png")
    assert shown(8) == "True"


def images(notebook):
    """How many images each cell shows."""
    outputs = [cell.get("outputs", []) for cell in notebook["cells"]]
    return [sum("image/png" in each.get("data", {}) for each in shown) for shown in outputs]


def test_the_notebook_of_the_docs(execute):
    kept = nbformat.read(DOCS / "points.ipynb", as_version=4)
    kinds = [each["output_type"] for cell in kept["cells"] for each in cell.get("outputs", [])]
    assert "error" not in kinds
    assert sum(images(kept)) == 2
    notebook = copy.deepcopy(kept)
    for cell in notebook["cells"]:
        for given, quick in PARAMETERS.items():
            cell["source"] = cell["source"].replace(given, quick)
    assert all(quick in notebook["cells"][1]["source"] for quick in PARAMETERS.values())
    execute(notebook)
    assert images(notebook) == images(kept)
    printed = "".join(each.get("text", "") for cell in notebook["cells"] for each in cell.get("outputs", []))
    assert "step 30/30" in printed
    assert "bits per dimension" in printed
