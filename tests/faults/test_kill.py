"""kill -9 at any instant: the run that goes on ends as the one that was never killed."""

import json
import shutil
import signal
import time

import numpy as np
import pytest

from tests.faults.conftest import assert_same_run, lines, samples

INSTANTS, TRAINING = 20, 14  # the others are in `sample`
_random = np.random.default_rng(0).random
# Parts of a command's length, one in each stretch of it; in pairs, because two resume at a time.
PAIRS = [
    (command, tuple(pair))
    for command, count in (("train", TRAINING), ("sample", INSTANTS - TRAINING))
    for pair in ((np.arange(count) + _random(count)) / count).reshape(2, -1).T
]


@pytest.fixture(scope="module")
def seconds() -> dict[str, float]:
    """How long a command takes that nothing befalls, programs compiled and data prepared."""
    return {}


@pytest.mark.parametrize(("command", "parts"), PAIRS)
def test_a_run_killed_at_any_instant_ends_the_same(command, parts, start, whole, tmp_path, seconds):
    def begin(workdir):
        if command == "sample":
            shutil.copytree(whole, workdir)
            (workdir / "samples.npz").unlink()
        return start(command, workdir)[0]

    if command not in seconds:
        began = time.monotonic()
        assert begin(tmp_path / "timed").ended() == 0
        seconds[command] = time.monotonic() - began

    def killed(part):
        """The workdir of a run that was killed when this part of its time was over."""
        while True:
            workdir = tmp_path / f"run_{part:.3f}"
            job = begin(workdir)
            time.sleep(part * seconds[command])
            if job.kill():
                return workdir
            part *= 0.9  # this one was quicker than the one that was timed

    workdirs = [killed(part) for part in parts]
    jobs = [job for workdir in workdirs for job in start(command, workdir)]
    for job, workdir in zip(jobs, workdirs, strict=True):
        assert job.ended() == 0, job.printed()
        assert_same_run(workdir, whole)
        if command == "sample":
            np.testing.assert_array_equal(samples(workdir), samples(whole))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_evaluation_stopped_in_its_middle_ends_the_same(number, start, whole, tmp_path):
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
    # The other one by two processes.
    others = start("evaluate", tmp_path / "whole", *settings, processes=2, devices=1)
    assert [job.ended() for job in (again, *others)] == [0, 0, 0]
    assert "of 48 samples exist already" in again.printed()
    one, other = results("stopped"), results("whole")
    for kind in ("scores", "data_vs_data", "protocol"):
        assert one[kind] == other[kind]


def test_the_run_that_the_others_are_held_against(whole):
    assert [line["step"] for line in lines(whole)] == list(range(2, 25, 2))
    assert [line["step"] for line in lines(whole) if "frechet_pixels" in line] == [12, 24]
