"""`interpolate`: rows of images, each on the way between two others."""

import logging

import numpy as np
from etils import epath

from drl_jax import arrays
from drl_jax.api import TrainedModel
from drl_jax.api.checks import whole_level
from drl_jax.commands.application import check_is_of_images, read_images
from drl_jax.config.options import Interpolate
from drl_jax.errors import UserError
from drl_jax.parallel.preemption import Stop, raise_on_signal
from drl_jax.report.images import save_grid

_logger = logging.getLogger(__name__)


def interpolate(model: TrainedModel, options: Interpolate, output: epath.Path, stop: Stop) -> None:
    """Draws images on the way between two others: interpolation.npz and interpolation.png.

    Args:
      model: the model.
      options: which ends, and how many images.
      output: where the files are written.
      stop: unused: a signal ends the command at once.

    Raises:
      UserError: an option is not possible, or chains left the finite numbers.
    """
    del stop
    check_is_of_images(model, "interpolate")
    with raise_on_signal():
        between = _ends(model, options)
        rows = [
            model.interpolate(seed, options.count, between=between, level=options.level, noise=options.noise)
            for seed in range(options.seed, options.seed + options.rows)
        ]
    images = np.stack(rows)
    arrays.save(output / "interpolation.npz", arr_0=images)
    image = output / "interpolation.png"
    save_grid(images.reshape(-1, *model.parts.shape), image, columns=options.count)
    _logger.info("%d rows of %d images: %s, and arrays in .npz", options.rows, options.count, image)


def _ends(model: TrainedModel, options: Interpolate) -> tuple[np.ndarray, np.ndarray] | None:
    """The given images; None if they are drawn."""
    if options.between is None:
        if options.level is not None:
            raise UserError(f"--level={options.level} is for given images; give --between=FILE,FILE too")
        return None
    if options.level is not None:
        whole_level(options.level, 1, model.num_levels, "--level")
    ends = read_images(model, "--between", options.between)
    if len(ends) != 2:
        raise UserError(f"--between={options.between} names {len(ends)} images; right is FILE,FILE")
    return ends[0], ends[1]
