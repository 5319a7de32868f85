"""CelebA in the forms in which people have it."""

import shlex
import zipfile
from pathlib import Path

from drl_jax.data.originals import find, find_jpegs
from drl_jax.data.sources import CELEB_A_CROP

NAME = "celeb_a"  # of tensorflow-datasets
ARCHIVE = "img_align_celeba.zip"


def images_alone(path: Path) -> str | None:
    """Says how the images are data without the lists of attributes, landmarks, identities and splits.

    The library's format has no place for faces without them, so nothing is prepared then.

    Args:
      path: the user's folder, or a file.

    Returns:
      The end of a message; None if there are no images.
    """
    images = path if _is_zip_of_jpegs(path) else None
    if images is None:
        root = path if path.is_dir() else path.parent
        images = find(root, [ARCHIVE]) or find_jpegs(root)
    if images is None:
        return None
    crop = ",".join(map(str, CELEB_A_CROP))
    return (
        "the faces alone need no preparation and are the same images, those of validation and test too: "
        f"--config.data.name=folder --config.data.path={shlex.quote(str(images))} --config.data.crop={crop}"
    )


def _is_zip_of_jpegs(path: Path) -> bool:
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.lower().endswith((".jpg", ".jpeg")) for name in archive.namelist())
