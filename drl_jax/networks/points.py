"""A small energy network for points in the plane (ours)."""


import jax
import jax.numpy as jnp
from flax import linen as nn

from drl_jax.networks.layers import embed_level
from drl_jax.types import Level, PerExample


class PointEnergy(nn.Module):
    """f(y, t) for points y [batch, dimensions]: a residual perceptron on Fourier features, and a bowl.

    A plain perceptron on raw coordinates learns eight Gaussians on a ring as one smooth ring; random
    sinusoids of the coordinates (Tancik et al. 2020) cure it. The bowl −‖y‖² w² keeps the density
    normalisable and its outskirts low, where neither data nor samples come.

    width, depth: of the perceptron; frequencies: how many sinusoids; bandwidth: their standard deviation,
    in radians per unit of y.
    """

    width: int = 128
    depth: int = 2
    frequencies: int = 64
    bandwidth: float = 4.0
    bowl: float = 1.0

    @nn.compact
    def __call__(self, y: jax.Array, t: Level) -> PerExample:
        level = nn.Dense(self.width, name="level")(embed_level(t, 32))
        # The frequencies are drawn once and stay; stop_gradient leaves them out of training.
        draw = nn.initializers.normal(self.bandwidth)
        waves = jax.lax.stop_gradient(self.param("waves", draw, (y.shape[-1], self.frequencies)))
        angles = y @ waves
        features = jnp.concatenate([y, jnp.sin(angles), jnp.cos(angles)], axis=-1)
        h = nn.Dense(self.width, name="input")(features)
        for i in range(self.depth):
            g = nn.Dense(self.width, name=f"hidden_{i}")(nn.silu(h + nn.Dense(self.width, name=f"level_{i}")(nn.silu(level))))
            h = h + nn.Dense(self.width, name=f"output_{i}", kernel_init=nn.initializers.variance_scaling(0.1,"fan_in","normal"))(nn.silu(g))
        readout = nn.Dense(1, name="readout", kernel_init=nn.initializers.variance_scaling(0.01,"fan_in","normal"))(nn.silu(h))
        return readout[:, 0] - 0.5 * self.bowl * jnp.sum(y**2, axis=-1)
