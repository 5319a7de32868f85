"""The program in a notebook: in a cell of its own, and called in the kernel where JAX is in use already."""

import os
import sys

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


@pytest.mark.filterwarnings("default")  # of the kernel's libraries
def test_a_notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.values["jax_compilation_cache_dir"])
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    cells = CELLS.replace("FLAGS", repr(POINTS)).strip().split("\n---\n")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    # Raises an error if a cell does.
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
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
