"""Images that the program writes and shows: grids, and columns with titles."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from drl_jax.api import image_grid
from drl_jax.errors import UserError
from drl_jax.report.images import save_columns

TITLES = ["image", "score 3", "W" * 13, ""]


def written(folder, columns) -> np.ndarray:
    save_columns(columns, folder / "columns.png")
    with Image.open(folder / "columns.png") as image:
        return np.asarray(image)


@pytest.mark.parametrize("side", [2, 8, 28, 200])
def test_a_title_is_as_wide_as_its_column_at_most(tmp_path, side):
    black = np.zeros((3, side, side, 1), np.uint8)
    sheet = written(tmp_path, [(title, black) for title in TITLES])
    dark = (sheet[28:] == 0).any(axis=0)  # where the columns of images are
    starts = np.flatnonzero(np.diff(dark.astype(int), prepend=0) == 1)
    ends = np.flatnonzero(np.diff(dark.astype(int), append=0) == -1) + 1
    assert len(starts) == len(TITLES)
    for title, start, end in zip(TITLES, starts, ends, strict=True):
        assert ImageFont.load_default(14).getlength(title) <= end - start
    heading = sheet[:28]
    inside = np.concatenate([np.arange(a, b) for a, b in zip(starts, ends, strict=True)])
    assert (np.delete(heading, inside, axis=1) == 255).all()
    assert (heading[:, starts[-1] : ends[-1]] == 255).all()  # the empty title
    for start, end in list(zip(starts, ends, strict=True))[:-1]:
        assert (heading[:, start:end] < 128).any()


def test_long_titles_are_cut(tmp_path):
    black = np.zeros((1, 8, 8, 1), np.uint8)
    assert written(tmp_path, [("W" * 60, black)]).shape == written(tmp_path, [("W" * 12 + "…", black)]).shape


def test_images_are_beside_each_other_row_by_row(tmp_path):
    # Column c of row r has the value 100 c + 10 r + 5.
    columns = [("", np.full((2, 600, 600, 1), 100 * c + 5, np.uint8)) for c in range(2)]
    for _, images in columns:
        images[1] += 10
    sheet = written(tmp_path, columns)[28:]
    height, width = sheet.shape
    found = [[sheet[height * y // 4, width * x // 4] for x in (1, 3)] for y in (1, 3)]
    assert found == [[5, 105], [15, 115]]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
@pytest.mark.parametrize(("columns", "rows_of"), [(None, 2), (3, 3), (1, 1)])
def test_a_grid_has_the_images_row_by_row(channels, mode, columns, rows_of):
    side, values = 100, np.array([10, 60, 110, 160], np.uint8)
    images = np.broadcast_to(values[:, None, None, None], (4, side, side, channels))
    grid = image_grid(images, columns)
    assert grid.mode == mode
    pixels = np.asarray(grid).reshape(*grid.size[::-1], channels)[..., 0]
    factor = round(640 / (rows_of * 1.1 * side))  # the grid is about 640 pixels wide
    pitch, gap = factor * side + factor * side // 10, factor * side // 10
    assert grid.size == (rows_of * pitch + gap, -(-4 // rows_of) * pitch + gap)
    for i, value in enumerate(values):
        top, left = gap + (i // rows_of) * pitch, gap + (i % rows_of) * pitch
        assert (pixels[top : top + factor * side, left : left + factor * side] == value).all()
    assert (pixels == 255).sum() == pixels.size - 4 * (factor * side) ** 2


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8, 1), np.float32),
        np.zeros((8, 8, 1), np.uint8),
        np.zeros((0, 8, 8, 1), np.uint8),
        np.zeros((2, 8, 8, 4), np.uint8),
        np.zeros((5, 2), np.float32),  # points
    ],
)
def test_what_is_no_image_is_an_error(images):
    with pytest.raises(UserError, match=r"^an array of .* right is uint8 \[n, height, width, channels\]"):
        image_grid(images)


def test_a_grid_without_columns_is_an_error():
    with pytest.raises(UserError, match=r"^columns=0 is not possible"):
        image_grid(np.zeros((2, 8, 8, 1), np.uint8), 0)
