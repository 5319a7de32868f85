"""Stopping on a signal: the run saves its state and exits with code 42, together with all its processes.

    signal                                                what follows
    SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2,   an orderly end, as below; but a signal that was
    SIGALRM, SIGVTALRM, SIGPROF, SIGXCPU, SIGIO, SIGPWR,  ignored when the program started stays ignored
    SIGSTKFLT, SIGRTMIN … SIGRTMAX                        (nohup), and a handler of somebody else stays
    SIGKILL, and faults: SIGSEGV, SIGBUS, SIGFPE, …       the process dies; the last checkpoint is kept
    SIGPIPE, SIGXFSZ                                      the write fails, which is reported or ignored
    SIGSTOP, SIGTSTP, SIGCONT and others                  what they always do

    state of this process                    first signal             second signal, a second later
    busy: work that no checkpoint holds      `requested` is set       exit with 42 at once
    not busy                                 exit with 42 at once     –

Where a process of somebody else calls the program, as in a notebook, SIGINT does not exit but raises
KeyboardInterrupt.

In a job of several processes none may exit alone while the others compute with it. There the training step
carries the request to all of them, and `stop_together` does so elsewhere.

Signals are handled before JAX is imported, which takes seconds. So the functions here import it themselves.
"""

import math
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

EXIT_CODE = 42  # "start me again": JobSet and SLURM scripts read it as preemption
# What by default ends a process, can be caught, and is no fault of the program. Systems lack some of them.
_NAMES = (
    "TERM",
    "INT",
    "HUP",
    "QUIT",
    "USR1",
    "USR2",
    "ALRM",
    "VTALRM",
    "PROF",
    "XCPU",
    "IO",
    "PWR",
    "STKFLT",
)
_ECHO = 1.0  # seconds: a terminal and a launcher may both send the same signal
EXIT_DELAY = 2.0  # seconds by which process 0 outlives the others
_PEER_FAILURE = re.compile(r"\b(UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED|CANCELLED): |[Gg]loo")


class Stopped(Exception):
    """The run was asked to stop, has saved its state and ends."""


class Stop:
    """Whether this process was asked to stop, and whether it may exit at once.

    Attributes:
      requested: a signal came while busy. Whoever holds unsaved work saves it and raises `Stopped`.
      exit_delay: seconds to wait before an exit at once. The process that coordinates a job exits last,
        because the others fail when it is gone.
      owns_process: whether this process ends after this command. In a notebook other programs follow.
    """

    def __init__(self) -> None:
        self.requested = False
        self.exit_delay = 0.0
        self.owns_process = False
        self._busy = False
        self._time = -math.inf
        self._lock = threading.RLock()  # a signal handler may interrupt who holds it
        self._ending = threading.Lock()

    @property
    def busy(self) -> bool:
        """Whether there is work that no checkpoint holds.

        If no signal came before `busy = False`, the next one exits the process at once.
        """
        return self._busy

    @busy.setter
    def busy(self, busy: bool) -> None:
        with self._lock:
            self._busy = busy

    def request(self, name: str) -> bool:
        """Asks for a stop on a signal; returns False if nothing is to be saved, or it was asked before."""
        with self._lock:
            if not self._busy or self.requested:
                return False
            self.requested, self._time = True, time.monotonic()
            _print(f"{name}: saving, then stopping; a second signal stops at once")
            return True

    def on_signal(self, name: str) -> None:
        """Reacts to a signal. Runs in a thread of its own."""
        with self._lock:
            if not self.request(name) and time.monotonic() - self._time > _ECHO:
                kept = "checkpoints are kept" if self.requested else "there was no unsaved work"
                line = f"{name}: stopped, {kept}; start again to continue"
                self.end_process(line, EXIT_CODE, self.exit_delay)

    def claim_end(self) -> bool:
        """Returns True to the first thread that is about to print why the process ends, and to no other."""
        return self._ending.acquire(blocking=False)

    def end_process(self, line: str, code: int, delay: float) -> None:
        """Prints a line and exits at once, unless another thread ends the process already.

        Args:
          line: why.
          code: the exit code.
          delay: seconds between the two.
        """
        if self.claim_end():
            _print(line)
            time.sleep(delay)
            os._exit(code)


