"""Samples as PNG files: grids, strips of the process, and densities in the plane."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from etils import epath
from jaxtyping import Float, UInt8
from PIL import Image

from drl_jax import storage
from drl_jax.data.densities import Density
from drl_jax.data.pipeline import to_uint8
from drl_jax.metrics import planar

SHOWN = 100  # pictures in a grid, at most
STRIPS = 8  # pictures whose process is shown, at most
WIDTH = 640  # pixels that a grid of small pictures is enlarged to, about

Pictures = UInt8[np.ndarray, "n height width colors"]


def save_grid(pictures: Pictures, path: epath.PathLike, *, columns: int | None = None) -> None:
    """Pictures side by side, row by row; small ones enlarged by a whole factor, smoothly, to be seen."""
    if columns is None:
        pictures = pictures[:SHOWN]
        columns = int(np.ceil(np.sqrt(len(pictures))))
    factor = max(1, round(WIDTH / (columns * 1.1 * pictures.shape[2])))
    pictures = np.stack([_enlarged(picture, factor) for picture in pictures])
    n, height, width, colors = pictures.shape
    rows = -(-n // columns)
    gap = max(1, width // 10)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, colors), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = (gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap))
        sheet[top : top + height, left : left + width] = picture
    _save(sheet, path)


def save_process(process: Float[np.ndarray, "levels n *shape"], path: epath.PathLike) -> None:
    """The states of pictures from noise to sample, one row per picture, one column per level."""
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
    true = np.exp(density.log_density(planar.grid(density))).reshape(planar.SIDE, planar.SIDE)
    counts = planar.histogram(points, density, planar.SIDE // 2).repeat(2, axis=0).repeat(2, axis=1)
    save_maps([[true, counts]], path)


def _enlarged(picture: UInt8[np.ndarray, "h w colors"], factor: int) -> UInt8[np.ndarray, "h2 w2 colors"]:
    height, width, colors = picture.shape
    size = (width * factor, height * factor)
    bands = (Image.fromarray(picture[..., i]).resize(size, Image.Resampling.BICUBIC) for i in range(colors))
    return np.stack([np.asarray(band) for band in bands], axis=-1)


def _save(sheet: UInt8[np.ndarray, "height width colors"], path: epath.PathLike) -> None:
    file = io.BytesIO()
    Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet).save(file, format="PNG")
    storage.write(epath.Path(path), file.getvalue())
