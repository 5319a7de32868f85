"""What every command that computes does first: join the job, place the devices, print from process 0."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from etils import epath

from drl_jax.checkpoints.orbax import FOLDER, Checkpoint, load, steps
from drl_jax.checkpoints.quiet import silence_orbax
from drl_jax.config import resume, schema
from drl_jax.config.build import Components
from drl_jax.config.schema import Config
from drl_jax.core.model import Model
from drl_jax.errors import UserError
from drl_jax.machine import machine_type
from drl_jax.parallel.mesh import Placement, place
from drl_jax.parallel.preemption import Stop, exit_delay
from drl_jax.parallel.sampler import ShardedSampler
from drl_jax.parallel.startup import start_devices
from drl_jax.report.console import console


@contextmanager
def start_job(stop: Stop, batch_size: int = 0, microbatches: int = 1) -> Iterator[Placement]:
    """Starts the devices of all processes, and prints from process 0 inside this context.

    Args:
      stop: gets the delay with which this process exits.
      batch_size: rows of a batch, which must divide over the devices; 0 if there is no batch.
      microbatches: parts of the rows of each device.

    Raises:
      UserError: the environment describes an impossible job, or the batch does not divide.
    """
    start_devices(batch_size // microbatches)
    stop.exit_delay = exit_delay()
    with console():
        yield place(batch_size, microbatches=microbatches)


def configure_jax(config: Config) -> None:
    """Sets the precision of products, and keeps compiled programs on disk, so that a second start is quick.

    Each type of machine has its own folder. Small programs are kept too: a start has hundreds of them. JAX's
    own variables override where programs are kept.
    """
    if config.network.precision != "default":
        jax.config.update("jax_default_matmul_precision", config.network.precision)
    if not jax.config.values["jax_compilation_cache_dir"]:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "drl_jax" / machine_type()))
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    silence_orbax()


def make_sampler(config: Config, parts: Components, placement: Placement, stop: Stop) -> ShardedSampler:
    """Makes the sampler of `config.evaluation`, on all devices."""
    return ShardedSampler(
        parts.transition,
        parts.shape,
        placement,
        stop,
        samples_per_device=config.evaluation.samples_per_device,
        seed=config.evaluation.seed,
    )


def load_model(
    workdir: epath.Path, config: Config, parts: Components, placement: Placement
) -> tuple[Checkpoint, Model]:
    """Loads the averaged weights of the checkpoint that `config.evaluation.step` names, or of the newest.

    Raises:
      UserError: there is none, or it was trained with other settings.
    """
    if not (workdir / schema.FILE).exists():
        missing = workdir / schema.FILE
        raise UserError(f"--workdir={workdir} holds no run: there is no {missing}; train one first")
    state = placement.abstract(jax.eval_shape(parts.init_state, jax.random.key(0)))
    step = config.evaluation.step
    checkpoint, _ = load(
        workdir / FOLDER,
        # Of the state, only what samples: a part of the files is read.
        {"ema_params": state.ema_params, "ema_spectral": state.ema_spectral},
        validate=lambda record: resume.validate(record["config"], config, workdir),
        only=step,
    )
    if checkpoint is None and step is not None:
        there = ", ".join(map(str, steps(workdir / FOLDER))) or "none"
        raise UserError(
            f"config.evaluation.step={step} has no checkpoint in --workdir={workdir}; there are: {there}"
        )
    if checkpoint is None:
        raise UserError(f"--workdir={workdir} holds no checkpoint yet; train longer")
    tree = checkpoint.tree
    return checkpoint, Model(parts.network, parts.levels, tree["ema_params"], tree["ema_spectral"])
