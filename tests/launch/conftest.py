"""Stub commands for the launch scripts: they record how they were called and end with given codes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"

PROGRAM = """
import json, os, signal, sys, time

rank = int(os.environ.get("JAX_PROCESS_ID") or os.environ.get("SLURM_PROCID") or 0)
signals = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: signals.append(signal.Signals(number).name))
variables = {key: value for key, value in os.environ.items() if key.startswith("JAX_")}
called = {"program": sys.argv[0], "arguments": sys.argv[1:], "variables": variables}
called["data"] = os.environ.get("TFDS_DATA_DIR")
file = f"{os.environ['RECORDS']}/python.{rank}"
with open(file + ".writing", "w") as record:
    json.dump(called, record)
os.rename(file + ".writing", file)
with open(f"{os.environ['RECORDS']}/starts.{rank}", "a") as record:
    record.write(json.dumps(variables) + "\\n")
with open(f"{os.environ['RECORDS']}/starts.{rank}") as record:
    starts = len(record.readlines())
waits = os.environ.get("UNTIL_SIGNAL_RANK") in (None, str(rank))
if os.environ.get("UNTIL_SIGNAL") and waits:
    while not signals:
        time.sleep(0.01)
    time.sleep(0.2)  # it saves its state
    with open(f"{os.environ['RECORDS']}/signals.{rank}", "w") as record:
        record.write(" ".join(sorted(set(signals))))
checkpoint = os.environ.get("CHECKPOINT")
if checkpoint and starts >= int(os.environ.get("CHECKPOINT_AT", 1)):
    os.makedirs(checkpoint, exist_ok=True)
code = int(os.environ["CODES"].split()[rank])
if starts > 1:
    code = int(os.environ.get("LATER", code))
if code == 137:
    os.kill(os.getpid(), signal.SIGKILL)
os._exit(code)
"""

SRUN = """
import json, os, signal, subprocess, sys

options = [a for a in sys.argv[1:] if a.startswith("-")][:1]
command = sys.argv[1 + len(options):]
tasks = [
    subprocess.Popen(command, env={**os.environ, "SLURM_PROCID": str(rank)}, process_group=0)
    for rank in range(len(os.environ["CODES"].split()))
]
# As in SLURM, a task and all that it has started get the signal.
signal.signal(signal.SIGTERM, lambda number, frame: [os.killpg(task.pid, number) for task in tasks])
with open(f"{os.environ['RECORDS']}/srun", "w") as record:
    json.dump({"pid": os.getpid(), "options": options}, record)
codes = [task.wait() for task in tasks]
codes = [128 - code if code < 0 else code for code in codes]
sys.exit(max([*codes, int(os.environ.get("SRUN_CODE", 0))]))
"""

SCONTROL = """
import os, sys

with open(f"{os.environ['RECORDS']}/scontrol", "w") as record:
    record.write(" ".join(sys.argv[1:]))
"""

GCLOUD = """
import json, os, subprocess, sys

with open(f"{os.environ['RECORDS']}/gcloud", "w") as record:
    json.dump(sys.argv[1:], record)
for command in (a.removeprefix("--command=") for a in sys.argv if a.startswith("--command=")):
    sys.exit(subprocess.run(["bash", "-c", command], cwd=os.environ["HOME"]).returncode)
"""


class Bench:
    """A folder with stub commands, where launch scripts run."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.records = folder / "records"
        self.bin = folder / "bin"
        self._jobs: list[subprocess.Popen] = []
        self.records.mkdir()
        for name, source in {
            "python": PROGRAM,
            "python3": PROGRAM,
            "srun": SRUN,
            "scontrol": SCONTROL,
            "gcloud": GCLOUD,
        }.items():
            self.add(self.bin / name, source)

    def add(self, file: Path, source: str = PROGRAM) -> Path:
        """Writes an executable stub."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!{sys.executable} -S\n{source}")
        file.chmod(0o755)
        return file

    def start(self, script: str, *arguments: str, codes: Sequence[int], **variables: str) -> subprocess.Popen:
        """Starts a launch script; program `i` of the job will end with `codes[i]`."""
        for file in self.records.iterdir():
            file.unlink()
        environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "RECORDS": str(self.records),
            "CODES": " ".join(map(str, codes)),
            "SLURM_JOB_ID": "77",
        }
        # A script in Python needs the standard library only. The stub python3 is not meant to run it.
        interpreter = [] if script.endswith(".sh") else [sys.executable, "-S"]
        job = subprocess.Popen(
            [*interpreter, LAUNCH / script, *arguments],
            cwd=self.folder,
            env=environment | variables,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._jobs.append(job)
        return job

    def finish(self, job: subprocess.Popen) -> tuple[int, str]:
        """The exit code of a launch script, and what it printed to stderr."""
        _, printed = job.communicate(timeout=60)
        return job.returncode, printed

    def run(self, script: str, *arguments: str, codes: Sequence[int], **variables: str) -> tuple[int, str]:
        """Starts a launch script and returns `finish` of it."""
        return self.finish(self.start(script, *arguments, codes=codes, **variables))

    def close(self) -> None:
        """Kills what a failed test has left."""
        for job in self._jobs:
            with suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
            job.communicate()

    def called(self, name: str):
        """What a stub recorded, waiting for it."""
        end = time.monotonic() + 30
        while not (self.records / name).exists():
            assert time.monotonic() < end, f"{name} was not called"
            time.sleep(0.01)
        return json.loads((self.records / name).read_text())

    def variables(self, rank: int) -> list[dict[str, str]]:
        """The variables JAX_… of each start of a program."""
        lines = (self.records / f"starts.{rank}").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def starts(self, rank: int) -> int:
        return len(self.variables(rank))

    def signals(self, rank: int) -> str:
        return (self.records / f"signals.{rank}").read_text()

    @property
    def requeued(self) -> bool:
        file = self.records / "scontrol"
        return file.exists() and file.read_text() == "requeue 77"


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.close()
