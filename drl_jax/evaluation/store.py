"""The samples of an evaluation, kept in files, so that it can be interrupted, extended and measured again.

A folder holds the samples of one identity: weights, levels, sampler, seed and so on. In it are

    samples.json                     the identity, to read
    samples_0000000.npz, …           shards of samples, named by their first sample
    inception_HASH_0000000.npz, …    their features, for each costly extractor
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from drl_jax import arrays, files
from drl_jax.core.model import Model
from drl_jax.errors import UserError
from drl_jax.evaluation.features import FeatureExtractor, Features
from drl_jax.evaluation.preview import Kind, Preview
from drl_jax.evaluation.reference import short_hash
from drl_jax.evaluation.scores import FeatureAccumulator, FeatureSet
from drl_jax.parallel.consensus import broadcast, broadcast_array
from drl_jax.parallel.preemption import Stop, stop_together
from drl_jax.parallel.sampler import ShardedSampler, count_not_finite

IDENTITY = "samples.json"
_SECONDS_BETWEEN_LINES = 10
_logger = logging.getLogger(__name__)


class SampleShard(NamedTuple):
    """Samples that follow each other.

    Attributes:
      first: the number of the first one.
      samples: uint8 images or float32 points.
    """

    first: int
    samples: np.ndarray

    @property
    def sha256(self) -> bytes:
        """The SHA-256 of the samples."""
        return hashlib.sha256(np.ascontiguousarray(self.samples).data).digest()


class SampleStore:
    """The files of one folder. Only process 0 uses it."""

    def __init__(self, folder: epath.Path):
        self.folder = folder

    def write_identity(self, identity: Mapping[str, Any]) -> None:
        """Writes what the folder's samples depend on, as JSON."""
        files.write(self.folder / IDENTITY, json.dumps(identity, indent=1) + "\n")

    def write(self, shard: SampleShard) -> None:
        """Writes a shard."""
        arrays.write(self._file("samples", shard), {"samples": shard.samples})

    def read(self, count: int) -> Iterator[SampleShard]:
        """Yields shards from sample 0 on, until they hold `count` samples or one is missing or damaged.

        The last shard may go beyond `count`.
        """
        shard = SampleShard(0, np.zeros(0))
        while shard.first < count and (named := arrays.read(self._file("samples", shard))) is not None:
            shard = SampleShard(shard.first, named["samples"])
            yield shard
            shard = SampleShard(shard.first + len(shard.samples), np.zeros(0))

    def count(self, most: int) -> int:
        """Counts the samples from sample 0 on that can be read; at most `most`."""
        return min(most, sum(len(shard.samples) for shard in self.read(most)))

    def write_features(self, shard: SampleShard, extractor: FeatureExtractor, features: Features) -> None:
        """Writes the features of a shard's samples."""
        named = {name: x for name, x in features._asdict().items() if x is not None}
        named["samples_sha256"] = np.frombuffer(shard.sha256, np.uint8)
        arrays.write(self._file(_features_of(extractor), shard), named)

    def read_features(self, shard: SampleShard, extractor: FeatureExtractor) -> Features | None:
        """Reads the features of a shard's samples. Returns None if they are missing, or of other samples."""
        named = arrays.read(self._file(_features_of(extractor), shard))
        if named is None or named["samples_sha256"].tobytes() != shard.sha256:
            return None
        return Features(named["vectors"], named.get("logits"))

    def _file(self, name: str, shard: SampleShard) -> epath.Path:
        return self.folder / f"{name}_{shard.first:07}.npz"


def draw_missing(
    store: SampleStore, sampler: ShardedSampler, model: Model, kind: Kind, count: int, *, save_every: int
) -> None:
    """Draws those of the first `count` samples that the store lacks. All processes must call this.

    Args:
      store: where samples are kept.
      sampler: draws sample i as a function of the store's identity and i.
      model: the trained model.
      kind: of the data.
      count: the number of samples.
      save_every: samples in a shard.

    Raises:
      UserError: samples are not finite.
      Stopped: one of several processes was asked to stop.
    """
    is_first = jax.process_index() == 0
    start = broadcast(store.count(count) if is_first else 0)
    if start:
        _logger.info("%d of %d samples exist already", start, count)
    progress = _Progress("sample", start, count)
    drawn, waiting = start, []
    for x, process in sampler.sample(model, count, start=start):
        if not_finite := count_not_finite(x):
            raise UserError(
                f"{not_finite} of the samples {drawn} … {drawn + len(x) - 1} are not finite: their chains "
                "diverged; a score of the other samples would be that of another model"
            )
        if is_first and process is not None and kind.save_process is not None:
            kind.save_process(process, store.folder / "samples_process.png")
        waiting.append(kind.to_examples(x))
        drawn += len(x)
        if sum(map(len, waiting)) >= save_every or drawn == count:
            samples = np.concatenate(waiting)
            if is_first:
                store.write(SampleShard(drawn - len(samples), samples))
            waiting.clear()
        progress.update(drawn)
    if is_first:
        preview = Preview(kind)
        for shard in store.read(min(count, kind.max_shown)):
            preview.add(shard.samples[: count - shard.first], None)
        preview.save(store.folder / "samples")


