"""The command of a command line, and the exit code of an error."""

import errno
import logging
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import jax
import pytest
from etils import epath

from drl_jax import files, main
from drl_jax.commands import COMMANDS
from drl_jax.config.flags import command_of
from drl_jax.errors import UserError
from drl_jax.parallel.preemption import Stop, Stopped
from drl_jax.parallel.rendezvous import Missing

# What JAX said when a process was killed while a checkpoint was saved.
GLOO = "Gloo AllGather failed: [external/gloo/gloo/transport/tcp/pair.cc:547] Connection reset by peer"
LOST = (
    jax.errors.JaxRuntimeError(f"FAILED_PRECONDITION: Buffer Definition Event: {GLOO}"),
    jax.errors.JaxRuntimeError("UNAVAILABLE: The following tasks are unhealthy: /job:jax_worker/task:1"),
    ValueError(GLOO),
)


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("wrapper", [None, UserError, OSError, TimeoutError, TypeError])
def test_what_a_lost_process_causes_is_42(lost, wrapper, monkeypatch):
    monkeypatch.setattr(main, "_NAMED_WITHIN", 0.0)
    error = lost
    if wrapper is not None:
        try:
            try:
                raise lost
            except (jax.errors.JaxRuntimeError, ValueError):
                raise wrapper("the checkpoint of step 6 could not be written") from None
        except wrapper as wrapped:
            error = wrapped
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    code, line = main._explain(error, Stop())
    assert code == 42
    assert line.startswith("another process of the job has ended (")
    # A process alone has lost nobody.
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    assert main._explain(error, Stop())[0] == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [(Stopped(), 42), (Missing(), 42), (UserError("x"), 1), (OSError(28, "No space left"), 1)],
)
def test_other_errors_keep_their_codes_in_a_job(error, code, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert main._explain(error, Stop())[0] == code


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["help"],
        ["train", "help"],
        ["help", "train"],
        ["-h"],
        ["--help"],
        ["-help"],
        ["-?"],
        ["train", "--config=nope", "--help"],
        ["train", "--workdir", "--help"],
        ["--helpfull", "train"],
    ],
)
def test_help_in_any_place(argv, capsys):
    assert main.main(argv) == 0
    assert capsys.readouterr().out.startswith("usage: drl-jax COMMAND --config=CONFIG --workdir=DIR")


@pytest.mark.parametrize("argv", [["--version"], ["-V"], ["version"], ["train", "--version"]])
def test_version_in_any_place(argv, capsys):
    assert main.main(argv) == 0
    assert capsys.readouterr().out.startswith("drl_jax ")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--config=digits", "train"], "the command comes first: drl-jax train --config=digits"),
        (["--config", "digits", "train", "--show"], "first: drl-jax train --config digits --show"),
        (["--workdir=a b", "sample"], "the command comes first: drl-jax sample '--workdir=a b'"),
        (["--config=digits"], "the command comes first, as in drl-jax train --config=digits"),
        (["config=digits", "train"], "the command comes first: drl-jax train config=digits"),
        (["TRAIN"], "did you mean train?"),
        (["--train", "--config=digits"], "'--train' is not a command; commands are "),
        (["--train", "--config=digits"], "; did you mean train?"),
        (["--", "TRAIN"], "did you mean train?"),
        (["Eval", "--workdir=x"], "did you mean evaluate?"),
        (["train", "sample", "--workdir=x"], "'sample' is a second command after 'train'"),
        (["train", "--workdir=x", "sample"], "'sample' is a second command after 'train'"),
        (["train", "--show", "train"], "'train' is a second command after 'train'"),
        ([""], "'' is not a command"),
        (["digits"], "'digits' is not a command; commands are train, "),
    ],
)
def test_a_command_that_is_wrong(argv, expected, capsys):
    assert main.main(argv) == 1
    assert expected in capsys.readouterr().err


