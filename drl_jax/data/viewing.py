"""What a viewer shows of an image: upright, without transparency, with 8 bits per channel."""

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image
from PIL.Image import Transpose

# The formats that Pillow reads by itself. The others are frames for readers that a program must bring along,
# and PostScript, which an outside program would run.
_NOT_BY_ITSELF = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
Image.init()
FORMATS = tuple(sorted(set(Image.OPEN) - _NOT_BY_ITSELF))
SUFFIXES = frozenset(
    suffix for suffix, name in Image.registered_extensions().items() if name in {*FORMATS, "MPO"}
)

_ORIENTATION = 0x0112  # the tag of EXIF
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF
_WHITE_IS_ZERO = 0  # a value of the second


Report = Callable[[str, str], None]


class Unfit(Exception):
    """An undamaged image, of which nothing says how to show it; the text goes on after its name."""


def as_shown(image: Image.Image, background: Sequence[int], report: Report) -> Image.Image:
    """Returns an image as a viewer shows it.

    Args:
      image: any image, as Pillow opened it.
      background: what transparency shows: one grey level or RGB, 0 to 255.
      report: gets a topic, and what was changed in an image for the first time: the end of a sentence.

    Returns:
      An upright image without transparency, of 8 bits per channel, in any mode that converts to grey and RGB.

    Raises:
      Unfit: the values have no known range.
    """
    _scale_key(image)
    bits, largest, low = _bits(image), _largest(image), _low_bytes(image)
    image.load()
    turn = _TURNS.get(_orientation(image))
    image = _eight_bits(image, bits, largest, report)
    if low is not None:
        image = _without_colour(image, low, image.info["transparency"])
    image = _on_background(image, background, report)
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF raises errors of many types, and a viewer shows the image all the same
        return 1
    return value if isinstance(value, int) else 1


def _raw_mode(image: Image.Image) -> str:
    """How the values are stored, such as "RGB;16B"; empty if that is not known."""
    tile = getattr(image, "tile", None)
    if not tile:
        return ""
    arguments = tile[0][3]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _scale_key(image: Image.Image) -> None:
    """Gives the transparent colour of a PNG the scale of the pixels, which Pillow stretches to 8 bits."""
    key, raw = image.info.get("transparency"), _raw_mode(image)
    if image.format != "PNG" or key is None:
        return
    if raw in ("L;2", "L;4"):
        image.info["transparency"] = key * (85 if raw == "L;2" else 17)


def _low_bytes(image: Image.Image) -> Image.Image | None:
    """The low bytes of a PNG of 16 bits with a transparent colour; Pillow keeps the high ones alone."""
    fp = getattr(image, "fp", None)
    if (
        fp is None
        or _raw_mode(image) != "RGB;16B"
        or "transparency" not in image.info
        or image.format != "PNG"
    ):
        return None
    place = fp.tell()
    fp.seek(0)
    low = Image.open(io.BytesIO(fp.read()), formats=["PNG"])
    fp.seek(place)
    low.tile = [(*low.tile[0][:3], "RGB;16L")]  # pyright: ignore  # the other order of bytes
    return low


def _without_colour(image: Image.Image, low: Image.Image, key: Sequence[int]) -> Image.Image:
    """An image, transparent where its values of 16 bits are those of a colour.

    Args:
      image: the high bytes.
      low: the low bytes.
      key: the colour, in 16 bits.
    """
    values = np.asarray(image).astype(np.uint16) << 8 | np.asarray(low)
    alpha = np.where((values == np.array(key)).all(-1), 0, 255).astype(np.uint8)
    return Image.merge("RGBA", (*image.split(), Image.fromarray(alpha)))


def _largest(image: Image.Image) -> int | None:
    """The value that is white in a PPM or PGM; None for other formats."""
    tile = getattr(image, "tile", None)
    if image.format != "PPM" or not tile or not isinstance(tile[0][3], tuple):
        return None
    return int(tile[0][3][-1])


def _bits(image: Image.Image) -> int:
    """Bits per channel in the file, as far as they are more than 8."""
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        return int(np.ravel(tags.get(_BITS_PER_SAMPLE, 8))[0])
    tile = getattr(image, "tile", None)
    is_deep = (
        image.mode.startswith("I")
        or (image.format in ("PNG", "SGI") and ";16" in _raw_mode(image))
        or (tile and tile[0][0] == "SGI16")
        or (_largest(image) or 0) > 255
    )
    return 16 if is_deep else 8


def _eight_bits(image: Image.Image, bits: int, largest: int | None, report: Report) -> Image.Image:
    if image.mode == "F":
        low, high = image.getextrema()
        raise Unfit(
            f"has floating-point values from {low:g} to {high:g}, of which none is known to be black or "
            "white; save it with 8 or 16 bits per channel"
        )
    if not image.mode.startswith("I"):
        if bits > 8 and image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
            report("16 bits", _scaled(bits, largest))
        return image
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    # In a PNG or PGM Pillow's mode of 32 bits holds 16; in others it may hold anything.
    if low < 0 or high >= 2**16 or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise Unfit(
            f"has whole numbers of 32 bits, or with a sign, from {low} to {high}, of which none is known to "
            "be white; save it with 8 or 16 bits per channel"
        )
    bits = min(max(bits, 9), 16)
    if largest is not None:  # Pillow has stretched them
        high = round(high * largest / (2**16 - 1))
    report("16 bits", f"{_scaled(bits, largest)}; the greatest value in it is {high}")
    tags = getattr(image, "tag_v2", None)
    if tags is not None and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow turns those of 8 bits alone
        values = 2**bits - 1 - values
    grey = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    key = image.info.get("transparency")
    if isinstance(key, int):
        alpha = Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8))
        return Image.merge("LA", (grey, alpha))
    return grey


def _scaled(bits: int, largest: int | None) -> str:
    return f"has {bits} bits per channel: 0 to {largest or 2**bits - 1} becomes 0 to 255"


def _on_background(image: Image.Image, background: Sequence[int], report: Report) -> Image.Image:
    if not image.has_transparency_data:
        return image
    if image.mode in ("La", "RGBa"):  # colours are multiplied by alpha
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    layers = image.convert("RGBA")
    if layers.getchannel("A").getextrema()[0] == 255:  # nothing shows through
        image.info.pop("transparency", None)
        return image
    colour = tuple(background) if len(background) == 3 else tuple(background) * 3
    report("transparency", f"is transparent in part: config.data.background={background} shows there")
    ground = Image.new("RGBA", image.size, (*colour, 255))
    return Image.alpha_composite(ground, layers).convert("RGB")
