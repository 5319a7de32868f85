"""Images in NumPy's files: .npy, and .npz as `sample` writes them."""

import os
import shlex
import zipfile
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from drl_jax.data import viewing
from drl_jax.data.archives import DAMAGE, Spool
from drl_jax.data.decoding import CropResize, Damaged
from drl_jax.data.notes import shown
from drl_jax.errors import UserError

SUFFIXES = (".npz", ".npy")
_RIGHT = "right is uint8 [n, height, width, channels] or [n, height, width], 0 to 255"
_STORED = "arr_0"  # the name that np.savez gives to its first array
_PLANES = "data"  # in ImageNet 64×64 and its like: rows of n × (3 · side²), one plane after another


class Part(NamedTuple):
    """The images of one file.

    Attributes:
      path: of the file.
      images: [n, height, width] or [n, height, width, channels], on disk.
    """

    path: str
    images: np.ndarray


class ArrayImages:
    """A source of the images in arrays on disk, one array after another."""

    def __init__(self, parts: Sequence[Part], crop_resize: CropResize):
        """Keeps its arguments; reads nothing."""
        self._parts, self._crop_resize = parts, crop_resize
        self._ends = np.cumsum([len(part.images) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, indices: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n height width channels"]:
        return np.stack([self._read(int(i)) for i in indices])

    def _read(self, index: int) -> UInt8[np.ndarray, "height width channels"]:
        part = int(np.searchsorted(self._ends, index, side="right"))
        path, images = self._parts[part]
        place = index - int(self._ends[part]) + len(images)
        origin = f"config.data.path: {shown(path)} image {place}"
        pixels = np.array(images[place])
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)
        try:
            return self._crop_resize(self._crop_resize.show(image, origin), origin)
        except viewing.Unfit as error:
            raise Damaged(f"{origin} {error}") from None


def open_arrays(paths: Sequence[str], crop_resize: CropResize) -> tuple[ArrayImages, list[str]]:
    """Opens files of images. Arrays with fewer than three axes, such as labels, are left out.

    Args:
      paths: of the files, in the order of the examples.
      crop_resize: what is done to each image.

    Returns:
      The images, and the paths that are left out.

    Raises:
      UserError: a file is damaged, holds no images, or holds Python objects, which are not read.
    """
    parts, without = [], []
    for path in paths:
        images = _open(path, is_alone=len(paths) == 1)
        if images is None:
            without.append(path)
        elif len(images):
            parts.append(Part(path, images))
    if not parts:
        raise UserError(f"config.data.path: {shown(os.path.commonpath(paths))} holds no images; {_RIGHT}")
    return ArrayImages(parts, crop_resize), without


def _open(path: str, *, is_alone: bool) -> np.ndarray | None:
    where = f"config.data.path: {shown(path)}"
    try:
        with open(path, "rb") as file:
            start = file.read(2)
            if not start:
                raise UserError(f"{where} is empty")
            images = _from_npz(path, where) if start == b"PK" else _mapped(file, 0, where)
    except DAMAGE as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"{where} is damaged or cannot be read: {reason}") from error
    if images.ndim < 3 and not is_alone:
        return None
    _check(images, where)
    return images


def _from_npz(path: str, where: str) -> np.ndarray:
    """The images of a .npz, unpacked to a temporary file."""
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        spool = Spool(lambda name, problem: UserError(f"{where}: {name} {problem}; save it as .npy"))
        arrays, possible = {}, []
        for name in names:
            with archive.open(f"{name}.npy") as member:
                shape, _, dtype = _header(member, where)
            if _is_right(shape, dtype):
                possible.append(name)
            if name in (_STORED, _PLANES) or (len(shape) == 4 and dtype == np.uint8):
                arrays[name] = shape
        if _STORED in arrays:
            chosen = _STORED
        elif len(arrays) == 1:
            (chosen,) = arrays
        else:
            held = ", ".join(names) or "no arrays"
            raise UserError(
                f"{where} holds {held}: images are the array {_STORED}, or the only one of uint8 with 4 axes"
                f"{_how_to_save(path, possible)}"
            )
        with archive.open(f"{chosen}.npy") as member:
            place = spool.add(member, chosen)
    with os.fdopen(os.dup(place.file.descriptor), "rb") as file:
        images = _mapped(file, place.offset, where)
    return _planes_to_pixels(images) if chosen == _PLANES and images.ndim == 2 else images


def _is_right(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    try:
        _check(np.broadcast_to(np.zeros((), dtype), shape), "")
    except UserError:
        return False
    return True


def _how_to_save(path: str, possible: Sequence[str]) -> str:
    """The command that saves one of several arrays, that of training if there is one."""
    if not possible:
        return ""
    chosen = min(possible, key=lambda name: "train" not in name)
    path = os.path.abspath(path)
    target = shlex.quote(f"{os.path.splitext(path)[0]}_{chosen.replace('/', '_')}.npy")
    program = "import sys, numpy as np; np.save(sys.argv[3], np.load(sys.argv[1])[sys.argv[2]])"
    command = f"python -c '{program}' {shlex.quote(path)} {shlex.quote(chosen)} {target}"
    return f"; save the one that is wanted by: {command} and give --config.data.path={target}"


def _planes_to_pixels(rows: np.ndarray) -> np.ndarray:
    side = round((rows.shape[1] / 3) ** 0.5)
    if 3 * side * side != rows.shape[1]:
        return rows
    return rows.reshape(-1, 3, side, side).transpose(0, 2, 3, 1)


def _header(file: Any, where: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of an array, from the beginning of a .npy file."""
    try:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, is_fortran, dtype = read(file)
    except ValueError as error:
        raise UserError(
            f"{where} is not a file of NumPy, or damaged: {' '.join(str(error).split())}"
        ) from None
    return shape, is_fortran, dtype


def _mapped(file: BinaryIO, offset: int, where: str) -> np.ndarray:
    """An array of a .npy file, which stays on disk."""
    file.seek(offset)
    shape, is_fortran, dtype = _header(file, where)
    if dtype.hasobject:
        raise UserError(f"{where} holds Python objects, which are not read; {_RIGHT}")
    if not shape or 0 in shape:
        return np.zeros(shape, dtype)
    try:
        return np.memmap(file, dtype, "r", file.tell(), shape, "F" if is_fortran else "C")
    except ValueError as error:  # shorter than its header says
        raise UserError(f"{where} is not complete: {error}") from None


def _check(images: np.ndarray, where: str) -> None:
    """Raises UserError unless an array holds images."""
    shape = images.shape
    held = f"{where} holds {images.dtype} {list(shape)}"
    if np.issubdtype(images.dtype, np.floating):
        raise UserError(f"{held}; {_RIGHT}: floats are scaled and rounded first, as in (255 * x).round()")
    if images.dtype != np.uint8:
        raise UserError(f"{held}; {_RIGHT}")
    if len(shape) == 4 and shape[3] not in (1, 2, 3, 4) and shape[1] in (1, 3):
        raise UserError(f"{held}; {_RIGHT}: move the channels to the end by x.transpose(0, 2, 3, 1)")
    if len(shape) == 3 and shape[2] in (1, 3, 4) and min(shape[:2]) >= 8:
        raise UserError(f"{held}, which looks like one image; {_RIGHT}")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 2, 3, 4)) or 0 in shape[1:]:
        raise UserError(f"{held}; {_RIGHT}, with 1, 2 (grey, alpha), 3 or 4 (RGB, alpha) channels")
