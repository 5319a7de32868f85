"""How the pair (x_t, x_{t+1}) of a training step is drawn: by itself, or with the noise of its chain.

The gradient of recovery likelihood is a difference of two means of ∂f/∂θ: over data x_t, and over samples
x_t⁻. Each mean depends only on the distribution of its own variable. So x_t and x_t⁻ may share their noise:
the mean of the gradient stays the same, and its variance becomes smaller.

`coupled` shares the noise as it would be for a single image x. Then log p(y_t) is that of N(m, v) with
m = scale_t ā_t x and v = (scale_t σ̄_t)², and the Langevin chain is linear. Let λ = 1/v + 1/σ², with the
second term only if is_recovery is 1, α = 1/(σ² λ), or 0 without it, and ρ = 1 − s² λ / 2. The chain ends at

    y_K − m = (α + ρ^K (1 − α)) (x_{t+1} − m) + s Σ_k ρ^{K−1−k} ξ_k.

x_{t+1} − m is σ̄_{t+1} ε. So x_t gets this sum of ε and ξ_k as its noise, scaled to variance 1.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from drl_jax.core.levels import Levels, diffuse, extract, with_noise
from drl_jax.core.mcmc.base import keys_of_steps
from drl_jax.core.randomness import standard_normal
from drl_jax.core.types import Batch, Keys, Level

DrawPair = Callable[[Keys, Keys, Batch, Level, Levels], tuple[Batch, Batch]]
"""(keys, keys of the chain, data, t, levels) -> (x_t, x_{t+1}). Row i draws from its own keys alone."""


def independent(keys: Keys, chain: Keys, x: Batch, t: Level, levels: Levels) -> tuple[Batch, Batch]:
    """Draws the pair by itself: one jump to x_t, then one step with fresh noise.

    Args:
      keys: one per example.
      chain: unused.
      x: the data [batch, *shape].
      t: the level of each example [batch].
      levels: the noise levels.

    Returns:
      (x_t, x_{t+1}), each [batch, *shape].

    Source: paper, algorithm 1.
    """
    del chain
    return diffuse(keys, x, t, levels)


def coupled(num_steps: int) -> DrawPair:
    """Makes the function that draws x_{t+1}, and x_t with the noise of the Langevin chain from x_{t+1}.

    Given the data, x_t and x_{t+1} each have the distribution that they have in the paper. Their joint
    distribution is another one, which the gradient does not depend on.

    Args:
      num_steps: K, of a chain by `langevin` with `standard_normal` and noise scale 1.

    Returns:
      (keys, keys of the chain, data, t, levels) -> (x_t, x_{t+1}).

    Source: ours.
    """

    def draw_pair(keys: Keys, chain: Keys, x: Batch, t: Level, levels: Levels) -> tuple[Batch, Batch]:
        of_start, of_steps = noise_weights(levels, num_steps)
        start = standard_normal(keys, x)

        def add(noise: Batch, step: tuple[Keys, jax.Array]) -> tuple[Batch, None]:
            keys, weight = step
            return noise + weight * standard_normal(keys, x), None

        weights = jnp.stack([extract(of_step, t, x) for of_step in of_steps.T])
        first = extract(of_start, t, x) * start
        noise, _ = jax.lax.scan(add, first, (keys_of_steps(chain, num_steps), weights))
        return with_noise(x, noise, t, levels), with_noise(x, start, t + 1, levels)

    return draw_pair


def noise_weights(levels: Levels, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Computes the weights of ε and of ξ_0 … ξ_{K−1} in the noise of x_t; their squares add up to 1.

    Args:
      levels: the noise levels.
      num_steps: K.

    Returns:
      (weights of ε [T], weights of ξ_k [T, K]).

    Source: ours.
    """
    of_prior = levels.is_recovery / levels.sigma[1:] ** 2
    with np.errstate(divide="ignore"):  # x_0 of 1000 levels has no noise
        precision = 1 / (levels.scale * levels.sigma_cum[:-1]) ** 2 + of_prior
    # A chain with steps too large for this image would oscillate; then its last noise counts.
    rate = np.maximum(1 - levels.step_squared * precision / 2, 0)
    kept = of_prior / precision
    of_start = levels.sigma_cum[1:] * (kept + rate**num_steps * (1 - kept))
    of_steps = np.sqrt(levels.step_squared)[:, None] * rate[:, None] ** np.arange(num_steps - 1, -1, -1)
    total = np.sqrt(of_start**2 + np.sum(of_steps**2, axis=1))
    return of_start / total, of_steps / total[:, None]
