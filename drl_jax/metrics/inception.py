"""Inception-v3 as published Fréchet distances use it: the graph of 2015-12-05, in float32 at full precision.

It differs from the Inception of model zoos: average pools do not count their padding, the last block has a
max pool, there are 1,008 classes, and images are resized to 299 × 299 pixels as in TensorFlow 1.

Sources: Szegedy et al. (2016), the network; Heusel et al. (2017), its use. The weights have the names of
torch-fidelity's file.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

SIDE = 299  # pixels

Weights = Mapping[str, jax.Array]
"""Arrays by name: NAME.kernel [height, width, inputs, outputs] and NAME.bias [outputs] of each convolution,
with its batch normalisation folded in; fc.kernel [2048, 1008]."""

_Activations = Float[Array, "_ _ _ _"]


class Outputs(NamedTuple):
    """What the network computes of each image.

    Attributes:
      features: of the last average pool; distances are measured between these.
      logits: of the classes, without the bias.
    """

    features: Float[Array, "n 2048"]
    logits: Float[Array, "n 1008"]


def inception(weights: Weights, images: UInt8[Array, "n height width 3"]) -> Outputs:
    """Computes features and logits of RGB images of any size."""
    net = _Net(weights)
    x = (resize(images.astype(jnp.float32)) - 128) / 128
    x = net.conv("Conv2d_1a_3x3", x, stride=2)
    x = net.conv("Conv2d_2a_3x3", x)
    x = net.conv("Conv2d_2b_3x3", x, same=True)
    x = _max_pool(x)
    x = net.conv("Conv2d_3b_1x1", x)
    x = net.conv("Conv2d_4a_3x3", x)
    x = _max_pool(x)
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = net.block_a(name, x)
    x = net.block_b("Mixed_6a", x)
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x = net.block_c(name, x)
    x = net.block_d("Mixed_7a", x)
    x = net.block_e("Mixed_7b", x, _average_pool)
    x = net.block_e("Mixed_7c", x, _max_pool_same)
    features = jnp.mean(x, axis=(1, 2))
    return Outputs(features, jnp.dot(features, weights["fc.kernel"], precision=lax.Precision.HIGHEST))


def resize(images: _Activations) -> _Activations:
    """Resizes images to 299 × 299 pixels as TensorFlow 1 does: bilinearly, without half-pixel centres.

    Pixel i of the result lies between the two pixels at and after i · side / 299. Half-pixel centres, as in
    newer resizes, change the features of 32 × 32 images by 2.4 %.
    """
    rows, columns = (jnp.asarray(_interpolation(side)) for side in images.shape[1:3])
    return jnp.einsum("yh,nhwc,xw->nyxc", rows, images, columns, precision=lax.Precision.HIGHEST)


def _interpolation(side: int) -> Float[np.ndarray, "299 side"]:
    """The matrix that resizes one axis."""
    position = np.arange(SIDE, dtype=np.float32) * np.float32(side / SIDE)
    low = np.floor(position).astype(int)
    matrix = np.zeros((SIDE, side), np.float32)
    np.add.at(matrix, (np.arange(SIDE), low), 1 - (position - low))
    np.add.at(matrix, (np.arange(SIDE), np.minimum(low + 1, side - 1)), position - low)
    return matrix


class _Net:
    """The blocks of the network. Each concatenates its branches in the order of the paper's figures."""

    def __init__(self, weights: Weights):
        self._weights = weights

    def conv(self, name: str, x: _Activations, stride: int = 1, *, same: bool = False) -> _Activations:
        kernel, bias = self._weights[f"{name}.kernel"], self._weights[f"{name}.bias"]
        x = lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "SAME" if same else "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,
        )
        return jax.nn.relu(x + bias.reshape(1, 1, 1, -1))

    def chain(self, block: str, names: Sequence[str], x: _Activations) -> _Activations:
        """Applies convolutions that keep the size, one after the other."""
        for name in names:
            x = self.conv(f"{block}.{name}", x, same=True)
        return x

    def block_a(self, block: str, x: _Activations) -> _Activations:
        return _concatenate(
            self.chain(block, ["branch1x1"], x),
            self.chain(block, ["branch5x5_1", "branch5x5_2"], x),
            self.chain(block, ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], x),
            self.chain(block, ["branch_pool"], _average_pool(x)),
        )

    def block_b(self, block: str, x: _Activations) -> _Activations:
        double = self.chain(block, ["branch3x3dbl_1", "branch3x3dbl_2"], x)
        return _concatenate(
            self.conv(f"{block}.branch3x3", x, 2),
            self.conv(f"{block}.branch3x3dbl_3", double, 2),
            _max_pool(x),
        )

    def block_c(self, block: str, x: _Activations) -> _Activations:
        return _concatenate(
            self.chain(block, ["branch1x1"], x),
            self.chain(block, [f"branch7x7_{i}" for i in (1, 2, 3)], x),
            self.chain(block, [f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)], x),
            self.chain(block, ["branch_pool"], _average_pool(x)),
        )

    def block_d(self, block: str, x: _Activations) -> _Activations:
        short = self.chain(block, ["branch3x3_1"], x)
        long = self.chain(block, [f"branch7x7x3_{i}" for i in (1, 2, 3)], x)
        return _concatenate(
            self.conv(f"{block}.branch3x3_2", short, 2),
            self.conv(f"{block}.branch7x7x3_4", long, 2),
            _max_pool(x),
        )

    def block_e(self, block: str, x: _Activations, pool) -> _Activations:
        short = self.chain(block, ["branch3x3_1"], x)
        long = self.chain(block, ["branch3x3dbl_1", "branch3x3dbl_2"], x)
        return _concatenate(
            self.chain(block, ["branch1x1"], x),
            *(self.chain(block, [f"branch3x3_2{side}"], short) for side in "ab"),
            *(self.chain(block, [f"branch3x3dbl_3{side}"], long) for side in "ab"),
            self.chain(block, ["branch_pool"], pool(x)),
        )


