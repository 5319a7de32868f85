"""What there is to report about a data set while it is read."""

import logging
import threading
from collections.abc import Callable

_MAX_REPORTED = 20  # damaged examples that get a line of their own
_logger = logging.getLogger(__name__)


class Notes:
    """Lines about a data set, each reported once. They wait until somebody listens.

    A data set is opened before the processes of a job have joined, so before anything can be printed.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._topics: set[str] = set()
        self._waiting: list[tuple[int, str]] = []
        self._report_now: Callable[[int, str], None] | None = None
        self._skipped: dict[int, str] = {}
        self._record: Callable[[list[str]], None] | None = None

    def once(self, topic: str, line: str) -> None:
        """Reports a line, unless one of the same topic was reported."""
        with self._lock:
            if topic not in self._topics:
                self._topics.add(topic)
                self._report(logging.INFO, line)

    def skip(self, index: int, reason: str) -> None:
        """Notes that an example is damaged and another one takes its place.

        Args:
          index: of the example.
          reason: one line that names it.
        """
        with self._lock:
            if index in self._skipped:
                return
            self._skipped[index] = reason
            count = len(self._skipped)
            if count <= _MAX_REPORTED:
                self._report(logging.WARNING, f"skipped: {reason}")
            if count == _MAX_REPORTED:
                self._report(logging.WARNING, "more damaged examples are skipped without a line; see `check`")
            if self._record is not None:
                self._record(self._lines())

    @property
    def skipped(self) -> int:
        """How many damaged examples were met so far."""
        return len(self._skipped)

    def listen(self, report: Callable[[int, str], None] | None = None) -> None:
        """Reports the lines that wait, and from now on every line at once.

        Args:
          report: gets the level of `logging` and the line; None is the module's logger.
        """
        with self._lock:
            self._report_now = report or (lambda level, line: _logger.log(level, "%s", line))
            waiting, self._waiting = self._waiting, []
            for level, line in waiting:
                self._report_now(level, line)

    def record(self, write: Callable[[list[str]], None]) -> None:
        """Keeps a record of the damaged examples.

        Args:
          write: called with one line per damaged example, now if there are any, and whenever one is met.
        """
        with self._lock:
            self._record = write
            if self._skipped:
                write(self._lines())

    def _lines(self) -> list[str]:
        return [f"{index}\t{reason}" for index, reason in sorted(self._skipped.items())]

    def _report(self, level: int, line: str) -> None:
        if self._report_now is not None:
            self._report_now(level, line)
        else:
            self._waiting.append((level, line))


def shown(name: str) -> str:
    """A file name as one printable line: other bytes and characters are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
