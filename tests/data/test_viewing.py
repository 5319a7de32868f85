"""Images become what a viewer shows of them."""

import io
import logging
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from drl_jax.data import viewing
from drl_jax.data.decoding import CropResize, Damaged
from tests.data.helpers import encode

# The image as it is stored, for each orientation of EXIF: row 0 and column 0 are where the standard says.
STORED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x, -1),
}


def upright() -> np.ndarray:
    """Four squares: red, green / blue, white. Large, so that JPEG keeps their colours."""
    corners = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    return corners.repeat(16, 0).repeat(16, 1)


def saved(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decode(encoded: bytes, size: int, channels: int = 3, background=(255,)) -> np.ndarray:
    return CropResize(size, channels, background=background).decode(encoded, "a.png")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_turned_image_is_upright(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright())))
    options = {"lossless": True} if format == "WEBP" else {}
    decoded = decode(saved(image, format, exif=exif, **options), 32)
    centres = decoded[[8, 8, 24, 24], [8, 24, 8, 24]].astype(int)
    expected = upright()[[8, 8, 24, 24], [8, 24, 8, 24]].astype(int)
    assert abs(centres - expected).max() < 40


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # as the program has it
@pytest.mark.parametrize("exif", [b"Exif\0\0no TIFF at all", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_damaged_exif_does_not_damage_the_image(exif, orientation):
    plain = decode(saved(Image.fromarray(upright()), "JPEG"), 32)
    np.testing.assert_array_equal(decode(saved(Image.fromarray(upright()), "JPEG", exif=exif), 32), plain)
    unknown = Image.Exif()
    unknown[0x0112] = orientation
    turned = saved(Image.fromarray(upright()), "JPEG", exif=unknown)
    np.testing.assert_array_equal(decode(turned, 32), plain)


def test_the_crop_is_of_the_upright_image():
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(STORED[6](upright())))
    decoded = CropResize(16, crop=(0, 16, 16, 16)).decode(saved(stored, "PNG", exif=exif), "a.png")
    np.testing.assert_array_equal(decoded, upright()[:16, 16:])  # green


def png(color_type: int, depth: int, row: bytes, key: bytes = b"") -> bytes:
    """A PNG of one row of two pixels, written by hand: Pillow does not write all kinds."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", 2, 1, depth, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"tRNS", key) if key else b"")
        + chunk(b"IDAT", zlib.compress(b"\0" + row))
        + chunk(b"IEND", b"")
    )


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


# Two pixels: the first is transparent, the second is opaque with the given colour.
TRANSPARENT = {
    "RGBA": (png(6, 8, bytes([9, 9, 9, 0, 1, 2, 3, 255])), [1, 2, 3]),
    "RGBA, 16 bits": (png(6, 16, words(9, 9, 9, 0, 257, 514, 771, 65535)), [1, 2, 3]),
    "grey and alpha": (png(4, 8, bytes([9, 0, 7, 255])), [7, 7, 7]),
    "grey and alpha, 16 bits": (png(4, 16, words(9, 0, 7 * 257, 65535)), [7, 7, 7]),
    "RGB with a key": (png(2, 8, bytes([1, 2, 3, 4, 5, 6]), words(1, 2, 3)), [4, 5, 6]),
    "RGB with a key, 16 bits": (
        png(2, 16, words(257, 514, 771, 1028, 0, 0), words(257, 514, 771)),
        [4, 0, 0],
    ),
    "RGB with a key, 16 bits, equal high bytes": (
        png(2, 16, words(257, 514, 771, 257, 514, 772), words(257, 514, 771)),
        [1, 2, 3],
    ),
    "grey with a key": (png(0, 8, bytes([7, 9]), words(7)), [9, 9, 9]),
    "grey with a key, 1 bit": (png(0, 1, bytes([0b01000000]), words(0)), [255, 255, 255]),
    "grey with a key, 2 bits": (png(0, 2, bytes([0b01100000]), words(1)), [170, 170, 170]),
    "grey with a key, 4 bits": (png(0, 4, bytes([0x37]), words(3)), [119, 119, 119]),
    "grey with a key, 16 bits": (png(0, 16, words(0x1234, 0x5678), words(0x1234)), [0x56] * 3),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparency_shows_the_background(kind):
    encoded, opaque = TRANSPARENT[kind]
    for background, expected in (((255,), [255] * 3), ((0,), [0] * 3), ((10, 20, 30), [10, 20, 30])):
        rows = CropResize(1, crop=(0, 0, 1, 1), background=background).decode(encoded, "a.png")
        np.testing.assert_array_equal(rows[0, 0], expected)
        rows = CropResize(1, crop=(0, 1, 1, 1), background=background).decode(encoded, "a.png")
        np.testing.assert_array_equal(rows[0, 0], opaque)
    grey = CropResize(1, 1, crop=(0, 0, 1, 1), background=(100,)).decode(encoded, "a.png")
    np.testing.assert_array_equal(grey, [[[100]]])


@pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP", "TIFF", "ICO", "AVIF"])
def test_palettes_and_alpha_of_other_formats_show_the_background(format):
    image = Image.new("RGBA", (16, 16), (200, 0, 0, 255))
    image.paste((0, 0, 200, 0), (0, 0, 8, 16))
    if format == "PNG":
        image = image.quantize(4, method=Image.Quantize.FASTOCTREE)
    decoded = decode(saved(image, format), 16, background=(0, 255, 0)).astype(int)
    assert abs(decoded[8, 2] - [0, 255, 0]).max() < 12
    assert abs(decoded[8, 13] - [200, 0, 0]).max() < 12


@pytest.mark.parametrize("mode", ["RGBa", "PA", "La"])
def test_other_modes_with_alpha_show_the_background(mode):
    rows = np.zeros((2, 2, 4), np.uint8)
    rows[0] = [9, 9, 9, 255]
    image = Image.fromarray(rows)
    if mode == "RGBa":
        image = image.convert("RGBa")
    elif mode == "La":
        image = image.convert("LA").convert("La")
    else:
        alpha = image.getchannel("A")
        image = Image.fromarray(rows[..., 0]).convert("P").convert("PA")  # Pillow's own LA → PA loses alpha
        image.putalpha(alpha)
    decoded = np.asarray(CropResize(2).show(image, "a.png"))
    np.testing.assert_array_equal(decoded[:, 0], [[9, 9, 9], [255, 255, 255]])


def test_half_transparent_pixels_are_mixed():
    encoded = saved(Image.new("RGBA", (4, 4), (0, 100, 200, 128)), "PNG")
    expected = np.array([0, 100, 200]) * 128 / 255 + 255 * 127 / 255
    assert abs(decode(encoded, 4)[0, 0] - expected).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("channels", [1, 3])
def test_opaque_images_keep_their_exact_pixels(mode, channels):
    pixels = np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8)
    plain = Image.fromarray(pixels)
    if mode == "P":
        image = plain.quantize(16)
        encoded = saved(image, "PNG", transparency=bytes([255] * 16))
    else:
        image = plain.convert(mode)
        encoded = saved(image, "PNG")
    expected = np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(8, 8, channels)
    np.testing.assert_array_equal(decode(encoded, 8, channels), expected)


def sixteen(values: np.ndarray) -> list[tuple[str, bytes]]:
    """The same values of 16 bits in several formats."""
    image = Image.fromarray(values)
    pgm = b"P5\n%d %d\n65535\n" % values.shape[::-1] + values.astype(">u2").tobytes()
    big = io.BytesIO()
    Image.frombytes("I;16B", values.shape[::-1], values.astype(">u2").tobytes()).save(big, "TIFF")
    return [
        ("PNG", saved(image, "PNG")),
        ("TIFF", saved(image, "TIFF")),
        ("TIFF, other order of bytes", big.getvalue()),
        ("JPEG 2000", saved(image, "JPEG2000", irreversible=False)),
        ("PGM", pgm),
    ]


@pytest.mark.parametrize("kind", range(5))
def test_16_bits_become_8(kind):
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
    name, encoded = sixteen(values)[kind]
    decoded = decode(encoded, 8, channels=1)[..., 0]
    np.testing.assert_array_equal(decoded, values >> 8, err_msg=name)


def tiff(bits: int, content: bytes, white_is_zero: bool, shape: tuple[int, int] = (8, 8)) -> bytes:
    """A grey TIFF, written by hand: Pillow does not write all kinds."""
    height, width = shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 0 if white_is_zero else 1, 273: 0, 277: 1}
    tags |= {278: height, 279: len(content)}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + content


@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_tiff_whose_zero_is_white(bits, white_is_zero):
    values = np.random.default_rng(0).integers(2**bits, size=(8, 8))
    packed = b"".join(int("".join(f"{x:0{bits}b}" for x in row), 2).to_bytes(bits, "big") for row in values)
    encoded = tiff(bits, values.astype("<u2").tobytes() if bits == 16 else packed, white_is_zero)
    expected = values >> 8 if bits == 16 else values * 255 // (2**bits - 1)
    expected = 255 - expected if white_is_zero else expected
    np.testing.assert_array_equal(decode(encoded, 8, channels=1)[..., 0], expected)
    if bits == 16:
        for compression in ("tiff_lzw", "tiff_adobe_deflate"):
            image = Image.open(io.BytesIO(encoded))
            packed = saved(image, "TIFF", compression=compression, tiffinfo={262: 0 if white_is_zero else 1})
            assert isinstance(again := Image.open(io.BytesIO(packed)), TiffImagePlugin.TiffImageFile)
            assert again.tag_v2[262] == 1 - white_is_zero
            np.testing.assert_array_equal(decode(packed, 8, channels=1)[..., 0], expected)


def deep(values: np.ndarray) -> dict[str, tuple[bytes, int]]:
    """Values of 16 bits, [8, 8, 3], as formats store them, and the greatest possible value."""
    rows = values.reshape(8, -1)
    sgi = struct.pack(">hBBHHHHii", 474, 0, 2, 3, 8, 8, 3, 0, 65535) + bytes(512 - 20)
    return {
        "PPM": (b"P6 8 8 65535\n" + values.astype(">u2").tobytes(), 65535),
        "plain PPM": (b"P3 8 8 65535\n" + " ".join(map(str, rows.ravel())).encode(), 65535),
        "PPM to 1000": (b"P6 8 8 1000\n" + (values % 1001).astype(">u2").tobytes(), 1000),
        "SGI": (sgi + values[::-1].transpose(2, 0, 1).astype(">u2").tobytes(), 65535),
    }


@pytest.mark.parametrize("format", ["PPM", "plain PPM", "PPM to 1000", "SGI"])
def test_colours_of_16_bits_are_reported(format):
    values = np.random.default_rng(0).integers(2**16, size=(8, 8, 3))
    encoded, largest = deep(values)[format]
    expected = (values if largest == 65535 else values % 1001) * (255 / largest)
    decoded, lines = with_lines(encoded)
    assert abs(decoded - expected).max() <= 1
    assert lines == [f"a has 16 bits per channel: 0 to {largest} becomes 0 to 255 (reported once)"]


def test_the_greatest_value_is_that_of_the_file():
    values = np.arange(64).reshape(8, 8) * 15
    decoded, lines = with_lines(b"P5 8 8 1000\n" + values.astype(">u2").tobytes())
    assert abs(decoded[..., 0] - values * 0.255).max() <= 1
    assert "0 to 1000 becomes 0 to 255; the greatest value in it is 945 (" in lines[0]
    for encoded in (b"P6 8 8 255\n" + bytes(192), b"P5 8 8 100\n" + bytes(64)):
        assert with_lines(encoded)[1] == []


def with_lines(encoded: bytes) -> tuple[np.ndarray, list[str]]:
    """The pixels of an image, and what is reported of it."""
    crop_resize, lines = CropResize(8), []
    crop_resize.notes.listen(lambda level, line: lines.append(line))
    return crop_resize.decode(encoded, "a").astype(int), lines


def test_floats_and_32_bits_are_refused_by_name():
    floats = saved(Image.fromarray(np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)), "TIFF")
    with pytest.raises(Damaged, match=r"a.png has floating-point values from -1 to 1, .* 8 or 16 bits"):
        decode(floats, 8)
    whole = saved(Image.fromarray(np.full((8, 8), 100_000, np.int32)), "TIFF")
    with pytest.raises(Damaged, match=r"a.png has whole numbers of 32 bits.* from 100000 to 100000"):
        decode(whole, 8)


def test_what_is_changed_is_reported_once(caplog):
    crop_resize = CropResize(8)
    crop_resize.notes.listen()
    deep = encode(np.full((8, 8), 4095, np.uint16))
    clear = saved(Image.new("RGBA", (8, 8)), "PNG")
    with caplog.at_level(logging.INFO, "drl_jax"):
        for name in ("1.png", "2.png"):
            crop_resize.decode(deep, name)
            crop_resize.decode(clear, name)
            crop_resize.decode(encode(np.zeros((8, 8, 3), np.uint8)), name)
    assert [record.getMessage().split(" (reported once)")[0] for record in caplog.records] == [
        "1.png has 16 bits per channel: 0 to 65535 becomes 0 to 255; the greatest value in it is 4095",
        "1.png is transparent in part: config.data.background=(255,) shows there",
    ]


def text(megabytes: float, *, is_compressed: bool) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "x" * int(megabytes * 2**20), zip=is_compressed)
    info.add_itxt("XML:com.adobe.xmp", "y" * int(megabytes * 2**20), zip=is_compressed)
    return info


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("megabytes", [0.1, 3, 40])
def test_a_png_with_much_text_is_read(megabytes, is_compressed):
    pixels = upright()
    encoded = saved(Image.fromarray(pixels), "PNG", pnginfo=text(megabytes, is_compressed=is_compressed))
    np.testing.assert_array_equal(decode(encoded, 32), pixels)


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "PPM"])
def test_an_image_of_too_many_pixels_is_refused_by_name(format):
    width = height = 20_000
    start = {
        "PNG": png(0, 8, b"\0\0")[:8]
        + struct.pack(">I", 13)
        + b"IHDR"
        + (header := struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + struct.pack(">I", zlib.crc32(b"IHDR" + header))
        + png(0, 8, b"\0\0")[33:],
        "GIF": b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
        + bytes(6)
        + struct.pack("<BHHHHB", ord(","), 0, 0, width, height, 0)
        + b"\x02\x02\x44\x01\0;",
        "BMP": b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0),
        "PPM": b"P6\n20000 20000\n255\n",
    }[format]
    with pytest.raises(Damaged, match=r"a.png has more than 178,956,970 pixels"):
        decode(start, 8)


@pytest.mark.parametrize("suffix", sorted(viewing.SUFFIXES))
def test_every_suffix_belongs_to_a_format_that_is_read(suffix):
    format = Image.registered_extensions()[suffix]
    assert format in (*viewing.FORMATS, "MPO")


@pytest.mark.parametrize("format", ["PPM", "TGA", "PCX", "SGI", "JPEG2000", "BMP", "DIB", "QOI", "DDS"])
def test_other_formats_are_read(format):
    pixels = np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8)
    options = {"irreversible": False} if format == "JPEG2000" else {}
    try:
        encoded = saved(Image.fromarray(pixels), format, **options)
    except KeyError:
        pytest.skip(f"this Pillow does not write {format}")
    np.testing.assert_array_equal(decode(encoded, 16), pixels)


def test_postscript_is_not_run():
    assert not {".eps", ".ps", ".h5", ".mpg", ".pdf"} & viewing.SUFFIXES
    with pytest.raises(Damaged, match="is not an image that can be read"):
        decode(saved(Image.fromarray(upright()), "EPS"), 8)


def test_the_first_frame_of_several_is_read():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for format in ("GIF", "TIFF", "PNG", "WEBP"):
        options = {"lossless": True} if format == "WEBP" else {}
        encoded = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(decode(encoded, 8)[0, 0], [255, 0, 0])


@pytest.mark.parametrize(
    "format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "TGA", "ICO"]
)
def test_damage_anywhere_gives_an_image_or_a_line_with_the_name(format):
    rng = np.random.default_rng(0)
    good = saved(Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)), format)
    read = 0
    for _ in range(60):
        content = bytearray(good)
        for place in rng.integers(len(good), size=3):
            content[place] = rng.integers(256)
        with suppress(Damaged):  # any other error fails the test
            decode(bytes(content[: rng.integers(1, len(good) + 1)]), 8)
            read += 1
    assert read < 60
