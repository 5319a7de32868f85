"""The record of a run: metrics.jsonl, one line a step, and the same numbers for TensorBoard."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol, runtime_checkable

from etils import epath
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tensorboardX.summary import scalar

from drl_jax import files
from drl_jax.report import curves

FILE = "metrics.jsonl"


@runtime_checkable
class Records(Protocol):
    """Where a run's numbers go."""

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds values to the line of `step`, which is the last one or a new one. Numbers that are not
        finite are written as JSON's null."""
        ...

    def roll_back(self, step: int, number: int, *, from_step: int, cause: str) -> None:
        """Adds to the line of `step` that the run went back to it, for the `number`-th time in all."""
        ...

    def cut(self, step: int, rollbacks: int) -> None:
        """Forgets what came after `step`, and after that many rollbacks."""
        ...

    def draw(self) -> None:
        """Draws what there is: curves.png, levels.png."""
        ...


class Nowhere:
    """The records of all processes but the first."""

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        del step, values

    def roll_back(self, step: int, number: int, *, from_step: int, cause: str) -> None:
        del step, number, from_step, cause

    def cut(self, step: int, rollbacks: int) -> None:
        del step, rollbacks

    def draw(self) -> None:
        pass


class Files:
    """Records in a workdir. Every line is written when `write` returns: killing the process loses none."""

    def __init__(self, workdir: epath.Path, warn: Callable[[str], None]):
        self._path, self._board = workdir / FILE, _Board(workdir / "tensorboard")
        self._lines = read(workdir, warn)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        finite = {name: value if _is_writable(value) else None for name, value in values.items()}
        if self._lines and self._lines[-1]["step"] == step:
            self._lines[-1] |= finite
            self._write_all()
        else:
            self._lines.append({"step": step, **finite})
            if files.is_local(self._path):
                with self._path.open("a") as file:
                    file.write(_line(self._lines[-1]))
            else:
                self._write_all()  # nothing can be appended to an object of a store
        self._board.write(step, values)

    def roll_back(self, step: int, number: int, *, from_step: int, cause: str) -> None:
        same = self._lines[-1:] if self._lines and self._lines[-1]["step"] == step else []
        before = [r for line in same for r in line.get("rollbacks", [])]
        back = {"number": number, "from_step": from_step, "cause": cause}
        self.write(step, {"rollbacks": [*before, back]})

    def cut(self, step: int, rollbacks: int) -> None:
        kept = [line for line in self._lines if line["step"] <= step]
        if kept and "rollbacks" in kept[-1]:
            kept[-1]["rollbacks"] = [r for r in kept[-1]["rollbacks"] if r["number"] <= rollbacks]
            if not kept[-1]["rollbacks"]:
                del kept[-1]["rollbacks"]
        self._lines = [line for line in kept if len(line) > 1]
        self._write_all()
        self._board.restart(step)

    def draw(self) -> None:
        curves.save_curves(self._lines, self._path.parent / "curves.png")
        curves.save_levels(self._lines, self._path.parent / "levels.png")

    def close(self) -> None:
        self._board.close()

    def _write_all(self) -> None:
        files.write(self._path, "".join(map(_line, self._lines)))


def read(workdir: epath.Path, warn: Callable[[str], None] = lambda _: None) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, without what was not written whole."""
    path, records = workdir / FILE, []
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line.endswith(b"\n"):
            break  # what a killed job was about to write
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
        else:
            warn(f"line {number} of {path} is damaged and left out")
    return records


@contextmanager
def open_records(workdir: epath.Path, warn: Callable[[str], None]) -> Iterator[Files]:
    """The records in `workdir`; `warn` hears of damaged lines."""
    records = Files(workdir, warn)
    try:
        yield records
    finally:
        with suppress(OSError):  # every line was flushed, or its failure is what ends the run
            records.close()


_proto: Any = event_pb2  # its messages are made at run time


class _Board:
    """TensorBoard's events. tensorboardX's own SummaryWriter writes from a thread, whose failures (a
    full disk) nobody hears of and whose last two minutes are lost when the process is killed."""

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
        """Tells TensorBoard that what it has of later steps is void."""
        self._add(step + 1, session_log=_proto.SessionLog(status=_proto.SessionLog.START))
        self._events.flush()

    def close(self) -> None:
        self._events.close()

    def _add(self, step: int, **content: Any) -> None:
        self._events.write_event(_proto.Event(wall_time=time.time(), step=step, **content))


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"


def _is_writable(value: Any) -> bool:
    return isinstance(value, str | Sequence) or math.isfinite(value)
