"""One job at a time writes to a folder.

Where the file system has locks, the folder has one. The system releases it when the process ends, however it
ends. Object stores have no locks, nor have some network file systems. There the owner keeps a record in the
folder and renews it while it runs. A job that finds the record of another one watches it. If it is renewed,
the job is refused; if nobody renews it, the job takes the folder over. No clocks are compared: they differ
between hosts.
"""

import errno
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from etils import epath

from drl_jax import files
from drl_jax.errors import UserError

OWNER = "owner.json"  # where there are no locks
HEARTBEAT = 10.0  # seconds between two renewals
SILENCE = 45.0  # seconds without a renewal after which an owner is gone
SETTLE = 2.0  # seconds in which a record that was written at the same time becomes visible
_LOCK = ".lock"
_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)

_logger = logging.getLogger(__name__)

Check = Callable[[], None]
"""Raises UserError if another job has taken the folder."""


@contextmanager
def owned(folder: epath.Path, name: str = "--workdir") -> Iterator[Check]:
    """Makes the folder and keeps other jobs out of it, inside this context.

    Args:
      folder: the folder.
      name: what a message calls it.

    Yields:
      What raises UserError if another job has taken the folder nevertheless. Call it before a save.

    Raises:
      UserError: the folder cannot be written, or another job uses it.
    """
    with ExitStack() as stack:
        record = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(_locked(folder, name))
            if lock is None:
                record = _Record(folder, name)
                record.take()
            else:  # a job on another host may see no locks
                _Record(folder, name).wait_for_others()
                (folder / OWNER).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{name}={folder} cannot be written: {error.strerror or error}") from None
        if record is None:
            yield lambda: _check_lock(lock, folder, name)
        else:
            stack.enter_context(record.renewed())
            yield record.check


@contextmanager
def _locked(folder: epath.Path, name: str) -> Iterator[TextIO | None]:
    """Locks the folder, if its file system has locks; yields the locked file, or None."""
    if not files.is_local(folder):
        yield None
        return
    with open(folder / _LOCK, "a+") as file:
        is_locked = _lock(file, lambda holder: _in_use(folder, name, holder))
        if is_locked:
            file.truncate(0)
            file.write(f"{_process()}\n")
            file.flush()
        yield file if is_locked else None


def _check_lock(lock: TextIO | None, folder: epath.Path, name: str) -> None:
    """Raises UserError if the locked file is not the one in the folder any more."""
    if lock is None or lock.closed:
        return
    try:
        is_same = os.path.samestat(os.stat(folder / _LOCK), os.fstat(lock.fileno()))
    except FileNotFoundError:
        is_same = False
    if not is_same:
        raise UserError(
            f"{name}={folder} was deleted or replaced while it was in use; nothing more is written there"
        )


def _lock(file: TextIO, in_use: Callable[[str], UserError]) -> bool:
    """Locks a file if that is possible here. Raises `in_use` of its content if another process holds it."""
    try:
        import fcntl  # not on every system

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return False
    except OSError as error:
        if error.errno not in _TAKEN:  # as on Lustre without `-o flock`, some NFS, and mounted buckets
            return False
        file.seek(0)
        raise in_use(file.read().strip()) from None
    return True


class _Record:
    """The record of this job in a folder."""

    def __init__(self, folder: epath.Path, name: str):
        self._folder, self._name, self._path = folder, name, folder / OWNER
        self._own = {
            "job": uuid.uuid4().hex,
            "by": _process(),
            "machine": _machine(),
            "process": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            "renewals": 0,
        }

    def take(self) -> None:
        """Writes the record, once no other job renews its own.

        Raises:
          UserError: another job does.
          OSError: the record cannot be written.
        """
        self.wait_for_others()
        self._write()
        time.sleep(SETTLE)  # of two jobs that start at once, the one that wrote last stays
        if (now := self._read()).get("job") != self._own["job"]:
            raise _in_use(self._folder, self._name, now.get("by"))

    def wait_for_others(self) -> None:
        """Returns when no other job renews a record in the folder.

        Raises:
          UserError: another job does.
          OSError: the record cannot be read.
        """
        found = self._read()
        if found and not _has_ended(found):
            _logger.info(
                "%s=%s was in use by %s; waiting %.0f seconds to see whether that job still runs",
                self._name, self._folder, found.get("by"), SILENCE,
            )  # fmt: skip
            end = time.monotonic() + SILENCE
            while self._read() == found and time.monotonic() < end:
                time.sleep(min(1.0, SILENCE / 10))
        if (now := self._read()) and now != found:
            raise _in_use(self._folder, self._name, now.get("by"))

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renews the record inside this context, and removes it at the end."""
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(HEARTBEAT):
                with suppress(OSError, UserError):
                    self.check()
                    self._own["renewals"] += 1
                    self._write()

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with suppress(OSError, UserError):
                self.check()
                self._path.unlink()

    def check(self) -> None:
        """Raises UserError if another job has taken the folder; OSError if the record cannot be read."""
        if not self._path.exists():
            raise UserError(
                f"{self._name}={self._folder} was emptied: its {OWNER} is gone; nothing more is written there"
            )
        found = self._read()
        if found.get("job") != self._own["job"]:
            raise UserError(
                f"{self._name}={self._folder} was taken by another job ({found.get('by')}, since "
                f"{found.get('since')}); this one stops and writes nothing more"
            )

    def _read(self) -> dict[str, Any]:
        """The record in the folder; empty if there is none, or if it is damaged."""
        for _ in range(3):
            try:
                found = json.loads(self._path.read_text())
            except FileNotFoundError:
                return {}
            except ValueError:
                time.sleep(0.1)  # perhaps somebody is writing it
            else:
                return found if isinstance(found, dict) else {}
        return {}

    def _write(self) -> None:
        with suppress(FileNotFoundError):  # another job has put its own record there at this moment
            files.write(self._path, json.dumps(self._own, indent=1) + "\n")


def _in_use(folder: epath.Path, name: str, holder: str | None) -> UserError:
    holder = holder or "another process"
    return UserError(f"{name}={folder} is in use by {holder}; wait for it, or take another {name}")


def _process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _machine() -> str:
    """Names the processes whose numbers this process sees; empty where the system has no such name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _has_ended(record: dict[str, Any]) -> bool:
    """Whether the owner ran on this machine and has ended. If not, only its silence can tell."""
    if not record.get("machine") or record["machine"] != _machine():
        return False
    try:
        os.kill(int(record["process"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, KeyError, TypeError, ValueError):
        pass
    return False
