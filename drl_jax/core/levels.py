"""The noise levels: x_{t+1} = a_{t+1} x_t + σ_{t+1} ε with a² + σ² = 1 (paper, eq. 10).

Level t, 0 <= t < T, recovers x_t from x_{t+1}. Where the paper and the authors' code differ, we follow
the code, because the published figures were computed with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from drl_jax.core.randomness import fold_in, standard_normal
from drl_jax.core.types import Batch, Keys, Level

Temperature = Literal["step", "noise", "one"]

_BETAS = np.linspace(1e-4, 0.02, 1000)  # the linear schedule of Ho et al. (2020)
_LAST = len(_BETAS) - 1
MAX_RESPACED = _LAST // 2 + 2  # the largest T with no empty stretch: 1000 // (2 (T − 1)) >= 1
DDPM_COUNT = len(_BETAS)


@dataclass(frozen=True, eq=False)
class Levels:
    """All numbers that belong to the levels, in float64.

    Arrays over i have T + 1 entries, for x_0 … x_T. Arrays over t have T entries, one per energy.
    Levels are compared by identity, so `jax.jit` can take them as a static argument.

    Attributes:
      a: a_i, the factor of x_{i−1} in x_i; a_0 is the factor of the data in x_0.
      sigma: σ_i, the standard deviation of the noise that x_i adds.
      a_cum: a_0 ⋯ a_i, the factor of the data in x_i.
      sigma_cum: √(1 − a_cum²), the standard deviation of the noise in x_i.
      scale: per t; the energy sees y_t = scale_t x_t. It is a_{t+1}, or 1 where is_recovery is 0.
      is_recovery: per t; 1 if the posterior's term −‖x_{t+1} − y‖² / 2σ² is on, else 0.
      step_squared: per t; s_t², the squared step size of the Langevin chain.
      temperature: per t; F_t = f(·, t) / temperature_t is the log-density.
      weight: per t; the level's weight in the training loss, σ_1 / σ_{t+1}.
      probability: per t; how likely an example is trained at the level.
    """

    a: np.ndarray
    sigma: np.ndarray
    a_cum: np.ndarray
    sigma_cum: np.ndarray
    scale: np.ndarray
    is_recovery: np.ndarray
    step_squared: np.ndarray
    temperature: np.ndarray
    weight: np.ndarray
    probability: np.ndarray

    @property
    def num_levels(self) -> int:
        """T, the number of energies."""
        return len(self.step_squared)


def respaced_schedule(count: int, sigma_0: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Computes a_i and σ_i [T + 1] of T levels that respace the DDPM schedule.

    The first T − 1 levels span 1000 // (2 (T − 1)) steps each. The last spans the rest, so it jumps over
    half of the schedule.

    Args:
      count: T, 1 … 501.
      sigma_0: σ_0, below that of x_1. Default: 0.01, the first of the schedule.

    Returns:
      (a, σ).

    Raises:
      ValueError: the schedule cannot be split into that many levels, or σ_0 is not possible.

    Source: the authors' `get_sigma_schedule`; T = 1, one jump over everything, and another σ_0 are ours.
    """
    if not 1 <= count <= MAX_RESPACED:
        raise ValueError(f"T = {count} levels are not possible; T must be from 1 to {MAX_RESPACED}")
    stride = 1000 // (2 * (count - 1)) if count > 1 else 0
    ends = np.append(stride * np.arange(count), _LAST)
    kept = np.cumprod(np.sqrt(1 - _BETAS))[ends]
    if sigma_0 is not None:
        largest = np.sqrt(1 - kept[1] ** 2)
        if not 0 < sigma_0 < largest:
            raise ValueError(f"sigma_0={sigma_0} is not possible: it must be above 0 and below {largest:.4g}")
        kept[0] = np.sqrt(1 - sigma_0**2)
    a = kept / np.append(1.0, kept[:-1])
    return a, np.sqrt(1 - a**2)


def ddpm_schedule() -> tuple[np.ndarray, np.ndarray]:
    """Computes a_i and σ_i [1001] of the T = 1000 levels of DDPM.

    x_0 is the data without noise: a_0 = 1 and σ_0 = 0.

    Returns:
      (a, σ).

    Source: Ho et al. (2020); the authors' T = 1000 code is not published.
    """
    a = np.append(1.0, np.sqrt(1 - _BETAS))
    return a, np.append(0.0, np.sqrt(_BETAS))


