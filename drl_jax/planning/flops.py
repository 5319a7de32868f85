"""Counts the floating-point operations of a traced function, with the trips of its loops.

XLA's own count (`cost_analysis`) takes the body of a loop once: of a chain of 30 steps it sees one.
"""

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import jax
from jax.extend import core
from jax.interpreters import partial_eval


class Flops(NamedTuple):
    """Multiplications and additions of convolutions and matrix products.

    Attributes:
      total: those that are computed, also where a convolution multiplies the zeros around an image.
      useful: without those zeros.
    """

    total: float = 0.0
    useful: float = 0.0

    def __add__(self, other: Any) -> "Flops":
        return Flops(self.total + other.total, self.useful + other.useful)

    def times(self, count: float) -> "Flops":
        """Returns these operations `count` times."""
        return Flops(self.total * count, self.useful * count)


def count(traced: jax.stages.Traced, platform: str) -> Flops:
    """Counts the operations of a traced function; inside `jax.shard_map`, those of one device.

    Operations whose results are not used are not counted, as XLA removes them.

    Args:
      traced: of a jitted function.
      platform: "tpu", "cuda" or "cpu"; it selects the branch of `jax.lax.platform_dependent`.

    Raises:
      ValueError: a loop without a known number of trips has such operations.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from drl_jax.planning.flops import count
      >>> a = jnp.ones((8, 8))
      >>> power = jax.jit(lambda a: jax.lax.fori_loop(0, 3, lambda _, x: x @ a, a))
      >>> count(power.trace(a), "cpu").total == 3 * 2 * 8**3
      True
    """
    jaxpr = traced.jaxpr.jaxpr
    used, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _of_jaxpr(used, platform)


def _of_jaxpr(jaxpr: Any, platform: str) -> Flops:
    return sum((_of_equation(equation, platform) for equation in jaxpr.eqns), Flops())


def _of_equation(equation: Any, platform: str) -> Flops:
    match equation.primitive.name:
        case "conv_general_dilated":
            return _convolution(equation)
        case "dot_general":
            return _product(equation)
        case "scan":
            return _of_jaxpr(equation.params["jaxpr"].jaxpr, platform).times(equation.params["length"])
        case "while":
            body = _of_jaxpr(equation.params["body_jaxpr"].jaxpr, platform)
            if body.total:
                raise ValueError("a while loop multiplies, and its number of trips is not known")
            return body
        case "cond":
            return _of_jaxpr(_branch(equation, platform).jaxpr, platform)
        case _:
            return sum((_of_jaxpr(inner, platform) for inner in _inner(equation)), Flops())


def _inner(equation: Any) -> Iterator[Any]:
    """The functions that an equation calls."""
    for value in equation.params.values():
        if isinstance(value, core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, core.Jaxpr):
            yield value


def _branch(equation: Any, platform: str) -> Any:
    """The branch for a platform; where branches are of another kind, the one with the most operations."""
    branches = equation.params["branches"]
    platforms = equation.params.get("branches_platforms")
    if platforms is None:
        return max(branches, key=lambda branch: _of_jaxpr(branch.jaxpr, platform).total)
    of_platform = [i for i, names in enumerate(platforms) if names is None or platform in names]
    return branches[of_platform[0]]


def _product(equation: Any) -> Flops:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    flops = 2.0 * prod(out) * prod(left[axis] for axis in contracted)
    return Flops(flops, flops)


def _convolution(equation: Any) -> Flops:
    params = equation.params
    numbers = params["dimension_numbers"]
    images, kernel = (variable.aval.shape for variable in equation.invars)
    out = equation.outvars[0].aval.shape
    # Spatial positions: all pairs of an output and a kernel element, and those that meet a pixel.
    pairs = met = 1
    for axis in range(len(numbers.lhs_spec) - 2):
        length, window = images[numbers.lhs_spec[2 + axis]], kernel[numbers.rhs_spec[2 + axis]]
        places = out[numbers.out_spec[2 + axis]]
        low, spread = params["padding"][axis][0], params["lhs_dilation"][axis]
        stride, dilation = params["window_strides"][axis], params["rhs_dilation"][axis]
        pairs *= places * window
        positions = (i * stride + k * dilation - low for i in range(places) for k in range(window))
        met *= sum(0 <= p < (length - 1) * spread + 1 and p % spread == 0 for p in positions)
    inputs = kernel[numbers.rhs_spec[1]]  # of one group
    each = 2.0 * out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * inputs
    each /= params["batch_group_count"]
    return Flops(each * pairs, each * met)
