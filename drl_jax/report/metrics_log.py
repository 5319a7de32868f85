"""The log of a run: metrics.jsonl, one line per step, and the same numbers for TensorBoard."""

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Protocol, runtime_checkable

from etils import epath
from google.protobuf.message import DecodeError
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tensorboardX.summary import scalar

from drl_jax import files
from drl_jax.report import curves

FILE = "metrics.jsonl"
_logger = logging.getLogger(__name__)


@runtime_checkable
class MetricsLog(Protocol):
    """Where the numbers of a run are written."""

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds values to the line of `step`, which is the last line or a new one.

        Numbers that are not finite are written as JSON's null.
        """
        ...

    def note_rollback(self, step: int, number: int, *, from_step: int, cause: str) -> None:
        """Adds to the line of `step` that the run went back to it, and how often it has gone back in all."""
        ...

    def truncate(self, step: int, rollbacks: int) -> None:
        """Removes what came after `step`, and rollbacks beyond that number."""
        ...

    def plot(self) -> None:
        """Plots what there is: curves.png and levels.png."""
        ...


class NullLog:
    """The log of all processes but process 0: nothing is written."""

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        del step, values

    def note_rollback(self, step: int, number: int, *, from_step: int, cause: str) -> None:
        del step, number, from_step, cause

    def truncate(self, step: int, rollbacks: int) -> None:
        del step, rollbacks

    def plot(self) -> None:
        pass


class FileLog:
    """A log in a workdir. A line is on disk when `write` returns, so a killed process loses none."""

    def __init__(self, workdir: epath.Path):
        self._path, self._tensorboard = workdir / FILE, _TensorBoard(workdir / "tensorboard")
        self._lines = read(workdir, warn=True)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        finite = {name: value if _is_writable(value) else None for name, value in values.items()}
        if self._lines and self._lines[-1]["step"] == step:
            self._lines[-1] |= finite
            self._write_all()
        else:
            self._lines.append({"step": step, **finite})
            if files.is_local(self._path):
                with files.named(self._path), self._path.open("a") as file:
                    file.write(_line(self._lines[-1]))
            else:
                self._write_all()  # an object store cannot append
        with files.named(self._path.parent / "tensorboard"):
            self._tensorboard.write(step, values)

    def note_rollback(self, step: int, number: int, *, from_step: int, cause: str) -> None:
        same = self._lines[-1:] if self._lines and self._lines[-1]["step"] == step else []
        before = [r for line in same for r in line.get("rollbacks", [])]
        self.write(step, {"rollbacks": [*before, {"number": number, "from_step": from_step, "cause": cause}]})

    def truncate(self, step: int, rollbacks: int) -> None:
        kept = [line for line in self._lines if line["step"] <= step]
        if kept and "rollbacks" in kept[-1]:
            kept[-1]["rollbacks"] = [r for r in kept[-1]["rollbacks"] if r["number"] <= rollbacks]
            if not kept[-1]["rollbacks"]:
                del kept[-1]["rollbacks"]
        self._lines = [line for line in kept if len(line) > 1]
        self._write_all()
        self._tensorboard.restart(step)

    def plot(self) -> None:
        files.write(self._path.parent / "curves.png", curves.plot_curves(self._lines))
        files.write(self._path.parent / "levels.png", curves.plot_levels(self._lines))

    def close(self) -> None:
        self._tensorboard.close()

    def _write_all(self) -> None:
        files.write(self._path, "".join(map(_line, self._lines)))


def read(workdir: epath.Path, *, warn: bool = False) -> list[dict[str, Any]]:
    """Reads the lines of metrics.jsonl, without those that were not written as a whole.

    Args:
      workdir: the folder of the run.
      warn: whether to log a warning for each damaged line.

    Returns:
      One dict per line, each with a "step".
    """
    path, records = workdir / FILE, []
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line.endswith(b"\n"):
            break  # a killed job was writing it
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
        elif warn:
            _logger.warning("line %d of %s is damaged and left out", number, path)
    return records


class Start(NamedTuple):
    """One start of the training program in a workdir.

    Attributes:
      time: when, in seconds since 1970.
      step: the step from which it continued.
      last_time: when it wrote its last numbers; `time` if it wrote none.
      last_step: the step of these numbers; `step` if it wrote none.
    """

    time: float
    step: int
    last_time: float
    last_step: int


def starts(workdir: epath.Path) -> list[Start]:
    """Finds out how often training was started, from TensorBoard's files: each start makes one.

    Args:
      workdir: the folder of the run.

    Returns:
      The starts in the order of their times.
    """
    folder = workdir / "tensorboard"
    found = []
    for path in folder.iterdir() if files.exists(folder) else []:
        events = list(_events(path.read_bytes())) if ".tfevents." in path.name else []
        if events:
            step = next((e.step - 1 for e in events if e.HasField("session_log")), 0)
            last = max((e for e in events if e.HasField("summary")), key=lambda e: e.wall_time, default=None)
            ended = (events[0].wall_time, step) if last is None else (last.wall_time, last.step)
            found.append(Start(events[0].wall_time, step, *ended))
    return sorted(found)


def training_seconds(lines: Sequence[Mapping[str, Any]], step: int) -> float:
    """Computes how long a run took to reach a step: with its evaluations, without interruptions.

    Args:
      lines: of metrics.jsonl.
      step: the step.
    """
    seconds, before = 0.0, 0
    for line in lines:
        if line["step"] > step:
            break
        if line.get("steps_per_second"):
            seconds, before = seconds + (line["step"] - before) / line["steps_per_second"], line["step"]
        seconds += line.get("evaluation_seconds") or 0.0
    return seconds


@contextmanager
def open_log(workdir: epath.Path) -> Iterator[FileLog]:
    """Opens the log in `workdir`."""
    log = FileLog(workdir)
    try:
        yield log
    finally:
        with suppress(OSError):  # every line is on disk, or the failure to write it ends the run
            log.close()


_proto: Any = event_pb2  # its messages are made at run time


class _TensorBoard:
    """TensorBoard's event file.

    tensorboardX's own SummaryWriter writes from a thread. Nobody notices when that fails (a full disk), and
    its last two minutes are lost when the process is killed.
    """

    def __init__(self, path: epath.Path):
        if files.is_local(path):
            path.mkdir(parents=True, exist_ok=True)
        self._events = EventsWriter(str(path / "events"))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, float | int):
                self._add(step, summary=scalar(name, value))
        self._events.flush()

    def restart(self, step: int) -> None:
        """Tells TensorBoard to discard what it has of later steps."""
        self._add(step + 1, session_log=_proto.SessionLog(status=_proto.SessionLog.START))
        self._events.flush()

    def close(self) -> None:
        self._events.close()

    def _add(self, step: int, **content: Any) -> None:
        self._events.write_event(_proto.Event(wall_time=time.time(), step=step, **content))


def _events(content: bytes) -> Iterator[Any]:
    """The events of a file of TensorBoard, without one that was not written as a whole."""
    place = 0
    while place + 12 <= len(content):
        size = int.from_bytes(content[place : place + 8], "little")
        event, place = content[place + 12 : place + 12 + size], place + 16 + size  # checksums around it
        if place > len(content):
            return
        try:
            yield _proto.Event.FromString(event)
        except DecodeError:
            return


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"


def _is_writable(value: Any) -> bool:
    return isinstance(value, str | Sequence) or math.isfinite(value)
