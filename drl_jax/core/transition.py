"""Transitions x_{t+1} → x_t: how the model samples one level."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from drl_jax.core import energy, mcmc
from drl_jax.core.levels import Levels, extract
from drl_jax.core.mcmc import Info, Sampler
from drl_jax.core.mcmc.base import norm, value_and_gradient
from drl_jax.core.randomness import DrawNoise, fold_in, standard_normal
from drl_jax.core.types import Batch, Keys, Level, Network

Transition = Callable[[Keys, Network, Levels, Level, Batch], tuple[Batch, Info]]
"""(keys, f, levels, t, x_{t+1}) -> (x_t, info). Row i draws from keys[i] alone."""

MakeSampler = Callable[..., Sampler]
"""(log_density, *, step_squared) -> sampler."""

MakeTransition = Callable[[DrawNoise], Transition]
"""(how Gaussian noise is drawn) -> transition."""


def mcmc_transition(make_sampler: MakeSampler, *, num_steps: int) -> Transition:
    """Makes the paper's transition: K steps of a sampler on the recovery posterior, from y = x_{t+1}.

    Args:
      make_sampler: (log_density, step_squared=s_t²) -> sampler, as `langevin` or `mala` with their own
        settings bound by `functools.partial`.
      num_steps: K.

    Returns:
      The transition. Its info has one row per step, each leaf [K, batch].

    Source: paper, eq. 6, algorithms 1 and 2.
    """

    def transition(keys: Keys, f: Network, levels: Levels, t: Level, x_next: Batch) -> tuple[Batch, Info]:
        log_density = energy.recovery(f, levels, t, x_next)
        sampler = make_sampler(log_density, step_squared=extract(levels.step_squared, t, x_next))
        y, info = mcmc.run(keys, sampler, x_next, num_steps)
        return y / extract(levels.scale, t, y), info

    return transition


def normal_transition(
    make_sampler: MakeSampler,
    *,
    noise_scale: float = 1.0,
    num_steps: int = 0,
    draw_noise: DrawNoise = standard_normal,
) -> Transition:
    """Makes the transition of the T = 1000 levels: one draw from a normal approximation of the posterior.

    Where σ = σ_{t+1} is small, F_t is nearly linear around x̃ = x_{t+1}, so that the recovery posterior is
    nearly N(x̃ + σ² ∇F_t(x̃), σ² I). All levels must have is_recovery = 1.

    Args:
      make_sampler: of the steps after the draw, as for `mcmc_transition`.
      noise_scale: η, which multiplies the noise of the draw.
      num_steps: K, steps on the exact recovery posterior after the draw; 0 in the paper.
      draw_noise: draws the noise of the draw.

    Returns:
      The transition. Its info has one row for the draw and one per step, each leaf [1 + K, batch].

    Source: paper, section 3.4 (the setting T1k); the steps after the draw are ours.
    """

    def transition(keys: Keys, f: Network, levels: Levels, t: Level, x_next: Batch) -> tuple[Batch, Info]:
        log_density = energy.recovery(f, levels, t, x_next)
        sampler = make_sampler(log_density, step_squared=extract(levels.step_squared, t, x_next))
        sigma = extract(levels.sigma, t + 1, x_next)
        value, gradient = value_and_gradient(log_density, x_next)  # of F_t: the quadratic term is 0 there
        move = sigma**2 * gradient + noise_scale * sigma * draw_noise(fold_in(keys, 0), x_next)
        draw = Info(value, norm(gradient), norm(move), jnp.ones(value.shape, bool))
        y, steps = mcmc.run(fold_in(keys, 1), sampler, x_next + move, num_steps)
        info = jax.tree.map(lambda first, others: jnp.concatenate([first[None], others]), draw, steps)
        return y / extract(levels.scale, t, y), info

    return transition