def make_levels(
    count: int = 6,
    *,
    sigma_0: float | None = None,
    b_squared: float = 2e-4,
    step_growth: float | None = None,
    temperature: Temperature | None = None,
    proportions: Sequence[float] | None = None,
) -> Levels:
    """Computes the numbers of T levels.

    Args:
      count: T; 1 … 501 respaces the DDPM schedule, 1000 takes it as it is.
      sigma_0: σ_0, the noise that x_0 keeps. Default: 0.01, and 0 for T = 1000.
      b_squared: b² of the step size s_t² = b² σ_{t+1}² (σ_cum[t] / σ_cum[0])^step_growth.
      step_growth: that exponent. Default: 1, and 0 for T = 1000, where σ_cum[0] = 0.
      temperature: "step" (s_t²), "noise" (σ_cum[t+1]) or "one" (f is the log-density itself).
        Default: "step", and "noise" for T = 1000. With "noise", ∇f is of order one at every level,
        because the score of x_{t+1} is of order 1 / σ_cum[t+1].
      proportions: how often each level is trained, beside the others. Default: all equally often.

    Returns:
      The levels. Only the last level of a respaced schedule has is_recovery = 0.

    Raises:
      ValueError: no schedule has that count or σ_0, T = 1000 was given another step_growth than 0, or
        `proportions` are not T positive numbers.

    Source: the defaults of T <= 501 are the authors'; those of T = 1000 and other proportions are ours.

    Example:
      >>> from drl_jax.core.levels import make_levels
      >>> make_levels(6).sigma.round(3).tolist()
      [0.01, 0.324, 0.516, 0.632, 0.713, 0.773, 1.0]
    """
    is_ddpm = count == DDPM_COUNT
    if not is_ddpm and not 1 <= count <= MAX_RESPACED:
        raise ValueError(f"{count} levels are not possible; possible are 1 to {MAX_RESPACED}, and 1000")
    step_growth = (0.0 if is_ddpm else 1.0) if step_growth is None else step_growth
    temperature = ("noise" if is_ddpm else "step") if temperature is None else temperature
    if is_ddpm and step_growth != 0:
        raise ValueError(f"step_growth={step_growth} is not possible with 1000 levels; it must be 0")
    if is_ddpm and sigma_0 is not None:
        raise ValueError(f"sigma_0={sigma_0} is not possible with 1000 levels, whose x_0 is the data")
    share = np.ones(count) if proportions is None else np.asarray(proportions, float)
    if share.shape != (count,) or not np.all(share > 0):
        raise ValueError(f"proportions={proportions} is not possible; it must be {count} positive numbers")

    a, sigma = ddpm_schedule() if is_ddpm else respaced_schedule(count, sigma_0)
    a_cum = np.cumprod(a)
    sigma_cum = np.sqrt(1 - a_cum**2)

    is_recovery = np.ones(count)
    if not is_ddpm:
        is_recovery[-1] = 0.0
    ratio = np.ones(count) if step_growth == 0 else (sigma_cum[:-1] / sigma_cum[0]) ** step_growth
    step_squared = b_squared * sigma[1:] ** 2 * ratio
    return Levels(
        a=a,
        sigma=sigma,
        a_cum=a_cum,
        sigma_cum=sigma_cum,
        scale=np.where(is_recovery == 1, a[1:], 1.0),
        is_recovery=is_recovery,
        step_squared=step_squared,
        temperature={
            "step": step_squared,
            "noise": sigma_cum[1:],
            "one": np.ones(count),
        }[temperature],
        weight=sigma[1] / sigma[1:],
        probability=share / share.sum(),
    )


