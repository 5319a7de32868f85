"""The Fréchet distance between two sets of feature vectors, each taken for Gaussian."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_ROWS = 1000  # added up at a time, however the features came: the order of sums decides the last digits


class Moments(NamedTuple):
    """Mean [d] and covariance [d, d] of `size` vectors, in float64."""

    size: int
    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]

    @property
    def is_singular(self) -> bool:
        """Whether there are too few vectors for a covariance of full rank."""
        return self.size <= len(self.mean)


class Accumulator:
    """Moments of vectors that come in batches of any size; it holds no more than 1,000 of them."""

    def __init__(self) -> None:
        self._count, self._waiting = 0, np.zeros((0, 0))

    def add(self, x: Float[np.ndarray, "n d"]) -> None:
        self._waiting = np.concatenate([self._waiting, x]) if len(self._waiting) else x
        while len(self._waiting) >= _ROWS:
            self._sum(self._waiting[:_ROWS])
            self._waiting = self._waiting[_ROWS:]

    def moments(self) -> Moments:
        """Of all that was added. Raises ValueError if that is fewer than two vectors."""
        if len(self._waiting):
            self._sum(self._waiting)
            self._waiting = self._waiting[:0]
        if self._count < 2:
            raise ValueError(f"{self._count} vectors have no covariance")
        mean = self._total / self._count
        covariance = (self._square - self._count * np.outer(mean, mean)) / (self._count - 1)
        return Moments(self._count, self._origin + mean, covariance)

    def _sum(self, x: Float[np.ndarray, "n d"]) -> None:
        x = x.astype(np.float64)
        if not self._count:
            # Sums about a point amid the data: those about 0 would cancel.
            self._origin = x.mean(axis=0)
            self._total, self._square = np.zeros(x.shape[1]), np.zeros((x.shape[1], x.shape[1]))
        x = x - self._origin
        self._total, self._square = self._total + x.sum(axis=0), self._square + x.T @ x
        self._count += len(x)


def moments(x: Float[np.ndarray, "n d"]) -> Moments:
    """Of an array. Raises ValueError for fewer than two vectors."""
    accumulator = Accumulator()
    accumulator.add(x)
    return accumulator.moments()


def frechet_distance(x: Moments, y: Moments) -> float:
    """‖μ_x − μ_y‖² + tr(Σ_x + Σ_y − 2 (Σ_x Σ_y)^½), in the features' squared unit, in float64.

    Reference: Dowson & Landau (1982). The trace of the root is the sum of the roots of the eigenvalues of
    Σ_x^½ Σ_y Σ_x^½, which is symmetric, so that singular covariances need no care.
    """
    if not all(np.isfinite(part).all() for side in (x, y) for part in side[1:]):
        return float("nan")  # of samples that are not finite; the factorisations would fail
    values, vectors = np.linalg.eigh(x.covariance)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    trace_root = np.sqrt(np.linalg.eigvalsh(root @ y.covariance @ root).clip(0)).sum()
    mean_term = np.sum((x.mean - y.mean) ** 2)
    return float(mean_term + np.trace(x.covariance) + np.trace(y.covariance) - 2 * trace_root)
