"""launch/tpu_vm.sh and the startup script of its hosts."""

import json
import shlex
import signal
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.launch.conftest import GCLOUD, LAUNCH, PROGRAM

LINE = ("train", "--config=configs/cifar10.py:t6", "--workdir=gs://bucket/a run's", "--config.a=(1,2)")
GIVEN = {"TPU": "name", "ZONE": "zone", "SOURCE": "gs://bucket/source.tar.gz"}

# Records its arguments. `python3 -m uv venv … FOLDER` makes a Python there: the stub of the program.
PYTHON3 = f"""
import json, os, sys

with open(f"{{os.environ['RECORDS']}}/python3", "a") as record:
    record.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[2:4] == ["uv", "venv"]:
    python = f"{{sys.argv[-1]}}/bin/python"
    os.makedirs(os.path.dirname(python), exist_ok=True)
    with open(python, "w") as file:
        file.write("#!" + sys.executable + " -S\\n" + {PROGRAM!r})
    os.chmod(python, 0o755)
sys.exit(int(os.environ.get("INSTALL_CODE", 0)))
"""

FAILS_FOR_DATA = """
import sys

sys.exit("--recursive" in sys.argv)
"""


@pytest.mark.parametrize(
    ("slice", "expected"),
    [
        ("v4:2x2x4", ["--accelerator-type=v4-32", "--runtime-version=tpu-ubuntu2204-base"]),
        ("v5e:4x4", ["--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite"]),
        ("v5p:4x4x4", ["--accelerator-type=v5p-128", "--runtime-version=v2-alpha-tpuv5"]),
        ("v6e:16x16", ["--accelerator-type=v6e-256", "--runtime-version=v2-alpha-tpuv6e"]),
    ],
)
def test_a_slice_is_asked_for(bench, slice, expected):
    assert bench.run("tpu_vm.sh", "create", slice, "--spot", "--", *LINE, codes=(), **GIVEN) == (0, "")
    called = bench.called("gcloud")
    assert called[:5] == ["compute", "tpus", "queued-resources", "create", "name"]
    (metadata,) = (a for a in called if a.startswith("--metadata="))
    assert called[5:] == [
        "--zone=zone", "--node-id=name", *expected, metadata,
        f"--metadata-from-file=startup-script={LAUNCH}/tpu_vm_startup", "--spot",
    ]  # fmt: skip
    source, command = metadata.removeprefix("--metadata=^;;^").split(";;")
    assert source == "drl-jax-source=gs://bucket/source.tar.gz"
    assert shlex.split(command.removeprefix("drl-jax-command=")) == list(LINE)


def test_a_slice_with_a_data_set(bench):
    data = "gs://bucket/data/cifar10"
    bench.run("tpu_vm.sh", "create", "v6e:4x4", "--", *LINE, codes=(), DATA=data, **GIVEN)
    (metadata,) = (a for a in bench.called("gcloud") if a.startswith("--metadata="))
    source, data, command = metadata.removeprefix("--metadata=^;;^").split(";;")
    assert source == "drl-jax-source=gs://bucket/source.tar.gz"
    assert data == "drl-jax-data=gs://bucket/data/cifar10"
    assert shlex.split(command.removeprefix("drl-jax-command=")) == list(LINE)


def test_two_slices_and_another_runtime(bench):
    nodes = ("--reserved", "--node-count=2", "--node-prefix=p")
    bench.run("tpu_vm.sh", "create", "v6e:4x4", *nodes, "--", *LINE, codes=(), RUNTIME="new", **GIVEN)
    called = bench.called("gcloud")
    assert called[-3:] == list(nodes)
    assert "--runtime-version=new" in called
    assert "--node-id=name" not in called


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (("train",), {}, "the first word is 'train'"),
        (("create", "v6e:4x4x4", "--", *LINE), {}, "the slice 'v6e:4x4x4' is not possible"),
        (("create", "tpu7x:2x2x1", "--", *LINE), {}, "the slice 'tpu7x:2x2x1' is not possible"),
        (("create", "v6e:4x4", "train"), {}, "the command is missing"),
        (("create", "v6e:4x4", "--"), {}, "the command is missing"),
        (("create", "v6e:4x4", "--", *LINE), {"SOURCE": "."}, "SOURCE='.' must be"),
        (("create", "v6e:4x4", "--", *LINE), {"DATA": "cifar10"}, "DATA='cifar10' must be the folder"),
        (("delete",), {"TPU": ""}, "TPU is not set"),
        (("delete",), {"ZONE": ""}, "ZONE is not set"),
    ],
)
def test_a_mistake_gives_one_line(bench, arguments, variables, said):
    code, printed = bench.run("tpu_vm.sh", *arguments, codes=(), **(GIVEN | variables))
    assert (code, printed.count("\n")) == (1, 1)
    assert said in printed
    assert not (bench.records / "gcloud").exists()


def test_a_slice_is_deleted(bench):
    bench.run("tpu_vm.sh", "delete", codes=(), **GIVEN)
    assert bench.called("gcloud") == [
        "compute", "tpus", "queued-resources", "delete", "name", "--zone=zone", "--force", "--quiet",
    ]  # fmt: skip


def test_the_log_of_a_host(bench):
    bench.add(bench.bin / "sudo", GCLOUD.replace("/gcloud", "/sudo"))
    bench.run("tpu_vm.sh", "log", "--follow", codes=(), **GIVEN)
    assert "--worker=0" in bench.called("gcloud")
    assert bench.called("sudo") == ["journalctl", "--unit=google-startup-scripts", "--output=cat", "--follow"]


