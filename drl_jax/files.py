"""Files of a run: each is written as a whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from etils import epath


def is_local(path: epath.Path) -> bool:
    """Returns whether a path is on a file system, not in an object store (gs://…)."""
    return "://" not in str(path)


def write(path: epath.Path, content: bytes | str) -> None:
    """Writes a file as a whole or not at all. It replaces an existing file.

    Raises:
      OSError: it could not be written; an existing file is unchanged.
    """
    content = content.encode() if isinstance(content, str) else content
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_local(path):
            _replace(path, content)
        else:
            path.write_bytes(content)  # an object appears in a store when it is complete


@contextmanager
def named(path: epath.Path) -> Iterator[None]:
    """Gives the errors of the file system inside this context the path that the user knows."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _replace(path: epath.Path, content: bytes) -> None:
    """Writes a file beside `path`, and gives it this name when it is complete."""
    unfinished = path.parent / f".{path.name}.unfinished"
    try:
        with open(unfinished, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a crash of the machine could leave the name without the content
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
