"""A trained model: a network, its noise levels, its parameters and its spectral vectors."""

from collections.abc import Callable

import jax
from flax import linen as nn
from flax import struct

from drl_jax.core import energy, spectral
from drl_jax.core.levels import Levels
from drl_jax.core.types import Batch, Level, Network, PerExample, Tree


class Model(struct.PyTreeNode):
    """What sampling, evaluation, export and applications share.

    A model is a tree of arrays, so it can be an argument of a jitted function; network and levels are static.

    Attributes:
      network: the Flax module f(y, t).
      levels: the noise levels.
      params: parameters of the network, before spectral normalisation.
      spectral: the stored vectors of spectral normalisation; empty for a network without it.
    """

    network: nn.Module = struct.field(pytree_node=False)
    levels: Levels = struct.field(pytree_node=False)
    params: Tree
    spectral: Tree

    def bind(self) -> Network:
        """Makes f(y, t) with normalised parameters: one power iteration, whose vectors are not stored.

        This normalises once. Call it before a loop, not inside.
        """
        return bind(self.network, spectral.normalize(self.params, self.spectral)[0])

    def log_density(self, y: Batch, t: Level) -> PerExample:
        """Computes F_t(y), the log-density of y_t = scale_t x_t in nats, up to a constant per level."""
        return energy.marginal(self.bind(), self.levels, t)(y)


def bind(network: nn.Module, params: Tree) -> Network:
    """Makes the function f(y, t) of a network with given parameters.

    Args:
      network: the Flax module.
      params: its parameters, normalised already.

    Returns:
      (y [batch, *shape], t [batch]) -> f [batch].
    """
    apply: Callable[..., jax.Array] = network.apply  # pyright: ignore[reportAssignmentType]
    return lambda y, t: apply({"params": params}, y, t)
