"""Precision and recall of samples, with the conventions of torch-fidelity."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Features = Float[np.ndarray, "n d"]


class PrecisionRecall(NamedTuple):
    """Precision and recall, between 0 and 1.

    Attributes:
      precision: share of the samples that lie in the support of the reference.
      recall: share of the reference that lies in the support of the samples.
    """

    precision: float
    recall: float


def precision_recall(
    samples: Features, reference: Float[np.ndarray, "m d"], *, neighbours: int = 3, rows: int = 1000
) -> PrecisionRecall:
    """Computes precision and recall from nearest neighbours.

    The support of a set is the union of balls around its points. The radius of a ball is the distance from
    its centre to the `neighbours`-th nearest other point of the set.

    Args:
      samples, reference: feature vectors, more than `neighbours` of each.
      neighbours: the k of the k-th nearest neighbour.
      rows: how many vectors are compared with all others at a time; it bounds the memory.

    Returns:
      Precision and recall.

    Source: Kynkäänniemi et al. (2019).
    """

    def squared_radii(centres: np.ndarray) -> np.ndarray:
        # Position 0 is the distance of a point to itself.
        nearest = [
            np.partition(_squared_distances(part, centres), neighbours, axis=1)[:, neighbours]
            for part in _split(centres, rows)
        ]
        return np.concatenate(nearest)

    def share_in_support(points: np.ndarray, centres: np.ndarray) -> float:
        radii = squared_radii(centres)
        inside = [
            (_squared_distances(part, centres) <= radii[None, :]).any(axis=1) for part in _split(points, rows)
        ]
        return float(np.mean(np.concatenate(inside)))

    return PrecisionRecall(
        precision=share_in_support(samples, reference), recall=share_in_support(reference, samples)
    )


def _split(x: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    return (x[first : first + rows] for first in range(0, len(x), rows))


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T
    return square.clip(0)
