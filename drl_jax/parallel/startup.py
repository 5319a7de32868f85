"""Starting the devices: joining the other processes of a job, and splitting a CPU into devices."""

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from drl_jax.errors import UserError
from drl_jax.machine import num_cores
from drl_jax.parallel.environments import this_job
from drl_jax.parallel.preemption import EXIT_DELAY, Stop
from drl_jax.parallel.rendezvous import limits, meet
from drl_jax.parallel.watch import Watch

_PLATFORMS = {"cuda": "gpu", "rocm": "gpu"}  # what a device calls itself, where that is another name


def join_job(
    batch_size: int,
    facts: Callable[[], Mapping[str, Any]],
    stop: Stop,
    *,
    threads_per_device: int = 2,
) -> Watch | None:
    """Joins the other processes of the job, if there are any, and starts the devices.

    Args:
      batch_size: rows of a batch over all processes; 0 lets any number of devices do.
      facts: returns what must be equal in all processes, by name.
      stop: decides which thread ends this process when another one has ended.
      threads_per_device: see `provide_threads`.

    Returns:
      What watches the other processes; None if there are none.

    Raises:
      UserError: the environment describes an impossible job, or its processes do not fit together.
      Missing: not all processes came in time.
    """
    job, watch = this_job(), None
    if job is not None:
        peers = meet(job, facts(), limits(os.environ))
        if peers:
            watch = Watch(peers, stop, delay=EXIT_DELAY if job.index == 0 else 0.0)
        # JAX's own handler of SIGTERM would replace ours.
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(
            job.address,
            job.count,
            job.index,
            list(job.local_device_ids) if job.local_device_ids else None,
            cluster_detection_method="deactivate",  # everything is said
        )
    if job is None or not job.is_tpu:
        start_devices(batch_size // job.count if job else batch_size, threads_per_device=threads_per_device)
    check_devices()
    check_device_counts([device.process_index for device in jax.devices()])
    # Not before the CPU is split: this starts the devices.
    if job is not None and jax.process_count() != job.count:
        raise UserError(
            f"{job.source} describes a job of {job.count} processes, and the devices are those of "
            f"{jax.process_count()}: set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        )
    return watch


def start_devices(batch_size: int = 0, *, threads_per_device: int = 2) -> None:
    """Splits a CPU into devices, if nothing has used a device yet. In a notebook something may have.

    One XLA:CPU device keeps little more than one core busy in a chain. So a CPU becomes several devices:
    the largest number up to its cores that divides the batch. JAX_NUM_CPU_DEVICES overrides this, and so
    does --xla_force_host_platform_device_count in XLA_FLAGS.

    Args:
      batch_size: rows of this process in a batch; 0 lets any number of devices do.
      threads_per_device: see `provide_threads`.
    """
    count = jax.config.values["jax_num_cpu_devices"]
    if count == -1:  # JAX's value for "not given"
        count = _count_in_xla_flags()
    if count is None:
        count = _divisor(batch_size, num_cores())
        try:
            jax.config.update("jax_num_cpu_devices", count)
        except RuntimeError:  # the devices are there already
            return
    provide_threads(count, threads_per_device)


def check_devices() -> None:
    """Checks that there is a device, of the kind that JAX_PLATFORMS names first.

    JAX itself passes over `cuda` in `cuda,cpu` where it sees no GPU. A job would then train on CPUs, at the
    price of GPUs.

    Raises:
      UserError: there is none.
    """
    asked = jax.config.values.get("jax_platforms") or ""
    first = asked.split(",")[0]
    try:
        there = jax.devices()[0].platform
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200] or f"no {first or 'device'} was found"
        if name := os.environ.get("JAX_PLATFORM_NAME"):
            raise UserError(
                f"JAX_PLATFORM_NAME={name} asks for a device that is not here ({reason}); unset it"
            ) from None
        if asked:
            raise UserError(
                f"JAX_PLATFORMS={asked} asks for a device that is not here ({reason}); unset it, or take "
                "JAX_PLATFORMS=cpu"
            ) from None
        raise UserError(f"JAX finds no device ({reason}); JAX_PLATFORMS=cpu takes the CPU") from None
    if first and there != _PLATFORMS.get(first, first):
        raise UserError(
            f"JAX_PLATFORMS={asked} asks for {first} first, and there is none here, only {there}; unset it, "
            f"or take JAX_PLATFORMS={there}"
        )


def check_device_counts(processes: Sequence[int]) -> None:
    """Checks that all processes have the same number of devices.

    Args:
      processes: the process of each device.

    Raises:
      UserError: they have not. All processes see the same devices, so all of them raise it.
    """
    counts = Counter(processes)
    for process, count in sorted(counts.items()):
        if count != counts[0]:
            raise UserError(
                f"process {process} has {count} devices, and process 0 has {counts[0]}: every process of the "
                "job needs the same number; is a GPU missing, or JAX_NUM_CPU_DEVICES different?"
            )


def _count_in_xla_flags() -> int | None:
    """The number of CPU devices that XLA_FLAGS asks for; None if it does not. XLA heeds the last one."""
    found = re.findall(r"--xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    return int(found[-1]) if found else None


def provide_threads(num_cpu_devices: int, per_device: int) -> None:
    """Sets how many threads several CPU devices have to compute with.

    All devices of a process share one pool of threads. A device that waits for the others in a collective
    (a sum over devices, for example) holds a thread. So a program with one collective needs a thread for each
    device. With two collectives that may run at the same time, one device can hold two threads and leave
    none for the others: then the program stops for ever, which we have seen. But threads that are not needed
    cost time. On two cores, with two devices, a training step takes 14 to 21 % longer with four threads than
    with two. XLA reads the size of the pool from NPROC.

    Args:
      num_cpu_devices: how many devices.
      per_device: 1 if no program has more than one collective, else 2.
    """
    if num_cpu_devices > 1:
        os.environ.setdefault("NPROC", str(max(num_cores(), per_device * num_cpu_devices)))


def _divisor(batch_size: int, most: int) -> int:
    return next(n for n in range(most, 0, -1) if batch_size % n == 0)
