"""A small energy network for points in the plane; ours."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from drl_jax.core.types import Level, PerExample


class PointEnergy(nn.Module):
    """f(y, t) for points y [batch, dimensions]: a residual perceptron on Fourier features, minus ‖y‖² / 2.

    On raw coordinates a perceptron learns eight Gaussians on a ring as one smooth ring. Sinusoids of the
    coordinates (Tancik et al. 2020) prevent this. The quadratic term keeps the density low far out, where
    there are neither data nor samples.

    Attributes:
      num_levels: T; each level has its own shifts and gains.
      width, depth: of the perceptron.
      num_frequencies: how many sinusoids, in random directions.
      min_frequency, max_frequency: in radians per unit; those between are in geometric progression.
    """

    num_levels: int
    width: int = 128
    depth: int = 1
    num_frequencies: int = 64
    min_frequency: float = 1.0
    max_frequency: float = 20.0

    @nn.compact
    def __call__(self, y: jax.Array, t: Level) -> PerExample:
        of_level = jax.nn.one_hot(t, self.num_levels)

        def per_level(name: str, std: float) -> jax.Array:
            draw = nn.initializers.normal(std)
            return of_level @ self.param(name, draw, (self.num_levels, self.width))

        # Drawn once; stop_gradient keeps them out of training.
        waves = jax.lax.stop_gradient(self.param("waves", self._waves, y.shape[-1]))
        angles = y @ waves
        features = jnp.concatenate([y, jnp.sin(angles), jnp.cos(angles)], axis=-1)
        h = nn.Dense(self.width, name="input")(features) + per_level("shift", 0.5)
        half = nn.initializers.variance_scaling(0.5, "fan_in", "normal")
        for i in range(self.depth):
            branch = nn.Dense(self.width, kernel_init=half, name=f"layer_{i}")(nn.silu(h))
            h = h + branch * (1 + per_level(f"gain_{i}", 0.0)) + per_level(f"shift_{i}", 0.1)
        small = nn.initializers.normal(0.1 * self.width**-0.5)
        readout = self.param("readout", small, (1, self.width)) + per_level("readout_of_level", 0.0)
        return jnp.sum(nn.silu(h) * readout, axis=-1) - 0.5 * jnp.sum(y**2, axis=-1)

    def _waves(self, key: jax.Array, dimensions: int) -> jax.Array:
        directions = jax.random.normal(key, (dimensions, self.num_frequencies))
        directions /= jnp.linalg.norm(directions, axis=0, keepdims=True)
        progress = (jnp.arange(self.num_frequencies) + 0.5) / self.num_frequencies
        return (
            directions * (self.min_frequency * (self.max_frequency / self.min_frequency) ** progress)[None, :]
        )
