"""Checkpoints as trees: names, parts, sharded arrays, digests, and the order in which they are read."""

import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from drl_jax.checkpoints import orbax
from drl_jax.checkpoints.digests import digest, sha256
from drl_jax.checkpoints.orbax import Retention, load, open_checkpoints
from drl_jax.errors import UserError
from drl_jax.parallel.mesh import AXIS, place


def tree(seed: int = 0):
    rng = np.random.default_rng(seed)
    return {
        "step": jnp.asarray(3, jnp.int32),
        "key": jax.random.key(7),
        "params": {"dense": {"kernel": jnp.asarray(rng.standard_normal((8, 4)), jnp.float32)}},
        "ema_params": {"dense": {"kernel": jnp.asarray(rng.standard_normal((8, 4)), jnp.bfloat16)}},
    }


@pytest.fixture
def saved(tmp_path):
    """A folder with the checkpoint of step 5, and what was saved."""
    placement = place()
    state = placement.replicate(tree())
    folder = epath.Path(tmp_path / "checkpoints")
    with open_checkpoints(folder, Retention(3)) as checkpoints:
        checkpoints.save(5, state, {"config": {"a": 1}})
    return folder, state


def assert_equal(got, expected):
    def equal(a, b):
        if jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))

    jax.tree.map(equal, got, expected)


def test_a_state_comes_back_bit_for_bit_on_other_devices(saved):
    folder, state = saved
    checkpoint, damaged = load(folder, place(devices=jax.devices()[:1]).abstract(state))
    assert checkpoint is not None
    assert (checkpoint.step, damaged) == (5, [])
    assert checkpoint.record["config"] == {"a": 1}
    assert_equal(checkpoint.tree, state)


def test_a_part_of_the_state_can_be_loaded(saved):
    folder, state = saved
    like = place().abstract({"ema_params": state["ema_params"]})
    checkpoint, _ = load(folder, like)
    assert checkpoint is not None
    assert_equal(checkpoint.tree, {"ema_params": state["ema_params"]})


def test_orbax_reads_a_checkpoint_under_the_names_of_the_parameters(saved):
    folder, state = saved
    read = ocp.load(folder / "5", checkpointable_name="state")
    kernel = read["params"]["dense"]["kernel"]
    np.testing.assert_array_equal(np.asarray(kernel), np.asarray(state["params"]["dense"]["kernel"]))


def test_a_sharded_state_is_saved_as_a_whole(tmp_path):
    # The part of one device alone would be 2 of 8 rows.
    placement = place()
    sharding = NamedSharding(placement.mesh, PartitionSpec(AXIS))
    array = np.arange(32, dtype=np.float32).reshape(8, 4)
    sharded = {"w": jax.device_put(array, sharding)}
    assert not sharded["w"].is_fully_replicated
    folder = epath.Path(tmp_path / "checkpoints")
    with open_checkpoints(folder, Retention(3)) as checkpoints:
        checkpoints.save(1, sharded, {})
    for wanted in (sharding, NamedSharding(place(devices=jax.devices()[:1]).mesh, PartitionSpec())):
        checkpoint, _ = load(folder, {"w": jax.ShapeDtypeStruct((8, 4), np.float32, sharding=wanted)})
        assert checkpoint is not None
        np.testing.assert_array_equal(np.asarray(checkpoint.tree["w"]), array)
        assert checkpoint.tree["w"].sharding.is_equivalent_to(wanted, 2)


def test_the_record_is_validated_before_any_array_is_read(saved, caplog):
    # An edited config is no damage, even where the arrays have other shapes now, or are damaged besides.
    folder, _ = saved
    like = place().abstract({"params": {"dense": {"kernel": jnp.zeros((3, 3))}}})
    for path in Path(folder / "5" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")

    def validate(record):
        raise UserError(f"config.a was {record['config']['a']}")

    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match=r"config\.a was 1"):
        load(folder, like, validate=validate)
    assert not caplog.records


def test_another_structure_is_no_damage(saved, caplog):
    folder, _ = saved
    like = place().abstract({"params": {"dense": {"kernel": jnp.zeros((3, 3))}}})
    with pytest.raises(
        UserError, match=r"another version of the program: 1 of its arrays differ, first params/"
    ):
        load(folder, like)


def test_errors_of_ours_are_not_reported_as_damage(saved, monkeypatch):
    folder, state = saved

    def broken(*_):
        raise TypeError("a bug")

    monkeypatch.setattr(orbax.ocp, "load_checkpointables", broken)
    with pytest.raises(TypeError, match="a bug"):
        load(folder, place().abstract(state))


LOST = (
    "FAILED_PRECONDITION: Buffer Definition Event: Gloo AllGather failed: [external/gloo/gloo/transport/tcp/"
    "pair.cc:547] Connection reset by peer [127.0.0.1]:3401"
)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_lost_process_is_no_failure_of_a_save_or_a_read(wrapped, saved, monkeypatch):
    def lose(*args, **kwargs):
        try:
            raise jax.errors.JaxRuntimeError(LOST)
        except jax.errors.JaxRuntimeError as error:
            if not wrapped:
                raise
            raise TimeoutError("Timed out while waiting for the other processes") from error

    folder, state = saved
    with open_checkpoints(folder, Retention(3)) as checkpoints, monkeypatch.context() as patch:
        patch.setattr(jax, "process_count", lambda: 2)
        patch.setattr(checkpoints._checkpointer, "wait", lose)
        with pytest.raises((jax.errors.JaxRuntimeError, TimeoutError)):
            checkpoints.wait()
        patch.setattr(ocp, "load_checkpointables", lose)
        patch.setattr(orbax, "broadcast", lambda value: value)
        with pytest.raises((jax.errors.JaxRuntimeError, TimeoutError)):
            load(folder, place().abstract(state))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool", "uint8", "float64"])
def test_any_changed_word_changes_its_digest(dtype):
    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(0)
        drawn = rng.standard_normal((5, 7)) * 3
        array = drawn > 0 if dtype == "bool" else drawn.astype(jnp.dtype(dtype))
        before = digest({"a": array})["a"]
        found = set()
        for i in range(array.size):
            changed = array.copy()
            raw = changed.view(np.uint8).reshape(array.size, -1)
            raw[i, 0] ^= 1
            found.add(digest({"a": changed})["a"])
        assert before not in found
        assert len(found) == array.size
        # Two words in each other's place.
        swapped = array.copy().ravel()
        a, b = 0, next(i for i in range(1, array.size) if swapped[i] != swapped[0])
        swapped[[a, b]] = swapped[[b, a]]
        assert digest({"a": swapped.reshape(5, 7)})["a"] != before


def test_a_digest_does_not_depend_on_devices():
    array = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    expected = digest({"a": array})
    for count in (1, 2, 4):
        placement = place(devices=jax.devices()[:count])
        assert digest({"a": placement.shard(array)}) == expected
        assert digest({"a": placement.replicate(array)}) == expected


def test_the_sha256_covers_names_types_and_shapes():
    array = np.arange(6, dtype=np.float32)
    others = [{"b": array}, {"a": array.reshape(2, 3)}, {"a": array.view(np.int32)}, {"a": array + 1}]
    assert sha256({"a": array}) not in [sha256(other) for other in others]
    assert sha256({"a": array}) == sha256(place().replicate({"a": array}))
