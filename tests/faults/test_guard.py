"""Divergence: what the guard detects, that a run recovers by itself, and how it ends if it cannot."""

import jax
import numpy as np
import pytest

from drl_jax.training.guard import Diverged, Guard, Thresholds
from drl_jax.training.step import LevelSums, StepMetrics
from tests.faults.conftest import assert_same_run, lines, newest

LEVELS = 3


def metrics(loss=1.0, gradient=1.0, max_abs=1.0, energies=(1.0, 1.0, 1.0), count=(4, 4, 4)):
    """The metrics of a step with these means."""
    count, energies = np.array(count, float), np.array(energies, float)
    sums = LevelSums(
        count=count,
        loss=loss * count,
        positive=energies * count,
        negative=energies * count,
        displacement=count,
        gradient_norm=count,
    )
    return StepMetrics(sums, np.float32(gradient), np.array([max_abs, 0.5]))


def cause(guard: Guard, trouble: StepMetrics) -> str:
    with pytest.raises(Diverged) as raised:
        guard.check(101, trouble)
    assert raised.value.step == 101
    assert len(raised.value.table.splitlines()) == 1 + LEVELS
    return raised.value.cause


@pytest.fixture
def calm() -> Guard:
    """A guard after a hundred steps whose values wander between a half and two, log-normally."""
    guard, rng = Guard(LEVELS, Thresholds(spike=20.0)), np.random.default_rng(0)
    for step in range(1, 101):
        loss, gradient, max_abs, *energies = np.exp(rng.normal(0, 0.4, 6))
        sign = rng.choice([-1, 1], 4)
        guard.check(step, metrics(loss * sign[0], gradient, max_abs, energies * sign[1:]))
    return guard


def test_nothing_is_noticed_where_nothing_is_wrong(calm):
    calm.check(101, metrics())
    # A level without examples has no energy.
    calm.check(102, metrics(energies=(1.0, np.nan, 1.0), count=(4, 0, 4)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite(calm, bad):
    word = "NaN" if np.isnan(bad) else "infinite"
    assert f"energy of level 1 is {word}" in cause(calm, metrics(loss=bad, energies=(1, bad, 1)))
    assert word in cause(calm, metrics(loss=bad))
    assert "gradient norm" in cause(calm, metrics(gradient=bad))
    assert "largest |x| of a sample" in cause(calm, metrics(max_abs=abs(bad)))
    calm.check_weights(7, {"a": np.ones(3), "b": np.zeros(2)})
    with pytest.raises(Diverged, match="step 7: a parameter is not finite"):
        calm.check_weights(7, {"a": np.ones(3), "b": np.array([0, bad])})


def test_spikes_name_the_value_its_size_and_the_key(calm):
    for trouble, name in [
        (metrics(loss=-100.0), "the loss"),  # though it is compared with the energies as well
        (metrics(gradient=100.0), "the gradient norm"),
        (metrics(max_abs=100.0), "the largest |x| of a sample"),
        (metrics(energies=(1, 1, -100.0)), "the energy of level 2"),
    ]:
        reported = cause(calm, trouble)
        assert name in reported
        assert "is 100, " in reported
        assert "config.guard.spike=20" in reported


def test_a_loss_is_small_beside_the_energies_it_is_a_difference_of():
    guard = Guard(LEVELS, Thresholds(spike=20.0))
    for step in range(1, 101):
        guard.check(step, metrics(loss=1e-3))
    guard.check(101, metrics(loss=1.0))  # a thousand times its own recent size
    assert "the loss is 30" in cause(guard, metrics(loss=30.0))


def test_limits_that_do_not_depend_on_the_past():
    fresh = Guard(LEVELS, Thresholds())
    fresh.check(1, metrics(loss=-9e5, max_abs=999.0))
    assert "config.guard.loss=1e+06" in cause(fresh, metrics(loss=-2e6))
    assert "config.guard.max_abs=1000" in cause(fresh, metrics(max_abs=1001.0))


def test_one_wild_value_does_not_change_what_is_typical(calm):
    before = np.array(calm.get_state()["typical"])
    calm.check(101, metrics(gradient=19.0 * before[1]))
    after = np.array(calm.get_state()["typical"])
    # A step of 5 % (see Guard), however wild.
    np.testing.assert_allclose(after[1] / before[1], np.exp(0.05), rtol=1e-9)


def test_the_typical_size_follows_a_median(calm):
    # Of the log-normal values above the median is one; 5 % steps wander around it by some tenths.
    typical = np.array(calm.get_state()["typical"])
    assert np.all((typical > 0.6) & (typical < 1.7))


def test_a_level_that_is_seen_seldom_may_grow_as_quickly_as_others():
    # As with 1000 levels and 64 examples per step: the energies of the others and of level 1 grow alike, by
    # 1.5 % per step, from a network's start at 0.1 to what the data need.
    guard, energy = Guard(LEVELS, Thresholds(spike=20.0)), 0.1
    for step in range(1, 1000):
        energy = 0.1 * np.exp(min(0.015 * step, 6.4))
        guard.check(step, metrics(energies=(energy, energy, energy), count=(4, 4 * (step % 16 == 0), 4)))
    assert energy > 50
    assert "the energy of level 1" in cause(guard, metrics(energies=(energy, 30 * energy, energy)))


def test_a_guard_that_is_restored_judges_alike(calm):
    other = Guard(LEVELS, Thresholds(spike=20.0))
    other.set_state(calm.get_state())
    assert cause(other, metrics(gradient=50.0)) == cause(calm, metrics(gradient=50.0))


@pytest.mark.parametrize(("factor", "expected"), [(float("nan"), "is NaN"), (1e4, "config.guard.")])
def test_a_run_recovers(factor, expected, start, tmp_path):
    (job,) = start("train", tmp_path, poison={"steps": [14], "factor": factor})
    assert job.ended() == 0, job.printed()
    assert "diverged at step 14: " in job.printed()
    assert "back to step 12 with new noise: rollback 1 of 5" in job.printed()
    assert "level  examples" in job.printed()
    kept = lines(tmp_path)
    assert [line["step"] for line in kept] == list(range(2, 25, 2))
    (record,) = [line for line in kept if "rollbacks" in line]
    assert record["step"] == 12
    assert record["rollbacks"][0]["number"] == 1
    assert record["rollbacks"][0]["from_step"] == 14
    assert expected in record["rollbacks"][0]["cause"]
    state = newest(tmp_path).tree
    assert state.rollbacks == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, state.ema_params)))


