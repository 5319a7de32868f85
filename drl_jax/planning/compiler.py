"""The compiler in its process of its own, as an object that answers requests."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drl_jax.errors import UserError
from drl_jax.planning.flops import Flops
from drl_jax.planning.program import Collective, Memory
from drl_jax.planning.worker import Compiled, Counts, Request

_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # devices that are here are left alone
    "TPU_SKIP_MDS_QUERY": "1",  # the compiler needs no TPU and must not look for one
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # another process of this machine may use it
    "TPU_WORKER_HOSTNAMES": "localhost",
}


class Compiler:
    """Sends requests to the process and reads its answers."""

    def __init__(self, process: subprocess.Popen[str], errors: Path):
        self._process, self._errors = process, errors

    def count(self, request: Request) -> Counts:
        """Counts operations, parameters and bytes."""
        parameters, state, step, sampler, residuals = self._ask(request)
        return Counts(parameters, state, Flops(*step), Flops(*sampler), residuals)

    def compile(self, request: Request) -> Compiled:
        """Compiles a program, or finds the memory of a device."""
        needed, available, memory, collectives, *rest = self._ask(request)
        return Compiled(
            needed,
            available,
            None if memory is None else Memory(*memory),
            [Collective(*collective) for collective in collectives],
            *rest,
        )

    def _ask(self, request: Request) -> list:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            if code == -9:
                raise UserError("the machine has too little memory to plan this; --full needs the most")
            raise RuntimeError(f"the compiler ended with code {code}:\n{self._errors.read_text()[-4000:]}")
        return json.loads(line)


@contextmanager
def open_compiler(*, needs_tpu: bool) -> Iterator[Compiler]:
    """Starts the process.

    Args:
      needs_tpu: whether it must compile for a TPU.

    Raises:
      UserError: it must, and the TPU's compiler is not installed.
    """
    if needs_tpu and importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "libtpu, with which `plan` compiles for a TPU, is not installed; pip install 'drl-jax[tpu]' (no "
            "TPU is needed), or take --topology=gpu:… or cpu:…, which are planned by formula"
        )
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder) / "errors"
        with errors.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "drl_jax.planning.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env={**os.environ, **_ENVIRONMENT},
            )
        try:
            yield Compiler(process, errors)
        finally:
            process.kill()
            process.communicate()
