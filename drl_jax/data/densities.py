"""Densities in the plane with exact log-densities, also after noise is added.

At a level of the diffusion the data are a x + σ ε with ε standard normal. Each density here gives the exact
log-density of these too, so a model can be judged at every level without an estimate. Nearly all of the mass
lies in [-1, 1]².
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32
from scipy.special import log_ndtr

from drl_jax.errors import UserError

Points = Float[np.ndarray, "n 2"]
PerPoint = Float[np.ndarray, " n"]


@runtime_checkable
class Density(Protocol):
    """A density in the plane."""

    @property
    def box(self) -> tuple[float, float]:
        """(low, high): at most 1e-5 of the mass lies outside of the square [low, high]²."""
        ...

    def sample(self, rng: np.random.Generator, n: int) -> Float32[np.ndarray, "n 2"]:
        """Draws n independent points."""
        ...

    def log_density(self, x: Points, a: float = 1.0, sigma: float = 0.0) -> PerPoint:
        """Log-density of a X + σ ε at x, where X has this density and ε is standard normal.

        Args:
          x: where the log-density is computed.
          a: factor of X, above 0.
          sigma: σ, standard deviation of the noise.

        Returns:
          Log-densities in nats.
        """
        ...


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """A mixture of m Gaussians with equal weights and equal covariances.

    Attributes:
      means:      of the Gaussians.
      covariance: of each Gaussian.
    """

    means: Float[np.ndarray, "m 2"]
    covariance: Float[np.ndarray, "2 2"]

    @property
    def box(self) -> tuple[float, float]:
        margin = 5.0 * np.sqrt(np.diag(self.covariance).max())
        half = float(np.abs(self.means).max() + margin)
        return -half, half

    def sample(self, rng: np.random.Generator, n: int) -> Float32[np.ndarray, "n 2"]:
        means = self.means[rng.integers(len(self.means), size=n)]
        noise = rng.standard_normal((n, 2)) @ np.linalg.cholesky(self.covariance).T
        return (means + noise).astype(np.float32)

    def log_density(self, x: Points, a: float = 1.0, sigma: float = 0.0) -> PerPoint:
        factor = np.linalg.cholesky(a**2 * self.covariance + sigma**2 * np.eye(2))
        # In whitened coordinates each Gaussian has unit covariance.
        white_x = np.linalg.solve(factor, np.asarray(x, np.float64).T).T
        centres = np.linalg.solve(factor, a * self.means.T).T
        log_scale = np.log(2 * np.pi * len(centres)) + np.log(np.diag(factor)).sum()

        value = np.empty(len(white_x))
        rows = max(1, 500_000 // len(centres))  # in chunks of a few MB, whatever the size of x
        for start in range(0, len(white_x), rows):
            chunk = white_x[start : start + rows]
            square = (chunk[:, :1] - centres[:, 0]) ** 2 + (chunk[:, 1:] - centres[:, 1]) ** 2
            value[start : start + rows] = _log_sum_exp_of_negative(0.5 * square) - log_scale
        return value


class Checkerboard:
    """Uniform on the dark cells of a 4 × 4 board on [-1, 1]². The cell at (-1, -1) is dark."""

    box = (-1.0, 1.0)
    cells = 4

    def sample(self, rng: np.random.Generator, n: int) -> Float32[np.ndarray, "n 2"]:
        dark = np.argwhere(np.add.outer(np.arange(self.cells), np.arange(self.cells)) % 2 == 0)
        corner = dark[rng.integers(len(dark), size=n)]
        # Multiples of 2⁻²⁰ are exact in float32, so no point is rounded into a light cell.
        inside = rng.integers(2**20, size=(n, 2)) / 2**20
        return (2 * (corner + inside) / self.cells - 1).astype(np.float32)

    def log_density(self, x: Points, a: float = 1.0, sigma: float = 0.0) -> PerPoint:
        # A cell is a product of two intervals. It is dark if both are even or both are odd, so the density is
        # a sum of two products.
        even_0, odd_0 = self._log_stripes(np.asarray(x[:, 0], np.float64), a, sigma)
        even_1, odd_1 = self._log_stripes(np.asarray(x[:, 1], np.float64), a, sigma)
        return np.logaddexp(even_0 + even_1, odd_0 + odd_1) - np.log(self.cells**2 / 2)

    def _log_stripes(self, x: PerPoint, a: float, sigma: float) -> tuple[PerPoint, PerPoint]:
        """Log of the sum of the densities of all even intervals of an axis, and of all odd ones."""
        edges = a * np.linspace(-1.0, 1.0, self.cells + 1)
        width = 2 * a / self.cells
        if sigma == 0:
            inside = (edges[:-1, None] <= x) & (x < edges[1:, None])
            log_mass = np.where(inside, 0.0, -np.inf)
        else:
            scaled = (edges[:, None] - x) / sigma
            log_mass = _log_normal_mass(scaled[:-1], scaled[1:])
        log_interval = log_mass - np.log(width)
        even, odd = log_interval[0::2], log_interval[1::2]
        return np.logaddexp.reduce(even), np.logaddexp.reduce(odd)


def _log_sum_exp_of_negative(exponents: Float[np.ndarray, "n m"]) -> PerPoint:
    """log Σ_m exp(-exponents). Several times as fast as scipy's `logsumexp`."""
    least = exponents.min(axis=1)
    return np.log(np.exp(least[:, None] - exponents).sum(axis=1)) - least


