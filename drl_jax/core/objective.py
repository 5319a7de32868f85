"""Training objectives. Recovery likelihood is algorithm 1 of the paper."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from drl_jax.core.levels import Levels, diffuse, draw_levels, extract
from drl_jax.core.mcmc.base import norm
from drl_jax.core.randomness import fold_in
from drl_jax.core.transition import Transition
from drl_jax.core.types import Batch, Keys, Level, Network, PerExample


class Terms(NamedTuple):
    """What an objective reports of each example.

    Attributes:
      t: its level.
      loss: its part of the loss, with the level's weight and without the energy penalty.
      positive: f at the data.
      negative: f at the sample.
      displacement: ‖x_t⁻ − x_{t+1} / scale‖, from the start of the chain to its end.
      gradient_norm: ‖∇ log p‖ at the last step of the chain.
      max_abs: max |x_t⁻|, in units of the data.
    """

    t: Level
    loss: PerExample
    positive: PerExample
    negative: PerExample
    displacement: PerExample
    gradient_norm: PerExample
    max_abs: PerExample


Objective = Callable[[Keys, Batch, Network, Network], tuple[jax.Array, Terms]]
"""(keys, data, f, f_fixed) -> (loss, terms). The loss is differentiated in the parameters of f. f_fixed has
the same values and no gradient in the parameters; chains use it. Row i draws from keys[i] alone, and the loss
is a mean over rows."""


def recovery_likelihood(levels: Levels, transition: Transition, *, energy_penalty: float = 0.0) -> Objective:
    """Makes the objective of algorithm 1.

    Args:
      levels: the noise levels.
      transition: how x_t⁻ is drawn from x_{t+1}.
      energy_penalty: c of c · mean(f⁺² + f⁻²) / 2, added to the loss; 0 in the paper.

    Returns:
      The objective.

    Source: paper, section 3.2 and algorithm 1; the weights from the authors' code; the penalty is ours.
    """

    def objective(keys: Keys, x: Batch, f: Network, f_fixed: Network) -> tuple[jax.Array, Terms]:
        # A level for each example, and its pair (x_t, x_{t+1}).
        t = draw_levels(fold_in(keys, 0), levels.num_levels)
        x_t, x_next = diffuse(fold_in(keys, 1), x, t, levels)
        # The negative: a chain from x_{t+1}.
        x_negative, info = transition(fold_in(keys, 2), f_fixed, levels, t, x_next)
        # The gradient ∂/∂θ [f(y⁻) − f(y⁺)], with y = scale x.
        loss, positive, negative = contrast(f, levels, t, x_t, x_negative)
        penalty = energy_penalty * jnp.mean(positive**2 + negative**2) / 2
        return jnp.mean(loss) + penalty, Terms(
            t=t,
            loss=loss,
            positive=positive,
            negative=negative,
            displacement=norm(x_negative - x_next / extract(levels.scale, t, x_next)),
            gradient_norm=info.gradient_norm[-1],
            max_abs=jnp.max(jnp.abs(x_negative), axis=range(1, x.ndim)),
        )

    return objective


def contrast(
    f: Network, levels: Levels, t: Level, x_positive: Batch, x_negative: Batch
) -> tuple[PerExample, PerExample, PerExample]:
    """Computes (σ_1/σ_{t+1}) (f(y⁻, t) − f(y⁺, t)) with y = scale_t x for each example.

    f enters without its temperature. The gradient of the mean in the parameters is that of the weighted
    negative log recovery likelihood, with the negatives as constants.

    Args:
      f: the network.
      levels: the noise levels.
      t: the level of each example [batch].
      x_positive: data x_t [batch, *shape].
      x_negative: samples x_t⁻ [batch, *shape]; no gradient flows through them.

    Returns:
      (loss, f⁺, f⁻), each [batch].

    Source: paper, section 3.2; the weights from the authors' code.
    """
    scale = extract(levels.scale, t, x_positive)
    # One call for both: half the program, and more rows at a time.
    y = jnp.concatenate([scale * x_positive, scale * jax.lax.stop_gradient(x_negative)])
    positive, negative = jnp.split(f(y, jnp.concatenate([t, t])), 2)
    weight = extract(levels.weight, t, positive)
    return weight * (negative - positive), positive, negative
