"""Files with plots, whatever the user's plotting backend is."""

import os
import subprocess
import sys
import textwrap
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


def test_a_container_without_a_folder_to_write_to(tmp_path):
    """Matplotlib refuses to be imported without a folder; only the workdir can be written here."""
    program = f"""
        import tempfile
        from pathlib import Path

        def fail(*_, **__):
            raise FileNotFoundError("no usable temporary directory")

        tempfile.mkdtemp = tempfile.gettempdir = fail
        from drl_jax.report.matplotlib_cache import provide_folder
        provide_folder(Path({str(tmp_path)!r}))
        import matplotlib.figure
        print(matplotlib.get_cachedir())
    """
    # Not even root can make a folder below a device.
    environment = {
        "HOME": "/dev/null",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
    }
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True
    )
    assert ended.stdout == f"{tmp_path}/.matplotlib\n", ended.stderr
    assert ended.stderr == ""
