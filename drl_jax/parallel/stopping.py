"""Being told to stop: after SIGTERM or SIGINT a run saves its state and exits with code 42."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_CODE = 42  # "start me again": what JobSet and SLURM scripts take for preemption
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


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
        self.unsaved = False
        self.linger = 0.0

    def hear(self, name: str) -> None:
        """What follows a signal. Runs in a thread of its own."""
        if self.requested or not self.unsaved:
            kept = "checkpoints are kept" if self.requested else "nothing was unsaved"
            # Not through sys.stderr, which another thread may hold.
            os.write(2, f"drl-jax: {name}: stopped, {kept}; start again to go on\n".encode())
            time.sleep(self.linger)
            os._exit(EXIT_CODE)
        self.requested = True
        os.write(2, f"drl-jax: {name}: saving, then stopping; once more stops at once\n".encode())


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
