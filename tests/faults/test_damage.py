"""Every file of the newest checkpoint damaged in every way: never a wrong restore."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

from drl_jax.checkpoints.digests import digest
from drl_jax.checkpoints.orbax import Retention, load, open_checkpoints, steps
from drl_jax.core.levels import make_levels
from drl_jax.core.networks import PointEnergy
from drl_jax.errors import UserError
from drl_jax.parallel.mesh import place
from drl_jax.training.step import init_state
from tests.faults.conftest import newest

PLACEMENT = place(1, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def state():
    adam = optax.adam(1e-3)
    return PLACEMENT.replicate(init_state(jax.random.key(0), PointEnergy(2), make_levels(2), adam, (2,)))


def after(state, step):
    """Another state for every step."""
    return state.replace(
        step=PLACEMENT.replicate(jnp.int32(step)), params=jax.tree.map(lambda p: p + step, state.params)
    )


@pytest.fixture(scope="module")
def saved(state, tmp_path_factory):
    """Checkpoints of steps 1 and 2."""
    directory = epath.Path(tmp_path_factory.mktemp("saved"))
    with open_checkpoints(directory, Retention(5)) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, after(state, step), {"position": step})
    return directory


def files(folder) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def arrays(state) -> dict[str, str]:
    """The digest of every array of a state."""
    return digest(state.replace(key=jax.random.key_data(state.key)))


def truncate(path, rng):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path, rng):
    path.write_bytes(b"")


def delete(path, rng):
    path.unlink()


def flip(path, rng):
    content = bytearray(path.read_bytes())
    if content:
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def outcome(directory, state, caplog):
    """The step that is restored, whose state must be the one that was saved."""
    caplog.clear()
    checkpoint, damaged = load(directory, PLACEMENT.abstract(state))
    warnings = [r.getMessage() for r in caplog.records if r.name == "drl_jax.checkpoints.orbax"]
    assert len(warnings) == len(damaged)
    for step, warning in zip(damaged, warnings, strict=True):
        assert f"/{step} is damaged" in warning
        assert "\n" not in warning
        assert (directory / str(step)).exists()  # left in place
    assert checkpoint is not None
    step = checkpoint.step
    assert checkpoint.record["position"] == step
    assert arrays(checkpoint.tree) == arrays(after(state, step))
    return step


@pytest.mark.parametrize("damage", [truncate, empty, delete, flip])
def test_no_damaged_file_is_restored_from(damage, saved, state, tmp_path, caplog):
    rng = np.random.default_rng(0)
    names = files(saved / "2")
    assert len(names) > 5
    outcomes = {}
    for i, name in enumerate(names):
        for again in range(2 if damage is flip else 1):
            directory = epath.Path(tmp_path / f"{i}-{again}")
            shutil.copytree(saved, directory)
            damage(Path(directory) / "2" / name, rng)
            outcomes[name, again] = outcome(directory, state, caplog)
            shutil.rmtree(directory)
    # Either the newest, verified, or the one before: `outcome` has compared every array.
    assert set(outcomes.values()) <= {1, 2}
    # Some files of arrays are read by nobody; damage of the others is found.
    assert 1 in {step for (name, _), step in outcomes.items() if "/d/" in name}


def test_a_flipped_byte_of_an_array_is_found(saved, state, tmp_path, caplog):
    # The bytes of the arrays are the largest file; Orbax alone restores them without an error.
    directory = epath.Path(tmp_path / "flipped")
    shutil.copytree(saved, directory)
    largest = max((Path(directory) / "2" / n for n in files(saved / "2")), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    for i in range(len(content) // 4, len(content), len(content) // 4):
        content[i] ^= 1
    largest.write_bytes(content)
    assert outcome(directory, state, caplog) == 1


def test_an_empty_folder_and_all_damaged(saved, state, tmp_path, caplog):
    directory = epath.Path(tmp_path / "damaged")
    shutil.copytree(saved, directory)
    (directory / "7").mkdir()
    assert outcome(directory, state, caplog) == 2
    shutil.rmtree(directory / "2")
    shutil.rmtree(directory / "1" / "state")
    # A new start would overwrite what may be whole and only unreachable.
    with pytest.raises(UserError, match="none of the 2 checkpoints"):
        load(directory, PLACEMENT.abstract(state))
    assert load(directory / "none", PLACEMENT.abstract(state)) == (None, [])


def test_whole_checkpoints_are_not_deleted_for_damaged_ones(saved, state, tmp_path, caplog):
    directory = epath.Path(tmp_path / "run")
    shutil.copytree(saved, directory)
    for step in (5, 6):
        (directory / str(step)).mkdir()
    with open_checkpoints(directory, Retention(1)) as checkpoints:
        loaded = checkpoints.load(PLACEMENT.abstract(state), lambda record: None)
        assert loaded is not None
        assert loaded.step == 2
        checkpoints.save(3, after(state, 3), {"position": 3})
        checkpoints.wait()
        assert steps(directory) == [3, 5, 6]
        # A damaged one is replaced when the run reaches its step again.
        checkpoints.save(5, after(state, 5), {"position": 5})
    assert outcome(directory, state, caplog) == 5


def test_leaving_right_after_a_save_loses_nothing(state, tmp_path):
    directory = epath.Path(tmp_path / "run")
    large = PLACEMENT.replicate({"large": np.arange(2e7, dtype=np.float32)})  # 80 MB take a while
    with open_checkpoints(directory, Retention(2)) as checkpoints:
        checkpoints.save(1, large, {})
        assert checkpoints._checkpointer.is_saving_in_progress()
    checkpoint, _ = load(directory, PLACEMENT.abstract(large))  # on disk by now
    assert checkpoint is not None
    np.testing.assert_array_equal(checkpoint.tree["large"], large["large"])


def test_which_checkpoints_are_kept(state, tmp_path):
    directory = epath.Path(tmp_path / "run")
    with open_checkpoints(directory, Retention(2, every=5)) as checkpoints:
        for step in range(1, 13):
            checkpoints.save(step, after(state, step), {"position": step})
            if step == 3:
                checkpoints.set_best(step)
    assert steps(directory) == [3, 5, 10, 11, 12]


def test_what_is_saved_says_where_it_came_from(whole):
    record = newest(whole).record
    assert record["config"]["network"]["width"] == 8
    assert record["versions"]["jax"] == jax.__version__
    assert record["commit"] is None or len(record["commit"]) >= 40