class StoredSamples(NamedTuple):
    """What is known of the samples in a store. Only process 0 knows it; elsewhere it is empty.

    Attributes:
      features: their features, by extractor.
      sha256: the SHA-256 of the SHA-256 of each sample, one after the other.
    """

    features: dict[str, FeatureSet]
    sha256: str


def read_samples(
    store: SampleStore, extractors: Sequence[FeatureExtractor], count: int, stop: Stop
) -> StoredSamples:
    """Reads the first `count` samples and their features. All processes must call this.

    Costly features that are not in the store are computed by all processes together, and stored.

    Args:
      store: where samples are kept.
      extractors: of the features.
      count: the number of samples.
      stop: for `stop_together`.

    Raises:
      UserError: the store was damaged after the samples were drawn.
      Stopped: one of several processes was asked to stop.
    """
    is_first = jax.process_index() == 0
    shards = store.read(count) if is_first else iter(())
    accumulators = {extractor.name: FeatureAccumulator() for extractor in extractors}
    progress = _Progress("features of sample", 0, count)
    sha256, done = hashlib.sha256(), 0
    with stop_together(stop) as check:
        while done < count:
            check()
            shard = next(shards, None)
            known = {} if shard is None else _known_features(store, shard, extractors)
            size, missing = broadcast(
                [0 if shard is None else len(shard.samples), [name for name, x in known.items() if x is None]]
            )
            if not size:
                raise UserError(
                    f"{store.folder} was damaged while it was in use: sample {done} cannot be read"
                )
            if missing:
                samples = broadcast_array(None if shard is None else shard.samples)
                for extractor in extractors:
                    if extractor.name in missing:
                        known[extractor.name] = features = extractor.extract(samples)
                        if shard is not None:
                            store.write_features(shard, extractor, features)
            if shard is not None:
                wanted = shard.samples[: count - done]
                sha256.update(_sample_digests(wanted))
                for extractor in extractors:
                    features = known.get(extractor.name) or extractor.extract(wanted)
                    accumulators[extractor.name].add(features.rows(0, len(wanted)))
            done = min(count, done + size)
            if missing:
                progress.update(done)
    features = {name: accumulator.result() for name, accumulator in accumulators.items()} if is_first else {}
    return StoredSamples(features, sha256.hexdigest())


def _known_features(
    store: SampleStore, shard: SampleShard, extractors: Sequence[FeatureExtractor]
) -> dict[str, Features | None]:
    """The stored features of a shard, by costly extractor; None where there are none."""
    return {e.name: store.read_features(shard, e) for e in extractors if e.is_costly}


def _features_of(extractor: FeatureExtractor) -> str:
    return f"{extractor.name}_{short_hash(extractor.about)}"


def _sample_digests(samples: np.ndarray) -> bytes:
    """The SHA-256 of each sample, one after the other."""
    return b"".join(hashlib.sha256(np.ascontiguousarray(sample).data).digest() for sample in samples)


class _Progress:
    """Logs how far a long loop is, every ten seconds and at its end."""

    def __init__(self, what: str, start: int, count: int):
        self._what, self._start, self._count = what, start, count
        self._began = self._logged = time.monotonic()

    def update(self, done: int) -> None:
        """Logs a line if it is time for one."""
        now = time.monotonic()
        if now - self._logged > _SECONDS_BETWEEN_LINES or done == self._count:
            self._logged, speed = now, (done - self._start) / max(now - self._began, 1e-9)
            left = (self._count - done) / speed
            _logger.info("%s %d/%d  %.3g per second  %.0f s left", self._what, done, self._count, speed, left)
