"""Images that are made to be told from those of a data set: noise, constants, and images that are changed."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import UInt8

Images = UInt8[np.ndarray, "n height width channels"]
Make = Callable[[np.random.Generator, Images], Images]
"""(random numbers, images of the data set) -> as many images of the same shape."""


def noise(rng: np.random.Generator, images: Images) -> Images:
    """Draws every number uniformly from 0 … 255."""
    return rng.integers(0, 256, images.shape, np.uint8)


def gaussian(rng: np.random.Generator, images: Images) -> Images:
    """Draws every number from the normal distribution with the mean and the variance of the images."""
    drawn = rng.normal(images.mean(), images.std(), images.shape)
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)


def constant(rng: np.random.Generator, images: Images) -> Images:
    """Fills each image with one colour, drawn uniformly."""
    colours = rng.integers(0, 256, (len(images), 1, 1, images.shape[-1]), np.uint8)
    return np.broadcast_to(colours, images.shape).copy()


def black(rng: np.random.Generator, images: Images) -> Images:
    """Fills all images with 0."""
    del rng
    return np.zeros_like(images)


def shifted(rng: np.random.Generator, images: Images) -> Images:
    """Moves each image by a quarter of its side to the left, right, top or bottom, around the border."""
    step = max(1, images.shape[1] // 4)
    ways = rng.integers(0, 4, len(images))
    moved = [np.roll(images, step * sign, axis) for axis in (1, 2) for sign in (-1, 1)]
    return np.stack(moved)[ways, np.arange(len(images))]


def rotated(rng: np.random.Generator, images: Images) -> Images:
    """Turns each image by 90 degrees, to the left or to the right."""
    is_left = rng.random(len(images)) < 0.5
    turned = [np.rot90(images, quarter, (1, 2)) for quarter in (1, 3)]
    return np.where(is_left[:, None, None, None], *turned)


def interpolated(rng: np.random.Generator, images: Images) -> Images:
    """Takes the mean of each image and another one."""
    order = rng.permutation(len(images))
    partner = np.empty_like(order)
    partner[order] = np.roll(order, 1)
    return ((images.astype(np.uint16) + images[partner]) // 2).astype(np.uint8)


SETS: Mapping[str, Make] = {
    "noise": noise,
    "gaussian": gaussian,
    "constant": constant,
    "black": black,
    "shifted": shifted,
    "rotated": rotated,
    "interpolated": interpolated,
}
