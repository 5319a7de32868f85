"""`denoise`: images drawn from noisy ones."""

import logging

import jax
import numpy as np
from etils import epath

from drl_jax import arrays
from drl_jax.api import TrainedModel
from drl_jax.api.checks import whole_level
from drl_jax.commands.application import check_is_of_images, read_images
from drl_jax.config.options import Denoise
from drl_jax.parallel.preemption import Stop, raise_on_signal
from drl_jax.pixels import to_uint8, to_unit
from drl_jax.report.images import save_columns

_logger = logging.getLogger(__name__)


def denoise(model: TrainedModel, options: Denoise, output: epath.Path, stop: Stop) -> None:
    """Adds noise to images, and draws images from the result: denoising.npz and denoising.png.

    Args:
      model: the model.
      options: the images, the level, and how many draws.
      output: where the files are written.
      stop: unused: a signal ends the command at once.

    Raises:
      UserError: an option is not possible, or chains left the finite numbers.
    """
    del stop
    check_is_of_images(model, "denoise")
    images = read_images(model, "--images", options.images)
    level = model.middle_level
    if options.level is not None:
        level = whole_level(options.level, 1, model.num_levels, "--level")
    with raise_on_signal():
        of_noise, of_chains = jax.random.split(jax.random.key(options.seed))
        noisy = model.diffuse(of_noise, images, level)
        rows = np.repeat(noisy, options.count, axis=0)
        draws = model.denoise(of_chains, rows, level).reshape(len(images), options.count, *images.shape[1:])
    mean = draws.mean(axis=1)
    arrays.save(output / "denoising.npz", images=images, noisy=noisy, draws=draws, mean=mean)
    image = output / "denoising.png"
    columns = [("image", images), (f"x_{level}", to_uint8(noisy))]
    columns += [("", draw) for draw in np.swapaxes(draws, 0, 1)]
    save_columns([*columns, ("mean", mean.astype(np.uint8))], image)
    error = np.sqrt(np.mean((to_unit(images)[:, None] - to_unit(draws)) ** 2))
    _logger.info(
        "%d draws for each of %d images at level %d: %s, and arrays in .npz; their root mean square distance "
        "from the images is %.3g, where data are in [-1, 1]",
        options.count,
        len(images),
        level,
        image,
        error,
    )
