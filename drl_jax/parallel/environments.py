"""What the environment says of a job: how many processes, which one this is, and where process 0 listens.

Every launcher has its own variables. `job_of` turns them into explicit arguments of
`jax.distributed.initialize`. Where several processes are spoken of and no rule fits, it refuses: each process
would otherwise run as a job of its own. Nothing here imports JAX.
"""

import http.client
import importlib.util
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from drl_jax.errors import UserError

Environment = Mapping[str, str]
Metadata = Callable[[str], str | None]
"""Reads an attribute of this virtual machine from its metadata server; None if there is none."""

_TPU_PORT = 8482  # JAX's own default on TPUs
_XPK_CPU_PORT = 1234
_SKYPILOT_PORT = 9876
_PORTS_OF_JOBS = 2**12  # the highest ports; a job of SLURM or Open MPI takes one by its number, as in JAX
_BY_HAND = (
    "set JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID; "
    "JAX_NUM_PROCESSES=1 runs one process alone"
)


@dataclass(frozen=True)
class Job:
    """Several processes that compute together, or one on a TPU.

    Attributes:
      address: host:port at which process 0 listens.
      count: the number of processes.
      index: of this process, from 0.
      source: what says so, for messages.
      local_device_ids: the GPUs of this process, as numbers on its machine; None: all.
      id: what the launcher calls the job; None if it has no name.
      is_tpu: whether the processes are those of TPU hosts.
    """

    address: str
    count: int
    index: int
    source: str
    local_device_ids: tuple[int, ...] | None = None
    id: str | None = None
    is_tpu: bool = False

    @property
    def host(self) -> str:
        """The host of process 0."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port at which process 0 listens."""
        return int(self.address.rpartition(":")[2])


@dataclass(frozen=True)
class _Rule:
    """How one launcher says it.

    Attributes:
      source: the launcher.
      given: the rule applies where all of these variables are set.
      count, index: the number of processes, and the number of this one.
      host: of process 0.
      port: at which it listens, unless the environment names one; None: the environment must.
      devices: the GPUs of this process.
      id: the variables that name the job.
    """

    source: str
    given: tuple[str, ...]
    count: Callable[[Environment], int]
    index: Callable[[Environment], int]
    host: Callable[[Environment], str] = lambda environment: ""
    port: Callable[[Environment], int | None] = lambda environment: None
    devices: Callable[[Environment], tuple[int, ...] | None] = lambda environment: None
    id: tuple[str, ...] = ()


def job_of(
    environment: Environment, *, has_tpu: bool = False, metadata: Metadata | None = None
) -> Job | None:
    """Returns the job that the environment describes; None if this process computes alone.

    JAX_NUM_PROCESSES wins over all else. A process on a TPU always has a job, also if it is alone.

    Args:
      environment: the variables.
      has_tpu: whether this machine has a TPU that is to be used.
      metadata: asks the metadata server, which knows the hosts of a Cloud TPU VM. Only used with `has_tpu`.

    Raises:
      UserError: variables contradict each other, are missing or are not numbers, or no rule fits.
    """
    if "JAX_PROCESS_ID" in environment and "JAX_NUM_PROCESSES" not in environment:
        raise UserError(
            f"JAX_PROCESS_ID={environment['JAX_PROCESS_ID']} is set and JAX_NUM_PROCESSES is not; {_BY_HAND}"
        )
    if "JAX_COORDINATOR_PORT" in environment:
        _whole(environment, "JAX_COORDINATOR_PORT")
    is_explained = False
    for rule in _RULES:
        # A TPU knows the hosts of its slice better than SkyPilot, whose nodes may be slices.
        if not all(name in environment for name in rule.given) or (rule is _SKYPILOT and has_tpu):
            continue
        is_explained = True
        job = _apply(rule, environment)
        if job is not None:
            return job
        if rule is _HAND:
            return Job(f"localhost:{_TPU_PORT}", 1, 0, rule.source, is_tpu=True) if has_tpu else None
    job = _tpu_job(environment, has_tpu, metadata)
    if job is not None and job.count > 1:
        return job
    if not is_explained and (said := _speaks_of_several(environment)):
        raise UserError(
            f"{said}: the environment speaks of several processes, and does not say how they meet; {_BY_HAND}"
        )
    if not is_explained and job is None and (address := environment.get("JAX_COORDINATOR_ADDRESS")):
        raise UserError(
            f"JAX_COORDINATOR_ADDRESS={address} is set, and nothing says how many processes there are; "
            f"{_BY_HAND}"
        )
    return job


