"""The Inception score, with the conventions of torch-fidelity."""

from itertools import pairwise

import numpy as np
from jaxtyping import Float

from drl_jax.metrics import MeanStd

_SEED = 2020  # of the random order; torch-fidelity's


def inception_score(logits: Float[np.ndarray, "n classes"], *, splits: int = 10) -> MeanStd:
    """Computes exp E KL(p(y | x) ‖ p(y)) of each split.

    Args:
      logits: of the classes, one row per sample.
      splits: number of equal parts, in a random but fixed order. There must be as many samples.

    Returns:
      Mean and standard deviation over the splits; between 1 and the number of classes.

    Source: Salimans et al. (2016).
    """
    logits = logits[np.random.RandomState(_SEED).permutation(len(logits))].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    edges = [i * len(logits) // splits for i in range(splits + 1)]

    def score(log_p: np.ndarray) -> float:
        p = np.exp(log_p)
        divergence = (p * (log_p - np.log(p.mean(axis=0, keepdims=True)))).sum(axis=1)
        return float(np.exp(divergence.mean()))

    scores = [score(log_p[a:b]) for a, b in pairwise(edges)]
    return MeanStd(float(np.mean(scores)), float(np.std(scores)))
