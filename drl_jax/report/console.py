"""Printing: information to standard output, warnings to standard error, from process 0 alone."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import jax


class _Console(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # A failure to print is raised, not hidden: the program decides what a closed pipe means.
        if record.levelno >= logging.WARNING:
            print(f"drl-jax: {record.getMessage()}", file=sys.stderr, flush=True)
        else:
            print(record.getMessage(), flush=True)


@contextmanager
def console() -> Iterator[None]:
    """Prints what the package logs, inside this context. Enter it when the processes of a job have joined."""
    logger = logging.getLogger("drl_jax")
    before = logger.level, logger.propagate
    handler = _Console() if jax.process_index() == 0 else logging.NullHandler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
