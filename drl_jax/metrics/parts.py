"""The features of samples, kept in files as they are drawn, so that an evaluation can be interrupted."""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import UInt8

from drl_jax import storage
from drl_jax.metrics.spaces import Features


class Part(NamedTuple):
    """Of some consecutive samples: their features in each space, and the SHA-256 of each sample."""

    features: dict[str, Features]
    digests: UInt8[np.ndarray, "n 32"]


class Parts:
    """A folder of parts, each a file that is named by its first sample."""

    def __init__(self, folder: epath.Path):
        self._folder = folder

    def write(self, first: int, part: Part) -> None:
        arrays = {"digests": part.digests}
        for space, features in part.features.items():
            arrays |= {f"{space}.{name}": x for name, x in features._asdict().items() if x is not None}
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        storage.write(self._file(first), content.getvalue())

    def read(self, count: int) -> Iterator[Part]:
        """The parts of samples 0, 1, … up to `count`, or to the first that is not there, or damaged (the
        files are zips, with a check sum for each array)."""
        first = 0
        while first < count:
            try:
                with np.load(io.BytesIO(self._file(first).read_bytes()), allow_pickle=False) as file:
                    arrays = {name: file[name][: count - first] for name in file.files}
                digests = arrays.pop("digests")
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                return
            features = {
                space: Features(arrays[f"{space}.vectors"], arrays.get(f"{space}.logits"))
                for space in (name.removesuffix(".vectors") for name in arrays if name.endswith(".vectors"))
            }
            yield Part(features, digests)
            first += len(digests)

    def _file(self, first: int) -> epath.Path:
        return self._folder / f"part_{first:07}.npz"


def digests(samples: np.ndarray) -> UInt8[np.ndarray, "n 32"]:
    """SHA-256 of each sample's bytes."""
    each = (hashlib.sha256(np.ascontiguousarray(sample).data).digest() for sample in samples)
    return np.frombuffer(b"".join(each), np.uint8).reshape(-1, 32)
