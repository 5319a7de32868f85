"""launch/tpu_vm.sh, and the form of all scripts."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*(ROOT / "launch").glob("*.sh"), *(ROOT / ".ci").iterdir()])
SHELLCHECK = shutil.which("shellcheck", path=Path(sys.executable).parent)


@pytest.mark.parametrize("python", [".venv/bin/python", "python3"])
def test_the_hosts_of_a_tpu_vm(bench, python):
    home = bench.folder / "drl_jax"
    home.mkdir()
    if python != "python3":
        bench.add(home / python)
    line = ("train", "--config=configs/cifar10.py:t6", "--workdir=gs://bucket/a run's")
    code, _ = bench.run("tpu_vm.sh", *line, codes=(7,), TPU="name", ZONE="zone")
    assert code == 7
    assert bench.called("gcloud")[:7] == [
        "compute", "tpus", "tpu-vm", "ssh", "name", "--zone=zone", "--worker=all",
    ]  # fmt: skip
    called = bench.called("python.0")
    assert called["arguments"] == ["-m", "drl_jax", *line]
    assert called["program"].endswith(python)


def test_a_host_without_the_repository(bench):
    code, _ = bench.run("tpu_vm.sh", "train", codes=(0,), TPU="name", ZONE="zone")
    assert code == 1
    assert not (bench.records / "python.0").exists()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_the_form_of_a_script(script):
    subprocess.run(["bash", "-n", script], check=True)
    if SHELLCHECK is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run([SHELLCHECK, script], check=True)
