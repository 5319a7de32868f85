"""Decodes image files to pixels of one size."""

import io
import struct
import warnings
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from drl_jax.data import viewing
from drl_jax.data.notes import Notes
from drl_jax.errors import UserError

Pixels = UInt8[np.ndarray, "height width channels"]

WHITE = (255,)  # the background of transparent images

_MODES = {1: "L", 3: "RGB"}
_PNG = b"\x89PNG\r\n\x1a\n"
_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # chunks of a PNG that pixels do not depend on

# Pillow's warnings do not name the file. What cannot be read is an error here, which does.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Unreadable(UserError):
    """One example of a data set cannot be read; others may be undamaged."""


class Damaged(Unreadable):
    """The content of one example is bad, so that reading it again would not help."""


class TooSmall(Damaged):
    """One image is smaller than the crop."""


@dataclass(frozen=True)
class CropResize:
    """Shows images as a viewer does, crops them to a square and resizes them (bilinear, antialiased).

    An image whose crop already has the right size keeps its exact pixels.

    Attributes:
      image_size: side of the result in pixels.
      channels:   1 (grey) or 3 (RGB).
      crop:       (top, left, height, width) in pixels of the upright image; None: largest central square.
      background: what shows where an image is transparent: one grey level or RGB, 0 to 255.
      notes:      gets a line for the first image that is transparent, and for the first of more than 8 bits.
    """

    image_size: int
    channels: int = 3
    crop: tuple[int, int, int, int] | None = None
    background: tuple[int, ...] = WHITE
    notes: Notes = field(default_factory=Notes, compare=False, repr=False)

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
          Damaged: the image is damaged, has values of no known range, or is smaller than the crop.
        """
        if not encoded:
            raise Damaged(f"{origin} is empty")
        try:
            image = self._open(encoded, origin)
        except UnidentifiedImageError:
            raise Damaged(f"{origin} is not an image that can be read") from None
        except viewing.Unfit as error:
            raise Damaged(f"{origin} {error}") from None
        except Image.DecompressionBombError:
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise Damaged(f"{origin} has more than {limit:,} pixels; make it smaller") from None
        except Exception as error:  # damage raises errors of many types in Pillow's readers
            reason = " ".join(str(error).split()) or type(error).__name__
            raise Damaged(f"{origin} is damaged: {reason}") from error
        return self(image, origin)

    def show(self, image: Image.Image, origin: str) -> Image.Image:
        """Makes an image upright, opaque, of 8 bits, and grey or RGB as `channels` says.

        Raises:
          Unfit: the values have no known range.
        """
        report = lambda topic, line: self.notes.once(topic, f"{origin} {line} (reported once)")
        return viewing.as_shown(image, self.background, report).convert(_MODES[self.channels])

    def _open(self, encoded: bytes, origin: str) -> Image.Image:
        try:
            return self.show(Image.open(io.BytesIO(encoded), formats=viewing.FORMATS), origin)
        except ValueError:
            # Pillow refuses a PNG with megabytes of text in it; its pixels may be undamaged.
            if not encoded.startswith(_PNG):
                raise
            pixels = io.BytesIO(_without_text(encoded))
            return self.show(Image.open(pixels, formats=viewing.FORMATS), origin)

    def __call__(self, image: Image.Image, origin: str) -> Pixels:
        """Pixels `[image_size, image_size, channels]` of an image of 8 bits per channel.

        Raises:
          TooSmall: the image is smaller than the crop.
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
            raise TooSmall(
                f"config.data.crop={self.crop} does not fit {origin}, which has {height} rows and "
                f"{width} columns; --config.data.crop=None takes the central square of an image of any size"
            )
        return image.crop((left, top, left + side, top + side))


def _without_text(png: bytes) -> bytes:
    """A PNG file without its texts and colour profile."""
    kept, position = [_PNG], len(_PNG)
    while position + 12 <= len(png):
        (length,) = struct.unpack(">I", png[position : position + 4])
        end = position + 12 + length  # a chunk is its length, name, content and checksum
        if png[position + 4 : position + 8] not in _TEXT:
            kept.append(png[position:end])
        position = end
    return b"".join(kept)


def encode_png(pixels: Pixels) -> bytes:
    """Encodes pixels as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()
