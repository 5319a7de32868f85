"""What each launcher's variables say of a job: address, number of processes, and which one this is."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from jax._src import clusters
from jax._src.clusters import cloud_tpu_cluster, ompi_cluster, slurm_cluster

from drl_jax.errors import UserError
from drl_jax.parallel.environments import job_of, metadata_server, uses_tpu

HAND = {"JAX_NUM_PROCESSES": "4", "JAX_COORDINATOR_ADDRESS": "host0:1234", "JAX_PROCESS_ID": "2"}
SLURM = {
    "SLURM_JOB_ID": "5001",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n[011-013,020],m1",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
SLURM_ADDRESS = f"n011:{61440 + 5001 % 4096}"
MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
MPI_4 = {**MPI, "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
MPI_PORT = 61440 + (1531576320 // 4096) % 4096
TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "16",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
    "LOCAL_RANK": "5",
    "LOCAL_WORLD_SIZE": "8",
}
XPK_GPU = {
    "NNODES": "2",
    "NODE_RANK": "1",
    "JAX_COORDINATOR_ADDRESS": "w-0.w",
    "JAX_COORDINATOR_PORT": "6002",
    "GPUS_PER_NODE": "8",
}
XPK_CPU = {
    "JAX_PROCESS_COUNT": "6",
    "JAX_COORDINATOR_ADDRESS": "w-0.w",
    "JOB_INDEX": "1",
    "JOB_COMPLETION_INDEX": "2",
    "PROCESSES_IN_JOB": "3",
}
RECIPES = {
    "MASTER_ADDR": "job-0.job",
    "MASTER_PORT": "6002",
    "NNODES": "2",
    "GPUS_PER_NODE": "8",
    "WORLD_SIZE": "16",
    "JOB_COMPLETION_INDEX": "1",
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
}
SKYPILOT = {
    "SKYPILOT_NUM_NODES": "2",
    "SKYPILOT_NODE_RANK": "1",
    "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
    "SKYPILOT_TASK_ID": "sky-1",
}
GKE = {"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "3"}
SLICES = {
    "TPU_WORKER_HOSTNAMES": "c,d",
    "TPU_WORKER_ID": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "a:8080",
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
}

JOBS = {
    "by hand": (HAND, "host0:1234", 4, 2),
    "by hand, IPv6": ({**HAND, "JAX_COORDINATOR_ADDRESS": "[fd00::1]:1234"}, "[fd00::1]:1234", 4, 2),
    "Kubeflow Trainer": ({**HAND, "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "host0:1234", 4, 2),
    "by hand, inside of SLURM": ({**SLURM, **HAND}, "host0:1234", 4, 2),
    "SLURM": (SLURM, SLURM_ADDRESS, 4, 3),
    "SLURM, one host": ({**SLURM, "SLURM_STEP_NODELIST": "n7"}, "n7:62345", 4, 3),
    "SLURM, hosts with commas": ({**SLURM, "SLURM_STEP_NODELIST": "n7,m[1-2]"}, "n7:62345", 4, 3),
    "SLURM, a list in brackets": ({**SLURM, "SLURM_STEP_NODELIST": "n[7,9-12]"}, "n7:62345", 4, 3),
    "SLURM, a port by hand": ({**SLURM, "JAX_COORDINATOR_PORT": "77"}, "n011:77", 4, 3),
    "Open MPI 4": (MPI_4, f"10.96.0.1:{MPI_PORT}", 4, 3),
    "Open MPI 4, IPv6": (
        {**MPI, "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp6://[fe80::b9b,2620:10d]:43370"},
        f"[fe80::b9b]:{MPI_PORT}",
        4,
        3,
    ),
    "Open MPI 5, with an address": ({**MPI, "JAX_COORDINATOR_ADDRESS": "a:5"}, "a:5", 4, 3),
    "Open MPI inside of SLURM": (
        {**SLURM, "SLURM_PROCID": "0", **MPI_4},
        f"10.96.0.1:{MPI_PORT}",
        4,
        3,
    ),
    "torchrun": (TORCHRUN, "node0:29500", 16, 5),
    "torchrun inside of SLURM": ({**SLURM, **TORCHRUN}, "node0:29500", 16, 5),
    "xpk for GPUs": (XPK_GPU, "w-0.w:6002", 2, 1),
    "xpk for CPUs": (XPK_CPU, "w-0.w:1234", 6, 5),
    "Google's GPU recipes": (RECIPES, "job-0.job:6002", 2, 1),
    "SkyPilot": (SKYPILOT, "10.0.0.1:9876", 2, 1),
    "GKE TPU": (GKE, "a:8482", 4, 3),
    "GKE TPU, addresses": (
        {"TPU_PROCESS_ADDRESSES": "a:8471,b:8471", "TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "x"},
        "a:8482",
        2,
        1,
    ),
    "multislice": (SLICES, "a:8482", 4, 3),
}

# One process: nothing to join.
ALONE = {
    "nothing": {},
    "a shell of salloc": {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2", "SLURM_NNODES": "2"},
    "a script of sbatch without srun": {
        "SLURM_JOB_ID": "1",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    },
    "a step of one task in a larger allocation": {**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
    "JAX_NUM_PROCESSES=1": {**SLURM, "JAX_NUM_PROCESSES": "1"},
    "launch/local": {**HAND, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
    "one node of xpk": {**XPK_GPU, "NNODES": "1", "NODE_RANK": "0"},
    "one node of the recipes": {**RECIPES, "NNODES": "1", "WORLD_SIZE": "8", "JOB_COMPLETION_INDEX": "0"},
    "one node of SkyPilot": {**SKYPILOT, "SKYPILOT_NUM_NODES": "1", "SKYPILOT_NODE_RANK": "0"},
    "torchrun with one process": {**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"},
    "mpirun -n 1": {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
    "a Kubernetes job of one": {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"},
    "a GKE pod of a slice of one host, on CPU": {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},
}

REFUSED = {
    "no address": ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "JAX_COORDINATOR_ADDRESS is not"),
    "no number": ({"JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": "a:1"}, "JAX_PROCESS_ID is not"),
    "an address alone": (
        {"JAX_COORDINATOR_ADDRESS": "a:1"},
        "JAX_COORDINATOR_ADDRESS=a:1 is set, and nothing",
    ),
    "a port": ({"JAX_COORDINATOR_PORT": "x"}, "JAX_COORDINATOR_PORT=x is not possible"),
    "no count": ({"JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "a:1"}, "JAX_NUM_PROCESSES is not"),
    "no port": ({**HAND, "JAX_COORDINATOR_ADDRESS": "host0"}, "it needs host:port"),
    "a port that is none": ({**HAND, "JAX_COORDINATOR_ADDRESS": "host0:70000"}, "port 70000"),
    "an address that is none": ({**HAND, "JAX_COORDINATOR_ADDRESS": "a:b:c"}, "it needs host:port"),
    "no processes": ({**HAND, "JAX_NUM_PROCESSES": "0"}, "0 processes are not possible: JAX_NUM_PROCESSES=0"),
    "a number too high": ({**HAND, "JAX_PROCESS_ID": "4"}, "process 4 of 4 is not possible.*from 0 to 3"),
    "a word": ({**HAND, "JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES=two is not possible"),
    "an empty count": ({**SLURM, "SLURM_STEP_NUM_TASKS": ""}, "SLURM_STEP_NUM_TASKS= is not possible"),
    "SLURM, a word": ({**SLURM, "SLURM_STEP_NUM_TASKS": "x"}, "SLURM_STEP_NUM_TASKS=x is not possible"),
    "SLURM, a number too high": ({**SLURM, "SLURM_PROCID": "7"}, "process 7 of 4 is not possible"),
    "SLURM, not a step": (
        {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"},
        "SLURM_PROCID=1: the environment speaks",
    ),
    "Open MPI 5": (MPI, "Open MPI 5 does not say where process 0 is; set JAX_COORDINATOR_ADDRESS"),
    "Open MPI, a count alone": ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_RANK is not"),
    "Open MPI, a word": ({"OMPI_COMM_WORLD_SIZE": "two"}, "OMPI_COMM_WORLD_SIZE=two is not possible"),
    "another MPI": ({"PMI_SIZE": "2", "PMI_RANK": "0"}, "PMI_SIZE=2: the environment speaks"),
    "torchrun without an address": ({"RANK": "0", "WORLD_SIZE": "2"}, "WORLD_SIZE=2: the environment speaks"),
    "torchrun, a port that is none": ({**TORCHRUN, "MASTER_PORT": "x"}, "MASTER_PORT=x is not possible"),
    "xpk without an address": ({"NNODES": "2", "NODE_RANK": "0"}, "NNODES=2: the environment speaks"),
    "SkyPilot without hosts": ({"SKYPILOT_NUM_NODES": "2"}, "SKYPILOT_NUM_NODES=2: the environment speaks"),
    "a Kubernetes job": (
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"},
        "JOB_COMPLETION_INDEX=1: the environment speaks",
    ),
    "GKE TPU without a number": ({"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU_WORKER_ID is not set"),
    "GKE TPU, a number too high": ({**GKE, "TPU_WORKER_ID": "4"}, "TPU_WORKER_ID=4 is not possible.*0 to 3"),
    "a file that is not there": (
        {"TPU_PROCESS_ADDRESSES_PATH": "/no/such/file"},
        "TPU_PROCESS_ADDRESSES_PATH=/no/such/file cannot be read",
    ),
    "a slice too high": ({**SLICES, "MEGASCALE_SLICE_ID": "2"}, "MEGASCALE_SLICE_ID=2 is not possible"),
    "slices without hosts": ({"MEGASCALE_COORDINATOR_ADDRESS": "a"}, "set TPU_WORKER_HOSTNAMES"),
}


@pytest.mark.parametrize("name", JOBS)
def test_a_job(name):
    variables, address, count, index = JOBS[name]
    job = job_of(variables)
    assert job is not None
    assert (job.address, job.count, job.index) == (address, count, index)


@pytest.mark.parametrize("name", ALONE)
def test_one_process_joins_nothing(name):
    assert job_of(ALONE[name]) is None


@pytest.mark.parametrize("name", REFUSED)
def test_variables_that_do_not_fit_give_one_line(name):
    variables, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as refused:
        job_of(variables)
    assert "\n" not in str(refused.value)


def test_every_index_of_a_job_is_another():
    for name, last in (("SLURM", "SLURM_PROCID"), ("GKE TPU", "TPU_WORKER_ID"), ("torchrun", "RANK")):
        variables, address, count, _ = JOBS[name]
        jobs = [job_of({**variables, last: str(index)}) for index in range(count)]
        assert [job and job.index for job in jobs] == list(range(count))
        assert {job and job.address for job in jobs} == {address}


def test_host_and_port_of_an_address():
    job = job_of(JOBS["by hand, IPv6"][0])
    assert job is not None
    assert (job.host, job.port) == ("fd00::1", 1234)


@pytest.mark.parametrize(
    ("variables", "devices"),
    [
        (SLURM, (1,)),
        ({**SLURM, "SLURM_STEP_NUM_NODES": "4"}, None),  # one task per node
        ({**SLURM, "CUDA_VISIBLE_DEVICES": "0"}, None),  # SLURM gives each task its own GPU
        ({**SLURM, "CUDA_VISIBLE_DEVICES": "0,1"}, (1,)),
        (MPI_4, (1,)),
        ({**MPI_4, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, None),
        (TORCHRUN, (5,)),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "1"}, None),
        (HAND, None),
        (GKE, None),
    ],
)
def test_the_gpus_of_a_process(variables, devices):
    job = job_of(variables)
    assert job is not None
    assert job.local_device_ids == devices


def test_what_a_launcher_calls_the_job():
    ids = [job_of(variables) for variables in (SLURM, SKYPILOT, HAND)]
    assert [job and job.id for job in ids] == ["5001.0", "sky-1", None]


# JAX's own detection must come to the same result under the same variables.


@pytest.fixture
def jax_detects(monkeypatch):
    """jax_detects(cluster, variables, on_tpu=False) -> (address, count, index, local_device_ids), by JAX."""

    def detect(cluster, variables, on_tpu=False):
        for name in {*SLURM, *MPI_4, *GKE, *SLICES, *HAND, "JAX_COORDINATOR_PORT", "TPU_SKIP_MDS_QUERY"}:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        for module in (cloud_tpu_cluster, clusters.cluster):
            monkeypatch.setattr(module, "running_in_cloud_tpu_vm", on_tpu)
        monkeypatch.setattr(cloud_tpu_cluster.BaseTpuCluster, "wait_for_coordinator", lambda *_: None)
        monkeypatch.setattr(clusters.ClusterEnv, "_cluster_types", [cluster])
        return clusters.ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, 1)

    return detect


@pytest.mark.parametrize("name", [name for name in JOBS if name.startswith("SLURM")])
def test_as_jax_under_slurm(name, jax_detects):
    job = job_of(JOBS[name][0])
    assert job is not None
    address, count, index, devices = jax_detects(slurm_cluster.SlurmCluster, JOBS[name][0])
    assert (job.address, job.count, job.index) == (address, count, index)
    assert list(job.local_device_ids or ()) == devices


@pytest.mark.parametrize("name", ["Open MPI 4", "Open MPI inside of SLURM"])
def test_as_jax_under_open_mpi(name, jax_detects):
    job = job_of(JOBS[name][0])
    assert job is not None
    found = jax_detects(ompi_cluster.OmpiCluster, JOBS[name][0])
    assert (job.address, job.count, job.index, list(job.local_device_ids or ())) == found


@pytest.mark.parametrize("name", ["GKE TPU", "GKE TPU, addresses", "multislice", "one host"])
def test_as_jax_on_gke(name, jax_detects, fake_metadata):
    one = ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},)
    variables = {**(JOBS | {"one host": one})[name][0], "GCE_METADATA_IP": fake_metadata({"tpu-env": ""})}
    job = job_of(variables, has_tpu=True)
    assert job is not None
    found = jax_detects(cloud_tpu_cluster.GkeTpuCluster, variables, on_tpu=True)
    assert (job.address, job.count, job.index, job.local_device_ids) == found
    assert job.is_tpu


def test_hosts_of_a_slice_in_a_file(tmp_path):
    file = tmp_path / "addresses"
    file.write_text("a:1,b:1,c:1\n")
    job = job_of({"TPU_PROCESS_ADDRESSES_PATH": str(file), "TPU_WORKER_ID": "2"})
    assert job is not None
    assert (job.address, job.count, job.index) == ("a:8482", 3, 2)
    file.write_text("")
    with pytest.raises(UserError, match="is empty"):
        job_of({"TPU_PROCESS_ADDRESSES_PATH": str(file), "TPU_WORKER_ID": "2"})


# Cloud TPU VMs: the metadata server.


@pytest.fixture
def fake_metadata():
    """fake_metadata(attributes) -> host:port of a metadata server; a list answers with these codes first."""
    servers = []

    def serve(attributes, codes=()):
        codes = list(codes)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
                known = name in attributes and self.headers["Metadata-Flavor"] == "Google"
                self.send_response(codes.pop(0) if codes else 200 if known else 404)
                self.end_headers()
                self.wfile.write(attributes.get(name, "").encode())

            def log_message(self, format, *args):
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"127.0.0.1:{servers[-1].server_address[1]}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


VM = {
    "agent-worker-number": "1",
    "worker-network-endpoints": "unknown:a:10.0.0.2,unknown:b:10.0.0.3",
    "tpu-env": "",
}
VMS = {
    "a slice": (VM, "10.0.0.2:8482", 2, 1),
    "a managed instance group": ({**VM, "worker-network-endpoints": "host-a,host-b"}, "host-a:8482", 2, 1),
    "one host": (
        {**VM, "agent-worker-number": "0", "worker-network-endpoints": "x:y:10.0.0.2"},
        "10.0.0.2:8482",
        1,
        0,
    ),
    "two slices": (
        {
            **VM,
            "tpu-env": "ZONE: 'z'\nMEGASCALE_COORDINATOR_ADDRESS: '10.0.0.9:8080'\n"
            "MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'",
        },
        "10.0.0.9:8482",
        4,
        3,
    ),
}


def ask(address, **how):
    variables = {"GCE_METADATA_IP": address}
    return job_of(variables, has_tpu=True, metadata=metadata_server(variables, pause=0.0, **how))


@pytest.mark.filterwarnings("ignore:'maxsplit' is passed:DeprecationWarning")  # by JAX, under Python 3.13
@pytest.mark.parametrize("name", VMS)
def test_a_cloud_tpu_vm(name, fake_metadata, jax_detects):
    attributes, address, count, index = VMS[name]
    server = fake_metadata(attributes)
    job = ask(server)
    assert job is not None
    assert (job.address, job.count, job.index, job.is_tpu) == (address, count, index, True)
    found = jax_detects(cloud_tpu_cluster.GceTpuCluster, {"GCE_METADATA_IP": server}, on_tpu=True)
    assert (job.address, job.count, job.index, job.local_device_ids) == found


def test_a_metadata_server_that_stumbles(fake_metadata):
    job = ask(fake_metadata(VM, codes=[503, 500]))
    assert job is not None
    assert job.count == 2


@pytest.mark.parametrize("how", ["no answer", "not a TPU VM", "not asked"])
def test_a_tpu_without_metadata_is_one_process(how, fake_metadata):
    server = "127.0.0.1:1" if how == "no answer" else fake_metadata({} if how == "not a TPU VM" else VM)
    variables = {"GCE_METADATA_IP": server, **({"TPU_SKIP_MDS_QUERY": "1"} if how == "not asked" else {})}
    job = job_of(variables, has_tpu=True, metadata=metadata_server(variables, tries=2, pause=0.0))
    assert job is not None
    assert (job.count, job.index, job.is_tpu) == (1, 0, True)


def test_metadata_that_are_not_known(fake_metadata):
    with pytest.raises(UserError, match="worker-network-endpoints='a:b'"):
        ask(fake_metadata({**VM, "worker-network-endpoints": "a:b"}))


def test_without_a_tpu_no_server_is_asked():
    assert job_of({}, metadata=lambda _: pytest.fail("asked")) is None


def test_a_tpu_is_joined_alone_by_hand_too():
    job = job_of({"JAX_NUM_PROCESSES": "1"}, has_tpu=True, metadata=lambda _: pytest.fail("asked"))
    assert job is not None
    assert (job.count, job.index) == (1, 0)


def test_several_nodes_with_a_tpu_each_do_not_run_alone():
    # Hosts of one slice know each other. Separate slices do not, and must not run as jobs of their own.
    with pytest.raises(UserError, match="SKYPILOT_NUM_NODES=2: the environment speaks"):
        job_of(SKYPILOT, has_tpu=True, metadata=lambda _: None)
    job = job_of({**SKYPILOT, **GKE}, has_tpu=True)
    assert job is not None
    assert (job.address, job.count) == ("a:8482", 4)


def test_a_cpu_run_on_a_tpu_vm_uses_no_tpu():
    assert not uses_tpu({"JAX_PLATFORMS": "cpu"})
