"""The vocabulary of shapes. Annotations only: tests check them, production does not pay for them."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float, Int, Key

PerExample = Float[Array, " batch"]
"""One number per example."""

Batch = Float[Array, "batch *shape"]
"""Examples of any rank: images [batch, height, width, channels] or points [batch, 2]."""

Level = Int[Array, " batch"]
"""The level t of each example, 0 <= t < T."""

Keys = Key[Array, " batch"]
"""One random key per example, so that an example's noise depends on nothing but its own key."""

Leaf = Any
"""An array of a tree, which may be abstract: a shape and a type alone."""

Tree = Any
"""A tree of named arrays, nested dicts: parameters, spectral vectors."""

LogDensity = Callable[[Batch], PerExample]
"""An unnormalised log-density of each example, in nats."""

Network = Callable[[Batch, Level], PerExample]
"""f(y, t): the negative energy before its temperature."""
