"""One job at a time writes to a folder, with the file system's locks and without them."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
from etils import epath

from drl_jax import files, ownership
from drl_jax.checkpoints.orbax import FOLDER, Checkpoints, steps
from drl_jax.errors import UserError
from drl_jax.main import main
from drl_jax.ownership import OWNER, owned
from tests.helpers import CONFIGS, POINTS, last_of_each, run


@pytest.fixture
def quick(monkeypatch):
    for name, seconds in (("HEARTBEAT", 0.05), ("SILENCE", 0.5), ("SETTLE", 0.1)):
        monkeypatch.setattr(ownership, name, seconds)


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, "object store"])
def without_locks(request, monkeypatch, quick):
    def refuse(*_):
        raise OSError(request.param, "no locks here")

    if request.param == "object store":
        monkeypatch.setattr(files, "is_local", lambda path: False)
    else:
        monkeypatch.setattr("fcntl.flock", refuse)


def record(folder):
    """The record of the owner, who may be writing it anew."""
    for _ in range(100):
        if content := (folder / OWNER).read_text():
            return json.loads(content)
        time.sleep(0.01)
    pytest.fail("the record stays empty")


def owner(folder, **changes):
    """Leaves the record of a job that no longer renews it."""
    left = {"job": "other", "by": "process 1 on elsewhere", "machine": "another", "process": 1, "renewals": 7}
    (folder / OWNER).write_text(json.dumps({**left, **changes}))


def ended_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_job_is_refused_by_the_lock(tmp_path):
    with (
        owned(epath.Path(tmp_path)) as check,
        pytest.raises(UserError, match=rf"^--workdir={tmp_path} is in use by process {os.getpid()} on "),
        owned(epath.Path(tmp_path)),
    ):
        pass
    check()
    assert not (tmp_path / OWNER).exists()
    with owned(epath.Path(tmp_path)):  # the lock is released
        pass


@pytest.mark.usefixtures("without_locks")
def test_a_second_job_is_refused_without_locks(tmp_path):
    with owned(epath.Path(tmp_path)) as check:
        time.sleep(0.2)
        assert record(tmp_path)["renewals"] > 0
        with (
            pytest.raises(UserError, match=rf"^--workdir={tmp_path} is in use by process {os.getpid()} on "),
            owned(epath.Path(tmp_path)),
        ):
            pass
        check()
    assert not (tmp_path / OWNER).exists()
    began = time.monotonic()
    with owned(epath.Path(tmp_path)):  # nothing to wait for
        assert time.monotonic() - began < ownership.SILENCE


@pytest.mark.usefixtures("without_locks")
@pytest.mark.parametrize("content", ["", "{", "[]", '{"job": 3}', None])
def test_an_owner_that_is_silent_is_gone(tmp_path, content):
    if content is None:
        owner(tmp_path)
    else:
        (tmp_path / OWNER).write_text(content)
    with owned(epath.Path(tmp_path)) as check:
        check()
        assert record(tmp_path)["process"] == os.getpid()


def test_a_lock_does_not_hide_a_job_that_sees_no_locks(tmp_path, monkeypatch):
    """As on two hosts that mount one folder in two ways."""
    monkeypatch.setattr(ownership, "SILENCE", 0.6)
    monkeypatch.setattr(ownership, "HEARTBEAT", 0.1)
    monkeypatch.setattr(ownership, "SETTLE", 0.0)
    other = ownership._Record(epath.Path(tmp_path), "--workdir")
    other.take()
    with other.renewed(), pytest.raises(UserError, match="is in use by process"), owned(epath.Path(tmp_path)):
        pass
    owner(tmp_path)  # of a job that is gone
    with owned(epath.Path(tmp_path)):
        assert not (tmp_path / OWNER).exists()


@pytest.mark.parametrize("is_made_again", [False, True])
def test_a_folder_that_is_deleted_while_it_is_in_use(is_made_again, tmp_path):
    folder = tmp_path / "run"
    with owned(epath.Path(folder)) as check:
        check()
        shutil.rmtree(folder)
        if is_made_again:
            folder.mkdir()
            (folder / ".lock").write_text("")
        with pytest.raises(
            UserError, match=f"^--workdir={folder} was deleted or replaced while it was in use"
        ):
            check()


@pytest.mark.usefixtures("without_locks")
def test_an_owner_of_this_machine_that_has_ended_is_gone_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "SILENCE", 60.0)
    owner(tmp_path, machine=ownership._machine(), process=ended_process())
    began = time.monotonic()
    with owned(epath.Path(tmp_path)) as check:
        check()
    assert time.monotonic() - began < 30


@pytest.mark.usefixtures("without_locks")
def test_of_jobs_that_start_at_once_one_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "SETTLE", 2.0)
    together, outcomes = threading.Barrier(4), []

    def start():
        together.wait()
        try:
            with owned(epath.Path(tmp_path)) as check:
                time.sleep(2)
                check()
                outcomes.append("owner")
        except UserError as error:
            outcomes.append("refused" if "is in use by" in str(error) else str(error))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["owner", "refused", "refused", "refused"]


@pytest.mark.usefixtures("without_locks")
def test_a_job_whose_folder_was_taken_knows(tmp_path):
    with owned(epath.Path(tmp_path)) as check:
        owner(tmp_path)
        with pytest.raises(UserError, match=r"was taken by another job \(process 1 on elsewhere, since"):
            check()
        (tmp_path / OWNER).write_text("{")
        with pytest.raises(UserError, match="was taken by another job"):
            check()
        (tmp_path / OWNER).unlink()
        with pytest.raises(UserError, match=r"its owner\.json is gone"):
            check()
        owner(tmp_path)
    assert record(tmp_path)["job"] == "other"  # which is not this job's to remove


@pytest.mark.usefixtures("without_locks")
def test_an_error_of_the_job_is_its_own(tmp_path):
    with pytest.raises(OSError, match="of the job"), owned(epath.Path(tmp_path)):
        raise OSError("of the job")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), owned(epath.Path(tmp_path / "file" / "run")):
        pytest.fail("entered")


def test_a_run_whose_workdir_was_taken_stops_without_writing(tmp_path, monkeypatch, capsys, quick):
    flags = [
        f"--config={CONFIGS}/points.py:ring",
        *POINTS,
        "--config.checkpoint.every=1",
        f"--workdir={tmp_path}",
    ]
    (tmp_path / "tensorboard").mkdir()  # an object store needs no folders
    save = Checkpoints.save

    def save_while_another_job_starts(self, step, *arguments):
        if step == 3:
            owner(tmp_path)
        save(self, step, *arguments)

    monkeypatch.setattr(files, "is_local", lambda path: False)
    monkeypatch.setattr(Checkpoints, "save", save_while_another_job_starts)
    assert main(last_of_each(["train", *flags, "--config.training.steps=5"])) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("drl-jax: ")]
    assert f"drl-jax: --workdir={tmp_path} was taken by another job (process " in line
    assert steps(epath.Path(tmp_path / FOLDER)) == [1, 2]
    # That job has ended without a word. The next one takes the workdir over, and ends as any other.
    monkeypatch.setattr(Checkpoints, "save", save)
    run("train", *flags, "--config.training.steps=3")
    assert not (tmp_path / OWNER).exists()
    assert steps(epath.Path(tmp_path / FOLDER))[-1] == 3
