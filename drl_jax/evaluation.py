"""What is drawn and measured at an evaluation: a grid, the process, and the config's metric."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from etils import epath

from drl_jax.data.densities import Density
from drl_jax.data.pipeline import to_uint8, to_unit
from drl_jax.data.sources import Source
from drl_jax.experiment import Experiment
from drl_jax.metrics.frechet import frechet_distance
from drl_jax.metrics.planar import Maps, level_maps
from drl_jax.networks import bind
from drl_jax.reporting import pictures
from drl_jax.sampling import Sampler, Weights


@runtime_checkable
class Evaluation(Protocol):
    """Draws with the weights of a step, leaves pictures named after it, returns scores."""

    def __call__(self, step: int, weights: Weights) -> dict[str, float]: ...

    def reference(self, untrained: Weights) -> dict[str, float]:
        """What the scores are to be held against: the best and the worst that can be expected."""
        ...


def scores_of(metric: str, num_levels: int) -> list[str]:
    """The names of the scores that a config's metric gives; the lowest of each is the best."""
    if metric == "total_variation":
        return [f"{metric}/level_{t}" for t in range(num_levels)]
    return [] if metric == "none" else [metric]


class PictureEvaluation(NamedTuple):
    """Grids of samples and strips of the process; with a `source`, the Fréchet distance in pixel space.

    The distance is that of the samples to a random half of the data, with pixels in [-1, 1] after
    truncation to bytes; its floor is that of the other half to this one. No pictures without `folder`.
    """

    sampler: Sampler
    num_samples: int
    folder: epath.Path | None
    source: Source | None

    def __call__(self, step: int, weights: Weights) -> dict[str, float]:
        samples, process = self._draw(weights, self.num_samples)
        if self.folder is not None:
            pictures.save_grid(samples, self.folder / f"{step:07}.png")
            pictures.save_process(process, self.folder / f"{step:07}_process.png")
        return {} if self.source is None else {"frechet_pixels": self._distance(samples)}

    def reference(self, untrained: Weights) -> dict[str, float]:
        if self.source is None:
            return {}
        half, other = self._halves()
        samples, _ = self._draw(untrained, self.num_samples)
        return {
            "frechet_pixels_halves": frechet_distance(_vectors(half), _vectors(other)),
            "frechet_pixels_untrained": self._distance(samples),
        }

    def _distance(self, samples: np.ndarray) -> float:
        return frechet_distance(_vectors(samples), _vectors(self._halves()[0]))

    def _halves(self) -> tuple[np.ndarray, np.ndarray]:
        assert self.source is not None
        order, half = np.random.default_rng(0).permutation(len(self.source)), len(self.source) // 2
        return self._read(order[:half]), self._read(order[half : 2 * half])

    def _read(self, indices: np.ndarray) -> np.ndarray:
        # As many at a time as a batch may have: reading has a time limit.
        assert self.source is not None
        parts = np.array_split(indices, -(-len(indices) // 256))
        return np.concatenate([self.source.take(part) for part in parts])

    def _draw(self, weights: Weights, count: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = list(self.sampler.batches(weights, count))
        return to_uint8(np.concatenate([x for x, _ in drawn])), drawn[0][1]


class PointEvaluation(NamedTuple):
    """The densities of all levels, true above learned; with `score`, their total variation on a grid."""

    experiment: Experiment
    density: Density
    sampler: Sampler
    num_samples: int
    folder: epath.Path | None
    score: bool

    def __call__(self, step: int, weights: Weights) -> dict[str, float]:
        maps = self._maps(weights)
        points = np.concatenate([x for x, _ in self.sampler.batches(weights, self.num_samples)])
        if self.folder is not None:
            rows = [[m.true for m in maps], [m.learned for m in maps]]
            pictures.save_maps(rows, self.folder / f"{step:07}.png")
            pictures.save_points(points, self.density, self.folder / f"{step:07}_samples.png")
        if not self.score:
            return {}
        return {f"total_variation/level_{t}": m.total_variation for t, m in enumerate(maps)}

    def reference(self, untrained: Weights) -> dict[str, float]:
        if not self.score:
            return {}
        return {"total_variation_untrained/level_0": self._maps(untrained)[0].total_variation}

    def _maps(self, weights: Weights) -> list[Maps]:
        f = bind(self.experiment.network, weights.normalized())
        levels = self.experiment.levels
        return [level_maps(f, levels, self.density, t) for t in range(levels.num_levels)]


def _vectors(pictures: np.ndarray) -> np.ndarray:
    return to_unit(pictures).reshape(len(pictures), -1)
