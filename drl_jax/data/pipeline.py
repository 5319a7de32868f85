"""From a source to the batches of one process, in an order that no number of processes changes."""

import os
import queue
import sys
import threading
from functools import lru_cache
from typing import Any

import grain
import numpy as np
from jaxtyping import Float32, Int, UInt8

from drl_jax.data.sources import Source
from drl_jax.errors import Hang, UserError

# First words of the seeds, so that the order and the flips are independent streams.
_ORDER, _FLIPS = 0, 1


def batches(
    source: Source,
    *,
    seed: int,
    batch_size: int,
    flip: bool,
    process_index: int,
    process_count: int,
    timeout: float = 600.0,
) -> "Batches":
    """Endless batches: the rows of this process out of every global batch of `batch_size`.

    Every epoch is a new permutation of the source and batches run on across the end of an epoch, so
    that each example comes exactly once per epoch. Process r of P gets the contiguous rows
    [r B/P, (r + 1) B/P): row i of global batch n is the same example whatever P is, and only the
    process's own rows are read.

    Args:
      source: pictures or points.
      seed: of the order and of the flips, not negative.
      batch_size: B, rows of a global batch; it may exceed the length of the source.
      flip: mirror each picture left to right with probability one half.
      process_index: r.
      process_count: P, a divisor of B.
      timeout: seconds that a batch may take.

    Returns:
      An iterator over float32 rows: pictures `[B/P, H, W, C]` in [-1, 1], points `[B/P, 2]` as they
      are. `get_state` and `set_state` resume it exactly; batches fetched ahead do not count.

    Raises:
      UserError: B does not divide over the processes, or (from `next`) an example is unreadable.
      Hang: (from `next`) a batch takes longer than `timeout`.
    """
    per_process, remainder = divmod(batch_size, process_count)
    if batch_size < 1 or remainder:
        raise UserError(
            f"data.batch_size={batch_size} must be a positive multiple of the number of processes, "
            f"{process_count}"
        )
    order = _order(len(source), seed)
    mine = slice(process_index * per_process, (process_index + 1) * per_process)

    def batch(n: int) -> Float32[np.ndarray, "..."]:
        rows = np.arange(n * batch_size, (n + 1) * batch_size)[mine]
        examples = source.take(order(rows))
        if flip:
            # Drawn for the whole global batch: a row's flip must not depend on who holds it.
            mirrored = np.random.default_rng([_FLIPS, seed, n]).random(batch_size)[mine] < 0.5
            examples[mirrored] = examples[mirrored, :, ::-1]
        return to_unit(examples)

    threads = min(8, os.cpu_count() or 1)
    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(4, threads))
    return Batches(iter(grain.MapDataset.range(sys.maxsize).map(batch).to_iter_dataset(ahead)), timeout)


class Batches:
    """An iterator over batches whose `next` returns or raises in time.

    A disk or a server that does not answer would hold the reader, and with it the run, for ever. So a
    thread of its own reads, which is left behind when it does not come back.
    """

    def __init__(self, rows: grain.DatasetIterator[Float32[np.ndarray, "..."]], timeout: float):
        self._rows, self._timeout = rows, timeout
        self._asked: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._read: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Float32[np.ndarray, "..."]:
        self._asked.put(None)
        try:
            read = self._read.get(timeout=self._timeout)
        except queue.Empty:
            raise Hang(
                f"no batch came within config.data.timeout={self._timeout:g} seconds: the data's disk or "
                "server does not answer"
            ) from None
        if isinstance(read, UserError):
            raise read
        if isinstance(read, BaseException):
            raise UserError(
                f"a reader of the data died of {type(read).__name__}: {' '.join(str(read).split())}"
            ) from read
        return read

    def get_state(self) -> dict[str, Any]:
        """The position after the last batch, as JSON."""
        return self._rows.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Back to a position."""
        self._rows.set_state(state)

    def _serve(self) -> None:
        while True:
            self._asked.get()
            try:
                self._read.put(next(self._rows))
            except BaseException as error:  # a reader that dies must be heard of
                self._read.put(error)


def _order(length: int, seed: int):
    """The function from positions in the endless stream to indices of examples.

    grain's own shuffle finds one index at a time, at ten microseconds each: a hundredth of a second
    for a batch of a thousand. A permutation per epoch costs nothing beside it.
    """

    @lru_cache(maxsize=2)  # a batch, or two threads, may straddle the end of an epoch
    def permutation(epoch: int) -> Int[np.ndarray, " length"]:
        return np.random.default_rng([_ORDER, seed, epoch]).permutation(length)

    def order(positions: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        epochs, places = np.divmod(positions, length)
        indices = np.empty_like(places)
        for epoch in range(epochs[0], epochs[-1] + 1):
            here = epochs == epoch
            indices[here] = permutation(epoch)[places[here]]
        return indices

    return order


def to_unit(x: np.ndarray) -> Float32[np.ndarray, "..."]:
    """Bytes to float32 in [-1, 1], x / 127.5 - 1; floats (points) pass as they are."""
    if x.dtype != np.uint8:
        return x.astype(np.float32, copy=False)
    return x.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(x: np.ndarray) -> UInt8[np.ndarray, "..."]:
    """Samples around [-1, 1] to bytes, by truncation as in the published evaluation.

    Truncation turns some rounding errors into a whole step: `to_uint8(to_unit(x))` may be x - 1.
    """
    return np.clip((np.asarray(x) + 1) * 127.5, 0, 255).astype(np.uint8)
