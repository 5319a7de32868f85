"""What all commands that score share: metrics, extractors, reference and protocol of a config."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from drl_jax.config.schema import Config
from drl_jax.data.sources import Source, data_directory
from drl_jax.errors import UserError
from drl_jax.evaluation import features, reference, scores
from drl_jax.evaluation.evaluator import Evaluator
from drl_jax.evaluation.features import FeatureExtractor
from drl_jax.evaluation.preview import Kind, make_kind
from drl_jax.evaluation.reference import Reference
from drl_jax.evaluation.scores import Scores
from drl_jax.parallel.mesh import Placement
from drl_jax.parallel.sampler import ShardedSampler

_logger = logging.getLogger(__name__)


def metric_names(config: Config, *, needs_samples: bool = True) -> list[str]:
    """Returns the names of the metrics in config.evaluation.metrics.

    Args:
      config: the config.
      needs_samples: whether samples of a model are measured, of which there must be enough.

    Raises:
      UserError: a metric is unknown, the weights of Inception are missing, or there are too few samples.
    """
    evaluation = config.evaluation
    metrics = scores.parse(evaluation.metrics, is_points=config.data.name == "points")
    if "inception" in scores.extractors_of(metrics) and evaluation.inception_weights is None:
        raise UserError(
            f"config.evaluation.metrics={evaluation.metrics!r} needs Inception: set "
            "config.evaluation.inception_weights to the path of torch-fidelity's file, or to "
            f"{features.FETCH}, which downloads it"
        )
    least = scores.min_samples(metrics)
    if needs_samples and evaluation.num_samples < least:
        raise UserError(
            f"config.evaluation.num_samples={evaluation.num_samples} is too small for "
            f"config.evaluation.metrics={evaluation.metrics!r}: it must be at least {least}"
        )
    return metrics


def check_examples(config: Config, metrics: Sequence[str], source: Source) -> None:
    """Checks that there are enough examples, before anything is trained or drawn.

    Args:
      config: the config.
      metrics: names of metrics.
      source: the data.

    Raises:
      UserError: there are too few.
    """
    least = 2 * scores.min_samples(metrics)  # one half is compared with the other
    if metrics and len(source) < least:
        raise UserError(
            f"config.evaluation.metrics={config.evaluation.metrics!r} needs at least {least} examples, and "
            f"config.data has {len(source)}; give more data, or take config.evaluation.metrics=none"
        )


def data_kind(config: Config) -> Kind:
    """Makes the kind of the config's data: images, or points of a density."""
    return make_kind(config.data.density if config.data.name == "points" else None)


def make_extractors(
    config: Config, metrics: Sequence[str], shape: tuple[int, ...], placement: Placement
) -> list[FeatureExtractor]:
    """Makes the extractors that metrics need.

    Args:
      config: the config.
      metrics: names of metrics.
      shape: of one example.
      placement: where arrays live.

    Raises:
      UserError: images are too large for metrics of pixels, or the weights of Inception cannot be read.
    """
    extractors = []
    for name in scores.extractors_of(metrics):
        if name == "inception":
            path = config.evaluation.inception_weights
            if path == features.FETCH:
                path = features.fetch_weights(data_directory(config.data.data_dir) / "downloads")
            assert path is not None  # `metric_names` requires it
            sha256 = config.evaluation.inception_sha256
            extractors.append(features.inception_extractor(path, sha256, placement))
        else:
            extractors.append(features.data_extractor(shape))
    return extractors


def make_evaluator(
    config: Config,
    metrics: Sequence[str],
    source: Source,
    shape: tuple[int, ...],
    placement: Placement,
    sampler: ShardedSampler,
    folder: epath.Path | None,
) -> Evaluator:
    """Makes the evaluator of `config.evaluation`. The data are read when they are needed first.

    Args:
      config: the config.
      metrics: names of metrics.
      source: the data.
      shape: of one example.
      placement: where arrays live.
      sampler: draws the samples.
      folder: of the preview images; None in the processes that write none.

    Raises:
      UserError: as `make_extractors`.
    """
    extractors = make_extractors(config, metrics, shape, placement)
    return Evaluator(
        data_kind(config),
        sampler,
        num_samples=config.evaluation.num_samples,
        metrics=metrics,
        extractors=extractors,
        read_reference=lambda: read_reference(config, source, metrics, extractors),
        folder=folder,
    )


