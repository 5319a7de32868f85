"""Scores of samples against a reference, from feature vectors: float64 on the host.

The conventions (subsets, splits, seeds, neighbours) are torch-fidelity's, so that numbers can be compared.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Features = Float[np.ndarray, "n d"]
Others = Float[np.ndarray, "m d"]

_SEED = 2020  # of the subsets of KID and the order of the splits of IS


class Spread(NamedTuple):
    """A score's mean over subsets or splits, and their standard deviation."""

    mean: float
    std: float


def inception_score(logits: Float[np.ndarray, "n classes"], *, splits: int = 10) -> Spread:
    """exp E KL(p(y | x) ‖ p(y)) over each of `splits` parts, in a random but fixed order.

    Reference: Salimans et al. 2016.
    """
    logits = logits[np.random.RandomState(_SEED).permutation(len(logits))].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    edges = [i * len(logits) // splits for i in range(splits + 1)]

    def score(log_p: np.ndarray) -> float:
        p = np.exp(log_p)
        return float(np.exp((p * (log_p - np.log(p.mean(axis=0, keepdims=True)))).sum(axis=1).mean()))

    scores = [score(log_p[a:b]) for a, b in pairwise(edges)]
    return Spread(float(np.mean(scores)), float(np.std(scores)))


def kernel_distance(x: Features, y: Others, *, subsets: int = 100, subset_size: int = 1000) -> Spread:
    """KID: the unbiased squared maximum mean discrepancy under the kernel (x·y / d + 1)³, over random
    subsets. Its expectation is 0 for two draws of one distribution. Reference: Bińkowski et al. 2018.

    Raises ValueError if there are fewer than `subset_size` of either.
    """
    if min(len(x), len(y)) < subset_size:
        raise ValueError(f"{min(len(x), len(y))} features are fewer than a subset's {subset_size}")
    rng = np.random.RandomState(_SEED)
    values = [
        _squared_discrepancy(
            x[rng.choice(len(x), subset_size, replace=False)],
            y[rng.choice(len(y), subset_size, replace=False)],
        )
        for _ in range(subsets)
    ]
    return Spread(float(np.mean(values)), float(np.std(values)))


def _squared_discrepancy(x: Features, y: Features) -> float:
    x, y, m = x.astype(np.float64), y.astype(np.float64), len(x)

    def kernel(a: Features, b: Features) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    own = sum(k.sum() - np.trace(k) for k in (kernel(x, x), kernel(y, y))) / (m * (m - 1))
    return float(own - 2 * kernel(x, y).mean())


class PrecisionRecall(NamedTuple):
    """precision: the share of samples that lie among the reference; recall: the other way round."""

    precision: float
    recall: float


def precision_recall(
    samples: Features, reference: Others, *, neighbours: int = 3, rows: int = 1000
) -> PrecisionRecall:
    """A point lies among others if it is within the distance of one of them to its `neighbours`-th nearest.

    Reference: Kynkäänniemi et al. 2019. `rows` are compared at a time.
    """

    def share(points: Features, others: Others) -> float:
        radius = np.concatenate(
            [
                np.partition(_squared_distances(part, others), neighbours, axis=1)[:, neighbours]
                for part in _parts(others, rows)
            ]
        )
        return float(
            np.mean(
                np.concatenate(
                    [
                        (_squared_distances(part, others) <= radius[None, :]).any(axis=1)
                        for part in _parts(points, rows)
                    ]
                )
            )
        )

    return PrecisionRecall(precision=share(samples, reference), recall=share(reference, samples))


def _parts(x: Features, rows: int) -> list[np.ndarray]:
    return [x[first : first + rows] for first in range(0, len(x), rows)]


def _squared_distances(a: Features, b: Others) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T
    return square.clip(0)
