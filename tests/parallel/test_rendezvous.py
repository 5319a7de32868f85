"""The processes of a job meet: all of them get the same answer, whatever comes and whoever stays away."""

import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from drl_jax.errors import UserError
from drl_jax.parallel import rendezvous
from drl_jax.parallel.environments import Job
from drl_jax.parallel.rendezvous import Limits, Missing, Peer, Refused, limits, meet

SHORT = Limits(join=1.5, busy=0.6, strange=0.6, grace=1.5)  # the grace is enough on two busy cores
FACTS = {"the command": "train", "config.training.steps": 60, "config.optimizer.clip_norm": None}


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.fixture
def join(port):
    """join(*processes, count=…) -> what `meet` returned or raised in each.

    A process is its number, or (number, settings): `facts` to add, `count`, `failed`, `after` seconds.
    """
    connections = []

    def one(process, count):
        index, own = process if isinstance(process, tuple) else (process, {})
        time.sleep(own.get("after", 0.0))
        job = Job(f"localhost:{port}", own.get("count", count), index, "a test")
        try:
            facts = {**FACTS, **own.get("facts", {})}
            met = meet(job, facts, own.get("limits", SHORT), failed=own.get("failed"))
        except (Refused, Missing) as error:
            return error
        connections.extend(peer.connection for peer in met)
        return met

    def join(*processes, count=None):
        with ThreadPoolExecutor(len(processes)) as pool:
            return list(pool.map(lambda process: one(process, count or len(processes)), processes))

    yield join
    for connection in connections:
        connection.close()


def numbers(peers) -> list[int]:
    assert all(isinstance(peer, Peer) for peer in peers), peers
    return [peer.index for peer in peers]


def line(ended, kind) -> str:
    """The one line with which all processes ended."""
    assert {type(each) for each in ended} == {kind}, ended
    (said,) = {str(each) for each in ended}
    assert "\n" not in said
    return said


def test_all_come(join):
    began = time.monotonic()
    met = join(3, 0, 2, 1)
    assert time.monotonic() - began < 0.5
    assert sorted(numbers(met[1])) == [1, 2, 3]
    assert [numbers(each) for each in (met[0], met[2], met[3])] == [[0], [0], [0]]


def test_one_comes_late(join):
    met = join(0, (1, {"after": 0.7}))
    assert [numbers(each) for each in met] == [[1], [0]]


def test_process_0_comes_late(join):
    met = join((0, {"after": 0.7}), 1, 2)
    assert sorted(numbers(met[0])) == [1, 2]


def test_many_come_at_once(join):
    count = 150  # more connections than strangers may have
    patient = {"limits": Limits(join=30, busy=1, strange=30, grace=1)}
    met = join(*((index, patient) for index in range(count)))
    assert sorted(numbers(met[0])) == list(range(1, count))


def test_the_connections_stay(join):
    met = join(0, 1)
    met[0][0].connection.sendall(b"x")
    assert met[1][0].connection.recv(1) == b"x"


def test_one_alone_finds_its_port(join):
    assert join(0) == [[]]


@pytest.mark.parametrize(
    ("processes", "missing"), [((0, 2), "2 of 4 processes .*: processes 1, 3;"), ((0,), "processes 1–3;")]
)
def test_some_never_come(processes, missing, join):
    began = time.monotonic()
    ended = join(*processes, count=4)
    assert 1.4 < time.monotonic() - began < 3
    said = line(ended, Missing)
    assert said.startswith("after 1.5 s, ")
    assert re.search(missing, said)


def test_process_0_never_comes(join, port):
    said = line(join(1, 2, count=3), Missing)
    assert f"after 1.5 s, process 0 of the job has not come to localhost:{port}: Connection refused" in said


def test_a_host_that_has_no_address():
    job = Job("no-such-host.invalid:9000", 2, 1, "a test")
    with pytest.raises(Missing, match=r"no-such-host\.invalid:9000: .*(not known|resolution)"):
        meet(job, FACTS, SHORT)


@pytest.mark.parametrize("processes", [(0, 0), (0, 1, 1), (0, 0, 1)])
def test_two_have_one_number(processes, join):
    said = line(join(*processes), Refused)
    twice = 0 if processes.count(0) == 2 else 1
    host = socket.gethostname()
    assert f"two processes of the job have the number {twice}, on {host} and on {host}: each of the" in said


def test_jobs_of_different_sizes(join):
    said = line(join(0, (1, {"count": 3}), count=2), Refused)
    assert said.startswith("process 1 (")
    assert "belongs to a job of 3 processes, and process 0 (" in said
    assert said.endswith(") to one of 2")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config.training.steps", 40),
        ("config.optimizer.clip_norm", 1.0),  # set here, absent there
        ("the command", "sample"),
        ("--workdir", "/b"),
    ],
)
def test_something_differs(name, value, join):
    facts = {"--workdir": "/a"}
    said = line(join((0, {"facts": facts}), (1, {"facts": {**facts, name: value}})), Refused)
    host, usual = socket.gethostname(), json.dumps({**FACTS, **facts}[name])
    assert said == (
        f"the processes of the job do not do the same: {name} is {json.dumps(value)} in process 1 ({host}) "
        f"and {usual} in process 0 ({host})"
    )


def test_the_culprit_is_the_one_that_differs_from_most(join):
    own = {"facts": {"config.training.seed": 1}}
    others = {"facts": {"config.training.seed": 2}}
    said = line(join((0, own), (1, others), (2, others)), Refused)
    assert "config.training.seed is 1 in process 0 (" in said


