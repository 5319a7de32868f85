"""`check`: reads every example of a data set, and lists those that cannot be used."""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from drl_jax.config.build import open_data
from drl_jax.config.schema import Config
from drl_jax.data.decoding import Damaged, TooSmall, Unreadable
from drl_jax.data.sources import Source
from drl_jax.errors import UserError
from drl_jax.machine import num_cores

_ROWS = 64  # examples that a thread reads at a time
_EVERY = 30.0  # seconds between two lines of progress; on a terminal it is one line that changes


def check(config: Config, prepare_command: str) -> None:
    """Reads every example of `config.data` once, and prints a line for each that cannot be used.

    Args:
      config: the config.
      prepare_command: the command that a message names if the data are not prepared.

    Raises:
      UserError: examples cannot be used, or the data cannot be opened.
    """
    source = open_data(config, prepare_command, for_check=True)
    progress = _Progress(len(source))
    source.notes.listen(lambda level, line: progress.print(line))
    bad: Counter[type] = Counter()
    for count, reasons in _read_all(source):
        for reason in reasons:
            progress.print(reason.line)
            bad[reason.kind] += 1
        progress.add(count, bad.total())
    progress.end()
    total, name = len(source), config.data.name
    if bad:
        raise UserError(
            f"{_counted(bad.total(), total)} of config.data.name={name!r} cannot be used; "
            f"{_remedy(bad, bad.total() == total, skips=config.data.skip_damaged)}"
        )
    print(f"{_counted(total, total)} of config.data.name={name!r} can be used", flush=True)


def _counted(count: int, total: int) -> str:
    if total == 1:
        return "the only example"
    return f"{'all' if count == total else f'{count:,} of'} {total:,} examples"


class _Reason(NamedTuple):
    """Why an example cannot be used: a line that names it, and the type of the error."""

    line: str
    kind: type[Unreadable]


def _remedy(bad: Counter[type], are_all_bad: bool, *, skips: bool) -> str:
    """What helps against the bad examples, which are counted by the type of their error."""
    remedies = []
    if bad[Unreadable]:
        remedies.append("the reasons why some cannot be read are above")
    if bad[Damaged]:
        remedies.append("fix or delete those that are damaged")
    if bad[TooSmall]:
        remedies.append("for those that are too small set --config.data.crop=None")
    if (bad[Damaged] or bad[TooSmall]) and not are_all_bad:
        key = "config.data.skip_damaged=True"
        remedies.append(f"in training {key} replaces both" if skips else f"or set {key}, which replaces both")
        if not (bad[Damaged] and bad[TooSmall]):
            remedies[-1] = remedies[-1].replace("both", "them")
    return "; ".join(remedies)


def _read_all(source: Source) -> Iterator[tuple[int, list[_Reason]]]:
    """Reads all examples in threads. Yields how many more were read, and what is wrong with some of them."""

    def reasons(indices: np.ndarray) -> list[_Reason]:
        try:
            source.take(indices)
        except Unreadable as error:
            if len(indices) == 1:
                return [_Reason(str(error), type(error))]
            return [reason for index in indices for reason in reasons(np.array([index]))]
        return []

    parts = [np.arange(first, min(first + _ROWS, len(source))) for first in range(0, len(source), _ROWS)]
    executor = ThreadPoolExecutor(max_workers=min(32, 2 * num_cores()))
    try:
        for part, found in zip(parts, executor.map(reasons, parts), strict=True):
            yield len(part), found
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


class _Progress:
    """How far the reading is: on a terminal one line that changes, elsewhere a line now and then."""

    def __init__(self, total: int):
        self._total, self._read, self._bad = total, 0, 0
        self._began = self._shown = time.monotonic()
        self._is_terminal = sys.stderr.isatty()

    def add(self, count: int, bad: int) -> None:
        """Counts examples that were read, and shows it if it is time."""
        self._read, self._bad = self._read + count, bad
        now = time.monotonic()
        if now - self._shown >= (0.2 if self._is_terminal else _EVERY):
            self._shown = now
            self._show(end="" if self._is_terminal else "\n")

    def print(self, line: str) -> None:
        """Prints a line on standard output."""
        self._clear()
        print(line, flush=True)

    def end(self) -> None:
        """Shows the last state."""
        self._show(end="\n")

    def _show(self, end: str) -> None:
        self._clear()
        seconds = time.monotonic() - self._began
        rate = self._read / max(seconds, 1e-9)
        text = f"{self._read:,} of {self._total:,} read in {seconds:.0f} s, {rate:,.0f} per second"
        print(f"{text}; {self._bad:,} bad", end=end, file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._is_terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
