import numpy as np
import pytest
from PIL import Image

from drl_jax.data.decoding import Framing, png
from drl_jax.errors import UserError
from tests.data.tiny_sets import encoded


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


def test_a_image_of_the_right_size_keeps_every_bit():
    pixels = random_pixels(32, 32, 3)
    np.testing.assert_array_equal(Framing(32)(encoded(pixels), "a.png"), pixels)
    grey = random_pixels(8, 8)
    framed = Framing(8, channels=1)(encoded(grey), "a.png")
    np.testing.assert_array_equal(framed, grey[..., None])


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7, 1)])
def test_png_round_trips(shape):
    pixels = random_pixels(*shape)
    framing = Framing(5, channels=shape[-1])
    np.testing.assert_array_equal(framing(png(pixels), ""), pixels[:, 1:6])


def test_the_default_is_the_central_square():
    pixels = random_pixels(10, 16, 3)
    np.testing.assert_array_equal(Framing(10)(encoded(pixels), ""), pixels[:, 3:13])
    upright = pixels.transpose(1, 0, 2)
    np.testing.assert_array_equal(Framing(10)(encoded(upright), ""), upright[3:13])


def test_a_crop_counts_rows_then_columns():
    pixels = random_pixels(20, 30, 3)
    framed = Framing(6, crop=(2, 20, 6, 6))(encoded(pixels), "")
    np.testing.assert_array_equal(framed, pixels[2:8, 20:26])


def test_reduction_is_bilinear_and_antialiased():
    # A triangle of half-width 4 around every fourth pixel, normalised over what lies inside.
    pixels = random_pixels(32, 32)
    centres = 4 * np.arange(8) + 1.5
    weights = np.clip(1 - np.abs(np.arange(32) - centres[:, None]) / 4, 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    expected = weights @ pixels @ weights.T
    framed = Framing(8, channels=1)(encoded(pixels), "")[..., 0]
    # One rounding per direction.
    np.testing.assert_allclose(framed, expected, atol=1.01)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1"])
def test_other_modes_become_rgb_or_grey(mode, tmp_path):
    image = Image.fromarray(random_pixels(6, 6, 3)).convert(mode)
    file = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(file)
    assert Framing(6)(file.read_bytes(), "").shape == (6, 6, 3)
    assert Framing(6, channels=1)(file.read_bytes(), "").shape == (6, 6, 1)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (encoded(random_pixels(64, 64, 3))[:2000], "here/a.png is damaged"),
        (encoded(random_pixels(64, 64, 3), "JPEG")[:2000], "here/a.png is damaged"),
        (encoded(random_pixels(8, 8, 3))[:40], "here/a.png is"),
        (b"no image at all", "here/a.png is not a image"),
        (b"", "here/a.png is not a image"),
        (encoded(random_pixels(6, 6).astype(np.uint16)), "here/a.png has more than 8 bits"),
    ],
)
def test_a_bad_image_is_named(content, problem):
    with pytest.raises(UserError, match=problem) as caught:
        Framing(8)(content, "here/a.png")
    assert "\n" not in str(caught.value)


def test_a_image_smaller_than_the_crop_is_named_with_its_size():
    with pytest.raises(UserError, match=r"data.crop=\(20, 0, 178, 178\).*a.png.*64 rows by 60 col"):
        Framing(64, crop=(20, 0, 178, 178))(encoded(random_pixels(64, 60, 3)), "a.png")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"image_size": 0}, "data.image_size=0"),
        ({"image_size": 8, "channels": 4}, "data.channels=4"),
        ({"image_size": 8, "crop": (0, 0, 8, 9)}, "data.crop="),
        ({"image_size": 8, "crop": (-1, 0, 8, 8)}, "data.crop="),
    ],
)
def test_wrong_options_are_refused_at_once(options, problem):
    with pytest.raises(UserError, match=problem):
        Framing(**options)
