"""kill -9 in every phase: the run that continues ends as the one that was never killed."""

import json
import shutil
import signal
import time

import numpy as np
import pytest

from tests.faults.conftest import assert_same_run, lines, samples

# Where a run of 24 steps is killed: saves at 4, 8, …; evaluations at 12 and 24.
KILLS = {
    "after the first step": {"kill": {"phase": "stepping", "number": 1, "when": "after"}},
    "before a save": {"kill": {"phase": "saving", "number": 3, "when": "before"}},
    "in the middle of a save": {"kill": {"phase": "saving", "number": 2, "when": "after"}},
    "after a save": {"kill": {"phase": "waiting", "number": 4, "when": "after"}},
    "before a line of the log": {"kill": {"phase": "logging", "number": 5, "when": "before"}},
    "before an evaluation": {"kill": {"phase": "evaluating", "number": 1, "when": "before"}},
    "after an evaluation": {"kill": {"phase": "evaluating", "number": 2, "when": "after"}},
    "in the middle of scores.json": {"kill_in_write": {"name": "scores.json"}},
}


@pytest.mark.parametrize("instant", KILLS)
def test_a_run_killed_in_any_phase_ends_the_same(instant, start, whole, tmp_path):
    (job,) = start("train", tmp_path, **KILLS[instant])
    assert job.ended() == -signal.SIGKILL, job.printed()
    (job,) = start("train", tmp_path)
    assert job.ended() == 0, job.printed()
    assert_same_run(tmp_path, whole)


def test_a_resume_that_is_killed_too(start, whole, tmp_path):
    for fault in (
        {"kill": {"phase": "saving", "number": 3, "when": "before"}},
        {"kill": {"phase": "truncating", "number": 1, "when": "after"}},
        {},
    ):
        (job,) = start("train", tmp_path, **fault)
        assert job.ended() == (-signal.SIGKILL if fault else 0), job.printed()
    assert_same_run(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "sample"])
def test_a_run_killed_at_random_instants_ends_the_same(command, start, whole, tmp_path):
    def begin(workdir):
        if command == "sample":
            shutil.copytree(whole, workdir)
            (workdir / "samples.npz").unlink()
        return start(command, workdir)[0]

    began = time.monotonic()
    assert begin(tmp_path / "timed").ended() == 0
    seconds = time.monotonic() - began
    for part in (np.arange(10) + np.random.default_rng(0).random(10)) / 10:
        workdir = tmp_path / f"run_{part:.3f}"
        job = begin(workdir)
        time.sleep(part * seconds)
        job.kill()  # this one may have ended by itself, if it was quicker
        (job,) = start(command, workdir)
        assert job.ended() == 0, job.printed()
        assert_same_run(workdir, whole)
        if command == "sample":
            np.testing.assert_array_equal(samples(workdir), samples(whole))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_evaluation_stopped_in_the_middle_ends_the_same(number, start, whole, tmp_path):
    settings = ("--config.evaluation.num_samples=48", "--config.evaluation.save_every=4")

    for name in ("stopped", "whole"):
        shutil.copytree(whole, tmp_path / name)

    def results(name) -> dict:
        (file,) = (tmp_path / name).glob("evaluations/*/result_48.json")
        return json.loads(file.read_text())

    (job,) = start("evaluate", tmp_path / "stopped", *settings)
    end = time.monotonic() + 60
    while not list((tmp_path / "stopped").glob("evaluations/*/samples_0000008.npz")):
        assert time.monotonic() < end, job.printed()
        time.sleep(0.001)
    job.send(number)
    assert job.ended() == (42 if number == signal.SIGTERM else -signal.SIGKILL)
    assert not list((tmp_path / "stopped").glob("evaluations/*/result_*"))

    (again,) = start("evaluate", tmp_path / "stopped", *settings)
    # The other one in two processes.
    others = start("evaluate", tmp_path / "whole", *settings, processes=2, devices=1)
    assert [job.ended() for job in (again, *others)] == [0, 0, 0]
    assert "of 48 samples exist already" in again.printed()
    one, other = results("stopped"), results("whole")
    for kind in ("scores", "data_vs_data", "protocol"):
        assert one[kind] == other[kind]


def test_the_run_that_the_others_are_compared_with(whole):
    assert [line["step"] for line in lines(whole)] == list(range(2, 25, 2))
    assert [line["step"] for line in lines(whole) if "frechet_pixels" in line] == [12, 24]
