"""How this process joins the job that its environment describes."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from drl_jax.errors import UserError
from drl_jax.parallel import compile_cache, startup
from drl_jax.parallel.environments import Job
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.rendezvous import Limits

ROOT = Path(__file__).parents[2]
JOB = Job("host:12", 2, 1, "a test", (3,))


@pytest.fixture
def join(monkeypatch):
    """join(job, devices_of=…) -> what was done, in order."""
    done = []
    monkeypatch.setattr(startup, "limits", lambda environment: Limits(join=5))
    monkeypatch.setattr(startup, "meet", lambda job, facts, limits: done.append(("meet", facts)) or [])
    monkeypatch.setattr(startup, "provide_threads", lambda count, per_device: None)
    monkeypatch.setattr(startup, "num_cores", lambda: 6)
    update = lambda name, value: done.append((name, value))
    monkeypatch.setattr(jax, "config", SimpleNamespace(values={"jax_num_cpu_devices": -1}, update=update))
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(platform="cpu", process_index=0)])
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


@pytest.mark.parametrize(("cores", "per_device", "threads"), [(2, 1, 4), (2, 2, 8), (16, 1, 16), (16, 2, 16)])
def test_each_device_that_waits_leaves_a_thread_for_the_others(cores, per_device, threads, monkeypatch):
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.setattr(startup, "num_cores", lambda: cores)
    startup.provide_threads(4, per_device)
    assert os.environ["NPROC"] == str(threads)
    startup.provide_threads(4, 2)
    assert os.environ["NPROC"] == str(threads)  # who sets it decides
    monkeypatch.delenv("NPROC")
    startup.provide_threads(1, per_device)
    assert "NPROC" not in os.environ


PROGRAM = """
import os, jax
from drl_jax.parallel.startup import check_devices, start_devices
{before}
start_devices(8)
check_devices()
print(len(jax.devices()), os.environ.get("NPROC"))
"""


def devices_of(before="", **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX", "XLA"))}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-c", PROGRAM.format(before=before)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    return ended.stdout, ended.stderr


def test_the_number_of_devices_in_xla_flags_is_respected():
    printed, _ = devices_of(XLA_FLAGS="--xla_force_host_platform_device_count=3 --xla_dump_to=")
    assert printed.split()[0] == "3"
    assert int(printed.split()[1]) >= 6  # threads, as for any other number of devices


def test_devices_that_are_in_use_already_stay():
    printed, errors = devices_of(before="jax.numpy.zeros(3) + 1")
    assert printed.split()[0] == "1", errors


@pytest.mark.parametrize("platform", ["cuda", "tpu", "rocm", "nothing", "cuda,cpu", "tpu,cpu"])
def test_a_device_that_is_not_here_is_named(platform):
    printed, errors = devices_of(JAX_PLATFORMS=platform)
    assert not printed
    first = platform.partition(",")[0]
    # JAX fails, or takes the next one.
    fails = f"UserError: JAX_PLATFORMS={platform} asks for a device that is not here ("
    passes = f"UserError: JAX_PLATFORMS={platform} asks for {first} first, and there is none here, only cpu; "
    assert fails in errors or ("," in platform and passes in errors)


def test_all_processes_have_the_same_number_of_devices():
    startup.check_device_counts([0, 0, 1, 1, 2, 2])
    with pytest.raises(UserError, match=r"^process 1 has 1 devices, and process 0 has 2: every process"):
        startup.check_device_counts([0, 0, 1])


def test_compiled_programs_are_kept_where_that_is_possible(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = compile_cache.default_folder()
    assert folder is not None
    assert folder.is_relative_to(tmp_path / "cache" / "drl_jax")
    assert folder.is_dir()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compile_cache.default_folder() is None

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.home", no_home)
    assert compile_cache.default_folder() is None
