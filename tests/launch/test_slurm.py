"""launch/slurm.sh: which jobs queue again."""

import os
import signal

import pytest

LINE = ("train", "--config=configs/digits.py")


@pytest.mark.parametrize(
    ("codes", "requeued", "expected"),
    [
        ((0, 0), False, 0),
        ((1, 42, 134), False, 1),
        ((137, 1), False, 1),
        ((0, 2), False, 1),
        ((42, 134), True, 0),
        ((0, 42), True, 0),
        ((0, 137), True, 0),
    ],
)
def test_which_jobs_queue_again(bench, tmp_path, codes, requeued, expected):
    code, _ = bench.run("slurm.sh", *LINE, f"--workdir={tmp_path}/run", codes=codes)
    assert (code, bench.requeued) == (expected, requeued)


@pytest.mark.parametrize(
    ("srun_code", "requeued", "expected"),
    [
        (1, False, 1),  # srun could not start the tasks
        (137, True, 0),  # a task was killed with all that it had started
        (253, True, 0),  # SLURM's code for "out of memory"
    ],
)
def test_the_codes_of_srun_itself(bench, tmp_path, srun_code, requeued, expected):
    line = (*LINE, f"--workdir={tmp_path}/run")
    code, _ = bench.run("slurm.sh", *line, codes=(0, 0), SRUN_CODE=str(srun_code))
    assert (code, bench.requeued) == (expected, requeued)
    # A task that failed for good counts more.
    code, _ = bench.run("slurm.sh", *line, codes=(0, 1), SRUN_CODE=str(srun_code))
    assert (code, bench.requeued) == (1, False)


def test_what_each_task_gets(bench):
    bench.run("slurm.sh", *LINE, "--workdir=a run", codes=(0, 0))
    assert bench.called("srun")["options"] == ["--kill-on-bad-exit=0"]
    for rank in range(2):
        called = bench.called(f"python.{rank}")
        assert called["arguments"] == ["-m", "drl_jax", *LINE, "--workdir=a run"]


def test_a_signal_to_the_tasks_reaches_the_program(bench, tmp_path):
    job = bench.start("slurm.sh", *LINE, f"--workdir={tmp_path}/run", codes=(42, 42), UNTIL_SIGNAL="1")
    for rank in range(2):
        bench.called(f"python.{rank}")
    os.kill(bench.called("srun")["pid"], signal.SIGTERM)
    assert bench.finish(job)[0] == 0
    assert [bench.signals(rank) for rank in range(2)] == ["SIGTERM"] * 2
    assert bench.requeued


class Restarts:
    """A job that SLURM starts again each time it was requeued."""

    def __init__(self, bench, *workdir: str):
        self._bench, self._workdir, self.count = bench, workdir, 0

    def run(self, checkpoint: str = "") -> bool:
        """One start that ends with 42; whether the job queued again."""
        again = {"SLURM_RESTART_COUNT": str(self.count)} if self.count else {}
        code, printed = self._bench.run(
            "slurm.sh", *LINE, *self._workdir, codes=(42,), MAX_RESTARTS="3", CHECKPOINT=checkpoint, **again
        )
        self.count += 1
        requeued = self._bench.requeued
        assert code == (0 if requeued else 1)
        assert ("not queued again" in printed) != requeued
        return requeued


@pytest.mark.parametrize("flag", ["--workdir={}", "--workdir {}"])
def test_restarts_without_a_newer_checkpoint_are_bounded(bench, tmp_path, flag):
    run = tmp_path / "run"
    (run / "checkpoints/90").mkdir(parents=True)
    job = Restarts(bench, *flag.format(run).split())
    assert [job.run() for _ in range(4)] == [True, True, True, False]


def test_a_newer_checkpoint_starts_the_count_anew(bench, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints/90").mkdir(parents=True)
    job = Restarts(bench, f"--workdir={run}")
    assert job.run()
    assert job.run()
    assert job.run(checkpoint=f"{run}/checkpoints/100")  # which is more than 90, in numbers
    # The restart after the newer checkpoint was the first of three.
    assert [job.run(checkpoint=f"{run}/checkpoints/100.tmp") for _ in range(3)] == [True, True, False]


def test_another_job_takes_no_count_from_the_workdir(bench, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for _ in range(2):
        job = Restarts(bench, f"--workdir={run}")
        assert [job.run() for _ in range(4)] == [True, True, True, False]


def test_restarts_of_a_workdir_that_cannot_be_read(bench):
    job = Restarts(bench, "--workdir=gs://bucket/run")
    assert [job.run() for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize(
    ("line", "variables", "expected"),
    [
        ((), {}, "the command is missing, as in: sbatch launch/slurm.sh train "),
        (LINE, {"SLURM_JOB_ID": ""}, "this is a job of SLURM: sbatch launch/slurm.sh train "),
        (LINE, {"MAX_RESTARTS": "x"}, "MAX_RESTARTS=x must be a whole number"),
    ],
)
def test_a_mistake_takes_no_machine(bench, line, variables, expected):
    code, printed = bench.run("slurm.sh", *line, codes=(0,), **variables)
    assert code == 1
    assert printed.startswith(f"slurm.sh: {expected}")
    assert printed.count("\n") == 1
    assert not (bench.records / "srun").exists()
