"""Disks, data and other jobs that fail: one clear line, no hang, earlier checkpoints intact."""

import shutil
import signal
from pathlib import Path

import pytest
from etils import epath

from drl_jax.training.checkpoints import steps
from tests.faults.conftest import assert_same_run, newest


def told(job, code=1) -> str:
    """The one line that a job that failed says to standard error, which is its last."""
    assert job.ended() == code, job.printed()
    said = [line for line in job.printed().splitlines() if line.startswith("drl-jax: ")]
    assert len(said) == 1, job.printed()
    assert job.printed().strip().endswith(said[0]), job.printed()
    return said[0]


def test_a_disk_that_is_full_in_the_middle_of_a_save(start, whole, tmp_path):
    half = ["--config.training.steps=12"]
    (job,) = start("train", tmp_path, *half)
    assert job.ended() == 0
    biggest = max(path.stat().st_size for path in (tmp_path / "checkpoints/12").rglob("*"))
    (job,) = start("train", tmp_path, small_disk={"limit": biggest // 2})
    line = told(job)
    assert "checkpoint of step 16 could not be written" in line
    assert "File too large" in line
    assert "step 12 is kept" in line
    assert newest(tmp_path).step == 12
    # With room again the run goes on.
    (job,) = start("train", tmp_path)
    assert job.ended() == 0
    one, other = newest(tmp_path).record, newest(whole).record
    assert one["digests"] == other["digests"]


def test_a_disk_that_is_full_before_anything_is_saved(start, tmp_path):
    (job,) = start("train", tmp_path, small_disk={"limit": 8000})
    line = told(job)
    assert "File too large" in line
    assert str(tmp_path) in line


def test_a_workdir_that_cannot_be_written(start, tmp_path):
    (tmp_path / "file").write_text("")
    (job,) = start("train", tmp_path / "file" / "run")
    assert f"--workdir={tmp_path}/file/run cannot be written" in told(job)


def test_a_second_job_on_the_workdir_is_refused(start, tmp_path):
    (one,) = start("train", tmp_path, "--config.training.steps=1000000")
    one.wait_for("the first, compiled")
    (other,) = start("train", tmp_path, "--config.training.steps=1000000")
    assert f"--workdir={tmp_path} is in use by process {one._process.pid} on " in told(other)
    # The lock does not outlive a job that is killed.
    one.send(signal.SIGKILL)
    one._process.join()
    (other,) = start("train", tmp_path, "--config.training.steps=1000000")
    other.wait_for("the first, compiled")


def test_a_reader_that_dies(start, tmp_path):
    (job,) = start("train", tmp_path, reader={"after": 13, "how": "dies"})
    assert "a reader of the data died of SystemExit" in told(job)
    assert steps(epath.Path(tmp_path / "checkpoints"))  # those before it


def test_a_reader_that_hangs(start, whole, tmp_path):
    fault = {"after": 13, "how": "hangs"}
    (job,) = start("train", tmp_path, "--config.data.timeout=2", reader=fault)
    assert "were not read within config.data.timeout=2 seconds" in told(job)
    kept = newest(tmp_path).step
    assert kept in (4, 8, 12)
    (job,) = start("train", tmp_path)
    assert job.ended() == 0
    assert_same_run(tmp_path, whole)


def test_a_data_file_that_is_truncated(start, whole, shared, tmp_path):
    del whole  # whose data are prepared by now
    data = tmp_path / "data"
    shutil.copytree(shared["TFDS_DATA_DIR"], data)
    (record,) = [path for path in Path(data).rglob("*array_record*") if path.is_file()]
    record.write_bytes(record.read_bytes()[: record.stat().st_size * 2 // 3])
    (job,) = start("train", tmp_path / "run", f"--config.data.data_dir={data}")
    line = told(job)
    assert "data.name='digits'" in line
    assert str(data) in line


@pytest.mark.parametrize("damage", ["{", '{"data": {}}', ""])
def test_a_config_that_is_damaged(damage, start, whole, tmp_path):
    (tmp_path / "config.json").write_text(damage)
    (job,) = start("train", tmp_path)
    assert f"{tmp_path}/config.json is not a config" in told(job)
