"""The exit code of an error."""

import jax
import pytest

from drl_jax import main
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
