"""launch/xpk.sh and launch/gcluster.sh: what they call, and what runs in the container then."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.launch import manifests

LAUNCH = Path(__file__).parents[2] / "launch"
SHELLCHECK = shutil.which("shellcheck", path=Path(sys.executable).parent)
LINE = ("train", "--config=configs/cifar10.py:t6", "--workdir=gs://bucket/runs/a $run")
COMMON = {"NAME": "t6", "IMAGE": "image:tag", "BUCKET": "bucket", "DATA": "cifar10"}
XPK = COMMON | {"TYPE": "v6e-16", "CLUSTER": "cluster", "PROJECT": "project", "ZONE": "zone"}
GCLUSTER = COMMON | {"TYPE": "ct6e-standard-4t", "TOPOLOGY": "4x4"}

# Prints what it was called with, one argument per line, and ends with a code of its own.
ENGINE = '#!/bin/sh\nprintf \'%s\\n\' "$@" >"$RECORD"; echo $$ >"$RECORD.pid"; exit 7\n'

# The python of the image: the copy of the data set, and the program.
PYTHON = """#!/usr/bin/env bash
if [ "$1" = -c ]; then printf '%s\\n' "${@:2}" >"$RECORD.copy"; exit "${COPY:-0}"; fi
trap 'exit 42' TERM
printf '%s\\n' "$TFDS_DATA_DIR" "$JAX_COMPILATION_CACHE_DIR" "$@" >"$RECORD.writing"
mv "$RECORD.writing" "$RECORD.program"
while :; do sleep 0.02; done
"""


def stub(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def call(folder: Path, engine: str, variables: dict[str, str], line: Sequence[str] = LINE) -> tuple[int, str]:
    """The exit code of a wrapper with a stub of its engine, and what it printed to stderr."""
    stub(folder / "bin", engine, ENGINE)
    environment = {"PATH": f"{folder}/bin:/usr/bin:/bin", "RECORD": str(folder / "record")} | variables
    command = [LAUNCH / f"{engine}.sh", *line]
    wrapper = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    _, printed = wrapper.communicate(timeout=60)
    if wrapper.returncode == 7:  # the engine has taken the place of the wrapper
        assert (folder / "record.pid").read_text() == f"{wrapper.pid}\n"
    return wrapper.returncode, printed


def called(folder: Path) -> list[str]:
    return (folder / "record").read_text().splitlines()


def test_xpk(tmp_path):
    assert call(tmp_path, "xpk", XPK | {"SLICES": "2"})[0] == 7
    *options, command = called(tmp_path)
    assert options == [
        "workload", "create", "--workload=t6", "--cluster=cluster", "--project=project", "--zone=zone",
        "--device-type=v6e-16", "--num-slices=2", "--num-nodes=1", "--docker-image=image:tag",
        "--max-restarts=100", "--termination-grace-period-seconds=180",
    ]  # fmt: skip
    assert command.startswith("--command=")


def test_gcluster(tmp_path):
    assert call(tmp_path, "gcluster", GCLUSTER | {"SLICES": "2", "QUEUE": "q"})[0] == 7
    *options, _ = called(tmp_path)
    codes = options.pop(options.index("--restart-on-exit-codes") + 1)
    assert [int(code) for code in codes.split(",")] == manifests.RESTART
    assert options == [
        "job", "submit", "--name", "t6", "--image", "image:tag", "--compute-type", "ct6e-standard-4t",
        "--topology", "4x4", "--num-slices", "2", "--restarts", "100", "--restart-on-exit-codes",
        "--grace-period", "180s", "--queue", "q", "--command",
    ]  # fmt: skip
    call(tmp_path, "gcluster", GCLUSTER)
    assert "--queue" not in called(tmp_path)


@pytest.mark.parametrize(("engine", "variables"), [("xpk", XPK), ("gcluster", GCLUSTER)])
def test_a_variable_is_missing(tmp_path, engine, variables):
    for name in variables:
        code, printed = call(tmp_path, engine, {key: variables[key] for key in variables if key != name})
        assert code == 1
        assert printed == f"launch/{engine}.sh: these variables are missing: {name}=…\n"
        assert printed.count("\n") == 1
        assert not (tmp_path / "record").exists()


@pytest.mark.parametrize(("engine", "variables"), [("xpk", XPK), ("gcluster", GCLUSTER)])
def test_what_runs_in_the_container(tmp_path, engine, variables):
    """bash -c COMMAND, as gcluster's containers have it: the program takes its place, and gets SIGTERM."""
    call(tmp_path, engine, variables)
    command = called(tmp_path)[-1].removeprefix("--command=")
    stub(tmp_path / "image", "python", PYTHON)
    environment = {"PATH": f"{tmp_path}/image:/usr/bin:/bin", "RECORD": str(tmp_path / "record")}
    container = subprocess.Popen(["bash", "-c", command], env=environment)
    try:
        end = time.monotonic() + 30
        while not (tmp_path / "record.program").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        assert (tmp_path / "record.program").read_text().splitlines() == [
            "/tmp/data", "gs://bucket/cache", "-m", "drl_jax", *LINE,
        ]  # fmt: skip
        assert (tmp_path / "record.copy").read_text().splitlines() == [
            "import gcsfs, sys; gcsfs.GCSFileSystem().get(*sys.argv[1:], recursive=True)",
            "bucket/data/cifar10/", "/tmp/data/cifar10",
        ]  # fmt: skip
        os.kill(container.pid, signal.SIGTERM)
        assert container.wait(30) == 42
    finally:
        container.kill()
        container.wait()


