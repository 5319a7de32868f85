"""Images side by side, for the eye."""

import numpy as np
from PIL import Image

from drl_jax.api.checks import Array, check_count
from drl_jax.errors import UserError
from drl_jax.report.images import make_grid, to_image


def image_grid(images: Array, columns: int | None = None) -> Image.Image:
    """Puts images side by side in one. A notebook shows it; elsewhere its methods are `show` and `save`.

    Args:
      images: uint8 [n, height, width, channels], as the methods of a model return them; 1 or 3 channels.
        Small ones are enlarged, so that the grid is about 640 pixels wide. At most 100 are shown if `columns`
        is not given.
      columns: images in a row. Default: as many as rows.

    Returns:
      The image.

    Raises:
      UserError: these are no images.

    Example:
      >>> import drl_jax
      >>> model = drl_jax.load("digits")
      >>> grid = drl_jax.image_grid(model.sample(0, 16))
      >>> grid.size
      (646, 646)
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size or images.dtype != np.uint8:
        raise UserError(
            f"an array of {images.dtype} and of shape {list(images.shape)} is not possible; right is uint8 "
            "[n, height, width, channels], n ≥ 1, with 1 or 3 channels"
        )
    if columns is not None:
        check_count(columns, 1, "columns")
    return to_image(make_grid(images, columns=columns))
