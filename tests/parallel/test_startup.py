"""How this process joins the job that its environment describes."""

from types import SimpleNamespace

import jax
import pytest

from drl_jax.errors import UserError
from drl_jax.parallel import startup
from drl_jax.parallel.environments import Job
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.rendezvous import Limits

JOB = Job("host:12", 2, 1, "a test", (3,))


@pytest.fixture
def join(monkeypatch):
    """join(job, devices_of=…) -> what was done, in order."""
    done = []
    monkeypatch.setattr(startup, "limits", lambda environment: Limits(join=5))
    monkeypatch.setattr(startup, "meet", lambda job, facts, limits: done.append(("meet", facts)) or [])
    monkeypatch.setattr(startup, "provide_threads", lambda count: None)
    monkeypatch.setattr(startup, "num_cores", lambda: 6)
    update = lambda name, value: done.append((name, value))
    monkeypatch.setattr(jax, "config", SimpleNamespace(values={"jax_num_cpu_devices": -1}, update=update))
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **named: done.append((*a, named)))

    def join(job, processes=1):
        def count():
            done.append("the devices start")
            return processes

        monkeypatch.setattr(jax, "process_count", count)
        monkeypatch.setattr(startup, "this_job", lambda: job)
        startup.join_job(8, lambda: {"a": 1}, Stop())
        return done

    return join


def test_one_process_joins_nothing(join):
    assert join(None) == [("jax_num_cpu_devices", 4)]  # the largest number up to 6 that divides 8


def test_a_job_is_joined_by_explicit_arguments(join):
    # The processes meet before JAX is told, and the devices start after the CPU is split.
    assert join(JOB, 2) == [
        ("meet", {"a": 1}),
        ("jax_enable_preemption_service", False),
        ("host:12", 2, 1, [3], {"cluster_detection_method": "deactivate"}),
        ("jax_num_cpu_devices", 4),
        "the devices start",
    ]


def test_the_devices_of_a_tpu_are_not_counted_before(join):
    tpu = Job("host:12", 4, 0, "TPU_WORKER_HOSTNAMES", is_tpu=True)
    done = join(tpu, 4)
    assert "jax_num_cpu_devices" not in [each[0] for each in done]
    assert done[2] == ("host:12", 4, 0, None, {"cluster_detection_method": "deactivate"})


def test_devices_of_another_number_of_processes_are_refused(join):
    with pytest.raises(UserError, match=r"a test describes a job of 2 processes, .* those of 1"):
        join(JOB, 1)
