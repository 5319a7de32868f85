"""Unadjusted Langevin dynamics (paper, eq. 6), and the scan that runs any kernel."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from drl_jax.core.randomness import fold_in, standard_normal
from drl_jax.core.types import Batch, Keys, LogDensity, PerExample


class Info(NamedTuple):
    """What a transition reports of each example; nothing in it is needed by the next one.

    log_density:   at the state that was left, in nats, up to a constant.
    gradient_norm: of the log-density there.
    moved:         the distance that the transition went.
    """

    log_density: PerExample
    gradient_norm: PerExample
    moved: PerExample


Kernel = Callable[[Keys, Any], tuple[Any, Info]]
"""(keys, state) -> (new state, info): pure. A state is a batch, or a tree of them."""


def value_and_gradient(log_density: LogDensity, y: Batch) -> tuple[PerExample, Batch]:
    """The log-density of each example and its gradient in y."""

    # Examples are independent, so the gradient of the sum is the batch of gradients.
    def total(y):
        value = log_density(y)
        return jnp.sum(value), value

    gradient, value = jax.grad(total, has_aux=True)(y)
    return value, gradient


def norm(y: Batch) -> PerExample:
    """The Euclidean norm of each example."""
    return jnp.sqrt(jnp.sum(y**2, axis=range(1, y.ndim)))


def move(gradient: Batch, noise: Batch, *, step_squared: jax.Array) -> Batch:
    """½ s² ∇log p + s ξ: what one step adds to the state. `step_squared` broadcasts against it."""
    return 0.5 * step_squared * gradient + jnp.sqrt(step_squared) * noise


def langevin(log_density: LogDensity, *, step_squared: jax.Array, noise_scale: float = 1.0) -> Kernel:
    """y ← y + ½ s² ∇log p(y) + η s ξ,  ξ ~ N(0, I).

    `step_squared` is s², broadcast against y; `noise_scale` is η: 1 in training, 0.99 in the authors'
    evaluation. There is no accept/reject step.
    """

    def step(keys: Keys, y: Batch) -> tuple[Batch, Info]:
        value, gradient = value_and_gradient(log_density, y)
        noise = noise_scale * standard_normal(keys, y)
        moved = move(gradient, noise, step_squared=step_squared)
        return y + moved, Info(value, norm(gradient), norm(moved))

    return step


def run(keys: Keys, kernel: Kernel, y: Any, num_steps: int) -> tuple[Any, Info]:
    """Scans a kernel. Step k of example i draws from fold_in(keys[i], k), wherever it runs.

    Returns the last state and the info of every step, each leaf [num_steps, batch].
    """

    def step(y, k):
        return kernel(fold_in(keys, k), y)

    return jax.lax.scan(step, y, jnp.arange(num_steps))
