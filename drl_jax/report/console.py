"""Printing: information to standard output, warnings to standard error, from process 0 alone."""

import errno
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TextIO

import jax

_READER_GONE = (errno.EPIPE, errno.EIO)  # of a pipe; of a terminal


class _Console(logging.Handler):
    """Prints. What cannot be printed is left out: the workdir has the results, and work must not be lost."""

    def emit(self, record: logging.LogRecord) -> None:
        is_warning = record.levelno >= logging.WARNING
        stream = sys.stderr if is_warning else sys.stdout
        try:
            print(f"{'drl-jax: ' if is_warning else ''}{record.getMessage()}", file=stream, flush=True)
        except OSError as error:  # on a full disk the next lines may find room
            if error.errno in _READER_GONE:
                discard(stream)
        except ValueError:  # the stream was closed
            pass


def discard(stream: TextIO) -> None:
    """Lets all that is printed to a stream vanish, because nobody reads it any more."""
    with suppress(OSError, ValueError):  # not every stream is a file
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)


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


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Formats rows of cells as lines whose columns are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
