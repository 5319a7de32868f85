"""launch/local.sh: several processes on one machine."""

import signal
import socket

import pytest

LINE = ("train", "--config=configs/digits.py", "--workdir=a run")


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((0, 0), 0),
        ((1, 42, 134), 1),
        ((42, 134, 1), 1),
        ((0, 2), 1),
        ((42, 127), 1),
        ((42, 134), 42),
        ((0, 42), 42),
        ((0, 137), 42),
        ((128, 0), 42),
        ((255, 0), 42),
    ],
)
def test_the_exit_code_of_a_job(bench, codes, expected):
    assert bench.run("local.sh", str(len(codes)), *LINE, codes=codes)[0] == expected


def test_what_each_process_gets(bench):
    bench.run("local.sh", "3", *LINE, codes=(0, 0, 0))
    called = [bench.called(f"python.{rank}") for rank in range(3)]
    assert [c["arguments"] for c in called] == [["-m", "drl_jax", *LINE]] * 3
    assert [c["variables"]["JAX_PROCESS_ID"] for c in called] == ["0", "1", "2"]
    assert {c["variables"]["JAX_NUM_PROCESSES"] for c in called} == {"3"}
    assert len({c["variables"]["JAX_COORDINATOR_ADDRESS"] for c in called}) == 1


def test_the_port_is_free_and_not_that_of_another_job(bench):
    ports = []
    for _ in range(2):
        bench.run("local.sh", "1", *LINE, codes=(0,))
        host, port = bench.called("python.0")["variables"]["JAX_COORDINATOR_ADDRESS"].split(":")
        assert host == "localhost"
        ports.append(int(port))
        with socket.socket() as listening:
            listening.bind((host, int(port)))
    assert ports[0] != ports[1]


def test_a_given_address_is_kept(bench):
    bench.run("local.sh", "1", *LINE, codes=(0,), JAX_COORDINATOR_ADDRESS="here:1234")
    assert bench.called("python.0")["variables"]["JAX_COORDINATOR_ADDRESS"] == "here:1234"


def test_which_python_runs(bench):
    run = lambda **given: bench.run("local.sh", "1", *LINE, codes=(0,), **given)
    run()
    assert bench.called("python.0")["program"] == str(bench.bin / "python")
    bench.add(bench.folder / ".venv/bin/python")
    run()
    assert bench.called("python.0")["program"] == ".venv/bin/python"
    run(PYTHON=str(bench.add(bench.folder / "other")))
    assert bench.called("python.0")["program"] == str(bench.folder / "other")


@pytest.mark.parametrize("name", ["TERM", "INT"])
@pytest.mark.parametrize(("codes", "expected"), [((42, 42), 42), ((42, 1), 1), ((0, 0), 0)])
def test_a_signal_reaches_all_processes(bench, name, codes, expected):
    job = bench.start("local.sh", "2", *LINE, codes=codes, UNTIL_SIGNAL="1")
    for rank in range(2):
        bench.called(f"python.{rank}")
    job.send_signal(signal.Signals[f"SIG{name}"])
    assert bench.finish(job)[0] == expected
    assert [bench.signals(rank) for rank in range(2)] == [f"SIG{name}"] * 2


def test_the_number_of_processes_is_missing(bench):
    code, printed = bench.run("local.sh", *LINE, codes=())
    assert code == 1
    assert "usage" in printed
