"""Disks, data and other jobs that fail: one clear line, no hang, earlier checkpoints intact."""

import shutil

import numpy as np
import pytest
from etils import epath
from PIL import Image

from drl_jax.checkpoints.orbax import steps
from tests.faults.conftest import assert_same_run, lines, newest, of_folder


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
    assert one["arrays"] == other["arrays"]


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
    assert one.kill()
    (other,) = start("train", tmp_path, "--config.training.steps=1000000")
    other.wait_for("the first, compiled")


def test_a_reader_that_exits(start, digit_files, tmp_path):
    (job,) = start("train", tmp_path, *of_folder(digit_files), reader={"after": 13, "how": "exits"})
    assert "a reader of the data failed with SystemExit" in told(job)
    assert steps(epath.Path(tmp_path / "checkpoints"))  # those before it


def test_a_reader_that_hangs(start, whole, digit_files, tmp_path):
    fault, data = {"after": 13, "how": "hangs"}, of_folder(digit_files)
    (job,) = start("train", tmp_path, *data, "--config.data.timeout=2", reader=fault)
    assert "were not read within config.data.timeout=2 seconds" in told(job)
    kept = newest(tmp_path).step
    assert kept in (4, 8, 12)
    (job,) = start("train", tmp_path, *data)
    assert job.ended() == 0
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("failing", [0, 1])
def test_one_of_two_processes_fails(failing, start, tmp_path):
    fault = {"after": 13, "how": "dies"}
    jobs = start("train", tmp_path, processes=2, devices=1, only=failing, reader=fault)
    assert "a reader of the data died" in told(jobs[failing])
    # The other one cannot know better than that a new start may help. It may not come to say so where the
    # one that coordinates the job is gone: then JAX may abort it.
    other = jobs[1 - failing]
    other._process.join(60)
    if failing == 1 or other._process.exitcode == 42:
        assert "another process of the job has ended" in told(other, 42)
    assert other._process.exitcode not in (None, 0, 1)
    assert steps(epath.Path(tmp_path / "checkpoints"))


def test_a_second_job_of_two_processes_is_refused(start, tmp_path):
    (one,) = start("train", tmp_path, "--config.training.steps=1000000")
    one.wait_for("the first, compiled")
    first, second = start("train", tmp_path, processes=2, devices=1)
    assert "is in use by process" in told(first)
    assert "the first process of the job could not start" in told(second)


def test_a_damaged_line_of_the_metrics(start, whole, tmp_path):
    (job,) = start("train", tmp_path, "--config.training.steps=12")
    assert job.ended() == 0
    content = bytearray((tmp_path / "metrics.jsonl").read_bytes())
    content[content.index(b"\n") + 5] = 0xFF
    (tmp_path / "metrics.jsonl").write_bytes(content)
    (job,) = start("train", tmp_path)
    assert job.ended() == 0
    assert job.printed().count(f"line 2 of {tmp_path}/metrics.jsonl is damaged and left out") == 1
    assert lines(tmp_path) == [line for line in lines(whole) if line["step"] != 4]


def test_the_best_checkpoint_is_kept(start, tmp_path):
    best = ["--config.checkpoint.keep=1", "--config.checkpoint.best_of=frechet_pixels"]
    every = [
        "--config.training.steps=10",
        "--config.evaluation.every=2",
        "--config.optimizer.learning_rate=0.3",
    ]
    (job,) = start("train", tmp_path, *best, *every)
    assert job.ended() == 0
    scored = {line["frechet_pixels"]: line["step"] for line in lines(tmp_path)}
    assert steps(epath.Path(tmp_path / "checkpoints")) == sorted({scored[min(scored)], 10})
    assert scored[min(scored)] < 10  # or nothing was kept for its score
    (job,) = start("train", tmp_path / "other", "--config.checkpoint.best_of=fid")
    assert "config.checkpoint.best_of='fid' is not measured" in told(job)


def test_fewer_steps_than_there_are(start, whole, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    (job,) = start("train", workdir, "--config.training.steps=10")
    assert "config.training.steps=10: the run is at step 24 already" in told(job)
    assert lines(workdir) == lines(whole)


def test_a_workdir_whose_config_was_edited_or_lost(start, whole, tmp_path):
    # The checkpoint knows what it was trained with.
    for name, spoil in (
        (
            "edited",
            lambda file: file.write_text(
                file.read_text().replace('"learning_rate": 0.003', '"learning_rate": 0.007')
            ),
        ),
        ("lost", lambda file: file.unlink()),
    ):
        workdir = shutil.copytree(whole, tmp_path / name)
        spoil(workdir / "config.json")
        given = ["--config.optimizer.learning_rate=0.007", "--config.training.steps=30"]
        (job,) = start("train", workdir, *given)
        assert "config.optimizer.learning_rate was 0.003 and is 0.007" in told(job)


def test_other_data_are_refused(start, tmp_path):
    (tmp_path / "data").mkdir()
    folder = of_folder(tmp_path / "data")
    rng = np.random.default_rng(0)

    def add(name: str) -> None:
        pixels = rng.integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / f"{name}.png")

    for i in range(4):
        add(str(i))
    (job,) = start("train", tmp_path / "run", *folder, "--config.training.steps=4")
    assert job.ended() == 0, job.printed()
    add("3")
    (job,) = start("train", tmp_path / "run", *folder, "--config.training.steps=6")
    assert job.ended() == 0, job.printed()
    assert "config.data: the examples are not those that the run began with" in job.printed()
    add("4")
    (job,) = start("train", tmp_path / "run", *folder, "--config.training.steps=8")
    assert "there are 5 examples, and the run in" in told(job)
    assert newest(tmp_path / "run").step == 6


def test_a_data_file_that_is_truncated(start, digit_files, tmp_path):
    data = shutil.copytree(digit_files, tmp_path / "data")
    file = data / "0.png"  # the first one that is read
    file.write_bytes(file.read_bytes()[:60])
    (job,) = start("train", tmp_path / "run", *of_folder(data))
    assert f"config.data.path: {file} is" in told(job)


@pytest.mark.parametrize("damage", ["{", '{"data": {}}', ""])
def test_a_config_that_is_damaged(damage, start, whole, tmp_path):
    workdir = shutil.copytree(whole, tmp_path / "run")
    (workdir / "config.json").write_text(damage)
    (job,) = start("train", workdir)
    assert f"{workdir}/config.json is not a config" in told(job)
