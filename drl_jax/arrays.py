"""Files of named arrays (.npz): those of the program, which are verified when they are read, and results."""

import hashlib
import io
from collections.abc import Mapping

import numpy as np
from etils import epath

from drl_jax import files

# The name of the digest among the arrays. NumPy's zip files have checksums of their bytes only, and a damaged
# header can hide an array.
_DIGEST = "sha256"


def save(path: epath.Path, **named: np.ndarray) -> None:
    """Writes results for other programs, as `numpy.savez` does, as a whole or not at all.

    Raises:
      OSError: it could not be written.
    """
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **named)
    files.write(path, content.getvalue())


def write(path: epath.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays, as a whole or not at all. Raises OSError if that failed."""
    save(path, **{**arrays, _DIGEST: _digest(arrays)})


def read(path: epath.Path) -> dict[str, np.ndarray] | None:
    """Reads what `write` wrote. Returns None if there is no such file, or it is damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        digest = arrays.pop(_DIGEST)
        return arrays if np.array_equal(digest, _digest(arrays)) else None
    except Exception:  # a damaged file can raise many types of errors in the readers of zips and arrays
        return None


def _digest(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return np.frombuffer(digest.digest(), np.uint8)
