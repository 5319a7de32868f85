"""Disks, data and other jobs that fail: one clear line, no hang, earlier checkpoints intact."""

import socket

import pytest
from etils import epath

from drl_jax.checkpoints.orbax import steps
from tests.faults.conftest import assert_same_run, newest, of_folder


def reported(job, code=1) -> str:
    """The one line that a failed job prints to standard error, which is its last."""
    assert job.ended() == code, job.printed()
    said = [line for line in job.printed().splitlines() if line.startswith("drl-jax: ")]
    assert len(said) == 1, job.printed()
    assert job.printed().strip().endswith(said[0]), job.printed()
    return said[0]


def test_a_disk_that_is_full_in_the_middle_of_a_save(start, whole, tmp_path):
    half = ["--config.training.steps=12"]
    (job,) = start("train", tmp_path, *half)
    assert job.ended() == 0
    # The list of arrays is as large in each checkpoint. Orbax divides the arrays among files as it likes.
    listed = (tmp_path / "checkpoints/12/state/_METADATA").stat().st_size
    (job,) = start("train", tmp_path, small_disk={"limit": listed - 1})
    line = reported(job)
    assert "checkpoint of step 16 could not be written" in line
    assert "File too large" in line
    assert "step 12 is kept" in line
    assert newest(tmp_path).step == 12
    # With room again the run continues.
    (job,) = start("train", tmp_path)
    assert job.ended() == 0
    one, other = newest(tmp_path).record, newest(whole).record
    assert one["arrays"] == other["arrays"]


def test_a_disk_that_is_full_before_anything_is_saved(start, tmp_path):
    (job,) = start("train", tmp_path, small_disk={"limit": 8000})
    line = reported(job)
    assert "File too large" in line
    assert str(tmp_path) in line


def test_a_second_job_on_the_workdir_is_refused(start, tmp_path):
    (one,) = start("train", tmp_path, "--config.training.steps=1000000")
    one.wait_for("the first, compiled")
    (other,) = start("train", tmp_path, "--config.training.steps=1000000")
    assert f"--workdir={tmp_path} is in use by process {one._process.pid} on " in reported(other)
    # The lock does not outlive a job that is killed.
    assert one.kill()
    (other,) = start("train", tmp_path, "--config.training.steps=1000000")
    other.wait_for("the first, compiled")


def test_a_reader_that_exits(start, digit_files, tmp_path):
    (job,) = start("train", tmp_path, *of_folder(digit_files), reader={"after": 13, "how": "exits"})
    assert "a reader of the data failed with SystemExit" in reported(job)
    assert steps(epath.Path(tmp_path / "checkpoints"))  # those before it


def test_a_reader_that_hangs(start, whole, digit_files, tmp_path):
    fault, data = {"after": 13, "how": "hangs"}, of_folder(digit_files)
    (job,) = start("train", tmp_path, *data, "--config.data.timeout=2", reader=fault)
    assert "were not read within config.data.timeout=2 seconds" in reported(job)
    kept = newest(tmp_path).step
    assert kept in (4, 8, 12)
    (job,) = start("train", tmp_path, *data)
    assert job.ended() == 0
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("failing", [0, 1])
def test_one_of_two_processes_fails(failing, start, digit_files, tmp_path):
    fault, data = {"after": 13, "how": "exits"}, of_folder(digit_files)
    jobs = start("train", tmp_path, *data, processes=2, devices=1, only=failing, reader=fault)
    why = reported(jobs[failing])
    assert "a reader of the data failed" in why
    # The other one names it, and repeats its line.
    host, said = socket.gethostname(), why.removeprefix("drl-jax: ")
    expected = f"drl-jax: process {failing} of the job ({host}) has failed: {said}"
    assert reported(jobs[1 - failing]) == expected
    assert steps(epath.Path(tmp_path / "checkpoints"))


def test_a_second_job_of_two_processes_is_refused(start, tmp_path):
    (one,) = start("train", tmp_path, "--config.training.steps=1000000")
    one.wait_for("the first, compiled")
    first, second = start("train", tmp_path, processes=2, devices=1)
    assert "is in use by process" in reported(first)
    assert "process 0 of the job has failed: --workdir=" in reported(second)
