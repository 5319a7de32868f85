"""Which signals end a run in order, and which are left alone."""

import os
import signal
import threading
import time

import pytest

from drl_jax.parallel.preemption import Stop, ending_signals, handle_signals

FAULTS = {getattr(signal, f"SIG{name}") for name in ("SEGV", "BUS", "FPE", "ILL", "ABRT", "TRAP", "SYS")}
HARMLESS = {
    getattr(signal, f"SIG{name}")
    for name in ("CHLD", "CONT", "URG", "WINCH", "STOP", "TSTP", "TTIN", "TTOU", "PIPE", "XFSZ", "KILL")
}


def wait_for(stop: Stop) -> bool:
    end = time.monotonic() + 10
    while not stop.requested and time.monotonic() < end:
        time.sleep(0.01)
    return stop.requested


def test_every_signal_has_a_place_in_the_table():
    """By signal(7): what is no fault, can be caught, and ends a process by default, ends a run in order."""
    known = set(signal.valid_signals()) - FAULTS - HARMLESS
    # pytest itself may have set some.
    assert {number for number in known if signal.getsignal(number) == signal.SIG_DFL} <= set(ending_signals())
    assert not set(ending_signals()) & (FAULTS | HARMLESS)
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1} <= set(ending_signals())


@pytest.mark.parametrize("number", [*ending_signals()[:14], signal.SIGRTMAX - 1])
def test_a_signal_asks_a_busy_run_to_stop(number, capfd):
    before = signal.getsignal(number)
    with handle_signals(is_program=False) as stop:
        stop.busy = True
        os.kill(os.getpid(), number)
        assert wait_for(stop)
    assert signal.getsignal(number) == before
    name = signal.Signals(number).name if number <= signal.SIGRTMIN else f"signal {number}"
    assert f"{name}: saving, then stopping" in capfd.readouterr().err


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
def test_what_is_ignored_or_handled_by_others_stays(handler):
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with handle_signals(is_program=False) as stop:
            stop.busy = True
            assert signal.getsignal(signal.SIGHUP) == handler
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.2)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_handles_no_signals():
    found = []

    def work():
        with handle_signals(is_program=False) as stop:
            found.append((stop.requested, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, before)]


def test_an_interrupt_of_a_notebook_saves_or_is_raised():
    before = signal.getsignal(signal.SIGINT)
    with handle_signals(is_program=False) as stop:
        stop.busy = True
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):  # the second one
            signal.raise_signal(signal.SIGINT)
    with handle_signals(is_program=False) as stop:
        with pytest.raises(KeyboardInterrupt):  # nothing is to be saved
            signal.raise_signal(signal.SIGINT)
        assert not stop.requested
        stop.busy = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert wait_for(stop)
    assert signal.getsignal(signal.SIGINT) == before


def test_a_program_that_is_done_ends_with_its_own_code():
    handlers = {number: signal.getsignal(number) for number in ending_signals()}
    try:
        with handle_signals(is_program=True):
            pass
        signal.raise_signal(signal.SIGTERM)  # between the end of the work and the end of the process
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
