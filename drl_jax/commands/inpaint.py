"""`inpaint`: completions of images of which a part is known."""

import logging

import numpy as np
from etils import epath

from drl_jax import arrays
from drl_jax.api import TrainedModel
from drl_jax.commands.application import check_is_of_images, read_images
from drl_jax.config.options import Inpaint
from drl_jax.errors import UserError
from drl_jax.parallel.preemption import Stop, raise_on_signal
from drl_jax.report.images import save_columns

_GREY = 128  # shows what is not known
_logger = logging.getLogger(__name__)


def inpaint(model: TrainedModel, options: Inpaint, output: epath.Path, stop: Stop) -> None:
    """Draws completions of images: inpainting.npz and inpainting.png.

    Args:
      model: the model.
      options: the images, the part that is known, and how many completions.
      output: where the files are written.
      stop: unused: a signal ends the command at once.

    Raises:
      UserError: an option is not possible, or chains left the finite numbers.
    """
    del stop
    check_is_of_images(model, "inpaint")
    images = read_images(model, "--images", options.images)
    known = _known(model, options)
    with raise_on_signal():
        seeds = range(options.seed, options.seed + len(images))
        completions = np.stack(
            [
                model.inpaint(seed, image, known, options.count)
                for seed, image in zip(seeds, images, strict=True)
            ]
        )
    mean, spread = completions.mean(axis=1), completions.std(axis=1)
    arrays.save(
        output / "inpainting.npz",
        images=images,
        known=known,
        completions=completions,
        mean=mean,
        spread=spread,
    )
    masked = np.where(known[..., None], images, _GREY)
    shown_spread = spread * (255 / max(spread.max(), 1e-9))
    image = output / "inpainting.png"
    columns = [("image", images), ("known", masked), *(("", x) for x in np.swapaxes(completions, 0, 1))]
    columns += [("mean", mean.astype(np.uint8)), ("spread", shown_spread.astype(np.uint8))]
    save_columns(columns, image)
    _logger.info(
        "%d completions of %d image%s: %s, and arrays in .npz; the largest spread is %.3g of 255",
        options.count,
        len(images),
        "s" * (len(images) > 1),
        image,
        spread.max(),
    )


def _known(model: TrainedModel, options: Inpaint) -> np.ndarray:
    """Which pixels are known [height, width]."""
    height, width = model.parts.shape[:2]
    if options.mask is not None and options.rectangle is not None:
        raise UserError(f"--mask={options.mask} and --rectangle both say what is drawn; leave one out")
    if options.mask is not None:
        known = read_images(model, "--mask", options.mask)[0].mean(axis=-1) >= _GREY
        if known.all():
            raise UserError(f"--mask={options.mask} has no black pixel; what is drawn must be black in it")
        return known
    if options.rectangle is None:
        raise UserError(
            "`inpaint` needs the part that is drawn: either --rectangle=TOP,LEFT,HEIGHT,WIDTH in pixels of "
            "the model, or --mask=FILE, where black is drawn"
        )
    top, left, rows, columns = options.rectangle
    if top + rows > height or left + columns > width:
        raise UserError(
            f"--rectangle={','.join(map(str, options.rectangle))} is not inside the {height}x{width} pixels"
        )
    known = np.ones((height, width), bool)
    known[top : top + rows, left : left + columns] = False
    return known
