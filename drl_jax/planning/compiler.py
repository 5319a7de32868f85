"""The compiler in processes of its own, as an object that answers requests."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from drl_jax.errors import UserError
from drl_jax.machine import num_cores
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
    """Sends requests to the processes and reads their answers.

    Attributes:
      process_memory: bytes that the processes have taken so far.
    """

    def __init__(self, processes: Sequence[subprocess.Popen[str]], errors: Sequence[Path]):
        """Keeps its arguments: the processes, and the file with the errors of each."""
        self._processes, self._errors = processes, errors
        self._memory = [0] * len(processes)

    @property
    def process_memory(self) -> int:
        return sum(self._memory)

    def count(self, request: Request) -> Counts:
        """Counts operations, parameters and bytes."""
        self._send(request, 0)
        parameters, state, step, sampler, residuals = self._receive(0)
        return Counts(parameters, state, Flops(*step), Flops(*sampler), residuals)

    def compile(self, request: Request) -> Compiled:
        """Compiles a program, or finds the memory of a device."""
        (compiled,) = self.compile_all([request])
        return compiled

    def compile_all(self, requests: Sequence[Request]) -> list[Compiled]:
        """Compiles programs, as many at the same time as there are processes."""
        found, count = [], len(self._processes)
        for first in range(0, len(requests), count):
            some = requests[first : first + count]
            for process, request in enumerate(some):
                self._send(request, process)
            found += [self._compiled(process) for process in range(len(some))]
        return found

    def _compiled(self, process: int) -> Compiled:
        needed, available, memory, collectives, *rest = self._receive(process)
        compiled = Compiled(
            needed,
            available,
            None if memory is None else Memory(*memory),
            [Collective(*collective) for collective in collectives],
            *rest,
        )
        self._memory[process] = compiled.process_memory
        return compiled

    def _send(self, request: Request, process: int) -> None:
        stream = self._processes[process].stdin
        assert stream is not None
        stream.write(json.dumps(request) + "\n")
        stream.flush()

    def _receive(self, process: int) -> list:
        stream = self._processes[process].stdout
        assert stream is not None
        line = stream.readline()
        if not line:
            code = self._processes[process].wait()
            if code == -9:
                raise UserError("the machine has too little memory to plan this; --full needs the most")
            errors = self._errors[process].read_text()
            raise RuntimeError(f"the compiler ended with code {code}:\n{errors[-4000:]}")
        return json.loads(line)


@contextmanager
def open_compiler(*, needs_tpu: bool) -> Iterator[Compiler]:
    """Starts the processes: two if the machine has the cores and there is something to compile.

    Args:
      needs_tpu: whether they must compile for a TPU.

    Raises:
      UserError: they must, and the TPU's compiler is not installed.
    """
    if needs_tpu and importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "libtpu, with which `plan` compiles for a TPU, is not installed; pip install -e '.[tpu]' (no "
            "TPU is needed), or take --topology=gpu:… or cpu:…, which are planned by formula"
        )
    count = min(2, num_cores()) if needs_tpu else 1
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        errors = [folder / f"errors_{i}" for i in range(count)]
        yield Compiler([stack.enter_context(_process(path)) for path in errors], errors)


@contextmanager
def _process(errors: Path) -> Iterator[subprocess.Popen[str]]:
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
        yield process
    finally:
        process.kill()
        process.communicate()
