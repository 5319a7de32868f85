"""The features of samples, kept in files as they are drawn, so that an evaluation can be interrupted."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import UInt8

from drl_jax import arrays
from drl_jax.evaluation.features import Features


class Part(NamedTuple):
    """Of some consecutive samples: their features in each space, and the SHA-256 of each sample."""

    features: dict[str, Features]
    digests: UInt8[np.ndarray, "n 32"]


class Parts:
    """A folder of parts, each a file that is named by its first sample."""

    def __init__(self, folder: epath.Path):
        self._folder = folder

    def write(self, first: int, part: Part) -> None:
        named = {"digests": part.digests}
        for space, features in part.features.items():
            named |= {f"{space}.{name}": x for name, x in features._asdict().items() if x is not None}
        arrays.write(self._file(first), named)

    def read(self, count: int) -> Iterator[Part]:
        """The parts of samples 0, 1, … up to `count`, or to the first that is not there, or damaged."""
        first = 0
        while first < count and (named := arrays.read(self._file(first))) is not None:
            named = {name: array[: count - first] for name, array in named.items()}
            spaces = [name.removesuffix(".vectors") for name in named if name.endswith(".vectors")]
            features = {
                space: Features(named[f"{space}.vectors"], named.get(f"{space}.logits")) for space in spaces
            }
            yield Part(features, named["digests"])
            first += len(named["digests"])

    def _file(self, first: int) -> epath.Path:
        return self._folder / f"part_{first:07}.npz"


def join(parts: Sequence[Part]) -> Part:
    """One part of several that follow each other."""
    features = {}
    for space in parts[0].features:
        vectors, logits = zip(*(part.features[space] for part in parts), strict=True)
        has_logits = logits[0] is not None
        features[space] = Features(np.concatenate(vectors), np.concatenate(logits) if has_logits else None)
    return Part(features, np.concatenate([part.digests for part in parts]))


def digests(samples: np.ndarray) -> UInt8[np.ndarray, "n 32"]:
    """SHA-256 of each sample's bytes."""
    each = (hashlib.sha256(np.ascontiguousarray(sample).data).digest() for sample in samples)
    return np.frombuffer(b"".join(each), np.uint8).reshape(-1, 32)
