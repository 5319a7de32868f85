"""Shuffled batches of a source. Their order does not depend on the number of processes."""

import sys
from collections.abc import Callable
from functools import lru_cache

import grain
import numpy as np
from jaxtyping import Float32, Int

from drl_jax.data.sources import Source
from drl_jax.machine import num_cores
from drl_jax.pixels import to_unit

Positions = Int[np.ndarray, " n"]

# The first number of each seed, so that order and flips are independent.
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
    """Returns an endless iterator over batches: over one process's rows of each batch.

    Each epoch is a new permutation of the examples. A batch may contain the end of one epoch and the
    beginning of the next, so each example comes exactly once per epoch. Process r of P gets the rows [r B/P,
    (r + 1) B/P) of each batch of B rows: row i of batch n is the same example for every P. A process reads
    only its own rows.

    Args:
      source: images or points.
      seed: of the order and the flips; not negative.
      batch_size: B, over all processes; it may be larger than the source.
      flip: mirror each image left to right with probability 1/2.
      process_index: r.
      process_count: P, a divisor of B.

    Returns:
      An iterator over images `[B/P, height, width, channels]` in [-1, 1] or points `[B/P, 2]`, float32. Its
      `get_state` and `set_state` resume it exactly: batches that were read ahead do not count. It raises
      UserError if an example cannot be read.

    Raises:
      ValueError: B is not a positive multiple of P.
    """
    rows_per_process, remainder = divmod(batch_size, process_count)
    if batch_size < 1 or remainder:
        raise ValueError(
            f"batch_size={batch_size} must be a positive multiple of process_count={process_count}"
        )
    order = _order(len(source), seed)
    own = slice(process_index * rows_per_process, (process_index + 1) * rows_per_process)

    def batch(n: int) -> Float32[np.ndarray, "..."]:
        positions = np.arange(n * batch_size, (n + 1) * batch_size)[own]
        examples = source.take(order(positions))
        if flip:
            # Drawn for the whole batch: the flip of a row must not depend on the number of processes.
            is_flipped = np.random.default_rng([_FLIPS, seed, n]).random(batch_size)[own] < 0.5
            examples[is_flipped] = examples[is_flipped, :, ::-1]
        return to_unit(examples)

    threads = min(8, num_cores())
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(4, threads))
    return iter(grain.MapDataset.range(sys.maxsize).map(batch).to_iter_dataset(options))


def _order(length: int, seed: int) -> Callable[[Positions], Positions]:
    """A function from positions in the endless stream to indices of examples.

    Grain's own shuffle computes one index at a time, 10 µs each: 10 ms for a batch of 1,000. Permutations of
    whole epochs take far less.
    """

    @lru_cache(maxsize=2)  # a batch can contain parts of two epochs, and so can the batches of two threads
    def permutation(epoch: int) -> Int[np.ndarray, " length"]:
        return np.random.default_rng([_ORDER, seed, epoch]).permutation(length)

    def order(positions: Positions) -> Positions:
        epochs, places = np.divmod(positions, length)
        indices = np.empty_like(places)
        for epoch in range(epochs[0], epochs[-1] + 1):
            here = epochs == epoch
            indices[here] = permutation(epoch)[places[here]]
        return indices

    return order
