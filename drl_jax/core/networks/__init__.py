"""Energy networks: Flax Linen modules f(y, t) -> [batch], pure through `apply`."""

from typing import cast

import jax
from flax import linen as nn

from drl_jax.core.networks.points import PointEnergy
from drl_jax.core.networks.residual import ResidualEnergy
from drl_jax.core.types import Network, Tree

__all__ = ["PointEnergy", "ResidualEnergy", "bind"]


def bind(network: nn.Module, params: Tree) -> Network:
    """f(y, t) of a network with these (normalised) parameters."""
    return lambda y, t: cast(jax.Array, network.apply({"params": params}, y, t))