def _apply(rule: _Rule, environment: Environment) -> Job | None:
    """The job by a rule; None if it has one process."""
    count = rule.count(environment)
    if count < 1:
        raise UserError(f"{rule.source}: {count} processes are not possible: {_values(rule, environment)}")
    if count == 1:
        return None
    index = rule.index(environment)
    if not 0 <= index < count:
        raise UserError(
            f"process {index} of {count} is not possible: it must be from 0 to {count - 1}; {rule.source} "
            f"says {_values(rule, environment)}"
        )
    names = [environment[name] for name in rule.id if name in environment]
    return Job(
        _address(environment, rule),
        count,
        index,
        rule.source,
        rule.devices(environment),
        ".".join(names) or None,
    )


def _values(rule: _Rule, environment: Environment) -> str:
    shown = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", *rule.given)
    shown += ("OMPI_COMM_WORLD_RANK",)
    return ", ".join(f"{name}={environment[name]}" for name in dict.fromkeys(shown) if name in environment)


def _address(environment: Environment, rule: _Rule) -> str:
    """host:port of process 0. JAX_COORDINATOR_ADDRESS and JAX_COORDINATOR_PORT come first, as in JAX."""
    given = environment.get("JAX_COORDINATOR_ADDRESS", "")
    if rule is _HAND and not given:
        raise UserError(
            f"JAX_NUM_PROCESSES={environment['JAX_NUM_PROCESSES']} is set and JAX_COORDINATOR_ADDRESS is "
            f"not; {_BY_HAND}"
        )
    match = re.fullmatch(r"(\[[^]]+\]|[^:]+)(?::(\d+))?", given)
    if given and not match:
        raise UserError(f"JAX_COORDINATOR_ADDRESS={given} is not possible: it needs host:port of process 0")
    host, port = match.groups() if match else (rule.host(environment), None)
    if port is None:
        named = "JAX_COORDINATOR_PORT" in environment
        port = _whole(environment, "JAX_COORDINATOR_PORT") if named else rule.port(environment)
    if port is None:
        raise UserError(f"JAX_COORDINATOR_ADDRESS={given} has no port: it needs host:port of process 0")
    if not 0 < int(port) < 2**16:
        raise UserError(
            f"{rule.source}: port {port} of process 0 is not possible: it must be from 1 to 65535"
        )
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{host}:{int(port)}"


def _whole(environment: Environment, name: str, beside: str = "") -> int:
    """A variable as a number. `beside`: a variable that is set, for the message if this one is not."""
    if name not in environment:
        raise UserError(f"{beside}={environment.get(beside)} is set and {name} is not; {_BY_HAND}")
    value = environment[name]
    if not value.isdecimal():
        raise UserError(f"{name}={value} is not possible: it must be a whole number")
    return int(value)


def _number(name: str, *instead: str) -> Callable[[Environment], int]:
    """A function that reads the first of these variables that is set."""

    def read(environment: Environment) -> int:
        there = [each for each in (name, *instead) if each in environment]
        return _whole(environment, (there or [name])[0], beside=_first_set(environment))

    return read


def _first_set(environment: Environment) -> str:
    """The variable by which a rule was recognised, for a message about one that is missing."""
    return next(n for rule in _RULES if all(m in environment for m in rule.given) for n in rule.given)


def _slurm_host(environment: Environment) -> str:
    """The first of hosts as SLURM writes them: a,b · node[001-015,020],b · rack[1-2]n[01-04]."""
    listed = environment["SLURM_STEP_NODELIST"]
    # Up to the first comma outside of brackets; of each bracket the first number.
    match = re.match(r"(?:[^,\[\]]|\[[^\]]*\])+", listed)
    if match is None:
        raise UserError(f"SLURM_STEP_NODELIST={listed} is not possible: it must name hosts")
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", match[0])


