"""Being told to stop: after SIGTERM or SIGINT a run saves its state and exits with code 42."""

import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

EXIT_CODE = 42  # "start me again": what JobSet and SLURM scripts take for preemption
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_ECHO = 1.0  # seconds: a terminal and a launcher may both pass on the same signal


class Stopped(Exception):
    """The run has saved its state and ends, as it was told to."""


class Stop:
    """Whether this process was told to stop, and whether that may happen at once.

    requested:  a signal came; whoever holds unsaved work saves it and raises `Stopped`.
    unsaved:    there is work that no checkpoint holds. While there is none (in the first compilation, in
                an evaluation, in `sample`), a signal ends the process at once. A second one always does.
    linger:     seconds that an end at once is put off: the process that coordinates a job leaves last,
                for the others die of its absence.
    """

    def __init__(self) -> None:
        self.requested = False
        self.linger = 0.0
        self._unsaved = False
        self._heard = -math.inf
        self._lock = threading.Lock()

    @property
    def unsaved(self) -> bool:
        return self._unsaved

    @unsaved.setter
    def unsaved(self, unsaved: bool) -> None:
        # Whoever sets it false and then finds no request knows that the next signal ends the process.
        with self._lock:
            self._unsaved = unsaved

    def hear(self, name: str) -> None:
        """What follows a signal. Runs in a thread of its own."""
        with self._lock:
            if self._unsaved and not self.requested:
                self.requested, self._heard = True, time.monotonic()
                _tell(f"{name}: saving, then stopping; once more stops at once")
            elif time.monotonic() - self._heard > _ECHO:
                kept = "checkpoints are kept" if self.requested else "nothing was unsaved"
                _tell(f"{name}: stopped, {kept}; start again to go on")
                time.sleep(self.linger)
                os._exit(EXIT_CODE)


@contextmanager
def interruptible() -> Iterator[None]:
    """Lets a signal interrupt the main thread, so that what is half done is removed on the way out.

    Raises Stopped then. To be entered in the main thread, where `listening` is.
    """

    def interrupt(*_: object) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # what is under way is short
        raise KeyboardInterrupt

    wakeup = signal.set_wakeup_fd(-1)  # nobody else is to hear it
    handlers = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped("stopped, nothing half done is left; start again to go on") from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)


def _tell(line: str) -> None:
    # Not through sys.stderr, which another thread may hold; a pipe whose reader is gone must not matter.
    with suppress(OSError):
        os.write(2, f"drl-jax: {line}\n".encode())


@contextmanager
def listening() -> Iterator[Stop]:
    """Hears signals from here on. To be entered in the main thread.

    Python runs a signal's handler between two instructions of the main thread, which may be in the
    compiler for minutes. So the handlers do nothing; the interpreter writes each signal's number into a
    socket as it comes, and a thread waits at the other end.
    """
    stop = Stop()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def listen() -> None:
        while number := ours.recv(1)[0]:
            if number in _SIGNALS:
                stop.hear(signal.Signals(number).name)

    listener = threading.Thread(target=listen, daemon=True)
    handlers = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    listener.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        theirs.send(b"\0")
        listener.join()
        ours.close()
        theirs.close()
