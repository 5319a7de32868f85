"""Energy networks: Flax Linen modules f(y, t) -> [batch], pure through `apply`."""

from drl_jax.core.networks.points import PointEnergy
from drl_jax.core.networks.residual import ResidualEnergy

__all__ = ["PointEnergy", "ResidualEnergy"]
