"""launch/slurm.sh in a real SLURM of one node: which jobs end, and which queue and run again."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLUSTER = Path(__file__).parent / "slurm_cluster"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
PATH = f"{os.environ['PATH']}:/usr/sbin"

# By rank: an exit code; `kill` (the program is killed), `kill-task` (all of its task), `wait` (for SIGTERM).
PROGRAM = """#!/usr/bin/env bash
start=${SLURM_RESTART_COUNT:-0}
what=FIRST
((start == 0)) || what=AGAIN
read -r -a what <<<"${!what}"
trap 'echo "signal $start $SLURM_PROCID" >>"$RECORDS"; exit 42' TERM
echo "start $start $SLURM_PROCID" >>"$RECORDS"
case ${what[SLURM_PROCID]} in
  kill) kill -KILL $$ ;;
  kill-task) kill -KILL $PPID $$ ;;
  wait) while :; do sleep 0.1; done ;;
  *) exit "${what[SLURM_PROCID]}" ;;
esac
"""

pytestmark = pytest.mark.slow


class Cluster:
    """Jobs of two tasks in a running cluster."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": f"{folder}/cluster/slurm.conf", "PATH": PATH}
        self.program = folder / "python"
        self.program.write_text(PROGRAM)
        self.program.chmod(0o755)
        self.records = folder / "records"
        self.log = folder / "job.log"

    def call(self, *command: str) -> str:
        called = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=30)
        assert called.returncode == 0, called.stderr
        return called.stdout.strip()

    def submit(self, first: str, again: str = "0 0", *options: str) -> str:
        """Submits a job; `first` and `again` say what its programs do in the first and in later starts."""
        self.records.write_text("")
        self.log.write_text("")
        variables = {"PYTHON": self.program, "RECORDS": self.records, "FIRST": first, "AGAIN": again}
        self.environment |= {name: str(value) for name, value in variables.items()}
        job = self.call(
            *("sbatch", "--parsable", "--gres=gpu:2", "--ntasks-per-node=2", f"--output={self.log}"),
            *(*options, f"{ROOT}/launch/slurm.sh", "train", f"--workdir={self.folder}/run"),
        )
        return job

    def fields(self, job: str) -> dict[str, str]:
        shown = self.call("scontrol", "--oneliner", "show", "job", job)
        return {name: value for name, _, value in (field.partition("=") for field in shown.split())}

    def wait(self, job: str, *states: str, seconds: int = 60) -> dict[str, str]:
        """Waits until a job is in one of the states, and returns its fields."""
        end = time.monotonic() + seconds
        while (fields := self.fields(job))["JobState"] not in states:
            assert time.monotonic() < end, (fields, self.records.read_text(), self.log.read_text())
            time.sleep(0.2)
        return fields

    def started(self, count: int) -> None:
        """Waits until the programs were started `count` times in all."""
        end = time.monotonic() + 60
        while self.records.read_text().count("start") < count:
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def signalled(self) -> list[str]:
        """The programs that got SIGTERM, each once."""
        return sorted(line for line in self.records.read_text().splitlines() if line.startswith("signal"))

    def run_again(self, job: str) -> dict[str, str]:
        """Waits until a job is queued again, skips SLURM's two minutes, and waits for its end."""
        self.wait(job, "PENDING")
        time.sleep(2)  # a job that starts in the second of its requeue is refused ("Job credential revoked")
        self.call("scontrol", "update", f"JobId={job}", "StartTime=now")
        return self.wait(job, "COMPLETED", "FAILED", "CANCELLED")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if os.geteuid() != 0 or missing:
        install = "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"
        pytest.skip(f"needs root, and {', '.join(PROGRAMS)} ({install}); missing here: {missing or 'root'}")
    folder = tmp_path_factory.mktemp("slurm")
    for parent in (folder, folder.parent):
        parent.chmod(0o755)  # munged refuses others
    try:
        subprocess.run([CLUSTER, "start", folder / "cluster"], check=True, timeout=60)
        yield Cluster(folder)
    finally:
        subprocess.run([CLUSTER, "stop", folder / "cluster"], check=True, timeout=60)


def test_what_cannot_run_is_refused_at_once(cluster):
    with pytest.raises(AssertionError, match="not available"):
        cluster.submit("0 0", "0 0", "--test-only", "--gres=gpu:9")


def test_success(cluster):
    job = cluster.submit("0 0")
    fields = cluster.wait(job, "COMPLETED", "FAILED", "PENDING")
    fields = cluster.wait(job, "COMPLETED", "FAILED")
    assert (fields["JobState"], fields["ExitCode"], fields["Restarts"]) == ("COMPLETED", "0:0", "0")


@pytest.mark.parametrize("first", ["1 1", "42 1", "kill 1"])
def test_a_failure_for_good_is_not_queued_again(cluster, first):
    job = cluster.submit(first)
    cluster.started(2)
    fields = cluster.wait(job, "COMPLETED", "FAILED")
    assert (fields["JobState"], fields["ExitCode"], fields["Restarts"]) == ("FAILED", "1:0", "0")


@pytest.mark.parametrize("first", ["42 42", "kill 42", "42 kill", "kill-task 42"])
def test_a_lost_rank_runs_again(cluster, first):
    job = cluster.submit(first)
    cluster.started(2)
    fields = cluster.run_again(job)
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1"), cluster.log.read_text()
    starts = sorted(cluster.records.read_text().splitlines())
    assert starts == ["start 0 0", "start 0 1", "start 1 0", "start 1 1"]


def test_the_signal_before_the_end_of_its_time(cluster):
    job = cluster.submit("wait wait", "0 0", "--time=2", "--signal=TERM@110")
    cluster.started(2)
    fields = cluster.run_again(job)
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1"), cluster.log.read_text()
    assert cluster.signalled() == ["signal 0 0", "signal 0 1"]


@pytest.mark.parametrize("attempt", range(3))  # the signal may come at any time
def test_a_preempted_job_runs_again(cluster, attempt):
    job = cluster.submit("wait wait")
    cluster.started(2)
    cluster.call("scancel", f"--signal={signal.SIGTERM.name[3:]}", job)  # to the tasks, as for preemption
    fields = cluster.run_again(job)
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1"), cluster.log.read_text()


def test_a_job_that_its_user_cancels_stays_so(cluster):
    job = cluster.submit("wait wait")
    cluster.started(2)
    cluster.call("scancel", job)
    cluster.wait(job, "CANCELLED")
    time.sleep(3)  # the tasks have ended with 42 by now
    assert cluster.signalled() == ["signal 0 0", "signal 0 1"]
    fields = cluster.fields(job)
    assert (fields["JobState"], fields["Restarts"]) == ("CANCELLED", "0")
