import itertools

import numpy as np
import pytest

from drl_jax.data.sources import InMemory
from drl_jax.data.stream import batches
from drl_jax.errors import UserError
from drl_jax.pixels import to_uint8, to_unit


def numbered_points(n: int) -> InMemory:
    """Point i is (i, i)."""
    return InMemory(np.repeat(np.arange(n, dtype=np.float32)[:, None], 2, axis=1))


def numbered_images(n: int) -> InMemory:
    """Image i is the row (i, 255), so that a flip shows and the number can still be read; n <= 255."""
    numbers = np.arange(n, dtype=np.uint8)[:, None, None, None]
    return InMemory(np.concatenate([numbers, np.full_like(numbers, 255)], axis=2))


def stream(source, *, batch_size, seed=0, flip=False, process_index=0, process_count=1):
    return batches(
        source,
        seed=seed,
        batch_size=batch_size,
        flip=flip,
        process_index=process_index,
        process_count=process_count,
    )


def first(iterator, n: int) -> np.ndarray:
    return np.stack(list(itertools.islice(iterator, n)))


@pytest.mark.parametrize("process_count", [2, 4])
@pytest.mark.parametrize("flip", [False, True])
def test_several_processes_get_the_rows_of_one_process(process_count, flip):
    source = numbered_images(50)
    alone = first(stream(source, batch_size=16, flip=flip), 10)
    shares = [
        first(
            stream(source, batch_size=16, flip=flip, process_index=r, process_count=process_count),
            10,
        )
        for r in range(process_count)
    ]
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), alone)


@pytest.mark.parametrize(("length", "batch_size"), [(12, 4), (10, 4), (7, 20), (1, 3)])
def test_each_epoch_contains_each_example_once(length, batch_size):
    epochs = 6
    count = -(-epochs * length // batch_size)
    seen = first(stream(numbered_points(length), batch_size=batch_size), count)[..., 0].ravel()
    for epoch in seen[: epochs * length].reshape(epochs, length):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(length))


def test_the_order_depends_on_epoch_and_seed():
    source = numbered_points(100)
    epochs = first(stream(source, batch_size=100), 2)
    other = first(stream(source, batch_size=100, seed=1), 1)
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[0] != other[0]).any()
    np.testing.assert_array_equal(epochs, first(stream(source, batch_size=100), 2))


@pytest.mark.parametrize("after", [0, 1, 9])
def test_a_restored_iterator_continues_exactly_although_batches_were_read_ahead(after):
    source = numbered_images(40)
    iterator = stream(source, batch_size=16, flip=True)
    first(iterator, after) if after else None
    state = iterator.get_state()
    expected = first(iterator, 8)

    resumed = stream(source, batch_size=16, flip=True)
    resumed.set_state(state)
    np.testing.assert_array_equal(first(resumed, 8), expected)
    iterator.set_state(state)  # also on an iterator that is further on
    np.testing.assert_array_equal(first(iterator, 8), expected)


def test_flips_mirror_half_of_the_images_left_to_right():
    plain = first(stream(numbered_images(100), batch_size=100), 40)
    flipped = first(stream(numbered_images(100), batch_size=100, flip=True), 40)
    mirrored = (flipped == plain[:, :, :, ::-1]).all(axis=(2, 3, 4))
    untouched = (flipped == plain).all(axis=(2, 3, 4))
    assert (mirrored ^ untouched).all()
    # 4,000 fair coins: the mean is 0.5 within four standard deviations. Each row is flipped at some times.
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(mirrored.size)
    assert (mirrored.mean(axis=0) > 0).all()
    assert (mirrored.mean(axis=0) < 1).all()


def test_images_are_scaled_and_points_are_not():
    images = next(stream(numbered_images(1), batch_size=2))
    points = next(stream(numbered_points(3), batch_size=3))
    assert images.dtype == points.dtype == np.float32
    np.testing.assert_array_equal(images[0, 0, :, 0], [-1.0, 1.0])
    np.testing.assert_array_equal(np.sort(points[:, 0]), [0.0, 1.0, 2.0])


def test_flips_do_not_change_the_source():
    source = numbered_images(20)
    before = source.take(np.arange(20))
    first(stream(source, batch_size=20, flip=True), 5)
    np.testing.assert_array_equal(source.take(np.arange(20)), before)


def test_the_caller_gets_the_error_of_the_source():
    class Broken(InMemory):
        def take(self, indices):
            raise UserError("image 3 is damaged")

    iterator = stream(Broken(np.zeros((4, 2), np.float32)), batch_size=2)
    with pytest.raises(UserError, match="image 3 is damaged"):
        next(iterator)


def test_a_process_reads_only_its_own_rows():
    class Counting(InMemory):
        read = 0

        def take(self, indices):
            assert len(indices) == 4
            Counting.read += 1
            return super().take(indices)

    source = Counting(np.zeros((64, 2), np.float32))
    next(stream(source, batch_size=16, process_index=3, process_count=4))
    assert Counting.read > 0


@pytest.mark.parametrize(("batch_size", "process_count"), [(0, 1), (6, 4)])
def test_a_batch_size_that_processes_cannot_share_is_refused(batch_size, process_count):
    with pytest.raises(ValueError, match=rf"batch_size={batch_size} .*process_count={process_count}"):
        stream(numbered_points(8), batch_size=batch_size, process_count=process_count)


def test_samples_are_truncated_to_bytes():
    x = np.array([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0], np.float32)
    np.testing.assert_array_equal(to_uint8(x), [0, 0, 127, 191, 255, 255])
    every = np.arange(256, dtype=np.uint8)
    lost = every.astype(int) - to_uint8(to_unit(every))
    assert set(lost) <= {0, 1}