def _concatenate(*branches: _Activations) -> _Activations:
    return jnp.concatenate(branches, axis=-1)


def _max_pool(x: _Activations) -> _Activations:
    return _pool(x, lax.max, -jnp.inf, 2, "VALID")


def _max_pool_same(x: _Activations) -> _Activations:
    return _pool(x, lax.max, -jnp.inf, 1, "SAME")


def _average_pool(x: _Activations) -> _Activations:
    count = _pool(jnp.ones((1, *x.shape[1:3], 1)), lax.add, 0.0, 1, "SAME")  # without the padding
    return _pool(x, lax.add, 0.0, 1, "SAME") / count


def _pool(x: _Activations, reduce, start: float, stride: int, padding: str) -> _Activations:
    return lax.reduce_window(x, start, reduce, (1, 3, 3, 1), (1, stride, stride, 1), padding)


def fold(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Makes `Weights` from the arrays of torch-fidelity's file.

    At test time a batch normalisation is a factor and an offset per channel, so it can be folded into the
    convolution before it.

    Args:
      state: NAME.conv.weight [outputs, inputs, height, width], NAME.bn.*, fc.weight, by name.

    Returns:
      The weights.

    Raises:
      KeyError: an array is missing.
    """
    weights = {"fc.kernel": np.ascontiguousarray(state["fc.weight"].T)}
    for name, kernel in state.items():
        if name.endswith(".conv.weight"):
            name = name.removesuffix(".conv.weight")
            gain, bias, mean, variance = (
                state[f"{name}.bn.{part}"].astype(np.float64)
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            gain = gain / np.sqrt(variance + 1e-3)
            weights[f"{name}.kernel"] = (kernel.transpose(2, 3, 1, 0) * gain).astype(np.float32)
            weights[f"{name}.bias"] = (bias - mean * gain).astype(np.float32)
    return weights
