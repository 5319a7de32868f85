"""The Fréchet distance between two sets of feature vectors, each taken for Gaussian."""

import numpy as np
from jaxtyping import Float


def frechet_distance(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """‖μ_x − μ_y‖² + tr(Σ_x + Σ_y − 2 (Σ_x Σ_y)^½), in the features' squared unit, in float64.

    Reference: Dowson & Landau (1982). The trace of the root is the sum of the roots of the eigenvalues of
    Σ_x^½ Σ_y Σ_x^½, which is symmetric, so that singular covariances need no care.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = np.linalg.eigh(cov_x)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    trace_root = np.sqrt(np.linalg.eigvalsh(root @ cov_y @ root).clip(0)).sum()
    mean_term = np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2)
    return float(mean_term + np.trace(cov_x) + np.trace(cov_y) - 2 * trace_root)
