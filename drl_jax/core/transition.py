"""Transitions x_{t+1} → x_t: how the model samples one level."""

from collections.abc import Callable

from drl_jax.core import energy, mcmc
from drl_jax.core.levels import Levels, extract
from drl_jax.core.mcmc import Info, Sampler
from drl_jax.core.types import Batch, Keys, Level, Network

Transition = Callable[[Keys, Network, Levels, Level, Batch], tuple[Batch, Info]]
"""(keys, f, levels, t, x_{t+1}) -> (x_t, info). Row i draws from keys[i] alone."""

MakeSampler = Callable[..., Sampler]
"""(log_density, *, step_squared) -> sampler."""


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
