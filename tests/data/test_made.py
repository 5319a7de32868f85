"""What each kind of made images has, and lacks."""

import numpy as np
import pytest

from drl_jax.data import made


@pytest.fixture(scope="module", params=[(8, 1), (12, 3)], ids=str)
def images(request) -> np.ndarray:
    side, channels = request.param
    rng = np.random.default_rng(0)
    return rng.integers(0, 200, (400, side, side, channels), np.uint8)


@pytest.mark.parametrize("name", made.SETS)
def test_as_many_images_of_the_same_kind(name, images):
    before = images.copy()
    first, again, other = (made.SETS[name](np.random.default_rng(seed), images) for seed in (1, 1, 2))
    assert (first.shape, first.dtype) == (images.shape, np.uint8)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() or name == "black"
    np.testing.assert_array_equal(images, before)
    first[:] = 1  # is an array of its own
    np.testing.assert_array_equal(images, before)


def test_noise_covers_all_bytes(images):
    drawn = made.noise(np.random.default_rng(0), images)
    assert set(np.unique(drawn)) == set(range(256))
    assert drawn.mean() == pytest.approx(127.5, abs=4 * 74 / np.sqrt(drawn.size))


def test_gaussian_noise_has_the_moments_of_the_images(images):
    drawn = made.gaussian(np.random.default_rng(0), images // 4 + 100)
    assert drawn.mean() == pytest.approx((images // 4 + 100).mean(), abs=0.5)
    assert drawn.std() == pytest.approx((images // 4 + 100).std(), rel=0.03)


def test_constant_images_have_one_colour_each(images):
    drawn = made.constant(np.random.default_rng(0), images)
    assert (drawn == drawn[:, :1, :1]).all()
    assert len(np.unique(drawn[:, 0, 0], axis=0)) > 100


def test_shifted_and_rotated_images_keep_their_pixels(images):
    for name, quarter in (("shifted", False), ("rotated", True)):
        changed = made.SETS[name](np.random.default_rng(0), images)
        np.testing.assert_array_equal(np.sort(changed.ravel()), np.sort(images.ravel()))
        step = images.shape[1] // 4
        if quarter:
            ways = [np.rot90(images, k, (1, 2)) for k in (1, 3)]
        else:
            ways = [np.roll(images, s, axis) for s in (-step, step) for axis in (1, 2)]
        matches = np.stack([(changed == way).all(axis=(1, 2, 3)) for way in ways])
        assert (matches.sum(0) == 1).all()
        assert (matches.sum(1) > 60).all()


def test_interpolations_are_means_of_two_images(images):
    few = images[:20]
    drawn = made.interpolated(np.random.default_rng(0), few)
    means = (few[:, None].astype(int) + few[None]) // 2
    hits = (drawn[:, None, None] == means[None]).all(axis=(3, 4, 5))  # [drawn, first, second]
    for i, hit in enumerate(hits):
        assert hit[i].sum() == 1  # of image i and one other
        assert not hit[i, i]
