"""Files of a run: each is written as a whole or not at all."""

import os

from etils import epath


def is_local(path: epath.Path) -> bool:
    """Returns whether a path is on a file system, not in an object store (gs://…)."""
    return "://" not in str(path)


def write(path: epath.Path, content: bytes | str) -> None:
    """Writes a file as a whole or not at all. It replaces an existing file.

    Raises:
      OSError: it could not be written; an existing file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = content.encode() if isinstance(content, str) else content
    if not is_local(path):
        path.write_bytes(content)  # an object appears in a store when it is complete
        return
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
