"""SIGTERM and SIGINT in every phase: the state is saved, the exit code is 42, all processes stop alike."""

import re
import shutil
import signal
import time

import pytest
from etils import epath

from drl_jax.checkpoints.orbax import steps
from drl_jax.parallel.preemption import EXIT_CODE
from tests.faults.conftest import assert_same_run, lines, newest

LONG = ["--config.training.steps=1000000", "--config.checkpoint.every=1000000"]
LONG += ["--config.evaluation.every=1000000"]


def stopped_after(job) -> int:
    """The step that a process says it saved."""
    (step,) = re.findall(r"stopped after step (\d+), which is saved", job.printed())
    return int(step)


def send(jobs, number=signal.SIGTERM) -> float:
    for job in jobs:
        job.send(number)
    return time.monotonic()


def assert_ended(jobs, since, seconds):
    for job in jobs:
        assert job.ended(60) == EXIT_CODE, job.printed()
    assert time.monotonic() - since < seconds


@pytest.mark.parametrize("processes", [1, 2])
def test_in_training(processes, start, tmp_path):
    jobs = start("train", tmp_path, *LONG, processes=processes, devices=2 // processes)
    jobs[0].wait_for("step 2/")  # both processes are busy: each has ended step 1
    # To one process alone: the others learn of it by the step's own sum.
    since = send(jobs[-1:])
    assert_ended(jobs, since, 20)
    assert {stopped_after(job) for job in jobs} == {newest(tmp_path).step}
    assert newest(tmp_path).step < 1_000_000


def test_a_run_that_was_stopped_goes_on_as_if_it_was_not(start, whole, tmp_path):
    (job,) = start("train", tmp_path)
    job.wait_for("the first, compiled")
    send([job], signal.SIGINT)
    assert job.ended() == EXIT_CODE
    assert steps(epath.Path(tmp_path / "checkpoints"))[-1] == stopped_after(job)
    (job,) = start("train", tmp_path)
    assert job.ended() == 0
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU])
def test_other_signals_that_would_end_a_process(number, start, tmp_path):
    (job,) = start("train", tmp_path, *LONG)
    job.wait_for("step 2/")
    since = send([job], number)
    assert_ended([job], since, 20)
    assert stopped_after(job) == newest(tmp_path).step
    assert f"{number.name}: saving, then stopping" in job.printed()


def test_output_that_nobody_reads(start, whole, tmp_path):
    (job,) = start("train", tmp_path, lose_reader={})
    assert job.ended() == 0
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("processes", [1, 2])
def test_in_the_first_compilation(processes, start, tmp_path):
    # A network that takes long to compile, and no compiled program at hand.
    large = [*LONG, "--config.network.blocks_per_resolution=6"]
    jobs = start("train", tmp_path, *large, processes=processes, cached=False, mark={"phase": "compiling"})
    for job in jobs:
        job.wait_for("MARK")
    time.sleep(2)
    assert all("the first" not in job.printed() for job in jobs)
    since = send(jobs)
    assert_ended(jobs, since, 5)  # at once, plus the two seconds by which the coordinator exits later
    assert steps(epath.Path(tmp_path / "checkpoints")) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_in_an_evaluation(processes, start, tmp_path):
    # Four samples at a time, a million times.
    long = ["--config.evaluation.num_samples=4000000", "--config.evaluation.every=6"]
    jobs = start(
        "train", tmp_path, *LONG, *long, processes=processes, devices=2 // processes,
        mark={"phase": "evaluating"},
    )  # fmt: skip
    for job in jobs:
        job.wait_for("MARK")
    time.sleep(1)
    since = send(jobs[-1:])  # one of them alone: the others end with it
    assert_ended(jobs, since, 20)
    assert newest(tmp_path).step == 6
    # The evaluation that was cut short is made up for.
    short = ["--config.training.steps=6", "--config.evaluation.num_samples=4", "--config.evaluation.every=6"]
    (job,) = start("train", tmp_path, *short)
    assert job.ended() == 0
    assert [line["step"] for line in lines(tmp_path) if "frechet_pixels" in line] == [6]


@pytest.mark.parametrize("processes", [1, 2])
def test_in_a_save(processes, start, tmp_path):
    often = [*LONG[:1], LONG[2], "--config.checkpoint.every=4"]
    jobs = start(
        "train", tmp_path, *often, processes=processes, devices=2 // processes, mark={"phase": "saving"}
    )
    for job in jobs:
        job.wait_for("MARK")
    since = send(jobs)
    assert_ended(jobs, since, 20)
    assert {stopped_after(job) for job in jobs} == {newest(tmp_path).step}


@pytest.mark.parametrize("processes", [1, 2])
def test_in_sampling(processes, start, whole, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    (workdir / "samples.npz").unlink()
    jobs = start(
        "sample", workdir, "--config.evaluation.num_samples=4000000", processes=processes,
        devices=2 // processes, mark={"phase": "drawing"},
    )  # fmt: skip
    for job in jobs:
        job.wait_for("MARK")
    time.sleep(1)
    since = send(jobs[:1])  # the one that the others could not do without
    assert_ended(jobs, since, 20)
    assert not (workdir / "samples.npz").exists()


def test_a_second_signal_ends_at_once(start, tmp_path):
    often = [*LONG[:1], LONG[2], "--config.checkpoint.every=4"]
    (job,) = start("train", tmp_path, *often, slow_save={"seconds": 30})
    job.wait_for("the first, compiled")
    end = time.monotonic() + 60
    while not steps(epath.Path(tmp_path / "checkpoints")) and time.monotonic() < end:
        time.sleep(0.05)
    send([job])
    job.wait_for("a second signal stops at once")
    time.sleep(1.5)  # closer together they are one signal, passed on by two
    since = send([job])
    assert_ended([job], since, 2)
    assert newest(tmp_path).step >= 4


def test_a_signal_that_comes_twice_at_once_is_one(start, tmp_path):
    # As a terminal and a launcher send it: both to the same process.
    (job,) = start("train", tmp_path, *LONG)
    job.wait_for("the first, compiled")
    send([job, job], signal.SIGINT)
    assert job.ended() == EXIT_CODE
    assert newest(tmp_path).step == stopped_after(job)


def test_the_last_step_is_saved(start, tmp_path):
    (job,) = start("train", tmp_path, "--config.training.steps=5", "--config.evaluation.every=100")
    assert job.ended() == 0
    assert newest(tmp_path).step == 5
