"""Processes to kill: the program, forked from a server that has imported it, on a tiny run of the digits."""

import json
import multiprocessing
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath

from drl_jax.checkpoints.orbax import FOLDER, Checkpoint, load
from drl_jax.config import schema
from drl_jax.config.build import build
from drl_jax.data.decoding import encode_png
from drl_jax.data.sources import open_source
from drl_jax.parallel.mesh import place
from drl_jax.report import metrics_log
from tests.faults import child
from tests.helpers import CONFIGS, last_of_each, small

WALL_CLOCK = ("steps_per_second", "evaluation_seconds")
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["tests.faults.child", "sklearn.datasets"])

TINY = [
    f"--config={CONFIGS}/digits.py",
    *small(
        network__multipliers="(1,)",
        evaluation__samples_per_device=2,
        training__steps=24,
        checkpoint__every=4,
        evaluation__every=12,
        evaluation__metrics="frechet_pixels",
        training__log_every=2,
    ),
]


class Job:
    """One process of the program."""

    def __init__(self, argv: list[str], printed: Path, environment: dict[str, str], faults: dict[str, dict]):
        self._printed = printed
        self._process = _server.Process(target=child.run, args=(argv, str(printed), environment, faults))
        self._process.start()

    def printed(self) -> str:
        return self._printed.read_text() if self._printed.exists() else ""

    def wait_for(self, text: str, seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while text not in self.printed():
            assert self._process.is_alive(), f"ended before it printed {text!r}:\n{self.printed()}"
            assert time.monotonic() < end, f"{text!r} was not printed:\n{self.printed()}"
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> bool:
        """kill -9; whether it was that which ended the process."""
        self._process.kill()
        self._process.join()
        return self._process.exitcode == -signal.SIGKILL

    def ended(self, seconds: float = 120) -> int:
        """The exit code; negative for a signal."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            self._process.kill()
            raise AssertionError(f"still running after {seconds} s:\n{self.printed()}")
        assert "Traceback" not in self.printed(), self.printed()
        return self._process.exitcode


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> dict[str, str]:
    """The environment of all jobs: they share compiled programs and a data directory."""
    folder = tmp_path_factory.mktemp("faults")
    return {"XDG_CACHE_HOME": str(folder / "cache"), "TFDS_DATA_DIR": str(folder / "data")}


@pytest.fixture(scope="session")
def digit_files(tmp_path_factory) -> Path:
    """A folder with the digits as image files, in their order."""
    folder = tmp_path_factory.mktemp("digits")
    digits = open_source("digits", image_size=8, channels=1)
    for i, pixels in enumerate(digits.take(np.arange(len(digits)))):
        (folder / f"{i}.png").write_bytes(encode_png(pixels))
    return folder


def of_folder(path: Path) -> list[str]:
    """Flags that take the images of a folder as data."""
    return ["--config.data.name=folder", f"--config.data.path={path}"]


@pytest.fixture
def start(shared, tmp_path):
    """start(command, workdir, *overrides, processes=1, devices=2, **faults) -> jobs, killed at the end.

    `faults` are those of process `only`, or of all. `own` are overrides by process. `variables` are more
    variables, with {rank} and {port}; SLURM's replace those of JAX. `ranks` are the processes that start; all
    by default."""
    jobs = []

    def start(
        command,
        workdir,
        *overrides,
        processes=1,
        devices=2,
        cached=True,
        given=True,
        only=None,
        own=None,
        variables=None,
        ranks=None,
        **faults,
    ) -> list[Job]:
        environment = {**shared, "DEVICES": str(devices)}
        if not cached:
            environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
        variables, port = variables or {}, 0
        if processes > 1:
            with socket.socket() as free:
                free.bind(("localhost", 0))
                port = free.getsockname()[1]
        if processes > 1 and "SLURM_PROCID" not in variables:
            variables = {
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_COORDINATOR_ADDRESS": "localhost:{port}",
                "JAX_PROCESS_ID": "{rank}",
                **variables,
            }
        tiny = TINY if command == "train" and given else []
        ranks = range(processes) if ranks is None else ranks
        for rank in ranks:
            printed = tmp_path / f"{len(jobs)}.txt"
            named = {name: text.format(rank=rank, port=port) for name, text in variables.items()}
            argv = [command, *tiny, f"--workdir={workdir}", *overrides, *(own or {}).get(rank, ())]
            jobs.append(
                Job(last_of_each(argv), printed, environment | named, faults if only in (None, rank) else {})
            )
        return jobs[-len(ranks) :]

    yield start
    for job in jobs:
        job.kill()


@pytest.fixture(scope="session")
def whole(shared, tmp_path_factory) -> Path:
    """The workdir of a run without a fault, with its samples."""
    folder = tmp_path_factory.mktemp("whole")
    for command, given in (("train", TINY), ("sample", [])):
        argv = [command, *given, f"--workdir={folder}"]
        job = Job(argv, folder / f"{command}.txt", {**shared, "DEVICES": "2"}, {})
        assert job.ended() == 0, job.printed()
    return folder


def newest(workdir: Path) -> Checkpoint:
    """The newest checkpoint, which must verify."""
    parts = build(schema.load(epath.Path(workdir) / schema.FILE))
    like = jax.eval_shape(parts.init_state, jax.random.key(0))
    placement = place(4, devices=jax.devices()[:1])
    checkpoint, damaged = load(epath.Path(workdir) / FOLDER, placement.abstract(like))
    assert checkpoint is not None
    assert not damaged
    return checkpoint


def lines(workdir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the fields that depend on the clock. Each step must be there once."""
    kept = [
        {name: value for name, value in line.items() if name not in WALL_CLOCK}
        for line in metrics_log.read(epath.Path(workdir))
    ]
    assert len({line["step"] for line in kept}) == len(kept)
    return kept


def assert_same_run(a: Path, b: Path) -> None:
    """The same parameters, averages, optimizer state, sums, data position, guard and metrics, to the bit."""
    one, other = newest(a).record, newest(b).record
    for name in ("step", "arrays", "position", "guard"):
        assert one[name] == other[name], name
    assert lines(a) == lines(b)
    assert json.loads((a / "scores.json").read_text()) == json.loads((b / "scores.json").read_text())


def samples(workdir: Path) -> np.ndarray:
    with np.load(workdir / "samples.npz") as file:
        return file["arr_0"]