@pytest.mark.parametrize(("engine", "variables"), [("xpk", XPK), ("gcluster", GCLUSTER)])
def test_the_data_set_is_missing(tmp_path, engine, variables):
    call(tmp_path, engine, variables)
    command = called(tmp_path)[-1].removeprefix("--command=")
    stub(tmp_path / "image", "python", PYTHON)
    environment = {"PATH": f"{tmp_path}/image:/usr/bin:/bin", "RECORD": str(tmp_path / "record"), "COPY": "1"}
    assert subprocess.run(["bash", "-c", command], env=environment).returncode == 1
    assert not (tmp_path / "record.program").exists()


@pytest.mark.parametrize(("engine", "variables"), [("xpk", XPK), ("gcluster", GCLUSTER)])
@pytest.mark.parametrize("argument", ["a'b", 'a"b', "a\\b"])
def test_an_argument_that_would_break_the_yaml(tmp_path, engine, variables, argument):
    code, printed = call(tmp_path, engine, variables, ["train", f"--workdir={argument}"])
    assert code == 1
    assert printed == f"launch/{engine}.sh: --workdir={argument}: quotes and \\ are not possible here\n"
    assert not (tmp_path / "record").exists()


@pytest.mark.parametrize(("engine", "variables"), [("xpk", XPK), ("gcluster", GCLUSTER)])
def test_a_mistake_is_told_before_the_engine_is_called(tmp_path, engine, variables):
    def refused(given, line=LINE):
        code, printed = call(tmp_path, engine, given, line)
        assert (code, printed.count("\n"), (tmp_path / "record").exists()) == (1, 1, False)
        return printed.removeprefix(f"launch/{engine}.sh: ")

    two = {name: value for name, value in variables.items() if name not in ("NAME", "DATA")}
    assert refused(two) == "these variables are missing: NAME=… DATA=…\n"
    assert refused(variables, []).startswith("the command is missing, as in: ")
    assert refused(variables | {"BUCKET": "gs://b"}).startswith("BUCKET=gs://b: only the name")
    if engine == "gcluster":
        assert refused(variables | {"NAME": "n" * 29}).endswith("is too long: at most 28 characters\n")


@pytest.mark.parametrize("name", ["render", "xpk.sh", "gcluster.sh", "slurm.sh", "tpu_vm.sh"])
def test_the_form_of_a_script(name):
    if SHELLCHECK is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run([SHELLCHECK, LAUNCH / name], check=True)
