"""Recovery likelihood: the negatives and the training objective (paper, section 3.2, algorithm 1)."""

import jax
import jax.numpy as jnp

from drl_jax.core import energy
from drl_jax.core.levels import Levels, at
from drl_jax.core.mcmc.langevin import Info, langevin, run
from drl_jax.core.mcmc.mala import mala, start
from drl_jax.core.types import Batch, Keys, Level, Network, PerExample


def draw(
    keys: Keys,
    f: Network,
    levels: Levels,
    t: Level,
    x_next: Batch,
    *,
    num_steps: int,
    noise_scale: float = 1.0,
    spread: float | None = None,
) -> tuple[Batch, Info]:
    """K Langevin steps of the recovery posterior from y = x_{t+1}; returns (x_t = y / scale_t, info).

    With a `spread` the steps are Metropolis-adjusted and drawn between s² / spread and s² (ours), and
    `noise_scale` has no place.
    """
    log_density = energy.recovery(f, levels, t, x_next)
    step_squared = at(levels.step_squared, t, x_next)
    if spread is None:
        kernel = langevin(log_density, step_squared=step_squared, noise_scale=noise_scale)
        y, info = run(keys, kernel, x_next, num_steps)
    else:
        kernel = mala(log_density, step_squared=step_squared, spread=spread)
        (y, *_), info = run(keys, kernel, start(log_density, x_next), num_steps)
    return y / at(levels.scale, t, y), info


def objective(
    f: Network, levels: Levels, t: Level, x_positive: Batch, x_negative: Batch
) -> tuple[jax.Array, tuple[PerExample, PerExample]]:
    """The mean over the batch of (σ_1/σ_{t+1}) (f(y⁻, t) − f(y⁺, t)), with y = scale_t x.

    f enters without its temperature (authors' code). Its gradient in the weights is that of the weighted
    negative log recovery likelihood, with the negatives as constants. Returns (loss, (f⁺, f⁻)).
    """
    scale = at(levels.scale, t, x_positive)
    positive = f(scale * x_positive, t)
    negative = f(scale * jax.lax.stop_gradient(x_negative), t)
    weight = at(levels.weight, t, positive)
    return jnp.mean(weight * (negative - positive)), (positive, negative)
