"""Which environments describe a job, and how this process joins it."""

import jax
import pytest

from drl_jax.errors import UserError
from drl_jax.parallel import startup

VARIABLES = [
    *("JAX_NUM_PROCESSES", "JAX_COORDINATOR_ADDRESS", "JAX_PROCESS_ID", "JAX_PLATFORMS"),
    *("SLURM_NTASKS", "SLURM_PROCID", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"),
    "MEGASCALE_COORDINATOR_ADDRESS",
]


@pytest.fixture
def join(monkeypatch):
    """join(has_tpu=False, **variables) -> (number of processes, the calls of jax.distributed.initialize)."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    # Asking for the number of processes would start the devices before the CPU is split.
    monkeypatch.setattr(jax, "process_count", lambda: pytest.fail("devices were started too early"))

    def join(has_tpu=False, **variables):
        monkeypatch.setattr(startup, "has_tpu", lambda: has_tpu)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return startup._join(), calls

    return join


def test_one_process_joins_nothing(join):
    assert join() == (1, [])


def test_a_job_described_by_hand(join):
    given = {"JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": "host:12", "JAX_PROCESS_ID": "1"}
    assert join(**given) == (2, [("host:12", 2, 1)])


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "3"}, 4),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, 2),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, 1),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "a"}, 1),
    ],
)
def test_jobs_that_jax_knows(variables, count, join):
    assert join(**variables) == (count, [()])


def test_a_cloud_tpu_vm_is_always_joined(join):
    # No variable names its other hosts: JAX asks the metadata server.
    assert join(has_tpu=True) == (1, [()])


def test_a_cpu_run_on_a_tpu_vm_joins_nothing(join):
    assert join(has_tpu=True, JAX_PLATFORMS="cpu") == (1, [])


@pytest.mark.parametrize("variables", [{"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, {"SLURM_NTASKS": "4"}])
def test_an_allocation_with_one_process_joins_nothing(variables, join):
    assert join(**variables) == (1, [])


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "JAX_COORDINATOR_ADDRESS is not"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": "a:1"}, "JAX_PROCESS_ID is not"),
        ({"SLURM_NTASKS": "", "SLURM_PROCID": "0"}, "SLURM_NTASKS= is not possible"),
        ({"OMPI_COMM_WORLD_SIZE": "two"}, "OMPI_COMM_WORLD_SIZE=two is not possible"),
    ],
)
def test_a_job_that_is_not_possible(variables, message, join):
    with pytest.raises(UserError, match=message):
        join(**variables)