def test_what_main_changes_is_as_before(tmp_path, capsys):
    """A notebook goes on afterwards, perhaps with a signal handler or a precision of its own."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    levels = logging.getLogger("drl_jax").handlers[:], logging.getLogger("drl_jax").level
    argv, threads = sys.argv[:], threading.active_count()
    precise = "--config.network.precision=highest"
    with jax.default_matmul_precision("tensorfloat32"):
        assert main.main(["sample", "--config=digits", f"--workdir={tmp_path}", precise]) == 1
        assert "holds no run" in capsys.readouterr().err
        assert jax.config.values["jax_default_matmul_precision"] != "highest"
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == handlers
    assert signal.set_wakeup_fd(wakeup) == wakeup
    assert (logging.getLogger("drl_jax").handlers, logging.getLogger("drl_jax").level) == levels
    assert (sys.argv, threading.active_count()) == (argv, threads)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_not_swallowed(error, monkeypatch):
    def interrupted(*_):
        raise error

    monkeypatch.setattr(main, "call", interrupted)
    with pytest.raises(error):
        main.main(["check", "--config=digits"])


@pytest.mark.parametrize("code", [0, 1])
def test_the_program_ends_though_a_thread_of_a_library_waits(code):
    """After a failed save, threads of Orbax waited for five minutes."""
    script = textwrap.dedent(f"""
        import threading
        from drl_jax import main
        threading.Thread(target=threading.Event().wait).start()
        main._THREADS_WITHIN = 0.2
        main.program({["--version"] if code == 0 else ["nothing"]})
    """)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ended.returncode == code, ended.stderr
    assert ended.stdout.startswith("drl_jax ") if code == 0 else "is not a command" in ended.stderr


def test_the_value_of_a_flag_may_be_the_name_of_a_command():
    argv = ["sample", "--workdir", "train", "--config.data.split=train"]
    assert command_of(argv, COMMANDS) == ("sample", argv[1:])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_failing_disk_is_one_line_with_the_path_and_the_checkpoints(number, tmp_path, monkeypatch, capsys):
    def fail(*_):
        files.write(epath.Path(tmp_path / "samples" / "a.png"), b"x")

    def refuse(*_):
        raise OSError(number, "the reason")  # as a write does: without a file name

    monkeypatch.setattr(main, "call", fail)
    monkeypatch.setattr(files.os, "fsync", refuse)
    for checkpoints, kept in (([], ""), (["9", "12"], "; checkpoints are kept, the newest of step 12")):
        for step in checkpoints:
            (tmp_path / "checkpoints" / step).mkdir(parents=True)
        assert main.main(["train", "--config=digits", f"--workdir={tmp_path}"]) == 1
        assert capsys.readouterr().err == f"drl-jax: {tmp_path}/samples/a.png: the reason{kept}\n"
    assert list((tmp_path / "samples").iterdir()) == []


def test_an_error_of_files_without_a_path_names_the_workdir(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(main, "call", fail)
    assert main.main(["train", "--config=digits", "--workdir", str(tmp_path / "gone")]) == 1
    assert capsys.readouterr().err == f"drl-jax: --workdir={tmp_path}/gone: No space left on device\n"
    assert not Path(tmp_path / "gone").exists()


@pytest.mark.parametrize("closed", ["1", "2", "0"])
def test_a_closed_stream_is_no_reason_to_fail(closed, tmp_path):
    arrow = "<&-" if closed == "0" else f"{closed}>&-"
    script = (
        f"{sys.executable} -m drl_jax train --config=digits --show {arrow}; echo code $? >> {tmp_path}/code"
    )
    subprocess.run(["bash", "-c", script], capture_output=True, timeout=120, check=True)
    assert (tmp_path / "code").read_text() == "code 0\n"


@pytest.mark.parametrize("value", ["0", "x", "-1", ""])
def test_a_number_of_devices_in_xla_flags_that_cannot_be(value, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("XLA_FLAGS", f"--other=1 --xla_force_host_platform_device_count={value}")
    assert main.main(["train", "--config=digits", f"--workdir={tmp_path}/run"]) == 1
    expected = f"in XLA_FLAGS: --xla_force_host_platform_device_count={value} is not possible"
    assert expected in capsys.readouterr().err


def test_numbers_of_64_bits_are_refused(tmp_path, capsys):
    with jax.enable_x64(True):
        assert main.main(["train", "--config=digits", f"--workdir={tmp_path}/run"]) == 1
    assert "jax_enable_x64 is on" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["data.batch_size", "training.steps", "checkpoint.every"])
def test_a_number_that_does_not_fit_is_refused(key, tmp_path, capsys):
    flags = ["train", "--config=digits", f"--workdir={tmp_path}/run", f"--config.{key}=99999999999999999999"]
    assert main.main(flags) == 1
    assert f"config.{key}=99999999999999999999 is not possible: it must be at most 2147483647" in (
        capsys.readouterr().err
    )


def test_no_memory_is_one_line(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise MemoryError("Unable to allocate 8 TiB")

    monkeypatch.setattr(main, "call", fail)
    assert main.main(["train", "--config=digits", f"--workdir={tmp_path}/run"]) == 1
    assert "memory of this machine is too small: Unable to allocate 8 TiB" in capsys.readouterr().err
