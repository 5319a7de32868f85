"""Decodes image files to pixels of one size."""

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
class CropResize:
    """Crops images to a square and resizes them (bilinear, antialiased).

    An image whose crop already has the right size keeps its exact pixels.

    Attributes:
      image_size: side of the result in pixels.
      channels:   1 (grey) or 3 (RGB).
      crop:       (top, left, height, width) in pixels of the original image; None: largest central square.
    """

    image_size: int
    channels: int = 3
    crop: tuple[int, int, int, int] | None = None

    def __post_init__(self):
        # Checked here because nothing later fails: Pillow would pad or stretch the image.
        if self.crop is not None:
            top, left, height, width = self.crop
            if min(top, left) < 0 or height != width or height < 1:
                raise ValueError(f"crop={self.crop} must be (top, left, height, width), a square")

    def decode(self, encoded: bytes, origin: str) -> Pixels:
        """Decodes an image file and applies `self` to it.

        Args:
          encoded: content of a PNG, JPEG or any other file that Pillow reads.
          origin: where the file comes from, for messages.

        Raises:
          UserError: the image is damaged, has more than 8 bits per channel, or is smaller than the crop.
        """
        try:
            image = Image.open(io.BytesIO(encoded))
            if image.mode.startswith(("I", "F")):
                raise UserError(f"{origin} has more than 8 bits per channel; convert it to 8")
            image = image.convert(_MODES[self.channels])
        except UnidentifiedImageError:
            raise UserError(f"{origin} is not an image that can be read") from None
        except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
            raise UserError(f"{origin} is damaged: {' '.join(str(error).split())}") from error
        return self(image, origin)

    def __call__(self, image: Image.Image, origin: str) -> Pixels:
        """Pixels `[image_size, image_size, channels]` of an image of 8 bits per channel.

        Raises:
          UserError: the image is smaller than the crop.
        """
        if image.mode != _MODES[self.channels]:
            image = image.convert(_MODES[self.channels])
        image = self._crop(image, origin)
        size = (self.image_size, self.image_size)
        if image.size != size:
            # When it shrinks an image, Pillow widens the bilinear filter: this is what makes it antialiased.
            image = image.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(self.image_size, self.image_size, self.channels)

    def _crop(self, image: Image.Image, origin: str) -> Image.Image:
        width, height = image.size
        if self.crop is None:
            side = min(width, height)
            top, left = (height - side) // 2, (width - side) // 2
        else:
            top, left, side, _ = self.crop
        if top + side > height or left + side > width:
            raise UserError(
                f"config.data.crop={self.crop} does not fit {origin}, which has {height} rows and "
                f"{width} columns"
            )
        return image.crop((left, top, left + side, top + side))


def encode_png(pixels: Pixels) -> bytes:
    """Encodes pixels as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()
