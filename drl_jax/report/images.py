"""PNG files: grids of samples, how they evolve over the levels, and densities in the plane."""

import io
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from drl_jax import files
from drl_jax.data.densities import Density
from drl_jax.metrics import density_grid
from drl_jax.pixels import to_uint8
from drl_jax.report.plotting import colormaps

MAX_SHOWN = 100  # images in a grid
_MAX_STRIPS = 8  # images whose process is shown
_TEXT = 14  # pixels; height of the words above columns
_TITLE = 13  # characters above a column, at most
_WIDTH = 640  # pixels; small images are enlarged until a grid is about this wide

Images = UInt8[np.ndarray, "n height width channels"]


def make_grid(
    images: Images, *, columns: int | None = None, titles: Sequence[str] = ()
) -> UInt8[np.ndarray, "rows columns channels"]:
    """Puts images side by side, row by row. Small images are enlarged by a whole factor, smoothly.

    Args:
      images: uint8; at most `MAX_SHOWN` of them are shown if `columns` is not given.
      columns: images in a row. Default: as many as rows.
      titles: a word above each column; long ones are cut. Default: none.

    Returns:
      The pixels of the grid.
    """
    if columns is None:
        images = images[:MAX_SHOWN]
        columns = int(np.ceil(np.sqrt(len(images))))
    titles = [title if len(title) <= _TITLE else f"{title[: _TITLE - 1]}…" for title in titles]
    widest = max((ImageFont.load_default(_TEXT).getlength(title) for title in titles), default=0)
    factor = max(1, round(_WIDTH / (columns * 1.1 * images.shape[2])), int(np.ceil(widest / images.shape[2])))
    images = np.stack([_enlarged(image, factor) for image in images])
    n, height, width, channels = images.shape
    rows = -(-n // columns)
    gap = max(1, width // 10)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap))
        sheet[top : top + height, left : left + width] = image
    if titles:
        centres = [gap + column * (width + gap) + width // 2 for column in range(columns)]
        sheet = np.concatenate([_heading(titles, centres, sheet.shape), sheet])
    return sheet


def save_grid(
    images: Images, path: epath.PathLike, *, columns: int | None = None, titles: Sequence[str] = ()
) -> None:
    """Writes the grid of `make_grid`.

    Args:
      images, columns, titles: as for `make_grid`.
      path: of the PNG file.
    """
    _save(make_grid(images, columns=columns, titles=titles), path)


def save_columns(columns: Sequence[tuple[str, Images]], path: epath.PathLike) -> None:
    """Writes columns of images beside each other.

    Args:
      columns: of each its title, which may be empty, and its images; equally many in all.
      path: of the PNG file.
    """
    sheet = np.stack([images for _, images in columns], axis=1)
    titles = [title for title, _ in columns]
    save_grid(sheet.reshape(-1, *sheet.shape[2:]), path, columns=len(columns), titles=titles)


def _heading(
    titles: Sequence[str], centres: Sequence[int], shape: tuple[int, ...]
) -> UInt8[np.ndarray, "height width channels"]:
    """A white strip with words in black, each around its place."""
    strip = Image.new("L", (shape[1], 2 * _TEXT), 255)
    draw = ImageDraw.Draw(strip)
    for title, centre in zip(titles, centres, strict=True):
        draw.text((centre, _TEXT), title, fill=0, anchor="mm", font=ImageFont.load_default(_TEXT))
    return np.repeat(np.asarray(strip)[..., None], shape[2], axis=2)


def save_process(process: Float[np.ndarray, "states n *shape"], path: epath.PathLike) -> None:
    """Writes how images evolve from noise to sample: one row per image, one column per level.

    Args:
      process: the states x_T … x_0, around [-1, 1].
      path: of the PNG file.
    """
    rows = np.swapaxes(to_uint8(process[:, :_MAX_STRIPS]), 0, 1)
    save_grid(rows.reshape(-1, *rows.shape[2:]), path, columns=len(process))


def save_densities(rows: Sequence[Sequence[Float[np.ndarray, "side side"]]], path: epath.PathLike) -> None:
    """Writes densities on a square, each with its own colour scale, side by side in rows.

    Args:
      rows: not negative; the first axis points to the right, the second up.
      path: of the PNG file.
    """
    color = colormaps["magma"]
    lines = []
    for row in rows:
        panels = [color(np.flipud(m.T) / max(m.max(), 1e-300))[..., :3] for m in row]
        framed = [np.pad(panel, ((3, 3), (3, 3), (0, 0)), constant_values=1) for panel in panels]
        lines.append(np.concatenate(framed, axis=1))
    _save((np.concatenate(lines) * 255).astype(np.uint8), path)


def save_points(points: Float[np.ndarray, "n 2"], density: Density, path: epath.PathLike) -> None:
    """Writes the true density beside a histogram of points."""
    side = density_grid.SIDE
    true = np.exp(density.log_density(density_grid.grid(density))).reshape(side, side)
    counts = density_grid.histogram(points, density, side // 2)
    save_densities([[true, counts.repeat(2, axis=0).repeat(2, axis=1)]], path)


def _enlarged(image: UInt8[np.ndarray, "h w channels"], factor: int) -> UInt8[np.ndarray, "h2 w2 channels"]:
    height, width, channels = image.shape
    size = (width * factor, height * factor)
    bands = (Image.fromarray(image[..., i]).resize(size, Image.Resampling.BICUBIC) for i in range(channels))
    return np.stack([np.asarray(band) for band in bands], axis=-1)


def to_image(sheet: UInt8[np.ndarray, "height width channels"]) -> Image.Image:
    """Makes an image of Pillow from its pixels, grey or in colour."""
    return Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet)


def _save(sheet: UInt8[np.ndarray, "height width channels"], path: epath.PathLike) -> None:
    file = io.BytesIO()
    to_image(sheet).save(file, format="PNG")
    files.write(epath.Path(path), file.getvalue())
