"""Starting the devices, and placing arrays on all of them."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from drl_jax.errors import UserError
from drl_jax.machine import num_cores
from drl_jax.parallel.preemption import Stop, Stopped

AXIS = "data"  # of the mesh: examples are spread along it


class Placement(NamedTuple):
    """Where arrays live: a batch in equal parts on all devices of all processes, or a copy on each."""

    batched: NamedSharding
    replicated: NamedSharding

    @property
    def num_devices(self) -> int:
        return self.batched.mesh.size

    def batch(self, rows: np.ndarray) -> jax.Array:
        """The global batch of which `rows` is this process's contiguous part."""
        return jax.make_array_from_process_local_data(self.batched, rows)

    def spread(self, rows: np.ndarray) -> jax.Array:
        """The global batch `rows`, which every process has whole."""
        return jax.make_array_from_callback(rows.shape, self.batched, rows.__getitem__)

    def votes(self, vote: bool) -> jax.Array:
        """This process's vote on each of its devices, [devices]; the other processes give their own."""
        own = self.num_devices // jax.process_count()
        return self.batch(np.full(own, vote, np.float32))

    def split(self, step: Callable[[Any, Any, Any], Any]) -> jax.stages.Wrapped:
        """The compiled step(state, batch, votes), run by each device on its part of batch and votes.

        `step` sees the mesh's axis as `AXIS`, and its results must be the same on every device. The state
        is donated.
        """
        parts = jax.shard_map(
            step,
            mesh=self.batched.mesh,
            in_specs=(self.replicated.spec, self.batched.spec, self.batched.spec),
            out_specs=self.replicated.spec,
            check_vma=False,
        )
        return jax.jit(
            parts,
            in_shardings=(self.replicated, self.batched, self.batched),
            out_shardings=self.replicated,
            donate_argnums=0,
        )

    def replicate(self, tree):
        """A copy of every array on every device; all processes must give the same."""

        def put(x):
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(put(jax.random.key_data(x)))
            return jax.make_array_from_process_local_data(self.replicated, np.asarray(x))

        return jax.tree.map(put, tree)


