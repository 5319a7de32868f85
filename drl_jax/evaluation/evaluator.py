"""What is drawn and measured of a model: images for people, scores for tables."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from etils import epath

from drl_jax.config.build import Experiment
from drl_jax.core.networks import bind
from drl_jax.data.densities import Density
from drl_jax.evaluation import measures
from drl_jax.evaluation.features import Space
from drl_jax.evaluation.reference import Reference
from drl_jax.metrics.density_grid import Maps, level_maps
from drl_jax.parallel.devices import from_first
from drl_jax.parallel.sampler import Sampler, Weights, not_finite
from drl_jax.pixels import to_uint8
from drl_jax.report import images

Scores = dict[str, float]


@runtime_checkable
class Domain(Protocol):
    """What data are: images, or points of a known density."""

    shown: int  # of how many samples, at most, images are made

    def examples(self, samples: np.ndarray) -> np.ndarray:
        """Samples as a data set would hold them."""
        ...

    def show(self, samples: np.ndarray, process: np.ndarray, name: epath.Path) -> None:
        """Leaves images of samples, whose `examples` these are, in files that begin with `name`."""
        ...

    def scores(self, weights: Weights, name: epath.Path | None) -> Scores:
        """What can be told of the weights themselves; a image of it in a file that begins with `name`."""
        ...


class Images:
    """Bytes: grids of samples and strips of the process. A image model has no score of its own."""

    shown = images.SHOWN

    def examples(self, samples: np.ndarray) -> np.ndarray:
        return to_uint8(samples)

    def show(self, samples: np.ndarray, process: np.ndarray, name: epath.Path) -> None:
        images.save_grid(samples, name.parent / f"{name.name}.png")
        images.save_process(process, name.parent / f"{name.name}_process.png")

    def scores(self, weights: Weights, name: epath.Path | None) -> Scores:
        del weights, name
        return {}


class Points:
    """The samples beside their density; of the weights, the densities of all levels, true above learned,
    and their total variation on a grid."""

    shown = 100_000  # a density takes many points to show

    def __init__(self, experiment: Experiment, density: Density):
        self._experiment, self._density = experiment, density

    def examples(self, samples: np.ndarray) -> np.ndarray:
        return samples

    def show(self, samples: np.ndarray, process: np.ndarray, name: epath.Path) -> None:
        del process
        images.save_points(samples, self._density, name.parent / f"{name.name}.png")

    def scores(self, weights: Weights, name: epath.Path | None) -> Scores:
        maps = self._maps(weights)
        if name is not None:
            rows = [[m.true for m in maps], [m.learned for m in maps]]
            images.save_maps(rows, name.parent / f"{name.name}_densities.png")
        return {f"{measures.TOTAL_VARIATION}/level_{t}": m.total_variation for t, m in enumerate(maps)}

    def _maps(self, weights: Weights) -> list[Maps]:
        f = bind(self._experiment.network, weights.normalized())
        levels = self._experiment.levels
        return [level_maps(f, levels, self._density, t) for t in range(levels.num_levels)]


class Gallery:
    """Of samples that come in parts, what images are made of: the first of them, and their process."""

    def __init__(self, domain: Domain):
        self._domain, self._samples, self._process = domain, [], None

    def add(self, samples: np.ndarray, process: np.ndarray) -> None:
        """`process` is that of the first of these samples."""
        if self._process is None:
            self._process = process
        if sum(map(len, self._samples)) < self._domain.shown:
            self._samples.append(samples)

    def show(self, name: epath.Path) -> None:
        """Leaves the images, if anything was added."""
        if self._process is not None:
            self._domain.show(np.concatenate(self._samples), self._process, name)


class Evaluation:
    """Draws with the weights of a step, leaves images named after it in `folder`, returns the scores that
    `metrics` names. All processes of a job call it; one of them has a folder."""

    def __init__(
        self,
        domain: Domain,
        sampler: Sampler,
        *,
        num_samples: int,
        metrics: Sequence[str],
        spaces: Sequence[Space],
        read_reference: Callable[[], Reference],
        folder: epath.Path | None,
        warn: Callable[[str], None],
    ):
        self._domain, self._sampler, self._num_samples = domain, sampler, num_samples
        self._metrics, self._spaces, self._read_reference = metrics, spaces, read_reference
        self._folder, self._warn = folder, warn

    def __call__(self, step: int, weights: Weights) -> Scores:
        name = None if self._folder is None else self._folder / f"{step:07}"
        return self._measure(weights, name)

    def bounds(self, untrained: Weights) -> Scores:
        """What scores are to be held against: those of one half of the data against the other (the best
        that can be expected) and those of a model before its training (the worst)."""
        scores = {}
        if self._spaces:
            best = measures.floor(self._metrics, self._reference.data)
            scores = {f"{name}_halves": value for name, value in best.items()}
        if self._metrics:
            worst = self._measure(untrained, None)
            scores |= {f"{name}_untrained": value for name, value in worst.items()}
        return scores

    def _measure(self, weights: Weights, name: epath.Path | None) -> Scores:
        scores = self._domain.scores(weights, name) if measures.TOTAL_VARIATION in self._metrics else {}
        gatherings = {space.name: measures.Gathering() for space in self._spaces}
        gallery, broken = Gallery(self._domain), 0
        for x, process in self._sampler.draw(weights, self._num_samples):
            samples, broken = self._domain.examples(x), broken + not_finite(x)
            gallery.add(samples, process)
            for space in self._spaces:
                gatherings[space.name].add(space.extract(samples))
        if broken:
            self._warn(f"{broken} of {self._num_samples} samples are not finite: scores are worth nothing")
        if name is not None:
            gallery.show(name)
        if self._spaces:
            drawn = {space: gathering.population() for space, gathering in gatherings.items()}
            scores |= measures.measure(self._metrics, drawn, self._reference.populations())
        return from_first(scores)  # each process has its own last digits, and all must judge alike

    @cached_property
    def _reference(self) -> Reference:
        return self._read_reference()