@pytest.mark.parametrize("python", [".venv/bin/python", "python3"])
def test_a_command_on_all_hosts(bench, python):
    home = bench.folder / "drl_jax"
    home.mkdir()
    if python != "python3":
        bench.add(home / python)
    code, _ = bench.run("tpu_vm.sh", "ssh", *LINE, codes=(7,), **GIVEN)
    assert code == 7
    assert bench.called("gcloud")[:7] == [
        "compute", "tpus", "tpu-vm", "ssh", "name", "--zone=zone", "--worker=all",
    ]  # fmt: skip
    called = bench.called("python.0")
    assert called["arguments"] == ["-m", "drl_jax", *LINE]
    assert called["program"].endswith(python)


def test_a_host_without_the_repository(bench):
    code, _ = bench.run("tpu_vm.sh", "ssh", "train", codes=(0,), **GIVEN)
    assert code == 1
    assert not (bench.records / "python.0").exists()


class Metadata(BaseHTTPRequestHandler):
    """The metadata server of a host."""

    def __init__(self, attributes, *args):
        self.attributes = attributes
        super().__init__(*args)

    def do_GET(self):
        folder, _, name = self.path.rpartition("/")
        known = folder == "/computeMetadata/v1/instance/attributes" and name in self.attributes
        self.send_response(200 if known and self.headers["Metadata-Flavor"] == "Google" else 404)
        self.end_headers()
        self.wfile.write(self.attributes.get(name, "").encode())

    def log_message(self, format, *args):
        pass


class Host:
    """A TPU host: runs the startup script with stub commands."""

    def __init__(self, bench):
        self.bench = bench
        bench.add(bench.bin / "python3", PYTHON3)
        bench.add(bench.bin / "tar", "")
        self.attributes = {"drl-jax-source": GIVEN["SOURCE"], "drl-jax-command": shlex.join(LINE)}
        self.server = HTTPServer(("localhost", 0), partial(Metadata, self.attributes))
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def start(self, code: int, **variables: str):
        variables |= {
            "GCE_METADATA_HOST": f"localhost:{self.server.server_port}",
            "DRL_JAX_HOME": str(self.bench.folder / "home"),
            "DRL_JAX_PAUSE": "0",
        }
        return self.bench.start("tpu_vm_startup", codes=(code,), **variables)

    def boot(self, code: int, **variables: str) -> int:
        """The exit code of the script, when the program ends with `code`."""
        return self.bench.finish(self.start(code, **variables))[0]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def host(bench):
    host = Host(bench)
    yield host
    host.close()


def test_a_host_installs_the_source_and_runs_the_command(host, bench):
    assert host.boot(0) == 0
    home = bench.folder / "home"
    python = f"{home}/venv/bin/python"
    assert bench.called("gcloud") == ["storage", "cp", GIVEN["SOURCE"], f"{home}/source.tar.gz"]
    steps = [json.loads(line) for line in (bench.records / "python3").read_text().splitlines()]
    assert steps == [
        ["-m", "pip", "install", "--quiet", "uv"],
        ["-m", "uv", "venv", "--quiet", "--clear", "--python=3.12", f"{home}/venv"],
        ["-m", "uv", "pip", "install", "--quiet", f"--python={python}", f"{home}/source[tpu,gcs]"],
    ]
    called = bench.called("python.0")
    assert called["arguments"] == ["-m", "drl_jax", *LINE]
    assert called["variables"] == {}  # the program finds the other hosts
    assert called["data"] is None
    # The next boot installs nothing.
    assert host.boot(0) == 0
    assert not (bench.records / "gcloud").exists()
    assert bench.starts(0) == 1


def test_a_host_copies_the_data_set_once(host, bench):
    host.attributes["drl-jax-data"] = "gs://bucket/data/cifar10/"
    home = bench.folder / "home"
    bench.add(bench.bin / "gcloud", FAILS_FOR_DATA)
    assert host.boot(0) == 1
    assert not (bench.records / "starts.0").exists()
    bench.add(bench.bin / "gcloud", GCLOUD)
    assert host.boot(0) == 0
    folder = f"{home}/data"
    assert (home / "data").is_dir()  # so gcloud copies into it, as data/cifar10
    assert bench.called("gcloud") == ["storage", "cp", "--recursive", "gs://bucket/data/cifar10", folder]
    assert bench.called("python.0")["data"] == folder
    # The next boot copies nothing, and the program still finds the data.
    assert host.boot(0) == 0
    assert not (bench.records / "gcloud").exists()
    assert bench.called("python.0")["data"] == folder


@pytest.mark.parametrize(
    ("code", "starts", "expected"), [(0, 1, 0), (1, 1, 1), (2, 1, 1), (42, 21, 1), (137, 21, 1)]
)
def test_restarts_of_a_host_are_bounded(host, bench, code, starts, expected):
    assert host.boot(code) == expected
    assert bench.starts(0) == starts


def test_a_program_goes_on_after_a_restart(host, bench):
    assert host.boot(42, LATER="0") == 0
    assert bench.starts(0) == 2


def test_a_host_that_shuts_down_stops_the_program(host, bench):
    job = host.start(42, UNTIL_SIGNAL="1")
    bench.called("python.0")
    job.send_signal(signal.SIGTERM)
    assert bench.finish(job)[0] == 42
    assert bench.signals(0) == "SIGTERM"
    assert bench.starts(0) == 1


def test_a_host_that_cannot_install_says_so(host, bench):
    assert host.boot(0, INSTALL_CODE="3") == 1
    assert not (bench.records / "starts.0").exists()
    del host.attributes["drl-jax-command"]
    assert host.boot(0) == 1
