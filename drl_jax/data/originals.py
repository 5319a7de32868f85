"""Finds the original files of a data set where the user has them, in the forms that people have."""

import os
from collections.abc import Sequence
from pathlib import Path

_DEPTH = 3  # folders below the user's: archives unpack to a folder in a folder


def find(root: Path, names: Sequence[str]) -> Path | None:
    """Finds a file in a folder or in folders below it.

    Args:
      root: the folder.
      names: of the file, the best one first.

    Returns:
      Its path, the one nearest to `root`; None if there is none.
    """
    for folders in _levels(root):
        for name in names:
            for folder in folders:
                if (folder / name).is_file():
                    return folder / name
    return None


def forms(filename: str) -> tuple[str, ...]:
    """Returns the names that an original may have: its own, and without its packing, for files of MNIST."""
    if not is_idx(filename):
        return (filename,)
    plain = filename.removesuffix(".gz")
    dotted = plain.replace("-idx", ".idx")
    return filename, plain, f"{dotted}.gz", dotted


def is_idx(filename: str) -> bool:
    """Returns whether a name is that of a file in the format of MNIST, such as train-images-idx3-ubyte.gz."""
    return filename.removesuffix(".gz").endswith(("idx3-ubyte", "idx1-ubyte"))


def find_jpegs(root: Path) -> Path | None:
    """Returns the folder nearest to `root`, or itself, that holds JPEGs; None if there is none."""
    for folders in _levels(root):
        for folder in folders:
            with os.scandir(folder) as entries:
                if any(entry.name.lower().endswith((".jpg", ".jpeg")) for entry in entries):
                    return folder
    return None


def _levels(root: Path) -> list[list[Path]]:
    """The folders below a folder, by depth. Those that cannot be listed, and hidden ones, are left out."""
    levels = [[root]]
    for _ in range(_DEPTH):
        below = []
        for folder in levels[-1]:
            try:
                with os.scandir(folder) as entries:
                    below += sorted(Path(each) for each in entries if each.is_dir() and each.name[0] != ".")
            except OSError:
                continue
        levels.append(below)
    return levels
