"""The scores that a config asks for by name: of a sample against a reference, in some space."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from drl_jax.errors import UserError
from drl_jax.evaluation.features import Features
from drl_jax.metrics import density_grid, sample_scores
from drl_jax.metrics.frechet import Accumulator, Moments, frechet_distance

KEPT = 50_000  # feature vectors of a reference, at most; its moments are of all
_SUBSET = 1000  # of the kernel distance, if there are as many


@dataclass(frozen=True, eq=False)
class Population:
    """Features of examples, the first of which are kept, and the moments of all."""

    moments: Moments
    features: Features

    @property
    def size(self) -> int:
        return self.moments.size

    @cached_property
    def halves(self) -> "tuple[Population, Population]":
        """Of those that are kept, as populations of their own."""
        half = len(self.features.vectors) // 2
        one, other = (gather([_rows(self.features, first, half)]) for first in (0, half))
        return one, other


class Gathering:
    """A population whose features come in parts."""

    def __init__(self) -> None:
        self._moments, self._kept = Accumulator(), 0
        self._vectors, self._logits = [], []

    def add(self, part: Features) -> None:
        self._moments.add(part.vectors)
        if self._kept < KEPT:
            first = _rows(part, 0, KEPT - self._kept)
            self._kept += len(first.vectors)
            self._vectors.append(first.vectors)
            if first.logits is not None:
                self._logits.append(first.logits)

    def population(self) -> Population:
        """Of all that was added. Raises ValueError if that is fewer than two examples."""
        logits = np.concatenate(self._logits) if self._logits else None
        return Population(self._moments.moments(), Features(np.concatenate(self._vectors), logits))


def gather(parts: Iterable[Features]) -> Population:
    """The population of all parts. Raises ValueError if it has fewer than two examples."""
    gathering = Gathering()
    for part in parts:
        gathering.add(part)
    return gathering.population()


def _rows(features: Features, first: int, count: int) -> Features:
    rows, logits = slice(first, first + count), features.logits
    return Features(features.vectors[rows], None if logits is None else logits[rows])


class Metric(NamedTuple):
    """`values(name, samples, reference)` gives one or more scores, named after the metric, of at least
    `fewest` examples. `lowest`: the lower, the better. `protocol`: conventions that the number depends on."""

    values: Callable[[str, Population, Population], dict[str, float]]
    fewest: int
    lowest: bool
    protocol: str


def _frechet(name: str, samples: Population, reference: Population) -> dict[str, float]:
    return {name: frechet_distance(samples.moments, reference.moments)}


def _fid(name: str, samples: Population, reference: Population) -> dict[str, float]:
    return _frechet(_fid_name(name, samples.size), samples, reference)


def _fid_name(name: str, count: int) -> str:
    # Its expectation falls with the number of samples: one without the other says nothing.
    return f"{name}_{count}"


def _kernel(name: str, samples: Population, reference: Population) -> dict[str, float]:
    x, y = samples.features.vectors, reference.features.vectors
    fewer = min(len(x), len(y))
    score = sample_scores.kernel_distance(x, y, subset_size=min(_SUBSET, fewer))
    # Subsets that are the whole of one side do not tell how much a subset varies.
    return {name: score.mean} | ({f"{name}_std": score.std} if fewer > _SUBSET else {})


def _precision_recall(name: str, samples: Population, reference: Population) -> dict[str, float]:
    shares = sample_scores.precision_recall(samples.features.vectors, reference.features.vectors)
    suffix = name.removeprefix("precision_recall")
    return {f"precision{suffix}": shares.precision, f"recall{suffix}": shares.recall}


def _inception_score(name: str, samples: Population, reference: Population) -> dict[str, float]:
    del reference
    assert samples.features.logits is not None
    score = sample_scores.inception_score(samples.features.logits)
    return {name: score.mean, f"{name}_std": score.std}


_FRECHET = "of all examples, unbiased covariances"
_KINDS = {
    "kid": Metric(
        _kernel,
        2,
        True,
        f"cubic kernel, unbiased, 100 subsets of {_SUBSET} (all, if fewer) of the first {KEPT}",
    ),
    "precision_recall": Metric(_precision_recall, 5, False, f"3 neighbours, {KEPT} examples of each at most"),
}
METRICS: Mapping[str, Metric] = {
    "fid": Metric(_fid, 2, True, _FRECHET),
    "inception_score": Metric(_inception_score, 10, False, f"10 parts, of {KEPT} samples at most"),
    **_KINDS,
    **{
        f"{name}_{space}": metric
        for space in ("pixels", "points")
        for name, metric in {"frechet": Metric(_frechet, 2, True, _FRECHET), **_KINDS}.items()
    },
}
TOTAL_VARIATION = "total_variation"  # of the density itself, for points: needs no samples


def space_of(name: str) -> str:
    """In which space a metric is measured: the one that its name ends in, or else that of Inception."""
    space = name.rsplit("_", 1)[-1]
    return space if space in ("pixels", "points") else "inception"


def parse(metrics: str, *, points: bool) -> list[str]:
    """The metrics that a config names, separated by commas. Raises UserError for one that there is not."""
    names = [] if metrics == "none" else [name.strip() for name in metrics.split(",")]
    possible = [name for name in METRICS if (space_of(name) == "points") == points]
    possible += [TOTAL_VARIATION] * points
    for name in names:
        if name not in possible:
            what = "points" if points else "images"
            raise UserError(
                f"config.evaluation.metrics={metrics!r}: {name!r} is no metric of {what}; there are "
                f"none, {', '.join(possible)}"
            )
    return names


def measure(
    names: Iterable[str], samples: Mapping[str, Population], reference: Mapping[str, Population]
) -> dict[str, float]:
    """The scores of the metrics `names`, from the populations in each of their spaces."""
    scores = {}
    for name in names:
        if name != TOTAL_VARIATION:
            space = space_of(name)
            scores |= METRICS[name].values(name, samples[space], reference[space])
    return scores


def protocol_of(name: str) -> str:
    """The conventions of a metric."""
    if name == TOTAL_VARIATION:
        return f"half the L1 distance of densities on a grid of {density_grid.SIDE} x {density_grid.SIDE}"
    return METRICS[name].protocol


def is_frechet(name: str) -> bool:
    """Whether a metric is a Fréchet distance, which takes a covariance."""
    return name == "fid" or name.startswith("frechet")


def spaces_of(names: Iterable[str]) -> list[str]:
    """The spaces that metrics need, each once."""
    return list(dict.fromkeys(space_of(name) for name in names if name != TOTAL_VARIATION))


def fewest(names: Iterable[str]) -> int:
    """How many examples the metrics `names` need."""
    return max((METRICS[name].fewest for name in names if name != TOTAL_VARIATION), default=1)


def floor(names: Iterable[str], reference: Mapping[str, Population]) -> dict[str, float]:
    """The scores of one random half of the data against the other: what a perfect model would have."""
    halves = {space: population.halves for space, population in reference.items()}
    return measure(
        names,
        {space: other for space, (_, other) in halves.items()},
        {space: half for space, (half, _) in halves.items()},
    )


def lowest(names: Iterable[str], num_samples: int, num_levels: int) -> list[str]:
    """The scores of the metrics `names` of which a lower one is better."""
    scores = []
    for name in names:
        if name == TOTAL_VARIATION:
            scores += [f"{name}/level_{t}" for t in range(num_levels)]
        elif METRICS[name].lowest:
            sample_scores.append(_fid_name(name, num_samples) if name == "fid" else name)
    return scores
