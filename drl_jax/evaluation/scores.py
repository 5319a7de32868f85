"""The metrics that a config can name: from the features of samples and of data to scores."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from drl_jax.core.model import Model
from drl_jax.data.densities import Density
from drl_jax.errors import UserError
from drl_jax.evaluation.features import Features, concatenate
from drl_jax.metrics import density_grid
from drl_jax.metrics.density_grid import GridDensities
from drl_jax.metrics.frechet import MomentAccumulator, Moments, frechet_distance
from drl_jax.metrics.inception_score import inception_score
from drl_jax.metrics.kid import kid
from drl_jax.metrics.precision_recall import precision_recall

MAX_KEPT = 50_000  # feature vectors that a set keeps, so that its memory is bounded
_KID_SUBSET = 1000  # vectors in a subset of KID, if there are as many

Scores = dict[str, float]


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """The features of a set of examples.

    Attributes:
      moments: of all examples.
      features: of the first `MAX_KEPT` examples.
    """

    moments: Moments
    features: Features

    @property
    def size(self) -> int:
        """Number of examples."""
        return self.moments.size

    @cached_property
    def halves(self) -> "tuple[FeatureSet, FeatureSet]":
        """The first and the second half of the kept features, as two sets."""
        half = len(self.features.vectors) // 2
        first, second = (accumulate([self.features.rows(start, half)]) for start in (0, half))
        return first, second


class FeatureAccumulator:
    """Builds a feature set from parts. The sizes of the parts do not change a bit of it."""

    def __init__(self) -> None:
        self._moments, self._kept, self._num_kept = MomentAccumulator(), list[Features](), 0

    def add(self, part: Features) -> None:
        """Adds the features of the next examples."""
        self._moments.add(part.vectors)
        if self._num_kept < MAX_KEPT:
            self._kept.append(part.rows(0, MAX_KEPT - self._num_kept))
            self._num_kept += len(self._kept[-1].vectors)

    def result(self) -> FeatureSet:
        """Returns the set of all examples. Raises ValueError if there are fewer than two."""
        return FeatureSet(self._moments.result(), concatenate(self._kept))


def accumulate(parts: Iterable[Features]) -> FeatureSet:
    """Builds a feature set from parts. Raises ValueError if there are fewer than two examples."""
    accumulator = FeatureAccumulator()
    for part in parts:
        accumulator.add(part)
    return accumulator.result()


class Metric(NamedTuple):
    """A metric.

    Attributes:
      compute: (name of the metric, samples, reference) -> one or more scores by name.
      min_samples: how many examples it needs, of samples and of reference.
      lower_is_better: whether a lower score is a better one.
      protocol: conventions that the score depends on.
    """

    compute: Callable[[str, FeatureSet, FeatureSet], Scores]
    min_samples: int
    lower_is_better: bool
    protocol: str


def _frechet(name: str, samples: FeatureSet, reference: FeatureSet) -> Scores:
    return {name: frechet_distance(samples.moments, reference.moments)}


def _fid(name: str, samples: FeatureSet, reference: FeatureSet) -> Scores:
    return _frechet(_fid_name(name, samples.size), samples, reference)


def _fid_name(name: str, num_samples: int) -> str:
    # The expectation of the FID falls with the number of samples, so its name has that number.
    return f"{name}_{num_samples}"


def _kid(name: str, samples: FeatureSet, reference: FeatureSet) -> Scores:
    x, y = samples.features.vectors, reference.features.vectors
    size = min(len(x), len(y))
    score = kid(x, y, subset_size=min(_KID_SUBSET, size))
    # If a subset is the whole of one side, the standard deviation does not measure the variation of subsets.
    return {name: score.mean} | ({f"{name}_std": score.std} if size > _KID_SUBSET else {})


def _precision_recall(name: str, samples: FeatureSet, reference: FeatureSet) -> Scores:
    score = precision_recall(samples.features.vectors, reference.features.vectors)
    suffix = name.removeprefix("precision_recall")
    return {f"precision{suffix}": score.precision, f"recall{suffix}": score.recall}


def _inception_score(name: str, samples: FeatureSet, reference: FeatureSet) -> Scores:
    del reference
    assert samples.features.logits is not None
    score = inception_score(samples.features.logits)
    return {name: score.mean, f"{name}_std": score.std}


_FRECHET = "of all examples, unbiased covariances"
_OF_ANY_FEATURES = {
    "kid": Metric(
        _kid,
        2,
        True,
        f"cubic kernel, unbiased, 100 subsets of {_KID_SUBSET} (all, if fewer) of the first {MAX_KEPT}",
    ),
    "precision_recall": Metric(
        _precision_recall, 5, False, f"3 neighbours, {MAX_KEPT} examples of each at most"
    ),
}
METRICS: Mapping[str, Metric] = {
    "fid": Metric(_fid, 2, True, _FRECHET),
    "inception_score": Metric(_inception_score, 10, False, f"10 parts, of {MAX_KEPT} samples at most"),
    **_OF_ANY_FEATURES,
    **{
        f"{name}_{extractor}": metric
        for extractor in ("pixels", "points")
        for name, metric in {"frechet": Metric(_frechet, 2, True, _FRECHET), **_OF_ANY_FEATURES}.items()
    },
}
TOTAL_VARIATION = "total_variation"  # of the model's density, for points; it needs no samples


def extractor_of(metric: str) -> str:
    """Returns the name of the extractor of a metric: the suffix pixels or points, or else inception."""
    suffix = metric.rsplit("_", 1)[-1]
    return suffix if suffix in ("pixels", "points") else "inception"


def extractors_of(metrics: Iterable[str]) -> list[str]:
    """Returns the names of the extractors that metrics need, each once."""
    return list(dict.fromkeys(extractor_of(name) for name in metrics if name != TOTAL_VARIATION))


def parse(metrics: str, *, is_points: bool) -> list[str]:
    """Splits the value of config.evaluation.metrics into metrics.

    Args:
      metrics: names separated by commas, in upper or lower case; or "none".
      is_points: whether the data are points, not images.

    Raises:
      UserError: a name is not a metric of such data.
    """
    words = re.split(r"[\s,;+]+", re.sub(r"[()\[\]\"']", " ", metrics.lower()).strip())
    names = list(dict.fromkeys(word for word in words if word not in ("", "none", "null")))
    possible = [name for name in METRICS if (extractor_of(name) == "points") == is_points]
    possible += [TOTAL_VARIATION] * is_points
    for name in names:
        if name not in possible:
            kind = "points" if is_points else "images"
            raise UserError(
                f"config.evaluation.metrics={metrics!r}: {name!r} is not a metric of {kind}; "
                f"{_meant(name, possible)}possible are none, {', '.join(possible)}"
            )
    return names


def _meant(name: str, possible: Sequence[str]) -> str:
    """What may be meant by a name that is no metric, as in fid50k, is or precision."""
    word = name.replace("-", "_")
    bare = re.sub(r"_?\d+k?(_full)?$", "", word)  # a number of samples
    like = [
        each
        for each in possible
        if bare in (each, "".join(part[0] for part in each.split("_"))) or bare in each.split("_")
    ] or difflib.get_close_matches(word, possible, n=1)
    if not like:
        return ""
    number = "; config.evaluation.num_samples is the number of samples" if bare != word else ""
    return f"did you mean {like[0]}?{number}; "


def compute_scores(
    metrics: Iterable[str], samples: Mapping[str, FeatureSet], reference: Mapping[str, FeatureSet]
) -> Scores:
    """Computes the scores of metrics; `TOTAL_VARIATION` is left out.

    Args:
      metrics: names of metrics.
      samples: the samples' features, by extractor.
      reference: the data's features, by extractor.

    Returns:
      One or more scores per metric, by name.
    """
    scores: Scores = {}
    for name in metrics:
        if name != TOTAL_VARIATION:
            extractor = extractor_of(name)
            scores |= METRICS[name].compute(name, samples[extractor], reference[extractor])
    return scores


def data_vs_data(metrics: Iterable[str], data: Mapping[str, FeatureSet]) -> Scores:
    """Computes the scores of one random half of the data against the other: those of a perfect model.

    Args:
      metrics: names of metrics.
      data: the data's features, by extractor.
    """
    halves = {extractor: features.halves for extractor, features in data.items()}
    return compute_scores(
        metrics,
        {extractor: second for extractor, (_, second) in halves.items()},
        {extractor: first for extractor, (first, _) in halves.items()},
    )


def level_densities(model: Model, density: Density) -> list[GridDensities]:
    """Computes the true and the learned density of every level on a grid, level 0 first."""
    f = model.bind()
    num_levels = model.levels.num_levels
    return [density_grid.level_densities(f, model.levels, density, t) for t in range(num_levels)]


def total_variation_scores(densities: Iterable[GridDensities]) -> Scores:
    """Computes the total variation of every level."""
    return {f"{TOTAL_VARIATION}/level_{t}": grid.total_variation for t, grid in enumerate(densities)}


def protocol_of(metric: str) -> str:
    """Returns the conventions of a metric."""
    if metric == TOTAL_VARIATION:
        return f"half the L1 distance of densities on a grid of {density_grid.SIDE} x {density_grid.SIDE}"
    return METRICS[metric].protocol


def is_frechet(metric: str) -> bool:
    """Returns whether a metric is a Fréchet distance, which needs a covariance of full rank."""
    return metric == "fid" or metric.startswith("frechet")


def min_samples(metrics: Iterable[str]) -> int:
    """Returns how many examples metrics need, of samples and of reference."""
    return max((METRICS[name].min_samples for name in metrics if name != TOTAL_VARIATION), default=1)


def lower_is_better(metrics: Iterable[str], num_samples: int, num_levels: int) -> list[str]:
    """Returns the names of the scores of which a lower value is better.

    Args:
      metrics: names of metrics.
      num_samples: number of samples, which is in the name of the FID.
      num_levels: T; the total variation has a score per level.
    """
    scores = []
    for name in metrics:
        if name == TOTAL_VARIATION:
            scores += [f"{name}/level_{t}" for t in range(num_levels)]
        elif METRICS[name].lower_is_better:
            scores.append(_fid_name(name, num_samples) if name == "fid" else name)
    return scores
