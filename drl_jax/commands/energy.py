"""`energy`: energies and scores of images, level by level."""

import logging

import numpy as np
from etils import epath

from drl_jax import arrays
from drl_jax.api import TrainedModel
from drl_jax.commands.application import check_is_of_images, read_images, some_levels
from drl_jax.config.options import Energy
from drl_jax.parallel.preemption import Stop, raise_on_signal
from drl_jax.pixels import to_uint8
from drl_jax.report.images import save_columns

_logger = logging.getLogger(__name__)


def energy(model: TrainedModel, options: Energy, output: epath.Path, stop: Stop) -> None:
    """Computes energies and scores of images with the noise of each level: energy.npz and energy.png.

    Args:
      model: the model.
      options: the images and the levels.
      output: where the files are written.
      stop: unused: a signal ends the command at once.

    Raises:
      UserError: an option is not possible.
    """
    del stop
    check_is_of_images(model, "energy")
    levels = some_levels(model, options.levels)
    images = read_images(model, "--images", options.images)
    with raise_on_signal():
        x = np.stack([model.diffuse(options.seed, images, level) for level in levels])
        both = [model.energy_and_score(x_t, level) for x_t, level in zip(x, levels, strict=True)]
    energies, scores = map(np.stack, zip(*both, strict=True))
    arrays.save(
        output / "energy.npz", images=images, levels=np.array(levels), x=x, energy=energies, score=scores
    )
    largest = np.abs(scores).max(axis=(1, 2, 3, 4), keepdims=True)
    shown_scores = to_uint8(scores / np.maximum(largest, 1e-30))
    columns = [("image", images)]
    for i, t in enumerate(levels):
        columns += [(f"x_{t}", to_uint8(x[i])), (f"score {t}", shown_scores[i])]
    image = output / "energy.png"
    save_columns(columns, image)
    lines = ["energy of each image, in nats, up to a constant of the level"]
    lines += [f"level {t:>4}  " + "  ".join(f"{e:>12.2f}" for e in energies[i]) for i, t in enumerate(levels)]
    _logger.info("%s", "\n".join(lines))
    _logger.info("written to %s, and arrays in .npz; grey is a score of 0", image)