def _high_port(number: int) -> int:
    return 2**16 - _PORTS_OF_JOBS + number % _PORTS_OF_JOBS


def _slurm_devices(environment: Environment) -> tuple[int, ...] | None:
    """One GPU per task, where several tasks share a machine and each sees all of its GPUs."""
    count = _number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")(environment)
    nodes = environment.get("SLURM_STEP_NUM_NODES") or environment.get("SLURM_NNODES") or "1"
    has_node = nodes.isdecimal() and int(nodes) >= count
    has_one_gpu = re.fullmatch(r"[^,]+", environment.get("CUDA_VISIBLE_DEVICES", "")) is not None
    if has_node or has_one_gpu or "SLURM_LOCALID" not in environment:
        return None
    return (_whole(environment, "SLURM_LOCALID"),)


def _local_devices(rank: str, size: str) -> Callable[[Environment], tuple[int, ...] | None]:
    """One GPU per process, where there are several processes on a machine."""

    def devices(environment: Environment) -> tuple[int, ...] | None:
        if rank not in environment or environment.get(size) == "1":
            return None
        return (_whole(environment, rank),)

    return devices


def _mpi_match(environment: Environment) -> re.Match[str]:
    uri = environment.get("OMPI_MCA_orte_hnp_uri", "")
    match = re.match(r"(\d+)\..*?(?:tcp://([^,:]+)|tcp6://\[([^,\]]+))", uri)
    if match is None:
        raise UserError(
            "OMPI_COMM_WORLD_SIZE is set, and Open MPI 5 does not say where process 0 is; "
            "set JAX_COORDINATOR_ADDRESS to host:port of process 0"
        )
    return match


def _mpi_host(environment: Environment) -> str:
    match = _mpi_match(environment)
    return match[2] or match[3]


