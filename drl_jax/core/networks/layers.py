"""The layers of the energy networks.

Each declares by a vector in the collection "spectral" how its kernel is spectrally normalised. The layers
never read these vectors; `core.spectral` does.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from drl_jax.core import spectral
from drl_jax.core.networks.convolution import convolve

Normalization = Literal["divide", "cap", "none"]

_glorot = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
_nearly_zero = nn.initializers.variance_scaling(1e-10, "fan_avg", "uniform")


def _per_feature(vector: jax.Array, x: jax.Array) -> jax.Array:
    """A vector [features], shaped to broadcast against x [..., features]."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def _declare(module: nn.Module, normalization: Normalization, outputs: int) -> None:
    """Stores the first vector u ~ truncated N(0, 0.02²). Happens at initialisation only."""
    if normalization != "none" and module.is_initializing():
        draw = nn.initializers.truncated_normal(0.02)
        name = {"divide": spectral.DIVIDE, "cap": spectral.CAP}[normalization]
        module.variable("spectral", name, lambda: draw(module.make_rng("params"), (outputs,)))


class Dense(nn.Module):
    """A dense layer [..., inputs] -> [..., features]; on images, a 1x1 convolution.

    Attributes:
      features: outputs.
      normalization: of the kernel, see `core.spectral`.
      zero_start: start the kernel near zero.
      dtype: of the computation; None takes that of the inputs.
    """

    features: int
    normalization: Normalization = "divide"
    zero_start: bool = False
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = _nearly_zero if self.zero_start else _glorot
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        _declare(self, self.normalization, self.features)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return x @ kernel + _per_feature(bias, x)


class Convolution(nn.Module):
    """A 3x3 convolution.

    With `zero_start` it ends a residual branch: the kernel starts near zero, its norm is only capped, and
    there is a learned gain per channel, (conv + bias) g.

    Attributes:
      features: output channels.
      zero_start: whether it ends a residual branch.
      dtype: of the computation; None takes that of the inputs.
    """

    features: int
    zero_start: bool = False
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = _nearly_zero if self.zero_start else _glorot
        kernel = self.param("kernel", init, (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        _declare(self, "cap" if self.zero_start else "divide", self.features)
        if self.zero_start:
            gain = self.param("gain", nn.initializers.ones, (self.features,))
            # The same as (conv + bias) gain, but once per chain and not once per pixel.
            kernel, bias = kernel * _per_feature(gain, kernel), bias * gain
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return convolve(x, kernel) + _per_feature(bias, x)


def embed_level(t: jax.Array, width: int) -> jax.Array:
    """Computes sinusoids of the level.

    Args:
      t: the level of each example [batch].
      width: even.

    Returns:
      [batch, width]: sines, then cosines, at frequencies 1 … 1e-4.

    Source: Ho et al. (2020), as in the authors' code.
    """
    half = width // 2
    frequencies = jnp.exp(jnp.arange(half) * -(jnp.log(1e4) / (half - 1)))
    angles = t[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
