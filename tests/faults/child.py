"""The program in a process of its own, with faults built in. `conftest.Job` runs it in a forked server.

The product has no switch for faults. What is injected here replaces a part of it before `main` runs.
"""

import errno
import fcntl
import os
import resource
import signal
import sys
import time

import jax

from drl_jax import files, main, ownership
from drl_jax.checkpoints import orbax
from drl_jax.commands import train
from drl_jax.data.folder import ImageFiles
from drl_jax.evaluation.evaluator import Evaluator
from drl_jax.parallel.sampler import ShardedSampler
from drl_jax.report.metrics_log import FileLog
from drl_jax.report.progress import Progress

PHASES = {
    "saving": (orbax.ocp.training.Checkpointer, "save_checkpointables_async"),
    "waiting": (orbax.Checkpoints, "wait"),
    "evaluating": (Evaluator, "__call__"),
    "drawing": (ShardedSampler, "sample"),
    "compiling": (train, "run_loop"),
    "stepping": (Progress, "start"),  # the first step is done
    "logging": (FileLog, "write"),
    "truncating": (FileLog, "truncate"),
}


def run(argv: list[str], printed: str, environment: dict[str, str], faults: dict[str, dict]) -> None:
    """The target of a process: standard output and error go to the file `printed`."""
    sys.stdout.flush()
    file = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    jax.config.update("jax_num_cpu_devices", int(environment.get("DEVICES", "2")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    for name, settings in faults.items():
        globals()[name](**settings)
    main.program(argv)


def poison(steps: list[int], factor: float, attempts: int = 1) -> None:
    """Multiplies the data of these steps by `factor`, until there were `attempts` rollbacks."""
    run_loop = train.run_loop

    def poisoned(run, *arguments, **settings):
        # Outside the compiled step, so that all runs share its program.
        def step(state, batch, flags):
            here = int(state.step) + 1 in steps and int(state.rollbacks) < attempts
            return run.step(state, batch * factor if here else batch, flags)

        return run_loop(run._replace(step=step), *arguments, **settings)

    train.run_loop = poisoned


def reader(after: int, how: str) -> None:
    """From the `after`-th call on, the reader of image files exits or hangs."""
    take, calls = ImageFiles.take, iter(range(10**9))

    def failing(self, indices):
        if next(calls) >= after:
            if how == "hangs":
                time.sleep(3600)
            raise SystemExit(3)
        return take(self, indices)

    ImageFiles.take = failing


def lose_reader() -> None:
    """Lets nobody read the output: a pipe without a reader takes its place."""
    reading, writing = os.pipe()
    os.dup2(writing, 1)
    os.dup2(writing, 2)
    os.close(reading)


def refuse_locks(heartbeat: float, silence: float) -> None:
    """Takes the locks from the file system, and lets owners renew their records more often."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    fcntl.flock = refuse
    ownership.HEARTBEAT, ownership.SILENCE, ownership.SETTLE = heartbeat, silence, heartbeat


def small_disk(limit: int) -> None:
    """Lets no file grow beyond `limit` bytes; writing more fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def mark(phase: str) -> None:
    """Prints MARK when the program reaches a phase."""
    _around(*PHASES[phase], before=lambda: print("MARK", flush=True))


def kill(phase: str, number: int, *, when: str) -> None:
    """Kills the process before or after the `number`-th call of a phase (from 1)."""
    calls = iter(range(1, 10**9))

    def count() -> None:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    _around(*PHASES[phase], **{when: count})


def kill_in_write(name: str) -> None:
    """Kills the process in the middle of writing the file with this name."""
    write = files.write

    def dying(path, content):
        if path.name == name:
            path.with_name(f".{name}.unfinished").write_text(str(content)[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, content)

    files.write = dying


def slow_save(seconds: float) -> None:
    """Makes the wait for a save take this long, once there is something to wait for."""
    wait = orbax.Checkpoints.wait

    def slow(self):
        wait(self)
        if self._saving >= 0:
            time.sleep(seconds)

    orbax.Checkpoints.wait = slow


def _around(owner, name, *, before=lambda: None, after=lambda: None) -> None:
    original = getattr(owner, name)

    def replaced(*arguments, **settings):
        before()
        result = original(*arguments, **settings)
        after()
        return result

    setattr(owner, name, replaced)
