"""The Fréchet distance between two sets of feature vectors, each taken as Gaussian."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_ROWS = (
    1000  # vectors that are summed at a time, however they came: the order of sums changes the last digits
)


class Moments(NamedTuple):
    """Mean and covariance of feature vectors, in float64.

    Attributes:
      size: number of vectors.
      mean: their mean [d].
      covariance: their unbiased covariance [d, d].
    """

    size: int
    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]


class MomentAccumulator:
    """Moments of vectors that come in parts of any size. It holds fewer than 1,000 + n vectors.

    The parts do not change a bit of the result.
    """

    def __init__(self) -> None:
        self._size, self._waiting = 0, np.zeros((0, 0))

    def add(self, x: Float[np.ndarray, "n d"]) -> None:
        """Adds n vectors; n may be 0."""
        self._waiting = np.concatenate([self._waiting, x]) if len(self._waiting) else x
        while len(self._waiting) >= _ROWS:
            self._sum(self._waiting[:_ROWS])
            self._waiting = self._waiting[_ROWS:]

    def result(self) -> Moments:
        """Computes the moments of all vectors. Raises ValueError if there are fewer than two."""
        if len(self._waiting):
            self._sum(self._waiting)
            self._waiting = self._waiting[:0]
        if self._size < 2:
            raise ValueError(f"{self._size} vectors have no covariance")
        mean = self._total / self._size
        covariance = (self._square - self._size * np.outer(mean, mean)) / (self._size - 1)
        return Moments(self._size, self._origin + mean, covariance)

    def _sum(self, x: np.ndarray) -> None:
        x = x.astype(np.float64)
        if not self._size:
            # Sums around the mean of the first vectors: around 0 the digits of the covariance would cancel.
            self._origin = x.mean(axis=0)
            self._total, self._square = np.zeros(x.shape[1]), np.zeros((x.shape[1], x.shape[1]))
        x = x - self._origin
        self._total, self._square = self._total + x.sum(axis=0), self._square + x.T @ x
        self._size += len(x)


def moments(x: Float[np.ndarray, "n d"]) -> Moments:
    """Computes the moments of an array of vectors. Raises ValueError if there are fewer than two."""
    accumulator = MomentAccumulator()
    accumulator.add(x)
    return accumulator.result()


def frechet_distance(x: Moments, y: Moments) -> float:
    """Computes ‖μ_x − μ_y‖² + tr(Σ_x + Σ_y − 2 (Σ_x Σ_y)^½), in float64.

    The trace of the root is the sum of the roots of the eigenvalues of Σ_x^½ Σ_y Σ_x^½. This matrix is
    symmetric, so singular covariances need no special case.

    Args:
      x, y: moments of the two sets.

    Returns:
      The distance, in squared units of the features; NaN if a moment is not finite.

    Source: Dowson & Landau (1982).
    """
    if not all(np.isfinite(part).all() for side in (x, y) for part in side[1:]):
        return float("nan")  # the factorisations would raise
    values, vectors = np.linalg.eigh(x.covariance)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    trace_root = np.sqrt(np.linalg.eigvalsh(root @ y.covariance @ root).clip(0)).sum()
    mean_term = np.sum((x.mean - y.mean) ** 2)
    return float(mean_term + np.trace(x.covariance) + np.trace(y.covariance) - 2 * trace_root)
