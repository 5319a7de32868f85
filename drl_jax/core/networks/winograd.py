"""The 3x3 convolution with 16 multiplications per 2x2 pixels of the output, instead of 36.

A 4x4 tile d of an image gives the 2x2 tile Aᵀ ((G g Gᵀ) ∘ (Bᵀ d B)) A of the output, for the kernel g.
Neighbouring tiles share two pixels. The sum over input channels stands between the transforms, so it is a
product of matrices for each of the 16 entries. Rounding errors are about twice those of the plain sum.

Source: Winograd (1980), and F(2x2, 3x3) of Lavin and Gray, "Fast algorithms for convolutional neural
networks" (2016).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_OF_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])  # G
_OF_IMAGES = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])  # Bᵀ
_OF_OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])  # Aᵀ


def transform_kernel(kernel: jax.Array) -> jax.Array:
    """Computes G g Gᵀ for each pair of channels.

    Args:
      kernel: g, [3, 3, inputs, outputs].

    Returns:
      [16, inputs, outputs].
    """
    rows = jnp.stack(_combine(_OF_KERNEL, list(kernel)))  # [4, 3, inputs, outputs]
    both = jnp.stack(_combine(_OF_KERNEL, [rows[:, j] for j in range(3)]), axis=1)
    return both.reshape(16, *kernel.shape[2:])


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes the 3x3 convolution of stride 1 with zero padding.

    Args:
      x: images [batch, height, width, inputs].
      kernel: what `transform_kernel` returns, [16, inputs, outputs].

    Returns:
      [batch, height, width, outputs].
    """
    batch, height, width, inputs = x.shape
    rows, columns = -(-height // 2), -(-width // 2)  # of tiles; the last ones may go beyond the image
    x = jnp.pad(x, ((0, 0), (1, 1 + height % 2), (1, 1 + width % 2), (0, 0)))
    x = jnp.stack(_combine(_OF_IMAGES, [x[:, i : i + 2 * rows - 1 : 2] for i in range(4)]))
    x = jnp.stack(_combine(_OF_IMAGES, [x[:, :, :, j : j + 2 * columns - 1 : 2] for j in range(4)]), axis=1)
    y = lax.batch_matmul(x.reshape(16, batch * rows * columns, inputs), kernel)
    y = y.reshape(4, 4, batch, rows, columns, -1)
    y = jnp.stack(_combine(_OF_OUTPUT, list(y)), axis=3)  # [4, batch, rows, 2, columns, outputs]
    y = jnp.stack(_combine(_OF_OUTPUT, list(y)), axis=4)  # [batch, rows, 2, columns, 2, outputs]
    return y.reshape(batch, 2 * rows, 2 * columns, -1)[:, :height, :width]


def _combine(matrix: np.ndarray, parts: Sequence[jax.Array]) -> list[jax.Array]:
    """Computes one weighted sum of the parts for each row of the matrix; most weights are 0, 1 or -1."""
    sums = []
    for row in matrix.tolist():
        terms = [
            part if weight == 1 else weight * part for weight, part in zip(row, parts, strict=True) if weight
        ]
        sums.append(sum(terms[1:], start=terms[0]))
    return sums
