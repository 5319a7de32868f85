"""Files of a run: one job at a time may write to a folder, and a file is written as a whole or not at all."""

import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from etils import epath

from drl_jax.errors import UserError

OWNER = "owner.json"  # in a workdir on an object store
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


def take(workdir: epath.Path) -> Callable[[], None]:
    """Makes this job the owner of a workdir on an object store, where there is no lock.

    The job that came last owns it: the record of a job that is gone must not keep others out. Two jobs that
    run at once do not mix their files, because the first one stops before its next save.

    Args:
      workdir: the folder.

    Returns:
      A function that raises UserError if another job has taken the workdir since.

    Raises:
      OSError: the record cannot be written, or later not be read.
    """
    own = {
        "job": uuid.uuid4().hex,
        "by": f"process {os.getpid()} on {socket.gethostname()}",
        "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }
    write(workdir / OWNER, json.dumps(own, indent=1) + "\n")

    def check() -> None:
        try:
            owner = json.loads((workdir / OWNER).read_text())
        except FileNotFoundError:
            raise UserError(
                f"--workdir={workdir} was emptied: its {OWNER} is gone; nothing more is written there"
            ) from None
        except ValueError:
            owner = {}
        if owner.get("job") != own["job"]:
            raise UserError(
                f"--workdir={workdir} was taken by another job ({owner.get('by')}, since "
                f"{owner.get('since')}); this one stops and writes nothing more"
            )

    return check


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
