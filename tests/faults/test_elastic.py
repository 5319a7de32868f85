"""Going on with other devices or processes: the same examples, levels and noise; states equal to rounding."""

import jax
import numpy as np

from tests.faults.conftest import lines, newest
from tests.helpers import CONFIGS, POINTS

# Adam divides by the gradient's own size, so that rounding may become a change of sign at the first steps.
# With an epsilon far above the gradient it is gradient descent with momentum, and rounding stays rounding.
GENTLE = ["--config.optimizer.epsilon=1000.0", "--config.optimizer.learning_rate=10.0"]
SHORT = ["--config.training.steps={}", "--config.evaluation.metrics=none"]


def train(start, workdir, until, **how):
    jobs = start("train", workdir, *GENTLE, *(o.format(until) for o in SHORT), **how)
    for job in jobs:
        assert job.ended() == 0, job.printed()
    return jobs


def test_other_devices_and_processes_go_on_with_the_same_run(start, tmp_path):
    train(start, tmp_path / "whole", 12, devices=1)
    train(start, tmp_path / "parts", 4, devices=1)
    train(start, tmp_path / "parts", 8, processes=2, devices=1)
    train(start, tmp_path / "parts", 12, devices=4)
    one, other = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert one.record["position"] == other.record["position"]
    assert int(other.tree.step) == 12

    # Exactly: how many examples at which levels, step by step. To rounding: what was computed of them.
    a, b = lines(tmp_path / "whole"), lines(tmp_path / "parts")
    assert [line["step"] for line in a] == [line["step"] for line in b]
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()  # a level's values are there if it had examples
        counts = [name for name in x if name.startswith("examples/")]
        assert counts
        assert [x[name] for name in counts] == [y[name] for name in counts]
        for name in x:
            np.testing.assert_allclose(x[name], y[name], rtol=1e-4, atol=1e-4)
    for x, y in zip(jax.tree.leaves(one.tree.params), jax.tree.leaves(other.tree.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    moved = [np.abs(np.asarray(x)).max() for x in jax.tree.leaves(one.tree.opt_state)]
    assert max(moved) > 0


def test_points_in_two_processes(start, tmp_path):
    points = [
        f"--config={CONFIGS}/points.py:ring",
        *POINTS,
        "--config.levels.count=2",
        "--config.training.steps=4",
        "--config.training.log_every=2",
    ]
    for name, how in (("one", {"devices": 2}), ("two", {"processes": 2, "devices": 1})):
        for job in start("train", tmp_path / name, *points, given=False, **how):
            assert job.ended() == 0, job.printed()
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    counts = [
        [{k: v for k, v in line.items() if k.startswith("examples/")} for line in run] for run in (one, two)
    ]
    assert counts[0] == counts[1]
    for x, y in zip(one, two, strict=True):
        np.testing.assert_allclose(x["loss"], y["loss"], rtol=1e-3, atol=1e-3)
