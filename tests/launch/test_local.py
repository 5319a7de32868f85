"""launch/local: several processes on one machine."""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import small
from tests.launch.conftest import LAUNCH

LINE = ("train", "--config=configs/digits.py", "--workdir=a run")
LOCAL = runpy.run_path(str(LAUNCH / "local"), run_name="local")


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((0, 0), 0),
        ((1, 42, -6), 1),
        ((42, -6, 1), 1),
        ((0, 2), 1),
        ((42, 127), 1),
        ((42, 134), 42),
        ((0, 42), 42),
        ((0, -9), 42),
        ((128, 0), 42),
        ((255, 0), 42),
    ],
)
def test_the_exit_code_of_a_job(codes, expected):
    assert LOCAL["exit_code"](list(codes)) == expected


@pytest.mark.parametrize(("codes", "expected"), [((0, 0), 0), ((42, 1), 1), ((137, 0), 42)])
def test_real_processes_end_with_the_code_of_the_job(bench, codes, expected):
    assert bench.run("local", "--processes=2", *LINE, codes=codes) == (expected, "")


def test_what_each_process_gets(bench):
    bench.run("local", "--processes=3", "--devices", "2", *LINE, codes=(0, 0, 0))
    called = [bench.called(f"python.{rank}") for rank in range(3)]
    assert [c["arguments"] for c in called] == [["-m", "drl_jax", *LINE]] * 3
    assert [c["variables"]["JAX_PROCESS_ID"] for c in called] == ["0", "1", "2"]
    assert {c["variables"]["JAX_NUM_PROCESSES"] for c in called} == {"3"}
    assert {c["variables"]["JAX_NUM_CPU_DEVICES"] for c in called} == {"2"}
    assert len({c["variables"]["JAX_COORDINATOR_ADDRESS"] for c in called}) == 1


def test_one_process_is_a_job_too(bench):
    bench.run("local", *LINE, codes=(0,))
    variables = bench.called("python.0")["variables"]
    assert variables.pop("JAX_COORDINATOR_ADDRESS").startswith("localhost:")
    assert variables == {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}


def test_an_address_of_another_job_is_not_taken(bench):
    bench.run("local", *LINE, codes=(0,), JAX_COORDINATOR_ADDRESS="10.99.0.1:1234")
    assert bench.called("python.0")["variables"]["JAX_COORDINATOR_ADDRESS"].startswith("localhost:")


def test_which_python_runs(bench):
    run = lambda **given: bench.run("local", *LINE, codes=(0,), **given)
    run()
    assert bench.called("python.0")["program"] == str(bench.bin / "python")
    bench.add(bench.folder / ".venv/bin/python")
    run()
    assert bench.called("python.0")["program"] == ".venv/bin/python"
    run(PYTHON=str(bench.add(bench.folder / "other")))
    assert bench.called("python.0")["program"] == str(bench.folder / "other")
    code, printed = run(PYTHON="nowhere/python")
    assert (code, printed.count("\n")) == (1, 1)
    assert "there is no nowhere/python" in printed


@pytest.mark.parametrize("name", ["TERM", "INT"])
@pytest.mark.parametrize(("codes", "expected"), [((42, 42), 42), ((42, 1), 1), ((0, 0), 0)])
def test_a_signal_reaches_all_processes_and_nothing_restarts(bench, name, codes, expected):
    job = bench.start("local", "--processes=2", "--restarts=3", *LINE, codes=codes, UNTIL_SIGNAL="1")
    for rank in range(2):
        bench.called(f"python.{rank}")
    job.send_signal(signal.Signals[f"SIG{name}"])
    assert bench.finish(job) == (expected, "")
    assert [bench.signals(rank) for rank in range(2)] == [f"SIG{name}"] * 2
    assert bench.starts(0) == 1


@pytest.mark.parametrize("code", [42, 137])
def test_restarts_are_bounded(bench, code):
    ended, printed = bench.run("local", "--restarts=2", *LINE, codes=(code,))
    assert (ended, bench.starts(0)) == (1, 3)
    assert printed.splitlines() == [
        "launch/local: restart 1 of at most 2 without a newer checkpoint",
        "launch/local: restart 2 of at most 2 without a newer checkpoint",
        "launch/local: not started again: after --restarts=2 there is no newer checkpoint in --workdir=a run",
    ]


