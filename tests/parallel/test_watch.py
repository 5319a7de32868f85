"""A process that ends too early ends the others, with one line that names it."""

import queue
import socket
import time

import pytest

from drl_jax.parallel import watch
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.rendezvous import Peer
from drl_jax.parallel.watch import Watch

KEPT = "; checkpoints are kept; start again to continue"


class Process:
    """A process whose end is recorded instead of made."""

    def __init__(self, peers, **settings):
        self.stop, self.ends = Stop(), queue.SimpleQueue()

        def end(line, code, delay):
            if self.stop.claim_end():
                self.ends.put((line, code))

        self.stop.end_process = end
        self.watch = Watch(peers, self.stop, delay=0.0, **settings)

    def ended(self):
        return self.ends.get(timeout=5)


@pytest.fixture
def job(monkeypatch):
    """job(n, silence=60.0) -> processes 0 … n - 1, and the connections of each."""
    monkeypatch.setattr(watch, "_GRACE", 0.1)
    opened = []

    def job(count, silence=60.0):
        pairs = [socket.socketpair() for _ in range(count - 1)]
        opened.extend(end for pair in pairs for end in pair)
        first = [Peer(i + 1, f"host{i + 1}", pair[0]) for i, pair in enumerate(pairs)]
        processes = [Process(first, silence=silence)]
        processes += [Process([Peer(0, "host0", pair[1])], silence=silence) for pair in pairs]
        return processes, pairs

    yield job
    for connection in opened:
        connection.close()


def test_a_process_that_is_killed_is_named_by_all(job):
    processes, pairs = job(3)
    pairs[1][1].shutdown(socket.SHUT_RDWR)  # as the system does when process 2 is gone
    line = "process 2 of the job (host2) has ended"
    assert processes[0].ended() == (line + KEPT, 42)
    assert processes[1].ended() == (line + KEPT, 42)


def test_process_0_is_killed(job):
    processes, pairs = job(2)
    pairs[0][0].shutdown(socket.SHUT_RDWR)
    assert processes[1].ended() == ("process 0 of the job (host0) has ended" + KEPT, 42)


def test_a_process_that_fails_says_why(job):
    processes, _ = job(3)
    processes[1].watch.leave("the disk is full")
    line = "process 1 of the job (host1) has failed: the disk is full"
    assert processes[0].ended() == (line, 1)
    assert processes[2].ended() == (line, 1)


def test_processes_that_are_done_end_nobody(job):
    processes, pairs = job(3)
    for process, connection in zip(processes, [None, pairs[0][1], pairs[1][1]], strict=True):
        process.watch.leave(None)
        if connection is not None:
            connection.shutdown(socket.SHUT_RDWR)
    time.sleep(0.3)
    assert all(process.ends.empty() for process in processes)


def test_a_process_that_fails_itself_is_not_ended_for_another(job):
    # All fail at once: each has its own line to print.
    processes, _ = job(2)
    for process in processes:
        process.watch.leave("diverged")
    time.sleep(0.4)
    assert all(process.ends.empty() for process in processes)


def test_a_frozen_process_is_named(job):
    (first, *_), pairs = job(2, silence=0.4)
    # Process 1 of this job breathes; a third one, that nobody runs, does not.
    time.sleep(1.0)
    assert first.ends.empty()
    frozen, other = socket.socketpair()
    alone = Process([Peer(7, "host7", frozen)], silence=0.4)
    assert alone.ended() == ("process 7 of the job (host7) has given no sign of life for 0.4 s" + KEPT, 42)
    frozen.close()
    other.close()
    del pairs


def test_what_is_no_message_is_passed_over(job):
    processes, pairs = job(2)
    pairs[0][1].sendall(b'\xff\n{"x": 1}\n[]\n')
    time.sleep(0.2)
    assert processes[0].ends.empty()
    pairs[0][1].sendall(b'{"end": nu')
    time.sleep(0.1)
    pairs[0][1].sendall(b"ll}\n")
    pairs[0][1].shutdown(socket.SHUT_RDWR)
    time.sleep(0.2)
    assert processes[0].ends.empty()
