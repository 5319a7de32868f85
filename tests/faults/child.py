"""The program in a process of its own, with faults built in: run by `conftest.Job` in a forked server.

The product has no switch for faults. What is injected here replaces a part of it, before `main` runs.
"""

import os
import resource
import sys
import time

import jax
import jax.numpy as jnp

from drl_jax import main
from drl_jax.checkpoints import orbax
from drl_jax.commands import train
from drl_jax.data import tfds_source
from drl_jax.evaluation.evaluator import Evaluator
from drl_jax.parallel import sampler
from drl_jax.training import loop


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
    main.main(argv)


def poison(steps: list[int], factor: float, attempts: int = 1) -> None:
    """The data of these steps (−1: of all) are multiplied by `factor`, until `attempts` rollbacks."""
    make = loop.make_train_step

    def poisoned(*arguments, **settings):
        step = make(*arguments, **settings)

        def run(state, x, votes):
            here = jnp.any((state.step + 1 == jnp.array(steps)) | (jnp.array(steps) == -1))
            return step(state, jnp.where(here & (state.rollbacks < attempts), x * factor, x), votes)

        return run

    loop.make_train_step = poisoned


def reader(after: int, how: str) -> None:
    """From the `after`-th call on, what reads and decodes images dies or hangs."""
    take, calls = tfds_source.Prepared.take, iter(range(10**9))

    def failing(self, indices):
        if next(calls) >= after:
            if how == "hangs":
                time.sleep(3600)
            raise SystemExit(3)
        return take(self, indices)

    tfds_source.Prepared.take = failing


def small_disk(limit: int) -> None:
    """No file may grow beyond `limit` bytes; writing more fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def tell(when: str) -> None:
    """Prints MARK when the program reaches a phase."""
    owner, name = {
        "saving": (orbax.ocp.training.Checkpointer, "save_checkpointables_async"),
        "evaluating": (Evaluator, "__call__"),
        "drawing": (sampler.Sampler, "draw"),
        "compiling": (train, "run_training"),
    }[when]
    original = getattr(owner, name)

    def telling(*arguments, **settings):
        print("MARK", flush=True)
        return original(*arguments, **settings)

    setattr(owner, name, telling)


def slow_save(seconds: float) -> None:
    """Once there is something to wait for, the wait for a save takes this long."""
    wait = orbax.Checkpoints.wait

    def slow(self):
        wait(self)
        if self._saving >= 0:
            time.sleep(seconds)

    orbax.Checkpoints.wait = slow
