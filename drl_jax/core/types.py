"""The vocabulary of shapes. Tests check these annotations at run time; production does not pay for them."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Bool, Float, Int, Key

PerExample = Float[Array, " batch"]
"""One number per example."""

Bools = Bool[Array, " batch"]
"""One truth value per example."""

Batch = Float[Array, "batch *shape"]
"""Examples of any rank: images [batch, height, width, channels] or points [batch, 2]."""

Level = Int[Array, " batch"]
"""The level t of each example, 0 <= t < T."""

Keys = Key[Array, " batch"]
"""One random key per example, so that the noise of an example depends on its own key alone."""

Leaf = Any
"""An array of a tree, or its abstract form: a shape and a dtype."""

Tree = Any
"""Named arrays in nested dicts: parameters, or vectors of spectral normalisation."""

LogDensity = Callable[[Batch], PerExample]
"""The unnormalised log-density of each example, in nats."""

Network = Callable[[Batch, Level], PerExample]
"""f(y, t), the negative energy before division by its temperature."""
