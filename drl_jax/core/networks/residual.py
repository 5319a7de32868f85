"""The paper's energy network: a residual network without normalisation layers (appendix, authors' code)."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from drl_jax.core.networks.layers import Convolution, Dense, embed_level
from drl_jax.core.types import Level, PerExample

Activation = Callable[[jax.Array], jax.Array]

leaky_relu = partial(nn.leaky_relu, negative_slope=0.2)


class ResidualEnergy(nn.Module):
    """f(y, t), the negative energy, for square images y [batch, side, side, channels].

    Attributes:
      width: ch, the number of channels before multiplication, and the width of the embedding of t.
      multipliers: of ch, one per resolution. Images are halved between two resolutions, so the side must
        be divisible by 2^(len − 1).
      blocks_per_resolution: residual blocks per resolution.
      attention: sides at which self-attention follows each block; the paper has none.
      conv_shortcut: where a block changes its channels, the shortcut is a 3x3 convolution (the authors'
        default), else a 1x1.
      activation: inside blocks.
      final_activation: before the sum over space.
      dtype: of the computation; parameters and energies stay in float32.

    Source: paper, appendix, and the authors' code.
    """

    width: int = 128
    multipliers: Sequence[int] = (1, 2, 2, 2)
    blocks_per_resolution: int = 8
    attention: Sequence[int] = ()
    conv_shortcut: bool = True
    activation: Activation = leaky_relu
    final_activation: Activation = nn.relu
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(self, y: jax.Array, t: Level) -> PerExample:
        act, dtype = self.activation, self.dtype
        check_side(y.shape[1], y.shape[2], len(self.multipliers))

        level = Dense(4 * self.width, dtype=dtype, name="level_0")(embed_level(t, self.width))
        level = act(Dense(4 * self.width, dtype=dtype, name="level_1")(act(level)))

        x = Convolution(self.width, dtype=dtype, name="input")(y)
        for i, multiplier in enumerate(self.multipliers):
            if i > 0:
                x = halve(x)
            for j in range(self.blocks_per_resolution):
                x = _Block(
                    self.width * multiplier,
                    conv_shortcut=self.conv_shortcut,
                    activation=act,
                    dtype=dtype,
                    name=f"block_{i}_{j}",
                )(x, level)
                if x.shape[1] in self.attention:
                    x = _Attention(dtype=dtype, name=f"attention_{i}_{j}")(x)

        # A sum of thousands of terms: bfloat16 would keep two digits of it.
        wide = jnp.promote_types(x.dtype, jnp.float32)
        h = jnp.sum(self.final_activation(x), axis=(1, 2), dtype=wide)
        readout = Dense(h.shape[-1], normalization="none", dtype=dtype, name="readout")(level)
        return jnp.sum(h * readout.astype(wide), axis=1)


class _Block(nn.Module):
    """x + conv(act(conv(act(x)) + dense(level))); the shortcut acts on the raw input."""

    features: int
    conv_shortcut: bool
    activation: Activation
    dtype: jax.typing.DTypeLike | None

    @nn.compact
    def __call__(self, x: jax.Array, level: jax.Array) -> jax.Array:
        act, dtype = self.activation, self.dtype
        h = Convolution(self.features, dtype=dtype, name="conv_1")(act(x))
        h = h + Dense(self.features, dtype=dtype, name="level")(level)[:, None, None, :]
        h = Convolution(self.features, zero_start=True, dtype=dtype, name="conv_2")(act(h))
        if x.shape[-1] != self.features:
            shortcut = Convolution if self.conv_shortcut else Dense
            x = shortcut(self.features, dtype=dtype, name="shortcut")(x)
        return x + h


class _Attention(nn.Module):
    """x + proj(softmax(q kᵀ / √C) v) over the positions of an image, one head, nothing normalised."""

    dtype: jax.typing.DTypeLike | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        dense = partial(Dense, channels, normalization="none", dtype=self.dtype)
        q, k, v = (dense(name=name)(x).reshape(batch, -1, channels) for name in ("q", "k", "v"))
        scores = jnp.einsum("bic,bjc->bij", q, k) * channels**-0.5
        h = jnp.einsum("bij,bjc->bic", nn.softmax(scores), v)
        return x + dense(zero_start=True, name="proj")(h.reshape(batch, height, width, channels))


def halve(x: jax.Array) -> jax.Array:
    """Averages over squares of 2x2 pixels.

    Args:
      x: [batch, side, side, channels].

    Returns:
      [batch, side / 2, side / 2, channels].
    """
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def check_side(height: int, width: int, resolutions: int) -> None:
    """Checks that images are square and can be halved between all resolutions.

    Args:
      height: in pixels.
      width: in pixels.
      resolutions: how many there are.

    Raises:
      ValueError: they are not, or cannot.
    """
    divisor = 2 ** (resolutions - 1)
    if height != width or height % divisor:
        raise ValueError(
            f"images of {height}x{width} do not fit {resolutions} resolutions: "
            f"they must be square, with a side divisible by {divisor}"
        )
