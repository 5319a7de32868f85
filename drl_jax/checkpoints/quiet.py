"""Hides what Orbax prints beside the errors that it raises; we report these in one line.

When a save or a read fails, Orbax logs tracebacks and closes its event loop while threads of tensorstore
still use it. Each of its arrays then prints "Event loop is closed", with a traceback: hundreds of lines for
one damaged file.
"""

import gc
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def silence_orbax() -> None:
    """Hides the logs of Orbax, and the errors of its closed event loop, until the process ends."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    excepthook, unraisablehook = sys.excepthook, sys.unraisablehook

    def is_noise(error: BaseException | None) -> bool:
        return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"

    sys.excepthook = lambda kind, error, trace: None if is_noise(error) else excepthook(kind, error, trace)
    sys.unraisablehook = lambda args: None if is_noise(args.exc_value) else unraisablehook(args)


@contextmanager
def quiet_read() -> Iterator[Callable[[], None]]:
    """Hides what a failing read prints, inside this context.

    Reads still in flight fail later and print then. After a failure, call the yielded function: it waits
    for them.
    """

    def wait() -> None:
        time.sleep(0.2)
        gc.collect()

    hook, level = sys.unraisablehook, logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield wait
    finally:
        sys.unraisablehook = hook
        logging.disable(level)
