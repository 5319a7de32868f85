"""Samples as PNG files: grids, strips of the process, and densities in the plane."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from etils import epath
from jaxtyping import Float, UInt8
from PIL import Image

from drl_jax import files
from drl_jax.data.densities import Density
from drl_jax.metrics import density_grid
from drl_jax.pixels import to_uint8

SHOWN = 100  # images in a grid, at most
STRIPS = 8  # images whose process is shown, at most
WIDTH = 640  # pixels that a grid of small images is enlarged to, about

Images = UInt8[np.ndarray, "n height width colors"]


def save_grid(images: Images, path: epath.PathLike, *, columns: int | None = None) -> None:
    """Images side by side, row by row; small ones enlarged by a whole factor, smoothly, to be seen."""
    if columns is None:
        images = images[:SHOWN]
        columns = int(np.ceil(np.sqrt(len(images))))
    factor = max(1, round(WIDTH / (columns * 1.1 * images.shape[2])))
    images = np.stack([_enlarged(image, factor) for image in images])
    n, height, width, colors = images.shape
    rows = -(-n // columns)
    gap = max(1, width // 10)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, colors), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap))
        sheet[top : top + height, left : left + width] = image
    _save(sheet, path)


def save_process(process: Float[np.ndarray, "levels n *shape"], path: epath.PathLike) -> None:
    """The states of images from noise to sample, one row per image, one column per level."""
    rows = np.swapaxes(to_uint8(process[:, :STRIPS]), 0, 1)
    save_grid(rows.reshape(-1, *rows.shape[2:]), path, columns=len(process))


def save_maps(rows: Sequence[Sequence[Float[np.ndarray, "side side"]]], path: epath.PathLike) -> None:
    """Non-negative functions on a square, each on its own scale, first axis to the right, second up."""
    color = matplotlib.colormaps["magma"]
    lines = []
    for row in rows:
        panels = [color(np.flipud(m.T) / max(m.max(), 1e-300))[..., :3] for m in row]
        framed = [np.pad(panel, ((3, 3), (3, 3), (0, 0)), constant_values=1) for panel in panels]
        lines.append(np.concatenate(framed, axis=1))
    _save((np.concatenate(lines) * 255).astype(np.uint8), path)


def save_points(points: Float[np.ndarray, "n 2"], density: Density, path: epath.PathLike) -> None:
    """The true density beside the samples, counted in the cells of a grid."""
    true = np.exp(density.log_density(density_grid.grid(density))).reshape(
        density_grid.SIDE, density_grid.SIDE
    )
    counts = (
        density_grid.histogram(points, density, density_grid.SIDE // 2).repeat(2, axis=0).repeat(2, axis=1)
    )
    save_maps([[true, counts]], path)


def _enlarged(image: UInt8[np.ndarray, "h w colors"], factor: int) -> UInt8[np.ndarray, "h2 w2 colors"]:
    height, width, colors = image.shape
    size = (width * factor, height * factor)
    bands = (Image.fromarray(image[..., i]).resize(size, Image.Resampling.BICUBIC) for i in range(colors))
    return np.stack([np.asarray(band) for band in bands], axis=-1)


def _save(sheet: UInt8[np.ndarray, "height width colors"], path: epath.PathLike) -> None:
    file = io.BytesIO()
    Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet).save(file, format="PNG")
    files.write(epath.Path(path), file.getvalue())
