"""The scores that a config asks for by name: of a sample against a reference, in some space."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from drl_jax.errors import UserError
from drl_jax.metrics import scores
from drl_jax.metrics.frechet import Accumulator, Moments, frechet_distance
from drl_jax.metrics.spaces import Features

KEPT = 50_000  # feature vectors of a reference, at most; its moments are of all
_SUBSET = 1000  # of the kernel distance, if there are as many


class Population(NamedTuple):
    """Features of examples, the first of which are kept, and the moments of all."""

    moments: Moments
    features: Features

    @property
    def size(self) -> int:
        return self.moments.size

    def halves(self) -> "tuple[Population, Population]":
        """Of those that are kept, as populations of their own."""
        half = len(self.features.vectors) // 2
        one, other = (gather([_rows(self.features, first, half)]) for first in (0, half))
        return one, other


def gather(parts: Iterable[Features]) -> Population:
    """A population from features that come in parts. Raises ValueError if there are fewer than two."""
    moments, vectors, logits, kept = Accumulator(), [], [], 0
    for part in parts:
        moments.add(part.vectors)
        if kept < KEPT:
            first = _rows(part, 0, KEPT - kept)
            kept += len(first.vectors)
            vectors.append(first.vectors)
            if first.logits is not None:
                logits.append(first.logits)
    return Population(
        moments.moments(),
        Features(np.concatenate(vectors), np.concatenate(logits) if logits else None),
    )


def _rows(features: Features, first: int, count: int) -> Features:
    rows, logits = slice(first, first + count), features.logits
    return Features(features.vectors[rows], None if logits is None else logits[rows])


class Metric(NamedTuple):
    """`values(name, samples, reference)` gives one or more scores, named after the metric, of at least
    `fewest` examples; `lowest`: the lower, the better."""

    space: str
    values: Callable[[str, Population, Population], dict[str, float]]
    fewest: int = 2
    lowest: bool = True


def _frechet(name: str, samples: Population, reference: Population) -> dict[str, float]:
    return {name: frechet_distance(samples.moments, reference.moments)}


def _fid(name: str, samples: Population, reference: Population) -> dict[str, float]:
    return _frechet(_fid_name(name, samples.size), samples, reference)


def _fid_name(name: str, count: int) -> str:
    # Its expectation falls with the number of samples: one without the other says nothing.
    return f"{name}_{count}"


def _kernel(name: str, samples: Population, reference: Population) -> dict[str, float]:
    x, y = samples.features.vectors, reference.features.vectors
    score = scores.kernel_distance(x, y, subset_size=min(_SUBSET, len(x), len(y)))
    return {name: score.mean, f"{name}_std": score.std}


def _precision_recall(name: str, samples: Population, reference: Population) -> dict[str, float]:
    shares = scores.precision_recall(samples.features.vectors, reference.features.vectors)
    suffix = name.removeprefix("precision_recall")
    return {f"precision{suffix}": shares.precision, f"recall{suffix}": shares.recall}


def _inception_score(name: str, samples: Population, reference: Population) -> dict[str, float]:
    del reference
    assert samples.features.logits is not None
    score = scores.inception_score(samples.features.logits)
    return {name: score.mean, f"{name}_std": score.std}


METRICS: Mapping[str, Metric] = {
    "fid": Metric("inception", _fid),
    "inception_score": Metric("inception", _inception_score, 10, lowest=False),  # one in each split
    "kid": Metric("inception", _kernel),
    "precision_recall": Metric("inception", _precision_recall, 5, lowest=False),  # more than three neighbours
    **{
        f"{name}_{space}": Metric(space, values, fewest, lowest)
        for space in ("pixels", "points")
        for name, values, fewest, lowest in (
            ("frechet", _frechet, 2, True),
            ("kid", _kernel, 2, True),
            ("precision_recall", _precision_recall, 5, False),
        )
    },
}
TOTAL_VARIATION = "total_variation"  # of the density itself, for points: needs no samples


def parse(metrics: str, *, points: bool) -> list[str]:
    """The metrics that a config names, separated by commas. Raises UserError for one that there is not."""
    names = [] if metrics == "none" else [name.strip() for name in metrics.split(",")]
    possible = [name for name, metric in METRICS.items() if (metric.space == "points") == points]
    possible += [TOTAL_VARIATION] * points
    for name in names:
        if name not in possible:
            what = "points" if points else "pictures"
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
            metric = METRICS[name]
            scores |= metric.values(name, samples[metric.space], reference[metric.space])
    return scores


def spaces_of(names: Iterable[str]) -> list[str]:
    """The spaces that metrics need, each once."""
    return list(dict.fromkeys(METRICS[name].space for name in names if name != TOTAL_VARIATION))


def fewest(names: Iterable[str]) -> int:
    """How many examples the metrics `names` need."""
    return max((METRICS[name].fewest for name in names if name != TOTAL_VARIATION), default=1)


def floor(names: Iterable[str], reference: Mapping[str, Population]) -> dict[str, float]:
    """The scores of one random half of the data against the other: what a perfect model would have."""
    halves = {space: population.halves() for space, population in reference.items()}
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
            scores.append(_fid_name(name, num_samples) if name == "fid" else name)
    return scores
