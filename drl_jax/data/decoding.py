"""From an encoded image to pixels of one size."""

import io
import struct
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from drl_jax.errors import UserError

Pixels = UInt8[np.ndarray, "height width channels"]

_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Framing:
    """Which part of a image is used, and at what size: crop, then antialiased bilinear resize.

    A image whose crop has the right size already keeps its pixels to the bit.

    Attributes:
      image_size: side of the result in pixels.
      channels: 1 (grey) or 3 (RGB).
      crop: (top, left, height, width) in the original image, a square; None is the largest
        central square.
    """

    image_size: int
    channels: int = 3
    crop: tuple[int, int, int, int] | None = None

    def __post_init__(self):
        if self.image_size < 1:
            raise UserError(f"data.image_size={self.image_size} must be at least 1")
        if self.channels not in _MODES:
            raise UserError(f"data.channels={self.channels} must be 1 (grey) or 3 (RGB)")
        if self.crop is not None:
            top, left, height, width = self.crop
            if min(top, left) < 0 or height < 1 or height != width:
                raise UserError(
                    f"data.crop={self.crop} must be (top, left, height, width) with top and left "
                    "from 0 and height equal to width, because images are square"
                )

    def __call__(self, encoded: bytes, origin: str) -> Pixels:
        """Decodes PNG, JPEG or any other format of Pillow's into `[image_size, image_size, C]`.

        Args:
          encoded: the content of a image file.
          origin: where it comes from, for messages.

        Raises:
          UserError: the image is damaged, is not of 8 bits, or is smaller than the crop.
        """
        try:
            image = Image.open(io.BytesIO(encoded))
            if image.mode.startswith(("I", "F")):
                raise UserError(f"{origin} has more than 8 bits per channel; convert it to 8")
            image = image.convert(_MODES[self.channels])
        except UnidentifiedImageError:
            raise UserError(f"{origin} is not a image that can be read") from None
        except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
            raise UserError(f"{origin} is damaged: {' '.join(str(error).split())}") from error
        image = self._cropped(image, origin)
        size = (self.image_size, self.image_size)
        if image.size != size:
            # Pillow's BILINEAR widens its triangle by the reduction, so it is the antialiased one.
            image = image.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(self.image_size, self.image_size, self.channels)

    def _cropped(self, image: Image.Image, origin: str) -> Image.Image:
        width, height = image.size
        if self.crop is None:
            side = min(width, height)
            top, left = (height - side) // 2, (width - side) // 2
        else:
            top, left, side, _ = self.crop
        if top + side > height or left + side > width:
            raise UserError(
                f"data.crop={self.crop} does not fit {origin}, which is {height} rows by {width} columns"
            )
        if (width, height) == (side, side):
            return image
        return image.crop((left, top, left + side, top + side))


def png(pixels: Pixels) -> bytes:
    """Pixels as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()
