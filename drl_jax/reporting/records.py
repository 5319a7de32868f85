"""The record of a run: metrics.jsonl and TensorBoard events."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from etils import epath
from tensorboardX import SummaryWriter


class Records:
    """One JSON object a line, and the same numbers for TensorBoard."""

    def __init__(self, path: epath.Path, board: SummaryWriter):
        self._path, self._board = path, board

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends the values of `step`. Non-finite ones are written as JSON's null."""
        finite = {name: value if _is_finite(value) else None for name, value in values.items()}
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **finite}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)


@contextmanager
def open_records(workdir: epath.Path, step: int) -> Iterator[Records]:
    """The records of a run that goes on after `step`: what was written of later steps is cut off."""
    path = workdir / "metrics.jsonl"
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        if len(kept) < len(lines):
            cut = path.parent / (path.name + ".tmp")
            cut.write_text("".join(kept))
            cut.replace(path)
    with SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1 if step else None) as board:
        yield Records(path, board)


def _is_finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")
