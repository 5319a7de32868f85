"""Drawing samples from trained weights, on all devices."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from drl_jax.config.build import Experiment
from drl_jax.core import spectral
from drl_jax.core.networks import bind
from drl_jax.core.randomness import example_keys
from drl_jax.core.synthesis import synthesize
from drl_jax.core.types import Tree
from drl_jax.parallel.devices import AXIS, Placement, heeding
from drl_jax.parallel.preemption import Stop

SHOWN = 8  # samples whose process is kept


class Weights(NamedTuple):
    """What determines a model: parameters and the stored vectors of spectral normalisation."""

    params: Tree
    vectors: Tree

    def normalized(self) -> Tree:
        """The parameters that the network is called with: one power iteration, not stored."""
        return spectral.normalize(self.params, self.vectors)[0]


class Sampler:
    """Draws example i = 0, 1, … as a function of (weights, seed, i, rows).

    The last digits of a sum depend on how many rows a device has to compute, and a chain makes them larger.
    So each device draws `rows` examples at a time, i and those beside it in the same places always: then
    neither how many are asked for, nor where drawing begins, nor the number of devices or processes
    changes a bit, on machines of one kind.
    """

    def __init__(
        self,
        experiment: Experiment,
        placement: Placement,
        stop: Stop,
        *,
        rows: int,
        seed: int,
        num_steps: int,
        noise_scale: float,
        spread: float | None,
    ):
        self._placement, self._stop, self._rows, self._seed = placement, stop, rows, seed
        whole, parts = placement.replicated.spec, placement.batched.spec

        def draw_rows(key, params, first):
            own = first + jax.lax.axis_index(AXIS) * rows
            x_0, process, _ = synthesize(
                example_keys(key, rows, own),
                bind(experiment.network, params),
                experiment.levels,
                experiment.shape,
                num_steps=num_steps,
                noise_scale=noise_scale,
                spread=spread,
            )
            return x_0, jnp.swapaxes(process, 0, 1)

        on_all = jax.shard_map(
            draw_rows,
            mesh=placement.batched.mesh,
            in_specs=(whole, whole, whole),
            out_specs=(parts, parts),
            check_vma=False,
        )

        def draw(key, weights, first):
            x_0, process = on_all(key, weights.normalized(), first)
            return x_0, jnp.swapaxes(process[:SHOWN], 0, 1)

        # Every process gets every sample: files are written by one of them.
        self._draw = jax.jit(draw, out_shardings=placement.replicated)

    def draw(
        self, weights: Weights, count: int, *, start: int = 0
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields samples `start` … `count` − 1 [n, *shape], some at a time, each time with the process
        [T + 1, at most SHOWN, *shape] of the first of them. All processes take all of them.

        Raises Stopped, between two, if one of several processes was told to stop."""
        key = self._placement.replicate(jax.random.key(self._seed))
        at_once = self._rows * self._placement.num_devices
        with heeding(self._stop) as check:
            for first in range(start - start % self._rows, count, at_once):
                x, process = jax.device_get(self._draw(key, weights, np.int32(first)))
                check()
                wanted = slice(max(start - first, 0), count - first)
                yield x[wanted], process[:, wanted]
            check()


def not_finite(samples: np.ndarray) -> int:
    """How many samples have a NaN or an infinity."""
    return int(np.sum(~np.isfinite(samples).all(axis=tuple(range(1, samples.ndim)))))
