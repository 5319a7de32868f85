"""Processes of a job that do not fit together, or are gone: all end in time, with a line that names which."""

import signal
import socket
import time

import pytest
from etils import epath

from drl_jax.checkpoints.orbax import steps
from tests.faults.conftest import of_folder
from tests.faults.test_resources import reported
from tests.helpers import CONFIGS, POINTS

HOST = socket.gethostname()
LONG = ["--config.training.steps=1000000", "--config.checkpoint.every=1000000"]
SLURM = {
    "SLURM_JOB_ID": "{port}",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_LOCALID": "{rank}",
    "SLURM_PROCID": "{rank}",
}


def test_a_second_job_where_the_file_system_has_no_locks(start, tmp_path):
    locks = {"heartbeat": 0.3, "silence": 20.0}
    long = ["--config.training.steps=1000000", "--config.checkpoint.every=1000000"]
    (first,) = start("train", tmp_path, *long, "--config.evaluation.every=1000000", refuse_locks=locks)
    first.wait_for("step 2/")
    (second,) = start("train", tmp_path, refuse_locks=locks)
    assert second.ended() == 1
    assert f"drl-jax: --workdir={tmp_path} is in use by process " in second.printed()
    first.kill()
    # Its record is still there, and its process is not: the next job need not wait.
    began = time.monotonic()
    (third,) = start("train", tmp_path, refuse_locks=locks)
    third.wait_for("step 2/")
    assert time.monotonic() - began < 20
    assert third.ended() == 0
    assert not (tmp_path / "owner.json").exists()


def test_two_processes_by_the_variables_of_slurm(start, tmp_path):
    # No variable of JAX: address, count and number come from SLURM's.
    points = [f"--config={CONFIGS}/points.py:ring", *POINTS]
    jobs = start("train", tmp_path, *points, given=False, processes=2, devices=2, variables=SLURM)
    assert [job.ended() for job in jobs] == [0, 0], jobs[0].printed()
    assert "runs on 4 cpu devices in 2 processes" in jobs[0].printed()
    assert steps(epath.Path(tmp_path / "checkpoints")) == [2]


def test_one_process_has_another_config(start, tmp_path):
    jobs = start("train", tmp_path, processes=2, devices=1, own={1: ["--config.training.seed=7"]})
    line = (
        "drl-jax: the processes of the job do not do the same: config.training.seed is 7 in process 1 "
        f"({HOST}) and 0 in process 0 ({HOST})"
    )
    assert [reported(job) for job in jobs] == [line, line]
    assert not list(tmp_path.glob("*.json"))  # nothing is written


def test_the_data_of_one_process_are_missing(start, digit_files, tmp_path):
    flags = [*of_folder(digit_files)]
    own = {1: [f"--config.data.path={tmp_path}/nothing"]}
    first, second = start("train", tmp_path, *flags, processes=2, devices=1, own=own)
    why = reported(second)
    assert f"config.data.path='{tmp_path}/nothing' does not exist" in why
    said = why.removeprefix("drl-jax: ")
    assert reported(first) == f"drl-jax: process 1 ({HOST}) could not start: {said}"


def test_the_data_of_one_process_are_others(start, digit_files, tmp_path):
    (tmp_path / "others").mkdir()
    for file in digit_files.iterdir():
        (tmp_path / "others" / file.name).symlink_to(file)
    (tmp_path / "others" / "0.png").unlink()
    own = {1: [f"--config.data.path={tmp_path}/others"]}
    jobs = start("train", tmp_path / "run", *of_folder(digit_files), processes=2, devices=1, own=own)
    for line in map(reported, jobs):
        assert f"the number of examples of config.data is 1796 in process 1 ({HOST}) and 1797" in line


def test_a_process_that_never_starts(start, tmp_path):
    variables = {"DRL_JAX_JOIN_TIMEOUT": "2"}
    (job,) = start("train", tmp_path, processes=2, devices=1, variables=variables, ranks=[0])
    line = reported(job, 42)
    assert "drl-jax: after 2 s, 1 of 2 processes have not come to localhost:" in line
    assert line.endswith(": process 1; start again to continue")


@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_killed(killed, start, tmp_path):
    jobs = start("train", tmp_path, *LONG, processes=2, devices=1)
    jobs[0].wait_for("step 2/")
    began = time.monotonic()
    jobs[killed].send(signal.SIGKILL)
    line = f"drl-jax: process {killed} of the job ({HOST}) has ended; checkpoints are kept; "
    other = jobs[1 - killed]
    # Without process 0 JAX writes lines of its own and aborts, if we are not faster. Launchers restart both.
    assert other.ended() in ((42, -signal.SIGABRT) if killed == 0 else (42,))
    said = [line for line in other.printed().splitlines() if line.startswith("drl-jax: ")]
    assert said == [f"{line}start again to continue"]
    assert time.monotonic() - began < 20
