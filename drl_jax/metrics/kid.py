"""The kernel Inception distance (KID), with the conventions of torch-fidelity."""

import numpy as np
from jaxtyping import Float

from drl_jax.metrics import MeanStd

_SEED = 2020  # of the subsets; torch-fidelity's


def kid(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], *, subsets: int = 100, subset_size: int = 1000
) -> MeanStd:
    """Computes the unbiased squared maximum mean discrepancy under the kernel (x·y / d + 1)³.

    Its expectation is 0 if x and y have the same distribution, so a value can be negative.

    Args:
      x, y: feature vectors.
      subsets: number of random subsets.
      subset_size: vectors of x, and of y, in a subset.

    Returns:
      Mean and standard deviation over the subsets.

    Raises:
      ValueError: x or y has fewer vectors than a subset.

    Source: Bińkowski et al. (2018).
    """
    if min(len(x), len(y)) < subset_size:
        raise ValueError(f"{min(len(x), len(y))} features are fewer than the {subset_size} of a subset")
    rng = np.random.RandomState(_SEED)
    values = [
        _squared_discrepancy(
            x[rng.choice(len(x), subset_size, replace=False)],
            y[rng.choice(len(y), subset_size, replace=False)],
        )
        for _ in range(subsets)
    ]
    return MeanStd(float(np.mean(values)), float(np.std(values)))


def _squared_discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    x, y, m = x.astype(np.float64), y.astype(np.float64), len(x)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        k = a @ b.T / a.shape[1] + 1
        return k * k * k  # NumPy's `k**3` takes longer than the product of the matrices

    # Without the diagonals, which would bias the two means.
    within = sum(k.sum() - np.trace(k) for k in (kernel(x, x), kernel(y, y))) / (m * (m - 1))
    return float(within - 2 * kernel(x, y).mean())
