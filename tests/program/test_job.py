"""What several processes compare before they compute, with the answers of the others made up."""

import pytest
from etils import epath

from drl_jax.commands import job
from drl_jax.errors import UserError


@pytest.fixture
def two_processes(monkeypatch):
    """A function that sets what the second process answers to each question in turn."""

    def answer(*second):
        answers = list(second)
        # The last answer stays.
        reply = lambda value: [value, answers.pop(0) if len(answers) > 1 else answers[0]]
        monkeypatch.setattr(job, "gather", reply)

    monkeypatch.setattr(job, "_SEEN_WITHIN", 0.0)
    monkeypatch.setattr(job.time, "sleep", lambda seconds: None)
    return answer


def test_every_process_must_see_the_run_of_process_0(tmp_path, two_processes, monkeypatch):
    workdir = epath.Path(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    same = job._stamp(workdir / "config.json")
    assert same > 0
    two_processes(same)
    job._check_read(workdir)
    for other in (0, same ^ 1):  # no run, another run
        two_processes(other)
        with pytest.raises(UserError, match="process 1 does not see the run of process 0"):
            job._check_read(workdir)
    # A network file system may be late.
    monkeypatch.setattr(job, "_SEEN_WITHIN", 60.0)
    two_processes(0, 0, same)
    job._check_read(workdir)
    # Nobody sees a run: another message says so.
    two_processes(0)
    job._check_read(workdir / "nothing")


def test_every_process_must_see_what_process_0_writes(tmp_path, two_processes):
    two_processes(1)
    job._check_written(epath.Path(tmp_path))
    two_processes(0)
    with pytest.raises(UserError, match="process 1 does not see what process 0 writes there"):
        job._check_written(epath.Path(tmp_path))
    assert list(tmp_path.iterdir()) == []  # the file that was looked for