def ending_signals() -> list[int]:
    """Returns the signals of the table above that are not ignored, and for which nobody has a handler."""
    named = [getattr(signal, f"SIG{name}") for name in _NAMES if hasattr(signal, f"SIG{name}")]
    real_time = range(signal.SIGRTMIN, signal.SIGRTMAX + 1) if hasattr(signal, "SIGRTMIN") else ()
    unset = (signal.SIG_DFL, signal.default_int_handler, _noted)
    return [number for number in (*named, *real_time) if signal.getsignal(number) in unset]


def _noted(*_: object) -> None:
    """Handles a signal in the main thread: does nothing. The thread of `handle_signals` reacts."""


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time signals
        return f"signal {number}"


@contextmanager
def handle_signals(*, is_program: bool) -> Iterator[Stop]:
    """Handles signals inside this context. Python allows that in the main thread only; others handle none.

    Python runs a signal handler between two instructions of the main thread, which may be inside the
    compiler for minutes. So the handlers do nothing. The interpreter writes the number of each signal into
    a socket at once, and a thread reads it at the other end.

    Args:
      is_program: whether this process is the program's own. It ends after this context, so the signals are
        ignored from then on. In others SIGINT is handled as Python does it, and all handlers come back.
    """
    stop = Stop()
    stop.owns_process = is_program
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = ending_signals()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def interrupt(*_: object) -> None:
        if not stop.request("SIGINT"):
            raise KeyboardInterrupt

    handlers = dict.fromkeys(numbers, _noted)
    if signal.SIGINT in handlers and not is_program:
        handlers[signal.SIGINT] = interrupt

    def listen() -> None:
        while number := ours.recv(1)[0]:
            if handlers.get(number) is _noted:
                stop.on_signal(_name(number))

    listener = threading.Thread(target=listen, daemon=True)
    replaced = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    listener.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in replaced.items():
            signal.signal(number, signal.SIG_IGN if is_program else handler)
        theirs.send(b"\0")
        listener.join()
        ours.close()
        theirs.close()


@contextmanager
def raise_on_signal() -> Iterator[None]:
    """Lets a signal interrupt the main thread, so that half-finished files are removed on the way out.

    Enter it in the main thread, inside `handle_signals`.

    Raises:
      Stopped: a signal came.
    """
    numbers = ending_signals()

    def interrupt(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)  # the clean-up is short
        raise KeyboardInterrupt

    wakeup = signal.set_wakeup_fd(-1)  # the thread of `handle_signals` must not react as well
    handlers = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped("stopped, nothing half-finished is left; start again to continue") from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)


@contextmanager
def stop_together(stop: Stop) -> Iterator[Callable[[], None]]:
    """Stops all processes of a job together during work that need not be saved.

    A single process exits at once when a signal comes. In a job of several processes one must not exit
    alone: the others would hang in a collective. Inside this context a signal only sets a flag. Call the
    yielded function regularly in every process; it raises Stopped in all of them once any process has
    the flag.
    """
    import jax

    from drl_jax.parallel.consensus import all_processes

    if jax.process_count() == 1:
        yield lambda: None
        return
    before, stop.busy = stop.busy, True

    def check() -> None:
        if not all_processes(not stop.requested):
            raise Stopped("stopped, there was no unsaved work; start again to continue")

    try:
        yield check
    finally:
        stop.busy = before


def exit_delay() -> float:
    """Returns the seconds by which the coordinating process of a job should outlive the others."""
    import jax

    return EXIT_DELAY if jax.process_count() > 1 and jax.process_index() == 0 else 0.0


def is_peer_failure(error: BaseException) -> bool:
    """Returns whether an error means that another process of the job is gone.

    JAX's coordination service says so by a status code, its CPU collectives by the name of Gloo. Orbax may
    wrap such an error in one of its own, so the errors that led to this one are looked at too.
    """
    cause: BaseException | None = error
    while cause is not None and not _PEER_FAILURE.search(str(cause)):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return False
    import jax

    return jax.process_count() > 1


def exit_now(code: int) -> None:
    """Exits one of several processes. An orderly exit would wait for the others, which wait for this one."""
    import jax

    if jax.distributed.is_initialized() and jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(exit_delay())
        os._exit(code)


def _print(line: str) -> None:
    # Not through sys.stderr, which another thread may hold; a reader that is gone must not matter.
    with suppress(OSError):
        os.write(2, f"drl-jax: {line}\n".encode())
