"""Sampling on all devices: sample i from seed i."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from drl_jax.core.model import Model
from drl_jax.core.randomness import example_keys
from drl_jax.core.synthesis import synthesize
from drl_jax.core.transition import Transition
from drl_jax.parallel.mesh import AXIS, Placement, local
from drl_jax.parallel.preemption import Stop, stop_together

NUM_RECORDED = 8  # samples whose way from noise to data is kept
_MAX_STATES = 9  # states of this way, so that memory does not grow with the number of levels


class ShardedSampler:
    """Draws sample i = 0, 1, … as a function of (model, transition, seed, i, samples_per_device).

    The last digits of a sum depend on how many rows a device computes, and a chain makes them larger. So
    each device draws a fixed number of samples at a time, and sample i always has the same neighbours.
    Then neither the number of samples, nor where sampling begins, nor the number of devices or processes
    changes a bit, on machines of one kind.

    Args:
      transition: how x_t is drawn from x_{t+1}.
      shape: of one sample.
      placement: where arrays live.
      stop: for `stop_together`.
      samples_per_device: how many samples a device draws at a time.
      seed: of all samples.
    """

    def __init__(
        self,
        transition: Transition,
        shape: tuple[int, ...],
        placement: Placement,
        stop: Stop,
        *,
        samples_per_device: int,
        seed: int,
    ):
        self._placement, self._stop = placement, stop
        self._rows, self._seed = samples_per_device, seed

        def on_device(key, model, first):
            own = first + jax.lax.axis_index(AXIS) * samples_per_device
            x_0, process, _ = synthesize(
                example_keys(key, samples_per_device, own),
                local(model).bind(),
                model.levels,
                transition,
                shape,
                # Chosen inside the scan: its memory does not grow with the number of samples.
                record=lambda x: x[:NUM_RECORDED],
                record_at=recorded_states(model.levels.num_levels),
            )
            # As one array: two messages at the same time could block the threads of a CPU.
            return jnp.concatenate([x_0, process.reshape(-1, *shape)])

        whole, num_devices = placement.replicated.spec, placement.num_devices
        on_all = jax.shard_map(
            on_device, mesh=placement.mesh, in_specs=(whole, whole, whole), out_specs=PartitionSpec(AXIS)
        )

        def draw(key, model, first):
            # Every process gets every sample: one of them writes files.
            rows = jax.lax.with_sharding_constraint(on_all(key, model, first), placement.replicated)
            rows = rows.reshape(num_devices, -1, *shape)
            x_0, process = rows[:, :samples_per_device], rows[:, samples_per_device:]
            states = len(recorded_states(model.levels.num_levels))
            process = process.reshape(num_devices, states, -1, *shape).swapaxes(0, 1)
            return x_0.reshape(-1, *shape), process.reshape(states, -1, *shape)[:, :NUM_RECORDED]

        self._draw = jax.jit(draw, out_shardings=placement.replicated)

    def trace(self, model: Model) -> jax.stages.Traced:
        """Traces the program that draws `samples_per_device` samples on each device.

        Args:
          model: abstract, as `Placement.abstract` makes it.
        """
        key = self._placement.abstract(jax.eval_shape(jax.random.key, 0))
        return self._draw.trace(key, model, np.int32(0))

    def sample(
        self, model: Model, count: int, *, start: int = 0, key: jax.Array | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Draws samples `start` … `count` − 1. All processes must take all of them.

        Args:
          model: the trained model.
          count: the number of samples, counted from sample 0.
          start: the first sample to draw.
          key: of all samples. Default: that of the seed.

        Yields:
          Samples [n, *shape] in order and, with samples that begin at 0, states from x_T to x_0
          [states, at most NUM_RECORDED, *shape] of the first ones; None later.

        Raises:
          Stopped: one of several processes was asked to stop.
        """
        if start >= count:
            return
        key = self._placement.replicate(jax.random.key(self._seed) if key is None else key)
        at_once = self._rows * self._placement.num_devices
        with stop_together(self._stop) as check:
            for first in range(start - start % self._rows, count, at_once):
                x, process = self._draw(key, model, np.int32(first))
                x = np.asarray(x)
                check()
                wanted = x[max(start - first, 0) : count - first]
                yield wanted, np.asarray(process)[:, :count] if first == start == 0 else None
            check()


def recorded_states(num_levels: int) -> list[int]:
    """Returns the numbers i of the x_i that are kept: all, or some at equal distances, with 0 and T."""
    return np.linspace(0, num_levels, min(num_levels + 1, _MAX_STATES)).round().astype(int).tolist()


def is_finite(samples: np.ndarray) -> np.ndarray:
    """Returns for each sample whether all its numbers are finite."""
    return np.asarray(np.isfinite(samples).all(axis=tuple(range(1, samples.ndim))))


def count_not_finite(samples: np.ndarray) -> int:
    """Counts the samples that have a NaN or an infinity."""
    return int(np.sum(~is_finite(samples)))