def _mpi_port(environment: Environment) -> int:
    # Job numbers of Open MPI are multiples of 2¹².
    return _high_port(int(_mpi_match(environment)[1]) // 2**12)


def _xpk_cpu_index(environment: Environment) -> int:
    of_job = _whole(environment, "JOB_INDEX") * _whole(environment, "PROCESSES_IN_JOB")
    return of_job + _whole(environment, "JOB_COMPLETION_INDEX")


def _sky_host(environment: Environment) -> str:
    hosts = environment["SKYPILOT_NODE_IPS"].split()
    if not hosts:
        raise UserError("SKYPILOT_NODE_IPS= is not possible: it must name the hosts")
    return hosts[0]


_HAND = _Rule(
    "JAX_NUM_PROCESSES", ("JAX_NUM_PROCESSES",), _number("JAX_NUM_PROCESSES"), _number("JAX_PROCESS_ID")
)
_SKYPILOT = _Rule(
    "SkyPilot",
    ("SKYPILOT_NUM_NODES", "SKYPILOT_NODE_RANK", "SKYPILOT_NODE_IPS"),
    _number("SKYPILOT_NUM_NODES"),
    _number("SKYPILOT_NODE_RANK"),
    _sky_host,
    lambda environment: _SKYPILOT_PORT,
    id=("SKYPILOT_TASK_ID",),
)
# The first rule counts that applies and has several processes: launchers that start others come last.
_RULES = (
    _HAND,
    _Rule(
        "xpk for CPUs",
        (
            "JAX_PROCESS_COUNT",
            "JOB_INDEX",
            "JOB_COMPLETION_INDEX",
            "PROCESSES_IN_JOB",
            "JAX_COORDINATOR_ADDRESS",
        ),
        _number("JAX_PROCESS_COUNT"),
        _xpk_cpu_index,
        port=lambda environment: _XPK_CPU_PORT,
    ),
    _Rule(
        "xpk for GPUs",
        ("NNODES", "NODE_RANK", "JAX_COORDINATOR_ADDRESS"),
        _number("NNODES"),
        _number("NODE_RANK"),
    ),
    _Rule(
        "torchrun",
        ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
        _number("WORLD_SIZE"),
        _number("RANK"),
        lambda environment: environment["MASTER_ADDR"],
        _number("MASTER_PORT"),
        _local_devices("LOCAL_RANK", "LOCAL_WORLD_SIZE"),
        ("TORCHELASTIC_RUN_ID",),
    ),
    _Rule(
        "Google's GPU recipes",
        ("NNODES", "MASTER_ADDR", "MASTER_PORT", "JOB_COMPLETION_INDEX"),
        _number("NNODES"),
        _number("JOB_COMPLETION_INDEX"),
        lambda environment: environment["MASTER_ADDR"],
        _number("MASTER_PORT"),
    ),
    _Rule(
        "Open MPI",
        ("OMPI_COMM_WORLD_SIZE",),
        _number("OMPI_COMM_WORLD_SIZE"),
        _number("OMPI_COMM_WORLD_RANK"),
        _mpi_host,
        _mpi_port,
        _local_devices("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        ("PMIX_NAMESPACE",),
    ),
    _Rule(
        # Only inside of srun: a shell of salloc, and a script without srun, are one process each.
        "SLURM",
        ("SLURM_STEP_NODELIST", "SLURM_PROCID"),
        _number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
        _number("SLURM_PROCID"),
        _slurm_host,
        lambda environment: _high_port(_whole(environment, "SLURM_JOB_ID", beside="SLURM_PROCID")),
        _slurm_devices,
        ("SLURM_JOB_ID", "SLURM_STEP_ID"),
    ),
    _SKYPILOT,
)

_COUNTS = ("NNODES", "WORLD_SIZE", "JAX_PROCESS_COUNT", "PROCESSES_IN_JOB", "SKYPILOT_NUM_NODES", "PMI_SIZE")
_INDICES = ("NODE_RANK", "RANK", "SKYPILOT_NODE_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")


def _speaks_of_several(environment: Environment) -> str:
    """A variable that only a process of several has, with its value; empty if there is none."""
    indices = _INDICES
    if "KUBERNETES_SERVICE_HOST" in environment:
        indices += ("JOB_COMPLETION_INDEX",)
    for names, least in ((_COUNTS, 2), (indices, 1)):
        for name in names:
            value = environment.get(name, "")
            if value.isdecimal() and int(value) >= least:
                return f"{name}={value}"
    return ""


def _tpu_job(environment: Environment, has_tpu: bool, metadata: Metadata | None) -> Job | None:
    """The job of the hosts of one or several TPU slices."""
    name, hosts = _tpu_hosts(environment)
    settings, worker = environment, environment.get("TPU_WORKER_ID")
    if not hosts and has_tpu and metadata is not None and "TPU_SKIP_MDS_QUERY" not in environment:
        name, worker = "agent-worker-number in the metadata", metadata("agent-worker-number")
        if worker is not None:
            hosts = _metadata_hosts(metadata("worker-network-endpoints") or "")
            settings = {**_tpu_env(metadata("tpu-env") or ""), **environment}
    has_slices = bool(settings.get("MEGASCALE_COORDINATOR_ADDRESS"))
    if not hosts and has_slices:
        raise UserError(
            "MEGASCALE_COORDINATOR_ADDRESS is set, and the hosts of this slice are not known; "
            "set TPU_WORKER_HOSTNAMES and TPU_WORKER_ID"
        )
    if not hosts:
        return Job(f"localhost:{_TPU_PORT}", 1, 0, "one TPU host", is_tpu=True) if has_tpu else None
    slices = _whole(settings, "MEGASCALE_NUM_SLICES") if settings.get("MEGASCALE_NUM_SLICES") else 1
    slice_index = _whole(settings, "MEGASCALE_SLICE_ID") if settings.get("MEGASCALE_SLICE_ID") else 0
    count = slices * len(hosts)
    if count == 1 and not has_tpu:
        return None
    if worker is None and len(hosts) > 1:
        raise UserError(f"{name} names {len(hosts)} hosts, and TPU_WORKER_ID is not set")
    worker = worker or "0"
    if not worker.isdecimal() or int(worker) >= len(hosts):
        raise UserError(
            f"TPU_WORKER_ID={worker} is not possible: {name} names {len(hosts)} hosts, so it must be from 0 "
            f"to {len(hosts) - 1}"
        )
    if slice_index >= slices:
        raise UserError(
            f"MEGASCALE_SLICE_ID={slice_index} is not possible: MEGASCALE_NUM_SLICES={slices}, so it must be "
            f"from 0 to {slices - 1}"
        )
    host = (settings.get("MEGASCALE_COORDINATOR_ADDRESS") or hosts[0]).split(":")[0]
    rule = _Rule("TPU", (), lambda _: count, lambda _: 0, lambda _: host, lambda _: _TPU_PORT)
    index = slice_index * len(hosts) + int(worker)
    return Job(_address(environment, rule), count, index, name, is_tpu=True)


def _tpu_hosts(environment: Environment) -> tuple[str, list[str]]:
    """The hosts of this slice as GKE lists them, and the variable that does."""
    if path := environment.get("TPU_PROCESS_ADDRESSES_PATH"):
        try:
            content = Path(path).read_text()
        except (OSError, ValueError) as error:
            raise UserError(f"TPU_PROCESS_ADDRESSES_PATH={path} cannot be read: {error}") from None
        if not content.strip():
            raise UserError(
                f"TPU_PROCESS_ADDRESSES_PATH={path} is empty: it must list the hosts of the slice"
            )
        return "TPU_PROCESS_ADDRESSES_PATH", _listed(content)
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if hosts := _listed(environment.get(name, "")):
            return name, hosts
    return "", []


def _listed(text: str) -> list[str]:
    return [host.strip() for host in text.split(",") if host.strip()]


def _metadata_hosts(text: str) -> list[str]:
    """The hosts of a slice: names with commas, or triples of name:id:address."""
    parts = [worker.split(":") for worker in _listed(text)]
    if not parts or any(len(part) not in (1, 3) for part in parts):
        raise UserError(
            f"worker-network-endpoints={text!r} in the metadata of this TPU VM is not known: {_BY_HAND}"
        )
    return [part[-1] for part in parts]


def _tpu_env(text: str) -> dict[str, str]:
    """The settings in the attribute tpu-env, whose lines are NAME: 'value'."""
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip().strip("'") for name, _, value in pairs}


def this_job() -> Job | None:
    """Returns the job that this process belongs to, by its environment.

    Raises:
      UserError: the environment describes an impossible job.
    """
    environment = os.environ
    return job_of(environment, has_tpu=uses_tpu(environment), metadata=metadata_server(environment))


def uses_tpu(environment: Environment) -> bool:
    """Returns whether this machine has a TPU and the library for it, and JAX_PLATFORMS allows it."""
    if "tpu" not in (environment.get("JAX_PLATFORMS") or "tpu"):
        return False
    if importlib.util.find_spec("libtpu") is None:
        return False
    return any(Path("/dev").glob("accel*")) or Path("/dev/vfio/0").exists()


def metadata_server(environment: Environment, *, tries: int = 6, pause: float = 0.5) -> Metadata:
    """Makes a reader of the attributes of this virtual machine in Google's cloud.

    Args:
      environment: GCE_METADATA_IP is another host[:port] of the server, as in JAX.
      tries: how often it is asked before it counts as absent.
      pause: seconds between them.
    """
    host = environment.get("GCE_METADATA_IP") or "metadata.google.internal"

    def read(attribute: str) -> str | None:
        for _ in range(tries):
            # Without the proxies of the environment: the server is a part of the machine.
            connection = http.client.HTTPConnection(host, timeout=5)
            with suppress(OSError, http.client.HTTPException):
                path = f"/computeMetadata/v1/instance/attributes/{attribute}"
                connection.request("GET", path, headers={"Metadata-Flavor": "Google"})
                answer = connection.getresponse()
                text = answer.read(2**20).decode(errors="replace")
                if answer.status == 200:
                    return text
                if answer.status == 404:
                    return None
            connection.close()
            time.sleep(pause)
        return None

    return read