def test_a_restart_starts_all_processes_at_another_port(bench):
    ports = set()
    for codes in ((42, 0), (0, 0)):
        bench.run("local", "--processes=2", "--restarts=1", *LINE, codes=codes)
        assert bench.starts(0) == bench.starts(1) == (2 if 42 in codes else 1)
        for variables in bench.variables(0):
            host, port = variables["JAX_COORDINATOR_ADDRESS"].split(":")
            ports.add(port)
            with socket.socket() as listening:  # it is free
                listening.bind((host, int(port)))
    assert len(ports) == 3


def test_what_fails_for_good_is_not_started_again(bench):
    assert bench.run("local", "--processes=2", "--restarts=3", *LINE, codes=(42, 1)) == (1, "")
    assert bench.starts(0) == 1


@pytest.mark.parametrize("flag", ["--workdir={}", "--workdir {}"])
def test_a_newer_checkpoint_starts_the_count_anew(bench, tmp_path, flag):
    run = tmp_path / "run"
    (run / "checkpoints/90").mkdir(parents=True)
    line = ("train", *flag.format(run).split())
    # The first start makes the checkpoint: what comes before it is not counted.
    checkpoint = {"CHECKPOINT": f"{run}/checkpoints/100"}
    code, printed = bench.run("local", "--restarts=2", *line, codes=(42,), **checkpoint)
    assert (code, bench.starts(0)) == (1, 3)
    assert printed.count("restart 1 of at most 2") == 1
    # The second start makes it: its restart is the first of two again.
    (run / "checkpoints/100").rmdir()
    code, printed = bench.run("local", "--restarts=2", *line, codes=(42,), CHECKPOINT_AT="2", **checkpoint)
    assert (code, bench.starts(0)) == (1, 4)
    assert printed.count("restart 1 of at most 2") == 2


def test_a_process_that_does_not_end_by_itself_is_stopped(bench):
    arguments = ("--processes=2", "--grace=1", *LINE)
    code, printed = bench.run("local", *arguments, codes=(1, 42), UNTIL_SIGNAL="1", UNTIL_SIGNAL_RANK="1")
    assert code == 1
    assert bench.signals(1) == "SIGTERM"
    assert printed == (
        "launch/local: process 0 ended with code 1, and process 1 still runs --grace=1 seconds later: "
        "SIGTERM now, SIGKILL in 30 seconds\n"
    )


def test_a_process_that_ignores_sigterm_is_killed(monkeypatch, tmp_path, capfd):
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/bash\n[ "$JAX_PROCESS_ID" = 1 ] || exit 42\ntrap "" TERM\nwhile :; do sleep 0.1; done\n'
    )
    python.chmod(0o755)
    wait = LOCAL["Job"].wait
    monkeypatch.setitem(wait.__globals__, "KILL_AFTER", 0.3)
    job = LOCAL["Job"](str(python), [], 2, None)
    assert wait(job, 0.1, []) == 42
    assert [p.returncode for p in job.processes] == [42, -signal.SIGKILL]
    assert capfd.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "the command is missing"),
        (("--processes=0", *LINE), "--processes: '0' is not possible: it must be a whole number from 1"),
        (("--devices=two", *LINE), "--devices: 'two' is not possible: it must be a whole number from 1"),
        (("--restarts=-1", *LINE), "--restarts: '-1' is not possible: it must be a whole number from 0"),
        (("--proceses=2", *LINE), "unrecognized arguments: --proceses=2"),
    ],
)
def test_a_mistake_in_its_flags_gives_one_line(bench, arguments, said):
    code, printed = bench.run("local", *arguments, codes=())
    assert (code, printed.count("\n")) == (1, 1)
    assert said in printed
    assert not os.listdir(bench.records)


@pytest.mark.slow
def test_a_real_job_goes_on_by_itself_when_a_process_is_killed(tmp_path):
    root = str(LAUNCH.parent)
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
    launcher = (LAUNCH / "local", "--processes=2", "--devices=2", "--restarts=1")
    flags = small(training__steps=400, checkpoint__every=50, evaluation__every=400)
    flags.append("--config.optimizer.learning_rate=1e-6")  # this small a network would diverge
    job = subprocess.Popen(
        [*launcher, "train", "--config=digits", f"--workdir={tmp_path}/run", *flags],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + 300
        while LOCAL["newest"](f"{tmp_path}/run") < 50:
            assert job.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        os.kill(int(children[1]), signal.SIGKILL)
        _, printed = job.communicate(timeout=300)
    finally:
        job.terminate()
    assert job.returncode == 0, printed
    assert printed.count("launch/local: restart 1 of at most 1 without a newer checkpoint") == 1
    assert LOCAL["newest"](f"{tmp_path}/run") == 400
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == sorted(set(steps))  # each step once, though some were made twice
    assert steps[-1] == 400