def test_many_differences_are_one_line(join):
    names = {f"config.key_{i}": i for i in range(9)}
    said = line(join((0, {"facts": names}), (1, {"facts": {n: -1 for n in names}})), Refused)
    assert said.endswith("; and 6 more")


def test_what_one_does_not_know_is_not_compared(join):
    met = join((0, {"facts": {"the commit of drl_jax": "abc"}}), 1)
    assert [numbers(each) for each in met] == [[1], [0]]


@pytest.mark.parametrize("failing", [0, 1])
def test_one_cannot_start(failing, join):
    why = {"failed": "config.data.path='/x' does not exist"}
    said = line(join(*((index, why if index == failing else {}) for index in range(3))), Refused)
    assert said.startswith(f"process {failing} (")
    assert said.endswith(") could not start: config.data.path='/x' does not exist")


def test_who_comes_after_a_fault_is_told_too(join):
    ended = join((0, {"failed": "no"}), 1, (2, {"after": 0.2}))
    assert "could not start: no" in line(ended, Refused)


def test_a_port_in_use(join, port, monkeypatch):
    monkeypatch.setattr(rendezvous, "_PATIENCE", 0.3)
    with socket.create_server(("", port)):  # it accepts, and never answers
        first, second = join(0, 1)
    assert f"port {port} is in use on {socket.gethostname()}" in str(first)
    assert type(first) is type(second) is Refused
    assert "another program or a running job answers: take another port" in str(second)


def test_a_port_that_becomes_free(join, port):
    other = socket.create_server(("", port))
    threading.Timer(0.3, other.close).start()
    patient = {"limits": SHORT._replace(busy=5.0, strange=5.0, join=5.0)}
    met = join((0, patient), (1, {**patient, "after": 0.5}))
    assert [numbers(each) for each in met] == [[1], [0]]


def test_a_web_server_is_not_process_0(join, port, monkeypatch):
    monkeypatch.setattr(rendezvous, "_PATIENCE", 0.2)

    def serve():
        with server:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(10)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    server = socket.create_server(("localhost", port))
    threading.Thread(target=serve, daemon=True).start()
    try:
        said = line(join(1, count=2), Refused)
    finally:
        server.shutdown(socket.SHUT_RDWR)
    assert "another program or a running job answers" in said


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01" * 50,
        b"{",
        b"[]\n",
        b"{}\n",
        b"[" * 100_000 + b"\n",
        b"{" + b"x" * 2**21,
        b'{"drl_jax": 2, "rank": 1, "count": 2, "facts": {}}\n',
        b'{"drl_jax": 1, "rank": "1", "count": 2, "facts": {}}\n',
        b'{"drl_jax": 1, "rank": true, "count": 2, "facts": []}\n',
    ],
    ids=lambda said: said[:20].decode("latin1"),
)
def test_strangers_change_nothing(said, join, port):
    def disturb():
        for _ in range(3):
            try:
                with socket.create_connection(("localhost", port), 1) as connection:
                    connection.sendall(said)
                    time.sleep(0.05)
            except OSError:
                time.sleep(0.05)

    thread = threading.Thread(target=disturb)
    thread.start()
    met = join(0, (1, {"after": 0.4}))
    thread.join()
    assert [numbers(each) for each in met] == [[1], [0]]


def test_silent_strangers_do_not_keep_others_out(join, port, monkeypatch):
    monkeypatch.setattr(rendezvous, "_MAX_STRANGERS", 4)
    silent = []

    def crowd():
        end = time.monotonic() + 0.5
        while len(silent) < 20 and time.monotonic() < end:
            try:
                silent.append(socket.create_connection(("localhost", port), 1))
            except OSError:
                time.sleep(0.01)

    thread = threading.Thread(target=crowd)
    thread.start()
    met = join(0, (1, {"after": 0.6}))
    thread.join()
    assert len(silent) == 20
    for connection in silent:
        connection.close()
    assert [numbers(each) for each in met] == [[1], [0]]


def test_a_process_that_starts_again_while_the_others_wait(join, port):
    hello = {"drl_jax": 1, "rank": 1, "count": 3, "host": "x", "facts": FACTS, "failed": None}

    def come_and_go():
        while True:
            try:
                with socket.create_connection(("localhost", port), 1) as connection:
                    connection.sendall(json.dumps(hello).encode() + b"\n")
                    if connection.recv(10):
                        return
            except OSError:
                time.sleep(0.01)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    met = join(0, (1, {"after": 0.5}), (2, {"after": 0.8}))
    thread.join()
    assert numbers(met[0]) == [1, 2]


def test_the_line_about_who_is_missing(join, monkeypatch, capfd):
    monkeypatch.setattr(rendezvous, "_PATIENCE", 0.3)
    join(0, count=3)
    assert "drl-jax: waiting for 2 of 3 processes of the job: processes 1–2\n" in capfd.readouterr().err
    join(1, count=3)
    assert "drl-jax: process 1 waits for process 0 of the job at localhost" in capfd.readouterr().err


def test_the_time_out_is_a_variable():
    assert limits({}).join == 300
    assert limits({"DRL_JAX_JOIN_TIMEOUT": "7.5"}).join == 7.5
    for text in ("0", "-1", "soon", "nan", "inf"):
        with pytest.raises(UserError, match=f"DRL_JAX_JOIN_TIMEOUT={text} is not possible"):
            limits({"DRL_JAX_JOIN_TIMEOUT": text})
