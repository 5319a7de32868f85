"""Images as files, in a folder or in a zip."""

import os
import re
import zipfile
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Int, UInt8

from drl_jax.data.decoding import Framing
from drl_jax.errors import UserError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class ImageFiles:
    """Image files by index; decodes at each call."""

    def __init__(self, names: list[str], read, origin: str, framing: Framing):
        """`read(name)` returns the bytes of a file; `origin` is what the names are relative to."""
        self._names = names
        self._read = read
        self._origin = origin
        self._framing = framing

    def __len__(self) -> int:
        return len(self._names)

    def take(self, indices: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n height width channels"]:
        return np.stack([self._image(self._names[i]) for i in indices])

    def _image(self, name: str) -> UInt8[np.ndarray, "height width channels"]:
        origin = os.path.join(self._origin, name)
        try:
            encoded = self._read(name)
        except (OSError, zipfile.BadZipFile, RuntimeError) as error:
            # RuntimeError is how zipfile refuses an encrypted member.
            raise UserError(f"data.path: {origin} cannot be read: {error}") from error
        return self._framing(encoded, f"data.path: {origin}")


def open_folder(path: str, framing: Framing) -> ImageFiles:
    """The images under a folder, with its subfolders, or in a zip, in natural order of names.

    Raises:
      UserError: the path is neither, or holds no images.
    """
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        names = [
            os.path.relpath(os.path.join(parent, file), path)
            for parent, _, files in os.walk(path, followlinks=True)
            for file in files
        ]

        def read(name: str) -> bytes:
            with open(os.path.join(path, name), "rb") as file:
                return file.read()

    elif os.path.isfile(path):
        try:
            archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile:
            raise UserError(f"data.path={path!r} is not a zip; give a folder or a zip of images") from None
        names, read = archive.namelist(), archive.read
    else:
        raise UserError(f"data.path={path!r} does not exist; give a folder or a zip of images")

    images = sorted(filter(_is_image, names), key=_natural)
    if not images:
        raise UserError(f"data.path={path!r} holds no images; their names end in {', '.join(_SUFFIXES)}")
    return ImageFiles(images, read, path, framing)


def _is_image(name: str) -> bool:
    # Names that start with a dot, and the folder __MACOSX, are what file managers leave behind.
    hidden = any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
    return not hidden and name.lower().endswith(_SUFFIXES)


def _natural(name: str) -> tuple:
    """Sorts 9.png before 10.png; the name itself decides between 1.png and 01.png."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name
