"""From a source to the batches of one process, in an order that no number of processes changes."""

import os
import sys
from functools import lru_cache

import grain
import numpy as np
from jaxtyping import Float32, Int

from drl_jax.data.sources import Source
from drl_jax.errors import UserError
from drl_jax.pixels import to_unit

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
) -> grain.DatasetIterator[Float32[np.ndarray, "..."]]:
    """Endless batches: the rows of this process out of every global batch of `batch_size`.

    Every epoch is a new permutation of the source and batches run on across the end of an epoch, so
    that each example comes exactly once per epoch. Process r of P gets the contiguous rows
    [r B/P, (r + 1) B/P): row i of global batch n is the same example whatever P is, and only the
    process's own rows are read.

    Args:
      source: images or points.
      seed: of the order and of the flips, not negative.
      batch_size: B, rows of a global batch; it may exceed the length of the source.
      flip: mirror each image left to right with probability one half.
      process_index: r.
      process_count: P, a divisor of B.

    Returns:
      An iterator over float32 rows: images `[B/P, H, W, C]` in [-1, 1], points `[B/P, 2]` as they
      are. `get_state` and `set_state` resume it exactly; batches fetched ahead do not count.

    Raises:
      UserError: B does not divide over the processes, or (from `next`) an example is unreadable.
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
    return iter(grain.MapDataset.range(sys.maxsize).map(batch).to_iter_dataset(ahead))


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
