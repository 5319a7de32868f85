"""Files of a run: one job at a time may write to a folder, and a file is written as a whole or not at all."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from etils import epath

from drl_jax.errors import UserError

_LOCK = ".lock"


def is_local(path: epath.Path) -> bool:
    """Returns whether a path is on a file system, not in an object store (gs://…)."""
    return "://" not in str(path)


@contextmanager
def locked(workdir: epath.Path, name: str = "--workdir") -> Iterator[None]:
    """Makes the folder and keeps other jobs out of it, inside this context.

    The lock belongs to the operating system. It is released when the process ends, however it ends. Object
    stores have no lock.

    Args:
      workdir: the folder.
      name: what a message calls it.

    Raises:
      UserError: the folder cannot be written, or another job uses it.
    """
    if not is_local(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        yield
        return

    import fcntl  # not on every system, and not needed for an object store

    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(workdir / _LOCK, "a+")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"{name}={workdir} cannot be written: {error.strerror or error}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"{name}={workdir} is in use by {holder}; wait for it, or take another {name}"
            ) from None
        except OSError as error:
            raise UserError(f"{name}={workdir} cannot be locked: {error.strerror}") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


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
