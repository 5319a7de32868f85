"""The chain of noise levels: x_{t+1} = a_{t+1} x_t + σ_{t+1} ε with a² + σ² = 1 (paper, eq. 10).

Level t, 0 <= t < T, recovers x_t from x_{t+1}. Where the paper and the authors' code differ, we
follow the code: it is what the published figures were computed with.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from drl_jax.core.randomness import fold_in, standard_normal
from drl_jax.core.types import Batch, Keys, Level

Temperature = Literal["step", "noise", "one"]

_BETAS = np.linspace(1e-4, 0.02, 1000)  # the linear chain of Ho et al. (2020)
_LAST = len(_BETAS) - 1
_MOST = _LAST // 2 + 2  # the largest T whose stretches are not empty: 1000 // (2 (T - 1)) >= 1


class Levels(NamedTuple):
    """Every number that belongs to a level, float64. Arrays over i have T + 1 entries, x_0 … x_T;
    arrays over t have T entries, the energies' levels.

    a:             a_i, how much of x_{i-1} is in x_i (a_0: of the data in x_0).
    sigma:         σ_i, the noise that x_i adds.
    a_cum:         a_0 ⋯ a_i, how much of the data is in x_i.
    sigma_cum:     √(1 − a_cum²), the noise in x_i.
    scale:         per t: y_t = scale_t x_t is what the energy sees; a_{t+1}, or 1 without a tether.
    tether:        per t: 1 if the posterior's term −‖x_{t+1} − y‖² / 2σ² is on, else 0.
    step_squared:  per t: s_t², the squared step of the Langevin chain.
    temperature:   per t: F_t = f(·, t) / temperature_t is the log-density.
    weight:        per t: the level's weight in the training loss, σ_1 / σ_{t+1}.
    """

    a: np.ndarray
    sigma: np.ndarray
    a_cum: np.ndarray
    sigma_cum: np.ndarray
    scale: np.ndarray
    tether: np.ndarray
    step_squared: np.ndarray
    temperature: np.ndarray
    weight: np.ndarray

    @property
    def num_levels(self) -> int:
        """T, the number of energy models."""
        return len(self.step_squared)


def stretched_chain(count: int) -> tuple[np.ndarray, np.ndarray]:
    """a_i, σ_i [T + 1] of T = 1 … 501 levels that cut the linear chain into stretches.

    The first T − 1 stretches have 1000 // (2 (T − 1)) steps each, the last goes to the end, so half of
    the chain is one jump (the authors' `get_sigma_schedule`; T = 1, one jump over it all, is ours).
    """
    if not 1 <= count <= _MOST:
        raise ValueError(f"T = {count} levels: the chain can be cut into 1 to {_MOST} stretches")
    stride = 1000 // (2 * (count - 1)) if count > 1 else 0
    ends = np.append(stride * np.arange(count), _LAST)
    kept = np.cumprod(np.sqrt(1 - _BETAS))[ends]
    a = kept / np.append(1.0, kept[:-1])
    return a, np.sqrt(1 - a**2)


def linear_chain() -> tuple[np.ndarray, np.ndarray]:
    """a_i, σ_i [1001] of the T = 1000 levels that are the linear chain itself.

    x_0 is the data without noise: a_0 = 1, σ_0 = 0 (ours; the authors' code is not published).
    """
    a = np.append(1.0, np.sqrt(1 - _BETAS))
    return a, np.append(0.0, np.sqrt(_BETAS))


def make_levels(
    count: int = 6,
    *,
    b_squared: float = 2e-4,
    step_growth: float | None = None,
    temperature: Temperature | None = None,
) -> Levels:
    """The levels of a chain of `count` = T energies: 1 … 501 (stretched) or 1000 (linear).

    The step is s_t² = b² σ_{t+1}² (σ_cum[t] / σ_cum[0])^step_growth. The temperature is the step s_t²
    ("step"), the noise level σ_cum[t+1] ("noise", so that ∇f is of order one where the score is of
    order 1 / σ_cum[t+1]), or 1 ("one": f is the log-density itself).

    Defaults: step_growth 1 and "step" for a stretched chain (authors' code), step_growth 0 and "noise" for the
    linear one, where σ_cum[0] = 0 (ours). Only a stretched chain's last level is without a tether.

    Raises ValueError for a `count` that no chain has, and for a step_growth the linear chain cannot have.
    """
    linear = count == len(_BETAS)
    if not linear and not 1 <= count <= _MOST:
        raise ValueError(f"{count} levels are not possible; possible are 1 to {_MOST}, and 1000")
    step_growth = (0.0 if linear else 1.0) if step_growth is None else step_growth
    temperature = ("noise" if linear else "step") if temperature is None else temperature
    if linear and step_growth != 0:
        raise ValueError(
            f"step_growth {step_growth} is not possible with 1000 levels, where σ_cum[0] is 0; 0 is"
        )

    a, sigma = linear_chain() if linear else stretched_chain(count)
    a_cum = np.cumprod(a)
    sigma_cum = np.sqrt(1 - a_cum**2)

    tether = np.ones(count)
    if not linear:
        tether[-1] = 0.0
    ratio = np.ones(count) if step_growth == 0 else (sigma_cum[:-1] / sigma_cum[0]) ** step_growth
    step_squared = b_squared * sigma[1:] ** 2 * ratio
    return Levels(
        a=a,
        sigma=sigma,
        a_cum=a_cum,
        sigma_cum=sigma_cum,
        scale=np.where(tether == 1, a[1:], 1.0),
        tether=tether,
        step_squared=step_squared,
        temperature={
            "step": step_squared,
            "noise": sigma_cum[1:],
            "one": np.ones(count),
        }[temperature],
        weight=sigma[1] / sigma[1:],
    )


def at(values: np.ndarray, t: Level, like: Batch) -> jax.Array:
    """The level's value for each example, shaped to broadcast against `like`, in its dtype."""
    picked = jnp.asarray(values, like.dtype)[t]
    return picked.reshape(t.shape + (1,) * (like.ndim - t.ndim))


def diffuse(keys: Keys, x: Batch, t: Level, levels: Levels) -> tuple[Batch, Batch]:
    """Draws the pair (x_t, x_{t+1}) given the data x: one jump to x_t, then one step with fresh noise."""
    jump, step = standard_normal(fold_in(keys, 0), x), standard_normal(fold_in(keys, 1), x)
    x_t = at(levels.a_cum, t, x) * x + at(levels.sigma_cum, t, x) * jump
    return x_t, at(levels.a, t + 1, x) * x_t + at(levels.sigma, t + 1, x) * step
