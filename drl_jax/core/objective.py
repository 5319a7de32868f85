"""Training objectives: recovery likelihood (algorithm 1 of the paper), and denoising score matching."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from drl_jax.core import energy
from drl_jax.core.levels import Levels, draw_levels, extract, with_noise
from drl_jax.core.mcmc.base import norm, value_and_gradient
from drl_jax.core.pairs import DrawPair, independent
from drl_jax.core.randomness import fold_in, standard_normal
from drl_jax.core.transition import Transition
from drl_jax.core.types import Batch, Keys, Level, Network, PerExample


class Terms(NamedTuple):
    """What an objective reports of each example.

    Attributes:
      t: its level.
      loss: its part of the loss, with the level's weight and without the energy penalty.
      positive: f at the data.
      negative: f at the sample. Where an objective draws none: f at the mean of the normal approximation.
      displacement: ‖x_t⁻ − x_{t+1} / scale‖, from x_{t+1} to the sample.
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


def recovery_likelihood(
    levels: Levels,
    transition: Transition,
    *,
    draw_pair: DrawPair = independent,
    energy_penalty: float = 0.0,
) -> Objective:
    """Makes the objective of algorithm 1.

    Args:
      levels: the noise levels.
      transition: how x_t⁻ is drawn from x_{t+1}.
      draw_pair: how x_t and x_{t+1} are drawn.
      energy_penalty: c of c · mean(f⁺² + f⁻²) / 2, added to the loss; 0 in the paper.

    Returns:
      The objective.

    Source: paper, section 3.2 and algorithm 1; the weights from the authors' code; the penalty is ours.
    """

    def objective(keys: Keys, x: Batch, f: Network, f_fixed: Network) -> tuple[jax.Array, Terms]:
        # A level for each example, and its pair (x_t, x_{t+1}).
        t = draw_levels(fold_in(keys, 0), levels)
        chain = fold_in(keys, 2)
        x_t, x_next = draw_pair(fold_in(keys, 1), chain, x, t, levels)
        # The negative: a chain from x_{t+1}.
        x_negative, info = transition(chain, f_fixed, levels, t, x_next)
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


def denoising_score_matching(levels: Levels, *, energy_penalty: float = 0.0) -> Objective:
    """Makes the objective that fits ∇F_t to the score of x_{t+1}: the mean of (σ̄ ∂F_t(x_{t+1}) + ε)².

    Here x_{t+1} = ā x_0 + σ̄ ε with σ̄ = σ_cum[t+1]. The minimum is ∇F_t(x) = −E[ε | x_{t+1} = x] / σ̄, the
    score of x_{t+1}. Where σ_{t+1} is small this is nearly the gradient of the log-density of y_t, so the
    model can be sampled by `normal_transition`. Nothing is drawn from the model.

    Args:
      levels: the noise levels.
      energy_penalty: c of c · mean(f²), added to the loss; 0 in the paper.

    Returns:
      The objective. Its loss is a mean over the numbers of an example.

    Source: paper, ablation "T1k, DSM"; Vincent (2011). Levels have equal weights, as in Ho et al. (2020).
    """

    def objective(keys: Keys, x: Batch, f: Network, f_fixed: Network) -> tuple[jax.Array, Terms]:
        t = draw_levels(fold_in(keys, 0), levels)
        noise = standard_normal(fold_in(keys, 1), x)
        sigma_cum = extract(levels.sigma_cum, t + 1, x)
        x_next = with_noise(x, noise, t + 1, levels)
        log_density, score = value_and_gradient(energy.marginal(f, levels, t), x_next)
        loss = jnp.mean((sigma_cum * score + noise) ** 2, axis=range(1, x.ndim))
        positive = log_density * extract(levels.temperature, t, log_density)
        # What a draw would do, for the log.
        move = jax.lax.stop_gradient(extract(levels.sigma, t + 1, x) ** 2 * score)
        scale = extract(levels.scale, t, x)
        return jnp.mean(loss) + energy_penalty * jnp.mean(positive**2), Terms(
            t=t,
            loss=loss,
            positive=positive,
            negative=f_fixed(x_next + move, t),
            displacement=norm(move / scale),
            gradient_norm=norm(score),
            max_abs=jnp.max(jnp.abs((x_next + move) / scale), axis=range(1, x.ndim)),
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
