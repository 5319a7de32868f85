"""Drawing samples from trained weights, in batches over all devices."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from drl_jax import spectral
from drl_jax.experiment import Experiment
from drl_jax.networks import bind
from drl_jax.parallel.devices import Placement
from drl_jax.synthesis import synthesize
from drl_jax.training.step import example_keys
from drl_jax.types import Tree


class Weights(NamedTuple):
    """What determines a model: parameters and the stored vectors of spectral normalisation."""

    params: Tree
    vectors: Tree

    def normalized(self) -> Tree:
        """The parameters that the network is called with: one power iteration, not stored."""
        return spectral.normalize(self.params, self.vectors)[0]


class Sampler:
    """Draws example i = 0, 1, … as a function of (weights, seed, i): neither the batch size nor the
    number of devices or processes changes it. Batches are rounded up to a multiple of the devices."""

    def __init__(
        self,
        experiment: Experiment,
        placement: Placement,
        *,
        batch_size: int,
        seed: int,
        num_steps: int,
        noise_scale: float,
        spread: float | None,
    ):
        batch_size += -batch_size % placement.num_devices
        self._placement, self._batch_size, self._seed = placement, batch_size, seed

        def draw(key, weights, first):
            keys = jax.lax.with_sharding_constraint(example_keys(key, batch_size, first), placement.batched)
            f = bind(experiment.network, weights.normalized())
            x_0, process, _ = synthesize(
                keys,
                f,
                experiment.levels,
                experiment.shape,
                num_steps=num_steps,
                noise_scale=noise_scale,
                spread=spread,
            )
            return x_0, process

        # Every process gets every sample: files are written by one of them.
        self._draw = jax.jit(draw, out_shardings=placement.replicated)

    def batches(
        self, weights: Weights, count: int, *, start: int = 0
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (samples [n, *shape], their process [T + 1, n, *shape]) of samples `start` … `count` − 1."""
        key = self._placement.replicate(jax.random.key(self._seed))
        for first in range(start, count, self._batch_size):
            x, process = jax.device_get(self._draw(key, weights, np.int32(first)))
            rest = min(self._batch_size, count - first)
            yield x[:rest], process[:, :rest]
