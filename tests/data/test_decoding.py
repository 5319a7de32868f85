import numpy as np
import pytest
from PIL import Image

from drl_jax.data.decoding import CropResize, encode_png
from drl_jax.errors import UserError
from tests.data.helpers import encode


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


def test_an_image_of_the_right_size_keeps_its_exact_pixels():
    pixels = random_pixels(32, 32, 3)
    np.testing.assert_array_equal(CropResize(32).decode(encode(pixels), "a.png"), pixels)
    grey = random_pixels(8, 8)
    decoded = CropResize(8, channels=1).decode(encode(grey), "a.png")
    np.testing.assert_array_equal(decoded, grey[..., None])


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7, 1)])
def test_decoding_an_encoded_png_gives_its_pixels(shape):
    pixels = random_pixels(*shape)
    decoded = CropResize(5, channels=shape[-1]).decode(encode_png(pixels), "")
    np.testing.assert_array_equal(decoded, pixels[:, 1:6])


def test_the_default_crop_is_the_central_square():
    pixels = random_pixels(10, 16, 3)
    np.testing.assert_array_equal(CropResize(10).decode(encode(pixels), ""), pixels[:, 3:13])
    upright = pixels.transpose(1, 0, 2)
    np.testing.assert_array_equal(CropResize(10).decode(encode(upright), ""), upright[3:13])


def test_a_crop_is_top_left_height_width():
    pixels = random_pixels(20, 30, 3)
    decoded = CropResize(6, crop=(2, 20, 6, 6)).decode(encode(pixels), "")
    np.testing.assert_array_equal(decoded, pixels[2:8, 20:26])


def test_shrinking_is_bilinear_and_antialiased():
    # A triangle of half-width 4 around every fourth pixel, normalised over the pixels inside the image.
    pixels = random_pixels(32, 32)
    centres = 4 * np.arange(8) + 1.5
    weights = np.clip(1 - np.abs(np.arange(32) - centres[:, None]) / 4, 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    expected = weights @ pixels @ weights.T
    decoded = CropResize(8, channels=1).decode(encode(pixels), "")[..., 0]
    # One rounding per direction.
    np.testing.assert_allclose(decoded, expected, atol=1.01)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1"])
def test_other_modes_become_rgb_or_grey(mode, tmp_path):
    image = Image.fromarray(random_pixels(6, 6, 3)).convert(mode)
    file = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(file)
    assert CropResize(6).decode(file.read_bytes(), "").shape == (6, 6, 3)
    assert CropResize(6, channels=1).decode(file.read_bytes(), "").shape == (6, 6, 1)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (encode(random_pixels(64, 64, 3))[:2000], "here/a.png is damaged"),
        (encode(random_pixels(64, 64, 3), "JPEG")[:2000], "here/a.png is damaged"),
        (encode(random_pixels(8, 8, 3))[:40], "here/a.png is"),
        (b"no image at all", "here/a.png is not an image"),
        (b"", "here/a.png is empty"),
    ],
)
def test_the_message_names_a_bad_image(content, problem):
    with pytest.raises(UserError, match=problem) as caught:
        CropResize(8).decode(content, "here/a.png")
    assert "\n" not in str(caught.value)


def test_the_message_gives_the_size_of_an_image_smaller_than_the_crop():
    message = r"config.data.crop=\(20, 0, 178, 178\).*a.png.*64 rows and 60 col"
    with pytest.raises(UserError, match=message):
        CropResize(64, crop=(20, 0, 178, 178)).decode(encode(random_pixels(64, 60, 3)), "a.png")


@pytest.mark.parametrize("crop", [(0, 0, 8, 9), (-1, 0, 8, 8), (0, -1, 8, 8), (0, 0, 0, 0)])
def test_a_crop_that_pillow_would_pad_or_stretch_is_refused(crop):
    with pytest.raises(ValueError, match="a square"):
        CropResize(8, crop=crop)
