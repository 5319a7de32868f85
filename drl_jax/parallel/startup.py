"""Starting the devices: joining the other processes of a job, and splitting a CPU into devices."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

import jax

from drl_jax.errors import UserError
from drl_jax.machine import num_cores


def start_devices(batch_size: int = 0) -> None:
    """Joins the other processes of the job, if there are any, and splits a CPU into devices.

    One XLA:CPU device keeps little more than one core busy in a chain. So a CPU becomes several devices:
    the largest number up to its cores that divides the batch. JAX_NUM_CPU_DEVICES overrides this. Call it
    before anything else uses a device.

    Args:
      batch_size: rows of a batch over all processes; 0 lets any number of devices do.

    Raises:
      UserError: the environment describes an impossible job.
    """
    processes = _join()
    count = jax.config.values["jax_num_cpu_devices"]
    if count == -1:  # JAX's value for "not given"
        count = _divisor(batch_size // processes, num_cores())
        jax.config.update("jax_num_cpu_devices", count)
    provide_threads(count)


def provide_threads(num_cpu_devices: int) -> None:
    """Gives several CPU devices enough threads to wait for each other.

    All devices of a process share one pool of threads, as many as cores. A device that waits in a sum over
    devices holds a thread, and the work of another may need two. We measured that training stops within
    seconds with fewer than twice as many threads as devices. XLA reads the size of the pool from NPROC.
    """
    if num_cpu_devices > 1:
        os.environ.setdefault("NPROC", str(max(num_cores(), 2 * num_cpu_devices)))


def _join() -> int:
    """Initializes jax.distributed where the environment describes a job; returns its number of processes."""
    environment = os.environ
    # JAX's own handler of SIGTERM would replace ours.
    jax.config.update("jax_enable_preemption_service", False)
    if "JAX_NUM_PROCESSES" in environment:  # set by hand, or by Kubeflow's Trainer; JAX reads none of these
        address, count, index = _given(environment)
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(address, count, index)
        return count
    count = _counted(environment)
    if count > 1 or _is_tpu_job(environment):
        jax.distributed.initialize()
    return count


def _given(environment: Mapping[str, str]) -> tuple[str, int, int]:
    count = _whole(environment, "JAX_NUM_PROCESSES")
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_PROCESS_ID"):
        if name not in environment:
            raise UserError(
                f"JAX_NUM_PROCESSES={count} is set and {name} is not: a job of several processes needs "
                "JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID"
            )
    index = _whole(environment, "JAX_PROCESS_ID")
    if not 0 <= index < count:
        raise UserError(f"JAX_PROCESS_ID={index} is not possible: it must be from 0 to {count - 1}")
    return environment["JAX_COORDINATOR_ADDRESS"], count, index


def _counted(environment: Mapping[str, str]) -> int:
    """The number of processes under SLURM or Open MPI; 1 elsewhere."""
    if "SLURM_PROCID" in environment and "SLURM_NTASKS" in environment:
        return _whole(environment, "SLURM_NTASKS")
    if "OMPI_COMM_WORLD_SIZE" in environment:
        return _whole(environment, "OMPI_COMM_WORLD_SIZE")
    return 1


def _is_tpu_job(environment: Mapping[str, str]) -> bool:
    """Whether a TPU is attached: JAX then finds the other hosts, if there are any, by itself.

    On a Cloud TPU VM they are in the metadata server and in no variable, so initialize there always.
    """
    on_gke = "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    has_slices = "MEGASCALE_COORDINATOR_ADDRESS" in environment
    platforms = environment.get("JAX_PLATFORMS", "tpu")
    return on_gke or has_slices or ("tpu" in platforms and has_tpu())


def has_tpu() -> bool:
    """Returns whether this machine has a TPU and the library for it."""
    if importlib.util.find_spec("libtpu") is None:
        return False
    return any(Path("/dev").glob("accel*")) or Path("/dev/vfio/0").exists()


def _whole(environment: Mapping[str, str], name: str) -> int:
    value = environment[name]
    if not value.isdecimal():
        raise UserError(f"{name}={value} is not possible: it must be a whole number")
    return int(value)


def _divisor(batch_size: int, most: int) -> int:
    return next(n for n in range(most, 0, -1) if batch_size % n == 0)
