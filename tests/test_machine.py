import os

from drl_jax import machine
from drl_jax.machine import machine_type, num_cores


def test_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5}, raising=False)
    assert num_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert num_cores() == 64


def test_machines_with_other_instructions_share_no_compiled_programs(monkeypatch):
    def on(name, flags):
        monkeypatch.setattr(machine, "_cpuinfo", lambda: {"model name": name, "flags": flags})
        return machine_type()

    assert on("A", "avx sse") == on("A", "sse avx")
    assert len({on("A", "avx sse"), on("A", "avx2 avx sse"), on("B", "avx sse")}) == 3
