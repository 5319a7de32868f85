"""Files with plots, whatever the user's plotting backend is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import io, os
from drl_jax.report.plotting import Figure
figure = Figure()
figure.subplots().plot([1, 2])
figure.savefig(io.BytesIO())
print(os.environ["MPLBACKEND"])
"""


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "no_such_backend", "TkAgg"])
def test_the_backend_of_the_environment_does_not_matter(backend):
    environment = {**os.environ, "MPLBACKEND": backend, "PYTHONPATH": str(Path(__file__).parents[1])}
    ended = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, f"{backend}\n"), ended.stderr
