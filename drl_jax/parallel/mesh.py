"""The mesh of all devices, and where arrays live on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from drl_jax.core.types import Tree
from drl_jax.errors import UserError

AXIS = "data"  # the mesh axis along which examples are sharded


@dataclass(frozen=True)
class Shard:
    """Which part of the batch a device holds, and how devices add up. The default: one device holds all.

    Attributes:
      index, count: this is part `index` of `count` parts of equal size.
      sum: adds a tree of arrays over all parts.
      local: see `local`.
    """

    index: Any = 0
    count: int = 1
    sum: Callable[[Tree], Tree] = lambda tree: tree
    local: Callable[[Tree], Tree] = lambda tree: tree


class Placement(NamedTuple):
    """Where arrays live: a batch in equal parts on all devices of all processes, or a copy on each.

    Attributes:
      batched: the sharding of a batch.
      replicated: the sharding of a copy on every device.
    """

    batched: NamedSharding
    replicated: NamedSharding

    @property
    def mesh(self) -> Mesh:
        """The mesh, with one axis."""
        return self.batched.mesh  # pyright: ignore[reportReturnType]

    @property
    def num_devices(self) -> int:
        """How many devices there are, in all processes."""
        return self.mesh.size

    def shard_local(self, rows: np.ndarray) -> jax.Array:
        """Makes the global batch whose part on this process is `rows`.

        Process r of P has rows r B / P … (r + 1) B / P of a global batch of B rows.
        """
        return jax.make_array_from_process_local_data(self.batched, rows)

    def shard(self, rows: np.ndarray) -> jax.Array:
        """Makes the global batch `rows`, which every process has as a whole."""
        return jax.make_array_from_callback(rows.shape, self.batched, rows.__getitem__)

    def replicate(self, tree: Tree) -> Tree:
        """Puts a copy of every array on every device; all processes must give the same arrays."""

        def put(x):
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(put(jax.random.key_data(x)))
            return jax.make_array_from_process_local_data(self.replicated, np.asarray(x))

        return jax.tree.map(put, tree)

    def abstract(self, tree: Tree) -> Tree:
        """Makes the abstract form of a tree of which every device has a copy: shapes, types, sharding."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.replicated), tree)

    def stop_flags(self, flag: bool) -> jax.Array:
        """Makes the flags [devices] of `data_parallel`: `flag` on the devices of this process."""
        own = self.num_devices // jax.process_count()
        return self.shard_local(np.full(own, flag, np.float32))

    def data_parallel(self, step: Callable[[Any, Any, Shard], tuple[Any, Any]]) -> jax.stages.Wrapped:
        """Compiles a training step that runs on all devices, each with its part of the batch.

        Args:
          step: (state, batch, shard) -> (state, metrics). It must call `shard.sum` once. State and metrics
            must come out equal on every device; JAX proves this when it traces the step.

        Returns:
          (state, batch, stop_flags) -> (state, metrics, number of flags that are set). The flags travel in
          the step's own sum, so that all processes learn of them after the same step without a second
          message between devices. `state` is donated.
        """

        def on_device(state, batch, flag):
            count = flag[0]

            def add(tree: Tree) -> Tree:
                # As one vector: devices wait for each other once instead of once per parameter.
                nonlocal count
                vector, unravel = ravel_pytree((tree, flag[0]))
                tree, count = unravel(jax.lax.psum(vector, AXIS))
                return tree

            shard = Shard(jax.lax.axis_index(AXIS), jax.lax.axis_size(AXIS), add, local)
            state, metrics = step(state, batch, shard)
            return state, metrics, count

        whole, part = self.replicated.spec, self.batched.spec
        return jax.jit(
            jax.shard_map(
                on_device, mesh=self.mesh, in_specs=(whole, part, part), out_specs=(whole, whole, whole)
            ),
            in_shardings=(self.replicated, self.batched, self.batched),
            out_shardings=self.replicated,
            donate_argnums=0,
        )


def local(tree: Tree) -> Tree:
    """Marks arrays that are equal on all devices as the device's own copy. Use it inside `jax.shard_map`.

    The gradient with respect to a local copy covers only the examples of this device. For an unmarked array
    JAX would add up the gradients of all devices by itself, array by array.
    """
    return jax.lax.pcast(tree, AXIS, to="varying")


def split_batch(batch_size: int, num_devices: int, microbatches: int = 1, *, where: str = "") -> int:
    """Computes how many rows of a batch each device gets.

    Args:
      batch_size: rows of a batch.
      num_devices: over which it must divide.
      microbatches: parts of equal size of the rows of each device.
      where: what a message says of the devices, after their number.

    Returns:
      Rows on each device.

    Raises:
      UserError: the batch does not divide.
    """
    parts = num_devices * microbatches
    rows, remainder = divmod(batch_size, parts)
    if remainder:
        below = f"{rows * parts} or " if rows else ""
        times = f", each with config.training.microbatches={microbatches}" if microbatches > 1 else ""
        raise UserError(
            f"config.data.batch_size={batch_size} does not divide over {num_devices} devices{where}{times}; "
            f"nearest: {below}{(rows + 1) * parts}"
        )
    return rows * microbatches


def place(batch_size: int = 0, *, microbatches: int = 1, devices: Sequence[Any] | None = None) -> Placement:
    """Makes a mesh with one axis over all devices of all processes.

    The devices are in the order of their processes. `jax.make_mesh` would order those of a TPU by their
    links, and then a process would not hold consecutive rows of a batch.

    Args:
      batch_size: rows of a batch; it must divide over the devices.
      microbatches: parts of equal size of the rows of each device.
      devices: the devices to use. Default: all.

    Returns:
      The placement.

    Raises:
      UserError: the batch does not divide over the devices.
    """
    devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
    split_batch(batch_size, len(devices), microbatches)
    # Explicit axes are the default of newer JAX; here the compiler places what is inside a step.
    mesh = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))
    return Placement(
        batched=NamedSharding(mesh, PartitionSpec(AXIS)), replicated=NamedSharding(mesh, PartitionSpec())
    )


def describe() -> str:
    """Names what runs, as '2 cpu devices in 1 process'."""
    devices, processes = jax.devices(), jax.process_count()
    kind = devices[0].device_kind if devices[0].platform != "cpu" else "cpu"
    return (
        f"{len(devices)} {kind} device{'s' * (len(devices) > 1)} "
        f"in {processes} process{'es' * (processes > 1)}"
    )
