"""Image files in a folder or in a zip."""

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Int, UInt8

from drl_jax.data.decoding import CropResize
from drl_jax.errors import UserError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class ImageFiles:
    """A source of image files. Each call of `take` decodes them."""

    def __init__(self, names: list[str], read: Callable[[str], bytes], origin: Path, crop_resize: CropResize):
        """Keeps its arguments; reads nothing.

        Args:
          names: file names, in the order of the examples.
          read: returns the content of the file with a given name.
          origin: the folder or zip that the names belong to, for messages.
          crop_resize: how images are decoded.
        """
        self._names = names
        self._read = read
        self._origin = origin
        self._crop_resize = crop_resize

    def __len__(self) -> int:
        return len(self._names)

    def take(self, indices: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n height width channels"]:
        return np.stack([self._decode(self._names[i]) for i in indices])

    def _decode(self, name: str) -> UInt8[np.ndarray, "height width channels"]:
        origin = f"config.data.path: {self._origin / name}"
        try:
            encoded = self._read(name)
        except (OSError, zipfile.BadZipFile, RuntimeError) as error:
            # zipfile raises RuntimeError for an encrypted member.
            raise UserError(f"{origin} cannot be read: {error}") from error
        return self._crop_resize.decode(encoded, origin)


def open_folder(path: str, crop_resize: CropResize) -> ImageFiles:
    """Opens the images in a folder (with its subfolders) or in a zip, in natural order of their names.

    Raises:
      UserError: the path is neither a folder nor a zip, or holds no images.
    """
    root = Path(path).expanduser()
    if root.is_dir():
        names = [
            str((Path(parent) / file).relative_to(root))
            for parent, _, files in os.walk(root, followlinks=True)
            for file in files
        ]
        read = lambda name: (root / name).read_bytes()
    elif root.is_file():
        try:
            archive = zipfile.ZipFile(root)
        except zipfile.BadZipFile:
            raise UserError(
                f"config.data.path={path!r} is not a zip; give a folder or a zip of images"
            ) from None
        names, read = archive.namelist(), archive.read
    else:
        raise UserError(f"config.data.path={path!r} does not exist; give a folder or a zip of images")

    images = sorted(filter(_is_image, names), key=_natural)
    if not images:
        suffixes = ", ".join(_SUFFIXES)
        raise UserError(f"config.data.path={path!r} holds no images; file names must end in {suffixes}")
    return ImageFiles(images, read, root, crop_resize)


def _is_image(name: str) -> bool:
    # File managers leave behind hidden files, whose names start with a dot, and folders named __MACOSX.
    hidden = any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
    return not hidden and name.lower().endswith(_SUFFIXES)


def _natural(name: str) -> tuple:
    """Sort key that puts 9.png before 10.png. The whole name decides between 1.png and 01.png."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name
