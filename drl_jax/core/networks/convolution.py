"""A 3x3 convolution in the form that is fast on the platform.

On a CPU its gradients are forward convolutions. Inside a loop, XLA does not rewrite transposed convolutions
there into the form that its fast kernel takes, so a chain of energy gradients would run several times slower
in `lax.scan` than outside. With many channels, it is Winograd's convolution. Other platforms use the
convolution of XLA and its transposes.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from drl_jax.core.networks import winograd

_MANY = 64  # channels, from which on Winograd's convolution is the faster one (docs/performance.md)
_LAYOUT = ("NHWC", "HWIO", "NHWC")

Images = Float[Array, "batch height width inputs"]
Cotangent = Float[Array, "batch height width outputs"]
Kernel3x3 = Float[Array, "3 3 inputs outputs"]


def _plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_LAYOUT)


@jax.custom_vjp
def convolve(x: Images, kernel: Kernel3x3) -> Cotangent:
    """Computes the 3x3 convolution of stride 1 with zero padding. Only reverse-mode gradients exist.

    Args:
      x: images [batch, height, width, inputs].
      kernel: [3, 3, inputs, outputs].

    Returns:
      [batch, height, width, outputs].
    """
    return lax.platform_dependent(x, kernel, cpu=_on_cpu, default=_plain)


def _on_cpu(x, kernel):
    if min(kernel.shape[2:]) < _MANY or jnp.finfo(x.dtype).bits < 32:
        return _plain(x, kernel)
    # The barrier lets XLA transform the kernel once, before the loop of a chain.
    transformed = lax.optimization_barrier(winograd.transform_kernel(_rounded(kernel)))
    return winograd.convolve(_rounded(x), transformed)


def _rounded(x):
    # The same numbers. A sum that follows cannot be merged with the product that made x (FMA), which rounds
    # once less. XLA would do so in some programs: samples would depend on the number of devices.
    return jnp.maximum(x, jnp.finfo(x.dtype).min)


def _forward(x, kernel):
    return convolve(x, kernel), (x, kernel)


def _backward(saved, g):
    x, kernel = saved
    # Two separate calls, so that the unused one (that of the kernel, in a chain) is removed.
    dx = lax.platform_dependent(x, kernel, g, cpu=_input_gradient, default=_plain_input_gradient)
    dk = lax.platform_dependent(x, kernel, g, cpu=_kernel_gradient, default=_plain_kernel_gradient)
    return dx, dk


def _input_gradient(x, kernel, g):
    del x
    # The barrier lets XLA compute the turned kernel once, before the loop of a chain.
    turned = lax.optimization_barrier(jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    return convolve(g, turned)


def _kernel_gradient(x, kernel, g):
    del kernel
    # Swap batch and channels: a convolution of the images with the cotangent as its kernel. Its 3x3 output
    # is the gradient.
    product = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        g.transpose(1, 2, 0, 3),
        (1, 1),
        [(1, 1), (1, 1)],
        dimension_numbers=_LAYOUT,
    )
    return product.transpose(1, 2, 0, 3)


def _plain_input_gradient(x, kernel, g):
    return jax.vjp(lambda x: _plain(x, kernel), x)[1](g)[0]


def _plain_kernel_gradient(x, kernel, g):
    return jax.vjp(lambda kernel: _plain(x, kernel), kernel)[1](g)[0]


convolve.defvjp(_forward, _backward)