def extract(values: np.ndarray, t: Level, like: Batch) -> jax.Array:
    """Looks up the level's value for each example, shaped to broadcast against a batch.

    Args:
      values: one value per level (or per x_i).
      t: the level (or i) of each example [batch].
      like: the batch [batch, *shape] whose rank and dtype the result takes.

    Returns:
      values[t], [batch, 1, …].

    Raises:
      ValueError: a level is out of range. This is checked where t is concrete; under `jax.jit` it is not
        known, and JAX would silently take the nearest level.
    """
    if not isinstance(t, Tracer):
        wrong = [level for level in np.asarray(t).ravel().tolist() if not 0 <= level < len(values)]
        if wrong:
            raise ValueError(f"level {wrong[0]} is out of range: it must be from 0 to {len(values) - 1}")
    picked = jnp.asarray(values, like.dtype)[t]
    return picked.reshape(t.shape + (1,) * (like.ndim - t.ndim))


def posterior(keys: Keys, x: Batch, x_next: Batch, t: Level, levels: Levels) -> Batch:
    """Draws x_t given the data x and x_{t+1}, both of one chain.

    It is normal: with σ̄ = σ_cum, ā = a_cum and the numbers of x_{t+1}, the mean is
    (a_{t+1} σ̄_t² x_{t+1} + σ²_{t+1} ā_t x) / σ̄²_{t+1}, and the variance σ̄_t² σ²_{t+1} / σ̄²_{t+1}.

    Args:
      keys: one per example.
      x: the data [batch, *shape].
      x_next: x_{t+1} [batch, *shape].
      t: the level of each example [batch].
      levels: the noise levels.

    Returns:
      x_t [batch, *shape].

    Source: Bayes' rule for eq. 10; Ho et al. (2020), eq. 7.
    """
    of_next, of_x, deviation = (extract(values, t, x) for values in _posterior(levels))
    return of_next * x_next + of_x * x + deviation * standard_normal(keys, x)


def _posterior(levels: Levels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per t: the factors of x_{t+1} and of the data in the mean of x_t given both; the standard deviation."""
    here, after = levels.sigma_cum[:-1], levels.sigma_cum[1:]
    return (
        levels.a[1:] * here**2 / after**2,
        levels.sigma[1:] ** 2 * levels.a_cum[:-1] / after**2,
        here * levels.sigma[1:] / after,
    )


def diffuse_to(keys: Keys, x: Batch, i: Level, levels: Levels) -> Batch:
    """Draws x_i given the data, in one jump.

    Args:
      keys: one per example.
      x: the data [batch, *shape].
      i: which x_i, 0 … T, for each example [batch].
      levels: the noise levels.

    Returns:
      x_i [batch, *shape].

    Source: paper, eq. 10.
    """
    return with_noise(x, standard_normal(keys, x), i, levels)


def with_noise(x: Batch, noise: Batch, i: Level, levels: Levels) -> Batch:
    """Computes x_i = ā_i x + σ̄_i ε from the data and its noise.

    Args:
      x: the data [batch, *shape].
      noise: ε [batch, *shape].
      i: which x_i, 0 … T, for each example [batch].
      levels: the noise levels.

    Returns:
      x_i [batch, *shape].

    Source: paper, eq. 10.
    """
    return extract(levels.a_cum, i, x) * x + extract(levels.sigma_cum, i, x) * noise


def draw_levels(keys: Keys, levels: Levels) -> Level:
    """Draws a level for each example, with the probabilities of the levels.

    Args:
      keys: one per example.
      levels: the noise levels.

    Returns:
      Levels [batch] from 0 … T − 1.

    Source: authors' code, where all are equally likely.
    """
    ends = np.cumsum(levels.probability)[:-1].astype(np.float32)
    return jnp.searchsorted(ends, jax.vmap(jax.random.uniform)(keys), side="right", method="compare_all")


def diffuse(keys: Keys, x: Batch, t: Level, levels: Levels) -> tuple[Batch, Batch]:
    """Draws the pair (x_t, x_{t+1}) given the data: one jump to x_t, then one step with fresh noise.

    Args:
      keys: one per example.
      x: the data [batch, *shape].
      t: the level of each example [batch].
      levels: the noise levels.

    Returns:
      (x_t, x_{t+1}), each [batch, *shape].

    Source: paper, eq. 10 and algorithm 1.
    """
    x_t, step = diffuse_to(fold_in(keys, 0), x, t, levels), standard_normal(fold_in(keys, 1), x)
    return x_t, extract(levels.a, t + 1, x) * x_t + extract(levels.sigma, t + 1, x) * step