def start(batch_size: int = 0) -> None:
    """Joins the job's other processes, if there are any, and splits a CPU into devices.

    One XLA:CPU device keeps little more than one core busy in a chain. So a CPU becomes as many devices
    as divide the batch (0: any number does), up to its cores; JAX_NUM_CPU_DEVICES overrides it. To be
    called before anything else touches a device.
    """
    processes = _join()
    count = jax.config.values["jax_num_cpu_devices"]
    if count == -1:  # JAX's own word for "not given"
        count = _divisor(batch_size // processes, num_cores())
        jax.config.update("jax_num_cpu_devices", count)
    provide_threads(count)


def provide_threads(num_cpu_devices: int) -> None:
    """Lets each of several CPU devices wait for the others without keeping them from their work.

    All devices of a process share one pool of threads, as many as cores. One that waits in a sum over
    devices holds a thread, and the work of another may need two (measured: with fewer than twice as many
    threads as devices, training stops within seconds). XLA reads the pool's size from NPROC.
    """
    if num_cpu_devices > 1:
        os.environ.setdefault("NPROC", str(max(num_cores(), 2 * num_cpu_devices)))


def _join() -> int:
    """Initializes jax.distributed where the environment speaks of a job; returns its processes."""
    environment = os.environ
    # JAX's own notice of SIGTERM would take the place of the program's.
    jax.config.update("jax_enable_preemption_service", False)
    if "JAX_NUM_PROCESSES" in environment:  # by hand, and Kubeflow's Trainer: JAX itself reads none of these
        count = _whole("JAX_NUM_PROCESSES")
        try:
            address, index = environment["JAX_COORDINATOR_ADDRESS"], _whole("JAX_PROCESS_ID")
        except KeyError as missing:
            raise UserError(
                f"JAX_NUM_PROCESSES={count} is set and {missing.args[0]} is not: a job of several processes "
                "needs JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES, JAX_PROCESS_ID"
            ) from None
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        if not 0 <= index < count:
            raise UserError(f"JAX_PROCESS_ID={index} is not possible: it must be from 0 to {count - 1}")
        jax.distributed.initialize(address, count, index)
        return count
    several = (
        int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environment,
        int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1,
        "," in environment.get("TPU_WORKER_HOSTNAMES", ""),
        "MEGASCALE_COORDINATOR_ADDRESS" in environment,
    )
    if any(several):
        jax.distributed.initialize()
        return jax.process_count()
    return 1


def place(
    batch_size: int = 0,
    *,
    devices: Sequence[Any] | None = None,
) -> Placement:
    """A mesh with one axis, `AXIS`, over all devices of all processes, or over `devices`.

    Raises UserError, naming config.data.batch_size, if the batch does not divide over them.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    per_device, remainder = divmod(batch_size, count)
    if remainder:
        below = f"{per_device * count} or " if per_device else ""
        raise UserError(
            f"config.data.batch_size={batch_size} does not divide over {count} devices; nearest: "
            f"{below}{(per_device + 1) * count}"
        )
    # jax.make_mesh would default to Explicit axes; here the compiler places what is inside a step.
    mesh = jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
    return Placement(
        batched=NamedSharding(mesh, PartitionSpec(AXIS)),
        replicated=NamedSharding(mesh, PartitionSpec()),
    )


def everywhere(flag: bool) -> bool:
    """Whether `flag` is true in all processes, which all call this."""
    return flag if jax.process_count() == 1 else bool(np.all(multihost_utils.process_allgather(flag)))


def by_first(act: Callable[[], Any]) -> Any:
    """Lets the first process act; all processes call this. Returns what it gave there, elsewhere None.

    Raises the UserError that the first process met, there, and one that points to it elsewhere.
    """
    given, refusal = None, None
    if jax.process_index() == 0:
        try:
            given = act()
        except UserError as error:
            refusal = error
    if not everywhere(refusal is None):
        raise refusal or UserError("the first process of the job could not start; its line says why")
    return given


def from_first(value: Any) -> Any:
    """What the first process gives, in all processes, which all call this: anything that JSON can hold."""
    if jax.process_count() == 1:
        return value
    told = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(told))))
    told = np.resize(told, size)  # the first process's own is of that size
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(told)).tobytes())


@contextmanager
def heeding(stop: Stop) -> Iterator[Callable[[], None]]:
    """Lets all processes of a job end together while they do what need not be saved.

    One process alone ends at once when a signal comes. Of several, one that left would take the others with
    it in the middle of what they do together. So here a signal is a request, and the function that is handed
    out, which all call now and then, raises Stopped in all if one of them was told to stop.
    """
    if jax.process_count() == 1:
        yield lambda: None
        return
    before, stop.unsaved = stop.unsaved, True

    def check() -> None:
        if not everywhere(not stop.requested):
            raise Stopped("stopped, nothing was unsaved; start again to go on")

    try:
        yield check
    finally:
        stop.unsaved = before


def linger() -> float:
    """Seconds by which the process that coordinates a job should outlive the others."""
    return 2.0 if jax.process_count() > 1 and jax.process_index() == 0 else 0.0


def is_lost_peer(error: Exception) -> bool:
    """Whether an error means that another process of the job is gone: JAX says it in many ways."""
    words = ("gloo", "closed by peer", "connection reset", "coordination", "heartbeat", "barrier", "preempt")
    text = str(error).lower()
    return jax.process_count() > 1 and any(word in text for word in words)


def abandon(code: int) -> None:
    """Ends one of several processes: an orderly end would wait for the others, which wait for this one."""
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(linger())
        os._exit(code)


def describe() -> str:
    """What runs: '2 cpu devices in 1 process'."""
    devices, processes = jax.devices(), jax.process_count()
    kind = devices[0].device_kind if devices[0].platform != "cpu" else "cpu"
    return (
        f"{len(devices)} {kind} device{'s' * (len(devices) > 1)} "
        f"in {processes} process{'es' * (processes > 1)}"
    )


def _whole(variable: str) -> int:
    """The number in an environment variable. Raises KeyError if there is none, UserError for another text."""
    value = os.environ[variable]
    if not value.isdecimal():
        raise UserError(f"{variable}={value} is not possible: it must be a whole number")
    return int(value)


def _divisor(batch_size: int, most: int) -> int:
    return next(n for n in range(most, 0, -1) if batch_size % n == 0)
