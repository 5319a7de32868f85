"""Passes over damaged examples."""

import numpy as np

from drl_jax.data.decoding import Damaged
from drl_jax.data.notes import Notes
from drl_jax.errors import UserError


class SkipDamaged:
    """Another source, in which the next undamaged example takes the place of a damaged one.

    Example i is always the same: example i of the other source or, if that is damaged, the next one that is
    not; example 0 comes after the last. So the number of examples and their order stay, and do not depend on
    the number of processes.
    """

    def __init__(self, source, notes: Notes):
        """`notes` gets the damaged examples when they are met."""
        self._source, self._notes = source, notes
        self._damaged: set[int] = set()
        self._replaced: dict[int, int] = {}  # by damaged examples that were asked for

    def __len__(self) -> int:
        return len(self._source)

    def take(self, indices: np.ndarray) -> np.ndarray:
        places = [self._replaced.get(index, index) for index in indices.tolist()]
        try:
            return self._source.take(np.array(places))
        except Damaged:
            return np.concatenate([self._read(int(index)) for index in indices])

    def _read(self, index: int) -> np.ndarray:
        for step in range(len(self)):
            place = (index + step) % len(self)
            if place in self._damaged:
                continue
            try:
                example = self._source.take(np.array([place]))
            except Damaged as error:
                self._damaged.add(place)
                self._notes.skip(place, str(error))
            else:
                if place != index:
                    self._replaced[index] = place
                return example
        raise UserError("config.data.skip_damaged=True: all examples are damaged; `check` lists them")
