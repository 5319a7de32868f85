"""Files of named arrays that tell whether they are what was written."""

import hashlib
import io
from collections.abc import Mapping

import numpy as np
from etils import epath

from drl_jax import files

_DIGEST = "sha256"  # of the other arrays; NumPy's files have check sums, but for what a damaged header hides


def write(path: epath.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a .npz, whole or not at all."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **{**arrays, _DIGEST: _digest(arrays)})
    files.write(path, content.getvalue())


def read(path: epath.Path) -> dict[str, np.ndarray] | None:
    """What `write` wrote; None if it is not there, or damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        digest = arrays.pop(_DIGEST)
        return arrays if np.array_equal(digest, _digest(arrays)) else None
    except Exception:  # whatever a damaged file makes the readers of zips and arrays stumble over
        return None


def _digest(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return np.frombuffer(digest.digest(), np.uint8)
