"""Damaged examples: the next undamaged one takes their place, and they are reported and counted."""

import itertools
import logging

import numpy as np
import pytest
from etils import epath

from drl_jax.data.decoding import Damaged, Unreadable
from drl_jax.data.notes import Notes
from drl_jax.data.skipping import SkipDamaged
from drl_jax.data.sources import fingerprint, open_source, skipped
from drl_jax.data.stream import batches
from drl_jax.errors import UserError
from drl_jax.evaluation.reference import read_reference
from tests.data.helpers import encode, read_all


class Numbered:
    """Image i has the value i; some are damaged."""

    def __init__(self, count: int, damaged: set[int], error: type[UserError] = Damaged):
        self._count, self._damaged, self._error = count, damaged, error

    def __len__(self):
        return self._count

    def take(self, indices):
        for index in indices:
            if int(index) in self._damaged:
                raise self._error(f"image {index} is damaged")
        return np.asarray(indices, np.uint8).reshape(-1, 1, 1, 1)


def test_the_next_undamaged_example_takes_the_place():
    source = SkipDamaged(Numbered(8, {0, 3, 4, 7}), Notes())
    np.testing.assert_array_equal(read_all(source).ravel(), [1, 1, 2, 5, 5, 5, 6, 1])


def test_an_example_does_not_depend_on_what_was_read_before():
    expected = read_all(SkipDamaged(Numbered(30, {1, 2, 9, 29}), Notes())).ravel()
    rng = np.random.default_rng(0)
    source = SkipDamaged(Numbered(30, {1, 2, 9, 29}), Notes())
    for _ in range(50):
        indices = rng.integers(30, size=5)
        np.testing.assert_array_equal(source.take(indices).ravel(), expected[indices])


def test_a_known_replacement_costs_no_second_reading():
    source, calls = Numbered(8, {3, 4}), []
    take = source.take
    source.take = lambda indices: calls.append(len(indices)) or take(indices)
    skipping = SkipDamaged(source, Notes())
    first = read_all(skipping)
    calls.clear()
    np.testing.assert_array_equal(skipping.take(np.arange(8)), first)
    assert calls == [8]


def test_each_is_counted_and_reported_once_and_the_lines_are_bounded(caplog):
    notes = Notes()
    source = SkipDamaged(Numbered(200, set(range(100))), notes)
    recorded = []
    notes.record(recorded.append)
    with caplog.at_level(logging.INFO, "drl_jax"):
        source.take(np.array([99]))
        assert caplog.records == []  # nobody listens yet
        notes.listen()
        for _ in range(3):
            read_all(source)
    assert notes.skipped == 100
    lines = [record.getMessage() for record in caplog.records]
    assert lines[:2] == ["skipped: image 99 is damaged", "skipped: image 0 is damaged"]
    assert len(lines) == 21
    assert "more damaged examples are skipped" in lines[-1]
    assert recorded[-1][:2] == ["0\timage 0 is damaged", "1\timage 1 is damaged"]
    assert len(recorded[-1]) == 100


def test_what_may_be_undamaged_is_not_skipped():
    source = SkipDamaged(Numbered(8, {3}, Unreadable), Notes())
    with pytest.raises(Unreadable, match="image 3"):
        read_all(source)
    with pytest.raises(UserError, match="all examples are damaged; `check` lists them"):
        read_all(SkipDamaged(Numbered(3, {0, 1, 2}), Notes()))


@pytest.fixture
def folder(tmp_path):
    """Six images, of which the third is damaged."""
    for value in range(6):
        (tmp_path / f"{value}.png").write_bytes(encode(np.full((4, 4, 3), value, np.uint8)))
    (tmp_path / "2.png").write_bytes(b"bad")
    return str(tmp_path)


def test_batches_are_the_same_for_any_number_of_processes(folder):
    def read(process_index: int, process_count: int):
        source = open_source("folder", path=folder, image_size=4, skip_damaged=True)
        stream = batches(
            source,
            seed=0,
            batch_size=4,
            flip=False,
            process_index=process_index,
            process_count=process_count,
        )
        return np.stack(list(itertools.islice(stream, 6)))

    alone = read(0, 1)
    np.testing.assert_array_equal(np.concatenate([read(r, 2) for r in range(2)], axis=1), alone)
    values = np.round((alone[:, :, 0, 0, 0] + 1) * 127.5).ravel().astype(int)
    for epoch in values.reshape(4, 6):
        np.testing.assert_array_equal(np.sort(epoch), [0, 1, 3, 3, 4, 5])


def test_without_it_the_first_damaged_example_ends_the_run(folder):
    with pytest.raises(Damaged, match=r"2\.png is not an image"):
        read_all(open_source("folder", path=folder, image_size=4))


def test_a_reference_counts_what_it_skipped(folder, tmp_path):
    source = open_source("folder", path=folder, image_size=4, skip_damaged=True)
    reference = read_reference(source, [], epath.Path(tmp_path), {})
    assert reference.skipped == skipped(source) == 1
    assert fingerprint(source)["examples"] == 6