def test_before_the_first_checkpoint_and_several_times(start, tmp_path):
    fault = {"steps": [3, 14], "factor": float("nan"), "attempts": 3}
    (job,) = start("train", tmp_path, poison=fault)
    assert job.ended() == 0, job.printed()
    backs = [r for line in lines(tmp_path) for r in line.get("rollbacks", [])]
    assert [(r["number"], r["from_step"]) for r in backs] == [(1, 3), (2, 3), (3, 3)]


def test_a_run_that_cannot_be_mended_ends_with_a_metrics(start, tmp_path):
    fault = {"steps": list(range(10, 30)), "factor": float("nan"), "attempts": 99}
    (job,) = start("train", tmp_path, "--config.guard.rollbacks=2", poison=fault)
    assert job.ended() == 1
    assert job.printed().count("diverged at step 10: ") == 3 + 1  # three times, and once more at the end
    assert job.printed().count("level  examples") == 3
    last = job.printed().strip().splitlines()[-1]
    assert last.startswith("drl-jax: training diverged at step 10")
    for text in ("config.guard.rollbacks=2", "checkpoint of step 8 is kept", "docs/divergence.md"):
        assert text in last
    # The run can be continued, for example where the fault is gone.
    (job,) = start("train", tmp_path)
    assert job.ended() == 0
    assert "continuing from step 8" in job.printed()
    assert [line["step"] for line in lines(tmp_path)] == list(range(2, 25, 2))
    assert not any("rollbacks" in line for line in lines(tmp_path))


def test_a_run_that_diverged_and_was_killed_ends_the_same(start, tmp_path):
    fault = {"poison": {"steps": [14], "factor": float("nan")}}
    (job,) = start("train", tmp_path / "whole", **fault)
    assert job.ended() == 0
    (job,) = start("train", tmp_path / "killed", **fault)
    job.wait_for("back to step 12")
    assert job.kill()
    (job,) = start("train", tmp_path / "killed", **fault)
    assert job.ended() == 0
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
