"""The normalising constant of an unnormalised density, by annealed importance sampling (paper, section 4.4).

Chains move from a normal distribution to the density, along p_β ∝ normal^(1−β) p^β, and their weights
estimate Z = ∫ p. Chains on the way back, from draws of the density, estimate 1 / Z. The first estimate of
log Z tends to be too low and the second too high, so together they show whether either can be trusted.

All densities are those inside of a box, |y_i| ≤ bound, and 0 outside: an energy that was learned from data
need not be integrable far away from them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, Bool, Float

from drl_jax.core.randomness import fold_in
from drl_jax.core.types import Batch, Keys, LogDensity, PerExample

Example = Float[Array, "*shape"]
PerStep = Float[Array, " steps"]
Scalar = Float[Array, ""]

SPACING = 0.25  # of β on the way that looks for a path: the standard deviation of a step's log-weights, nats
TARGET_ACCEPTANCE = 0.8
_GAIN = 0.5  # of the step size's adaptation
MIN_EFFECTIVE = 10  # chains: an estimate of fewer says little
MIN_FRACTION = 0.1  # of all chains
MAX_ERRORS = 3.0  # standard errors between the two sides
MAX_GAP = 0.001  # bits per dimension between them, where this is more: rounding


class Normal(NamedTuple):
    """A normal distribution with independent coordinates, inside of the box: where annealing begins.

    Attributes:
      mean: [*shape].
      deviation: standard deviations, before the box cuts them off [*shape].
      bound: of the box; may be infinite.
    """

    mean: Example
    deviation: Example
    bound: float | Scalar

    def log_density(self, y: Batch) -> PerExample:
        """Computes the normalised log-density of examples inside of the box."""
        low, high = self._standardized(-self.bound), self._standardized(self.bound)
        log_mass = jnp.log(self.deviation * (ndtr(high) - ndtr(low))) + 0.5 * np.log(2 * np.pi)
        white = (y - self.mean[None]) / self.deviation[None]
        return jnp.sum(-0.5 * white**2 - log_mass[None], axis=range(1, y.ndim))

    def draw(self, keys: Keys) -> Batch:
        """Draws one example per key [batch, *shape]."""
        low, high = self._standardized(-self.bound), self._standardized(self.bound)
        white = jax.vmap(lambda key: jax.random.truncated_normal(key, low, high))(keys)
        y = self.mean[None] + self.deviation[None] * white
        return jnp.clip(y, -self.bound, self.bound)  # rounding may lead out

    def _standardized(self, y: float | Scalar) -> Example:
        return (y - self.mean) / self.deviation


class Chains(NamedTuple):
    """Chains on their way between a normal distribution and a density.

    Attributes:
      position: of the chains [chains, *shape].
      log_weight: of the chains, in nats.
    """

    position: Batch
    log_weight: PerExample


class Path(NamedTuple):
    """The way from the normal distribution to the density.

    Attributes:
      betas: β, from 0 to 1 [steps + 1].
      step_sizes: of HMC at each β, in units of the normal's deviations [steps + 1].
    """

    betas: PerStep
    step_sizes: PerStep

    def back(self, stay: int = 0) -> "Path":
        """Returns the way back, which begins with `stay` steps at β = 1."""
        return jax.tree.map(lambda values: jnp.pad(values[::-1], (stay, 0), mode="edge"), self)


class Explorer(NamedTuple):
    """Chains that look for a path.

    Attributes:
      position: of the chains [chains, *shape].
      beta: where they are.
      log_step_size: log of the step size of HMC, which is adapted.
    """

    position: Batch
    beta: Scalar
    log_step_size: Scalar


class Estimate(NamedTuple):
    """An estimate of log Z.

    Attributes:
      log_z: in nats.
      standard_error: of log_z, by the delta method; it says little if the effective size is small.
      effective_size: of the sample of chains, (Σ w)² / Σ w²: 1 … chains.
    """

    log_z: float
    standard_error: float
    effective_size: float


class Sandwich(NamedTuple):
    """Estimates of log Z from both sides.

    Attributes:
      forward: from the normal distribution to the density.
      reverse: from the density to the normal distribution.
      doubt: why the two do not bracket log Z, in words; empty if they do.
    """

    forward: Estimate
    reverse: Estimate
    doubt: str

    @property
    def log_z(self) -> float | None:
        """The estimate: the forward one, which needs no draws of the density; None if there is a doubt."""
        return None if self.doubt else self.forward.log_z


def inside(y: Batch, bound: float | Scalar) -> Bool[Array, " batch"]:
    """Computes which examples are inside of the box.

    Args:
      y: examples [batch, *shape].
      bound: the largest |y_i| in the box.

    Returns:
      Truth values [batch].
    """
    return jnp.all(jnp.abs(y) <= bound, axis=range(1, y.ndim))


def fit_normal(y: Batch, bound: float | Scalar) -> Normal:
    """Makes the normal distribution with the moments of draws, where annealing to their density is short.

    Args:
      y: draws inside of the box [n, *shape].
      bound: of the box.

    Returns:
      The distribution. A deviation is at least a hundredth of the root mean square of all.
    """
    deviation = jnp.std(y, axis=0)
    least = 0.01 * jnp.sqrt(jnp.mean(deviation**2)) + 1e-6
    return Normal(jnp.mean(y, axis=0), jnp.maximum(deviation, least), bound)


def begin(keys: Keys, normal: Normal) -> Explorer:
    """Draws chains from the normal distribution, to look for a path from there.

    Args:
      keys: one per chain.
      normal: where annealing begins.

    Returns:
      The explorer, at β = 0. Its step size falls as d^(−1/4), so the acceptance does not depend on d.

    Source: the power of d from Beskos et al. (2013); the factor is ours.
    """
    log_step_size = jnp.log(1.5) - 0.25 * jnp.log(normal.mean.size)
    return Explorer(normal.draw(keys), jnp.zeros(()), log_step_size)


def _move(
    keys: Keys,
    log_density: LogDensity,
    normal: Normal,
    y: Batch,
    beta: Scalar,
    step_size: Scalar,
    leapfrog_steps: int,
) -> tuple[Batch, PerExample]:
    """One transition of HMC that leaves p_β inside of the box invariant: (position, acceptance rate)."""
    import blackjax  # it takes a second, and `drl_jax` is imported without it

    def log_p_beta(y: Example) -> Scalar:
        row = y[None]
        value = (1 - beta) * normal.log_density(row) + beta * log_density(row)
        return jnp.where(inside(row, normal.bound), value, -jnp.inf)[0]

    kernel = blackjax.hmc.build_kernel()

    def of_chain(key: jax.Array, y: Example) -> tuple[Example, Scalar]:
        start = blackjax.hmc.init(y, log_p_beta)
        variance = normal.deviation.ravel() ** 2
        after, info = kernel(key, start, log_p_beta, step_size, variance, leapfrog_steps)
        return after.position, jnp.nan_to_num(info.acceptance_rate)

    return jax.vmap(of_chain)(keys, y)


def explore(
    keys: Keys,
    log_density: LogDensity,
    normal: Normal,
    explorer: Explorer,
    num_steps: int,
    *,
    first: int | jax.Array = 0,
    leapfrog_steps: int = 5,
) -> tuple[Explorer, Path]:
    """Looks for β and step sizes, in a run from the normal distribution to the density.

    The next β is so far away that log-weights of chains would differ by a standard deviation of 0.25 nats.
    So β is dense where p_β changes fast. The step size is adapted to an acceptance of 0.8 on the way.

    Args:
      keys: one per chain; step k draws from fold_in(keys, k).
      log_density: log p of each chain inside of the box, up to log Z.
      normal: where annealing begins.
      explorer: where the chains are; at first what `begin` makes.
      num_steps: of this part of the run. Steps after β = 1 stay there.
      first: the number of the first step in the whole run.
      leapfrog_steps: leapfrog steps of a transition.

    Returns:
      (the explorer; β and the step size after each step). The run is at its end when its β is 1.

    Source: spacing by the variance as on the optimal path of Gelman & Meng (1998); the step size as in
    Andrieu & Thoms (2008), with a constant gain.
    """

    def step(explorer: Explorer, k: jax.Array) -> tuple[Explorer, Path]:
        y, beta, log_step_size = explorer
        spread = jnp.std(log_density(y) - normal.log_density(y))
        beta = jnp.minimum(1.0, beta + SPACING / spread)
        size = jnp.exp(log_step_size)
        y, acceptance = _move(fold_in(keys, k), log_density, normal, y, beta, size, leapfrog_steps)
        log_step_size = log_step_size + _GAIN * (jnp.mean(acceptance) - TARGET_ACCEPTANCE)
        return Explorer(y, beta, log_step_size), Path(beta, size)

    return jax.lax.scan(step, explorer, first + jnp.arange(num_steps))


def refine(found: Path, num_steps: int) -> Path:
    """Makes a path with more or fewer steps than the one that was found, by linear interpolation.

    Args:
      found: β from 0 to 1, at least two.
      num_steps: of the new path.

    Returns:
      A path [num_steps + 1].
    """
    old, new = np.linspace(0.0, 1.0, len(found.betas)), np.linspace(0.0, 1.0, num_steps + 1)
    return Path(*(jnp.asarray(np.interp(new, old, np.asarray(values)), jnp.float32) for values in found))


def anneal(
    keys: Keys,
    log_density: LogDensity,
    normal: Normal,
    chains: Chains,
    path: Path,
    *,
    first: int | jax.Array = 0,
    leapfrog_steps: int = 5,
) -> tuple[Chains, PerStep]:
    """Moves chains along a path, and weighs them.

    At each step the weight is multiplied by p_{β'}(y) / p_β(y), then one transition of HMC leaves p_{β'}
    invariant. On the way from draws of the normal at β = 0 to 1, the mean of the weights is Z. From draws of
    the density at β = 1 to 0 it is 1 / Z. A long run may be cut into parts: each takes the chains of the one
    before, and the path from the β where that ended.

    Args:
      keys: one per chain; step k of the whole run draws from fold_in(keys, k).
      log_density: log p of each chain inside of the box, up to log Z.
      normal: the distribution at β = 0.
      chains: where they begin, with log-weight 0 at first.
      path: β and step sizes, up or down; β at index 0 is where the chains are.
      first: the number of the first step in the whole run.
      leapfrog_steps: leapfrog steps of a transition.

    Returns:
      (the chains; the mean acceptance of each step).

    Source: Neal (2001); HMC of blackjax.
    """

    def step(chains: Chains, inputs: tuple[jax.Array, ...]) -> tuple[Chains, PerExample]:
        k, before, beta, step_size = inputs
        y, log_weight = chains
        log_weight = log_weight + (beta - before) * (log_density(y) - normal.log_density(y))
        y, acceptance = _move(fold_in(keys, k), log_density, normal, y, beta, step_size, leapfrog_steps)
        return Chains(y, log_weight), acceptance

    numbers = first + jnp.arange(len(path.betas) - 1)
    steps = (numbers, path.betas[:-1], path.betas[1:], path.step_sizes[1:])
    chains, acceptance = jax.lax.scan(step, chains, steps)
    return chains, jnp.mean(acceptance, axis=1)  # after the scan: devices do not wait for each other in it


def estimate(log_weights: Float[np.ndarray, " chains"], *, is_reverse: bool = False) -> Estimate:
    """Computes log Z from the weights of a finished run.

    In expectation the estimate of a forward run is at most log Z, and that of a reverse run at least.

    Args:
      log_weights: of the chains, in nats.
      is_reverse: whether the run went from the density to the normal distribution.

    Returns:
      The estimate.

    Source: Neal (2001); the two sides as in Grosse et al. (2015).
    """
    log_weights = np.asarray(log_weights, np.float64)
    top = log_weights.max()
    weights = np.exp(log_weights - top)
    log_mean = top + np.log(weights.mean())
    error = weights.std(ddof=1) / (weights.mean() * np.sqrt(len(weights)))
    size = weights.sum() ** 2 / (weights**2).sum()
    return Estimate(float(-log_mean if is_reverse else log_mean), float(error), float(size))


def sandwich(
    forward: Float[np.ndarray, " chains"], reverse: Float[np.ndarray, " chains"], size: int
) -> Sandwich:
    """Compares the two sides.

    They bracket log Z if the effective size of both is at least 10 chains and a tenth of all, and if they
    differ by at most 3 standard errors, or by at most 0.001 bits per dimension.

    Args:
      forward: log-weights of the forward run, in nats.
      reverse: log-weights of the reverse run, in nats.
      size: d, the numbers of an example.

    Returns:
      Both estimates, and whether they can be trusted.
    """
    sides = {"forward": estimate(forward), "reverse": estimate(reverse, is_reverse=True)}
    doubts = []
    for (name, side), weights in zip(sides.items(), (forward, reverse), strict=True):
        least = max(MIN_EFFECTIVE, MIN_FRACTION * len(weights))
        if not np.isfinite(side.log_z):
            doubts.append(f"the {name} run left the finite numbers")
        elif side.effective_size < least:
            effective = f"{side.effective_size:.1f} of {len(weights)} chains"
            doubts.append(f"the {name} run has an effective size of {effective}, less than {least:g}")
    gap = sides["reverse"].log_z - sides["forward"].log_z
    error = np.hypot(sides["forward"].standard_error, sides["reverse"].standard_error)
    if np.isfinite(gap) and abs(gap) > max(MAX_ERRORS * error, MAX_GAP * size * np.log(2)):
        order = "above" if gap > 0 else "below"
        doubts.append(
            f"the reverse estimate is {abs(gap):.3g} nats {order} the forward one, {abs(gap) / error:.1f} "
            "standard errors"
        )
    return Sandwich(sides["forward"], sides["reverse"], "; ".join(doubts))


def bits_per_dimension(log_density: np.ndarray, size: int, *, is_bytes: bool) -> np.ndarray:
    """Converts log-densities to bits per dimension.

    Args:
      log_density: in nats, of examples in units of the model.
      size: d, the numbers of an example.
      is_bytes: whether an example has bytes, which are 127.5 times as large as its numbers in [-1, 1]; the
        density is then that of the bytes.

    Returns:
      −log2 p / d, plus log2 127.5 of bytes.
    """
    return -log_density / (size * np.log(2)) + (np.log2(127.5) if is_bytes else 0.0)
