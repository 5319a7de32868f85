"""What all samplers share: the pair `init` and `step`, the info of a step, and the scan of a chain."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from drl_jax.core.randomness import fold_in
from drl_jax.core.types import Batch, Bools, Keys, LogDensity, PerExample


class Info(NamedTuple):
    """What one step reports of each example. The next step needs none of it.

    Attributes:
      log_density: log-density at the state before the step, in nats, up to a constant.
      gradient_norm: norm of its gradient there.
      displacement: Euclidean distance between the states before and after the step.
      accepted: whether the proposal was accepted; always true for a sampler without a test.
    """

    log_density: PerExample
    gradient_norm: PerExample
    displacement: PerExample
    accepted: Bools


class State(Protocol):
    """The state of a chain: a NamedTuple whose `position` is a batch."""

    @property
    def position(self) -> Batch: ...


class Sampler(NamedTuple):
    """A Markov chain as two pure functions, as in blackjax.

    Attributes:
      init: position -> state. It draws nothing; what must be random is drawn in the first step.
      step: (keys, state) -> (next state, info). Row i draws from keys[i] alone.
    """

    init: Callable[[Batch], Any]
    step: Callable[[Keys, Any], tuple[Any, Info]]


def run(keys: Keys, sampler: Sampler, position: Batch, num_steps: int) -> tuple[Batch, Info]:
    """Runs a chain in `lax.scan`.

    Args:
      keys: one per example; step k of example i draws from fold_in(keys[i], k).
      sampler: its `init` and `step`.
      position: where the chain starts, [batch, *shape].
      num_steps: K.

    Returns:
      The last position and the info of every step, each leaf [K, batch].
    """

    def step(state, keys):
        return sampler.step(keys, state)

    # All keys at once: in the loop each would cost as much as a small layer.
    state, info = jax.lax.scan(step, sampler.init(position), keys_of_steps(keys, num_steps))
    return state.position, info


def keys_of_steps(keys: Keys, num_steps: int) -> jax.Array:
    """Makes the keys from which the steps of a chain draw.

    Args:
      keys: one per example.
      num_steps: K.

    Returns:
      Keys [K, batch].
    """
    return jax.vmap(fold_in, (None, 0))(keys, jnp.arange(num_steps))


def value_and_gradient(log_density: LogDensity, y: Batch) -> tuple[PerExample, Batch]:
    """Computes the log-density of each example and its gradient.

    Args:
      log_density: of each example, in nats. Examples must not depend on each other.
      y: [batch, *shape].

    Returns:
      (log-density [batch], gradient [batch, *shape]).
    """

    # Examples are independent, so the gradient of the sum is the batch of gradients.
    def total(y):
        value = log_density(y)
        return jnp.sum(value), value

    gradient, value = jax.grad(total, has_aux=True)(y)
    return value, gradient


def norm(y: Batch) -> PerExample:
    """Computes the Euclidean norm of each example.

    Args:
      y: [batch, *shape].

    Returns:
      Norms [batch].
    """
    return jnp.sqrt(jnp.sum(y**2, axis=range(1, y.ndim)))
