"""Conversion between bytes and floats in [-1, 1]."""

import numpy as np
from jaxtyping import Float32, UInt8


def to_unit(x: np.ndarray) -> Float32[np.ndarray, "..."]:
    """Bytes to float32 in [-1, 1] by x / 127.5 - 1. Floats (points) keep their values."""
    if x.dtype != np.uint8:
        return x.astype(np.float32, copy=False)
    return x.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(x: np.ndarray) -> UInt8[np.ndarray, "..."]:
    """Samples to bytes: clipped to [-1, 1], then truncated as in the published evaluation.

    NaN becomes 0. Truncation can turn a rounding error into a whole step: `to_uint8(to_unit(x))` may be x -
    1.
    """
    return np.nan_to_num((np.clip(x, -1, 1) + 1) * 127.5).astype(np.uint8)
