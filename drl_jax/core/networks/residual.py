"""The paper's energy network: a residual network without normalisation layers (appendix, authors' code).

The network has two forms with the same parameters and values. Chains use the one without loops, which is
faster. The gradient in the parameters, a tenth of a training step, uses `scan_blocks`: without it, this
gradient would take most of the compilation.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from drl_jax.core.networks.layers import Convolution, Dense, embed_level
from drl_jax.core.types import Level, PerExample, Tree

Activation = Callable[[jax.Array], jax.Array]

SLOPE = 0.2  # of `leaky_relu` below 0 (authors' code)


@jax.custom_vjp
def leaky_relu(x: jax.Array) -> jax.Array:
    """Computes x where x ≥ 0, else x / 5. Only reverse-mode gradients exist.

    The gradient is written out: it selects once. JAX's own selects twice and adds, and a TPU takes 5 % more
    cycles for a chain.

    Args:
      x: of any shape.

    Returns:
      An array of the same shape.
    """
    return jnp.where(x >= 0, x, SLOPE * x)


def _leaky_relu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return leaky_relu(x), x >= 0


def _leaky_relu_backward(is_above: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    return (jnp.where(is_above, g, SLOPE * g),)


leaky_relu.defvjp(_leaky_relu_forward, _leaky_relu_backward)


def leaky_swish(x: jax.Array) -> jax.Array:
    """Computes x / 5 + 4/5 x sigmoid(10 x), a smooth form of `leaky_relu`.

    With it the gradient of the energy is continuous. The factor 10 suits spectrally normalised layers, whose
    activations are near 0.1; swish itself is almost linear there.

    Args:
      x: of any shape.

    Returns:
      An array of the same shape.

    Source: ours; swish, Ramachandran et al. (2017).
    """
    return SLOPE * x + (1 - SLOPE) * x * nn.sigmoid(10 * x)


def smooth_abs(x: jax.Array) -> jax.Array:
    """Computes √(x² + 0.01), a smooth form of |x|.

    Args:
      x: of any shape.

    Returns:
      An array of the same shape.

    Source: ours; Charbonnier et al. (1994).
    """
    return jnp.sqrt(x**2 + 0.01)


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
      scan_blocks: run blocks of equal shape in `lax.scan`. Programs become smaller and compile sooner;
        chains run slower.
      remat: compute what is inside a block again in the backward pass, instead of storing it.

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
    scan_blocks: bool = False
    remat: bool = False

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
            x = self._blocks(x, level, i, self.width * multiplier)

        # A sum of thousands of terms: bfloat16 would keep two digits of it.
        wide = jnp.promote_types(x.dtype, jnp.float32)
        h = jnp.sum(self.final_activation(x), axis=(1, 2), dtype=wide)
        readout = Dense(h.shape[-1], normalization="none", dtype=dtype, name="readout")(level)
        return jnp.sum(h * readout.astype(wide), axis=1)

    def _blocks(self, x: jax.Array, level: jax.Array, i: int, features: int) -> jax.Array:
        """The blocks of resolution i, each with attention behind it where `attention` says so."""
        make = partial(
            nn.remat(_Block) if self.remat else _Block,
            features,
            conv_shortcut=self.conv_shortcut,
            activation=self.activation,
            dtype=self.dtype,
        )
        attends = x.shape[1] in self.attention
        scans = self.scan_blocks and not attends and not self.is_initializing()
        names = [f"block_{i}_{j}" for j in range(self.blocks_per_resolution)]
        for j, name in enumerate(names):
            is_equal = x.shape[-1] == features  # to the blocks after it
            if scans and is_equal and j < len(names) - 1:
                params = self.variables["params"]
                return _scan(make(parent=None), x, level, [params[name] for name in names[j:]])
            x = make(name=name)(x, level)
            if attends:
                x = _Attention(dtype=self.dtype, name=f"attention_{i}_{j}")(x)
        return x


def _scan(block: nn.Module, x: jax.Array, level: jax.Array, params: Sequence[Tree]) -> jax.Array:
    """Applies a block with each of the parameters in turn."""

    def apply(x: jax.Array, params: Tree) -> tuple[Any, None]:
        return block.apply({"params": params}, x, level), None

    x, _ = jax.lax.scan(apply, x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *params))
    return x


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
