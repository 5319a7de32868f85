"""A workdir on an object store, which has no locks: the job that came last owns it."""

import json

import pytest
from etils import epath

from drl_jax import files
from drl_jax.checkpoints.orbax import FOLDER, Checkpoints, steps
from drl_jax.errors import UserError
from drl_jax.main import main
from tests.helpers import CONFIGS, POINTS, last_of_each, run


def test_the_job_that_came_last_owns_a_workdir(tmp_path):
    workdir = epath.Path(tmp_path)
    first = files.take(workdir)
    first()
    second = files.take(workdir)
    second()
    with pytest.raises(
        UserError, match=r"was taken by another job \(process \d+ on \S+, since 2\d\d\d-.* UTC\)"
    ):
        first()
    (workdir / files.OWNER).write_text("{")
    with pytest.raises(UserError, match="was taken by another job"):
        second()
    (workdir / files.OWNER).unlink()
    with pytest.raises(UserError, match=r"its owner\.json is gone"):
        second()


def test_a_run_whose_workdir_was_taken_stops_without_writing(tmp_path, monkeypatch, capsys):
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
            files.take(epath.Path(tmp_path))
        save(self, step, *arguments)

    monkeypatch.setattr(files, "is_local", lambda path: False)
    monkeypatch.setattr(Checkpoints, "save", save_while_another_job_starts)
    with pytest.raises(SystemExit) as ended:
        main(last_of_each(["train", *flags, "--config.training.steps=5"]))
    assert ended.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("drl-jax: ")]
    assert f"drl-jax: --workdir={tmp_path} was taken by another job (process " in line
    assert steps(epath.Path(tmp_path / FOLDER)) == [1, 2]
    # The job that is started next owns it, and ends as any other.
    monkeypatch.setattr(Checkpoints, "save", save)
    before = json.loads((tmp_path / files.OWNER).read_text())
    run("train", *flags, "--config.training.steps=3")
    assert json.loads((tmp_path / files.OWNER).read_text())["job"] != before["job"]
    assert steps(epath.Path(tmp_path / FOLDER))[-1] == 3