def read_reference(
    config: Config, source: Source, metrics: Sequence[str], extractors: Sequence[FeatureExtractor]
) -> Reference:
    """Computes the features of the data, or reads them from the cache beside the prepared data sets.

    Args:
      config: the config.
      source: the data.
      metrics: names of metrics.
      extractors: that the metrics need.

    Raises:
      UserError: an example cannot be read.
    """
    return reference.read_reference(
        source,
        extractors,
        data_directory(config.data.data_dir) / "features",
        _data_key(config),
    )


def protocol_of_scores(
    config: Config,
    source: Source,
    reference: Reference,
    metrics: Sequence[str],
    extractors: Sequence[FeatureExtractor],
) -> dict[str, dict[str, Any]]:
    """Describes what scores depend on, beside the samples: the data, the extractors and the metrics.

    Args:
      config: in which `config.data` are the data that samples are compared with.
      source: these data.
      reference: their features.
      metrics: names of metrics.
      extractors: that the metrics need.
    """
    return {
        "reference": _about_data(config, source, reference),
        **{extractor.name: extractor.about for extractor in extractors},
        "metrics": {name: scores.protocol_of(name) for name in metrics},
    }


def score_examples(
    metrics: Sequence[str], extractors: Sequence[FeatureExtractor], x: np.ndarray, reference: Reference
) -> Scores:
    """Computes the scores of examples.

    Args:
      metrics: names of metrics.
      extractors: that the metrics need.
      x: the examples.
      reference: the data that they are compared with.
    """
    features = {each.name: scores.accumulate([each.extract(x)]) for each in extractors}
    return scores.compute_scores(metrics, features, reference.compared())


def warn_of_singular_covariances(metrics: Sequence[str], count: int, reference: Reference) -> None:
    """Warns of Fréchet distances of so few samples that their covariance is singular.

    Args:
      metrics: names of metrics.
      count: how many samples are scored.
      reference: the data that they are compared with.
    """
    compared = reference.compared()
    for name in filter(scores.is_frechet, metrics):
        dimensions = len(compared[scores.extractor_of(name)].moments.mean)
        if count <= dimensions:
            _logger.warning(
                "%s has %d dimensions, and %d samples have a singular covariance in them: their distance is "
                "finite, and far above that of more samples; take more than %d to compare it with others",
                name,
                dimensions,
                count,
                dimensions,
            )


def protocol_lines(protocol: Mapping[str, Mapping[str, Any]], code: Mapping[str, Any]) -> list[str]:
    """Formats a protocol for printing, with the version of the program.

    Args:
      protocol: facts by topic.
      code: what `provenance.versions` returns.
    """
    lines = [
        f"{topic}: " + ", ".join(f"{name} {value}" for name, value in facts.items())
        for topic, facts in protocol.items()
        if facts
    ]
    return [*lines, f"code: commit {code['commit']}, drl_jax {code['versions']['drl_jax']}"]


def _about_data(config: Config, source: Source, reference: Reference) -> dict[str, Any]:
    """Describes the data that samples are compared with, for a protocol."""
    data = _data_key(config)
    if "crop" in data:
        data["crop"] = data["crop"] or "as the set's own"
    if config.data.name == "folder":
        data["path"] = config.data.path
    compared = {f"examples_in_{name}": features.size for name, features in reference.compared().items()}
    damaged = {"damaged_and_replaced": reference.skipped} if config.data.skip_damaged else {}
    return {**data, "count": len(source), "sha256": reference.sha256, **damaged, **compared}


def _data_key(config: Config) -> dict[str, Any]:
    """What names the examples of `config.data`, but for the place where they are."""
    data = config.data
    if data.name == "points":
        return {"name": data.name, "density": data.density}
    return {
        "name": data.name,
        "split": data.split,
        "image_size": data.image_size,
        "channels": data.channels,
        "crop": data.crop,
        "background": data.background,
        **({"skip_damaged": True} if data.skip_damaged else {}),
    }
