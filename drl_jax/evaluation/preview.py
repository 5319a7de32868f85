"""Preview images of samples: what each kind of data shows of them."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from etils import epath

from drl_jax.data import densities
from drl_jax.data.densities import Density
from drl_jax.metrics.density_grid import GridDensities
from drl_jax.pixels import to_uint8
from drl_jax.report import images


@dataclass(frozen=True)
class Kind:
    """What images and points do differently.

    Attributes:
      max_shown: how many samples a preview shows, at most.
      to_examples: samples -> examples in the type that a data set has.
      save_samples: (examples, path) -> writes a PNG file.
      save_process: (states from x_T to x_0 of some samples [states, n, *shape], path) -> writes a PNG file;
        None if the kind has no such preview.
      density: of the data, if it is known.
    """

    max_shown: int
    to_examples: Callable[[np.ndarray], np.ndarray]
    save_samples: Callable[[np.ndarray, epath.Path], None]
    save_process: Callable[[np.ndarray, epath.Path], None] | None = None
    density: Density | None = None


IMAGES = Kind(
    max_shown=images.MAX_SHOWN,
    to_examples=to_uint8,
    save_samples=images.save_grid,
    save_process=images.save_process,
)


def make_kind(density: str | None) -> Kind:
    """Makes the kind of points of a density, or that of images if there is no density.

    Args:
      density: its name, config.data.density.

    Raises:
      UserError: there is no density of that name.
    """
    if density is None:
        return IMAGES
    known = densities.by_name(density)
    return Kind(
        max_shown=100_000,  # a histogram of 100 × 100 cells needs many points
        to_examples=lambda x: x.astype(np.float32, copy=False),
        save_samples=lambda points, path: images.save_points(points, known, path),
        density=known,
    )


@dataclass
class Preview:
    """Keeps the first samples of a stream, and how they evolved over the levels, for preview images.

    Attributes:
      kind: of the data.
    """

    kind: Kind
    _examples: list[np.ndarray] = field(default_factory=list, init=False)
    _process: np.ndarray | None = field(default=None, init=False)

    def add(self, examples: np.ndarray, process: np.ndarray | None) -> None:
        """Adds the next samples.

        Args:
          examples: what `kind.to_examples` made of the samples.
          process: states from x_T to x_0 of the stream's first samples, if these are among them.
        """
        if self._process is None:
            self._process = process
        missing = self.kind.max_shown - sum(map(len, self._examples))
        if missing > 0:
            self._examples.append(examples[:missing])

    def save(self, prefix: epath.Path) -> None:
        """Writes prefix.png and, if the process is known, prefix_process.png."""
        if self._examples:
            self.kind.save_samples(np.concatenate(self._examples), with_suffix(prefix, ".png"))
        if self._process is not None and self.kind.save_process is not None:
            self.kind.save_process(self._process, with_suffix(prefix, "_process.png"))


def save_densities(densities: list[GridDensities], prefix: epath.Path) -> None:
    """Writes prefix_densities.png: the true densities of all levels above the learned ones."""
    rows = [[grid.true for grid in densities], [grid.learned for grid in densities]]
    images.save_densities(rows, with_suffix(prefix, "_densities.png"))


def with_suffix(prefix: epath.Path, suffix: str) -> epath.Path:
    """Returns the path prefix + suffix."""
    return prefix.parent / f"{prefix.name}{suffix}"
