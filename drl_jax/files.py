"""Files of a run: each is written as a whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from etils import epath


def is_local(path: epath.Path) -> bool:
    """Returns whether a path is on a file system, not in an object store (gs://…)."""
    return "://" not in str(path)


def absolute(folder: str) -> epath.Path:
    """Returns a folder as an absolute path, which Orbax needs. An address (gs://…) is one."""
    path = epath.Path(folder).expanduser()
    return path.absolute() if is_local(path) else path


def exists(path: epath.Path) -> bool:
    """Returns whether there is a file or a folder.

    Raises:
      OSError: nobody can tell, as in a folder without permission.
    """
    if not is_local(path):
        return path.exists()
    try:
        with named(path):
            os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


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


def check_writable(folder: epath.Path) -> None:
    """Makes a folder and writes a file in it, which is removed again.

    Raises:
      OSError: the folder cannot be written.
    """
    file = folder / f".writable-{uuid.uuid4().hex[:12]}"
    write(file, "")
    file.unlink()


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
