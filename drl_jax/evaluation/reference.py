"""The features of a data set, with which those of samples are compared; costly ones are cached on disk."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from drl_jax import arrays
from drl_jax.data.sources import Source, fingerprint, skipped
from drl_jax.evaluation.features import FeatureExtractor, Features
from drl_jax.evaluation.scores import FeatureAccumulator, FeatureSet
from drl_jax.metrics.frechet import Moments
from drl_jax.parallel.consensus import all_processes

_ROWS = 256  # examples that are read at a time; reading has a time limit
_VERSION = 3  # of the cache files
_logger = logging.getLogger(__name__)


class Reference(NamedTuple):
    """The features of a whole data set, in an order that is random and always the same.

    Attributes:
      data: the features, by extractor.
      sha256: of all examples in this order, after crop and resize.
      skipped: how many of them are damaged and were replaced.
    """

    data: dict[str, FeatureSet]
    sha256: str
    skipped: int

    def compared(self) -> dict[str, FeatureSet]:
        """Returns the features that samples are compared with, by extractor.

        For Inception these are all of the data, as in published figures. In pixel or point space they are
        one half of the data, so that the other half can give the score of a perfect model.
        """
        return {
            extractor: features if extractor == "inception" else features.halves[0]
            for extractor, features in self.data.items()
        }


def read_reference(
    source: Source,
    extractors: Sequence[FeatureExtractor],
    cache: epath.Path,
    data: Mapping[str, Any],
) -> Reference:
    """Computes the features of all examples of a source, or reads them from the cache.

    If all of them are in the cache, only the 16 examples of `sources.fingerprint` are read; else all examples
    are read once. All processes must call this. Process 0 writes the cache, and warns if it cannot.

    Args:
      source: the data set.
      extractors: of the features.
      cache: folder of the cache.
      data: what names the data set: name, split, crop and so on. With the fingerprint it is the cache's key.

    Raises:
      UserError: an example cannot be read.
    """
    costly = [extractor for extractor in extractors if extractor.is_costly]
    key = {**data, **fingerprint(source)} if costly else {}
    files = {e.name: cache / f"{e.name}_{short_hash([_VERSION, key, e.about])}.npz" for e in costly}
    known = {name: entry for name, file in files.items() if (entry := _read_cached(file)) is not None}
    # Extracting is the work of all processes together, so they must agree on what is missing.
    known = {name: known[name] for name in files if all_processes(name in known)}
    features = {name: entry.features for name, entry in known.items()}

    missing = [extractor for extractor in extractors if extractor.name not in known]
    if missing or not known:
        computed, sha256 = _read_all(source, missing)
        features |= computed
        damaged = skipped(source)
    else:
        entry = next(iter(known.values()))
        sha256, damaged = entry.sha256, entry.skipped
    # Data that changed outside of the 16 examples have another SHA-256.
    changed = [e for e in costly if e.name in known and known[e.name].sha256 != sha256]
    if not all_processes(not changed):
        features, sha256 = _read_all(source, extractors)
        missing, damaged = extractors, skipped(source)
    if jax.process_index() == 0:
        for extractor in missing:
            if extractor.is_costly:
                _write_cached(files[extractor.name], _Entry(features[extractor.name], sha256, damaged))
    return Reference({extractor.name: features[extractor.name] for extractor in extractors}, sha256, damaged)


def short_hash(parts: object) -> str:
    """Returns the first 12 hex digits of the SHA-256 of repr(parts)."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _read_all(source: Source, extractors: Sequence[FeatureExtractor]) -> tuple[dict[str, FeatureSet], str]:
    """Reads all examples once. Returns their features, by extractor, and their SHA-256."""
    accumulators = {extractor.name: FeatureAccumulator() for extractor in extractors}
    sha256 = hashlib.sha256()
    order = np.random.default_rng(0).permutation(len(source))
    for first in range(0, len(order), _ROWS):
        examples = source.take(order[first : first + _ROWS])
        sha256.update(f"{examples.dtype}{examples.shape[1:]}".encode())
        sha256.update(np.ascontiguousarray(examples).data)
        for extractor in extractors:
            accumulators[extractor.name].add(extractor.extract(examples))
    return {name: accumulator.result() for name, accumulator in accumulators.items()}, sha256.hexdigest()


class _Entry(NamedTuple):
    """What a cache file holds: features of a data set, the SHA-256 of its examples, how many are damaged."""

    features: FeatureSet
    sha256: str
    skipped: int


def _write_cached(file: epath.Path, entry: _Entry) -> None:
    moments, (vectors, logits) = entry.features.moments, entry.features.features
    named = {
        "examples_sha256": np.frombuffer(bytes.fromhex(entry.sha256), np.uint8),
        "skipped": np.array(entry.skipped),
        "size": np.array(moments.size),
        "mean": moments.mean,
        "covariance": moments.covariance,
        "vectors": vectors,
    }
    try:
        arrays.write(file, named | ({} if logits is None else {"logits": logits}))
    except OSError as error:
        _logger.warning(
            "%s cannot be written (%s): the features of the data will be computed again next time",
            file,
            error.strerror or error,
        )


def _read_cached(file: epath.Path) -> _Entry | None:
    named = arrays.read(file)
    if named is None:
        return None
    moments = Moments(int(named["size"]), named["mean"], named["covariance"])
    features = FeatureSet(moments, Features(named["vectors"], named.get("logits")))
    return _Entry(features, named["examples_sha256"].tobytes().hex(), int(named["skipped"]))