def _log_normal_mass(
    low: Float[np.ndarray, "..."], high: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """log(Φ(high) - Φ(low)) for low < high, accurate in both tails."""
    # Far right of the mean both terms are nearly 1. The mirrored interval has the same mass and small terms.
    is_right = low + high > 0
    low, high = np.where(is_right, -high, low), np.where(is_right, -low, high)
    log_low, log_high = log_ndtr(low), log_ndtr(high)
    return log_high + np.log1p(-np.exp(log_low - log_high))


def _isotropic(means: Float[np.ndarray, "m 2"], std: float) -> GaussianMixture:
    return GaussianMixture(means, std**2 * np.eye(2))


def _on_circle(angle: Float[np.ndarray, " m"]) -> Float[np.ndarray, "m 2"]:
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _ring() -> GaussianMixture:
    """Eight Gaussians on a circle, 0.6 apart, with standard deviation 0.08."""
    return _isotropic(0.8 * _on_circle(2 * np.pi * np.arange(8) / 8), std=0.08)


def _spirals() -> GaussianMixture:
    """Two arms of 1.5 turns, 0.32 apart, with standard deviation 0.04 across an arm.

    The Gaussians of an arm are at most 0.02 apart (except at the centre). This is half of their standard
    deviation, so they do not show as separate spots.
    """
    per_arm = 256
    # The radius grows with the angle, so the square root spaces the Gaussians evenly along an arm.
    angle = 3 * np.pi * np.sqrt((np.arange(per_arm) + 0.5) / per_arm)
    arm = 0.95 * (angle / (3 * np.pi))[:, None] * _on_circle(angle)
    return _isotropic(np.concatenate([arm, -arm]), std=0.04)


def _moons() -> GaussianMixture:
    """Two interleaved half circles of radius 0.6, with standard deviation 0.06."""
    arc = _on_circle(np.pi * (np.arange(64) + 0.5) / 64)
    upper, lower = arc - [0.5, 0.25], [0.5, 0.25] - arc
    return _isotropic(0.6 * np.concatenate([upper, lower]), std=0.06)


def _gaussian() -> GaussianMixture:
    """One Gaussian with standard deviations 0.3 and correlation 0.6."""
    return GaussianMixture(np.zeros((1, 2)), 0.09 * np.array([[1.0, 0.6], [0.6, 1.0]]))


RING = _ring()
CHECKERBOARD = Checkerboard()
SPIRALS = _spirals()
MOONS = _moons()
GAUSSIAN = _gaussian()

DENSITIES: dict[str, Density] = {
    "ring": RING,
    "checkerboard": CHECKERBOARD,
    "spirals": SPIRALS,
    "moons": MOONS,
    "gaussian": GAUSSIAN,
}


def by_name(name: str | None) -> Density:
    """Returns the density with this name.

    Raises:
      UserError: there is none; the message lists all names.
    """
    if name is None or name not in DENSITIES:
        raise UserError(
            f"config.data.density={name!r} is not a density; choose one of {', '.join(DENSITIES)}"
        )
    return DENSITIES[name]
