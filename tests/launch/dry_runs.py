"""Gives the launch files to the real xpk and SkyPilot, without a cluster or an account. Run it by hand:

    python tests/launch/dry_runs.py

It installs both in environments of their own, in a temporary folder that it deletes (1 GB).
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
VERSIONS = {"xpk": "xpk==1.16.0", "sky": "skypilot[gcp]==0.14.1"}
RESTART = {42, *range(128, 256)}

XPK = """#!/bin/sh
exec {xpk} "$@" --dry-run --skip-validation --no-dependency-auto-download --project-number=1 \
  --output-manifest-file={manifest}
"""

# Stands in for the image's python: the copy of the data set succeeds, the program ends with 42 after SIGTERM.
PYTHON = """#!/bin/bash
[ "$1" = -c ] && exit
trap 'exit 42' TERM
echo "$@" >{record}
while :; do sleep 0.1; done
"""

SKY = """
import json, sys
import sky

import yaml

task = sky.Task.from_yaml_config(yaml.safe_load(open(sys.argv[1])), list(json.loads(sys.argv[2]).items()))
(resources,) = task.resources
print(json.dumps({
    "nodes": task.num_nodes,
    "accelerators": resources.accelerators,
    "recovery": resources.job_recovery,
    "spot": resources.use_spot,
    "mounts": {k: v for k, v in (task.file_mounts or {}).items()},
    "storage": {k: str(v.source) for k, v in task.storage_mounts.items()},
    "envs": dict(task.envs),
    "run": task.run,
}))
"""


def install(folder: Path, name: str) -> Path:
    """The folder of the commands of an engine."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
    subprocess.run([folder / name / "bin/pip", "install", "-q", VERSIONS[name]], check=True)
    size = subprocess.run(
        ["du", "-sm", folder / name], check=True, capture_output=True, text=True
    ).stdout.split()[0]
    print(f"{VERSIONS[name]}: installed in {time.monotonic() - began:.0f} s, {size} MB", flush=True)
    return folder / name / "bin"


def xpk_manifest(folder: Path, xpk: Path, **variables: str) -> dict[str, Any]:
    """The JobSet that launch/xpk.sh makes xpk write."""
    manifest = folder / "manifest.yaml"
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin/xpk").write_text(XPK.format(xpk=xpk, manifest=manifest))
    (folder / "bin/xpk").chmod(0o755)
    common = {"NAME": "t6", "CLUSTER": "c", "PROJECT": "p", "ZONE": "us-central1-a"}
    common |= {"IMAGE": "image:tag", "BUCKET": "bucket", "DATA": "cifar10"}
    environment = os.environ | common | variables | {"PATH": f"{folder}/bin:{os.environ['PATH']}"}
    line = ["train", "--config=cifar10:t6", "--workdir=gs://bucket/runs/a $run"]
    done = subprocess.run([ROOT / "launch/xpk.sh", *line], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return yaml.safe_load(manifest.read_text())


def check_xpk(folder: Path) -> None:
    """A TPU job of two slices and a GPU job of two nodes."""
    xpk = install(folder, "xpk") / "xpk"
    for variables, replicas, pods in [
        ({"TYPE": "v6e-16", "SLICES": "2"}, 2, 4),
        ({"TYPE": "h200-141gb-8", "NODES": "2"}, 1, 2),
    ]:
        document = xpk_manifest(folder, xpk, **variables)
        (job,) = document["spec"]["replicatedJobs"]
        spec = job["template"]["spec"]
        pod = spec["template"]["spec"]
        container = pod["containers"][0]
        found = {
            "maxRestarts": document["spec"]["failurePolicy"]["maxRestarts"],
            "replicas": job["replicas"],
            "parallelism": spec["parallelism"],
            "grace": pod["terminationGracePeriodSeconds"],
        }
        expected = {"maxRestarts": 100, "replicas": replicas, "parallelism": pods, "grace": 180}
        assert found == expected, found
        (rule,) = spec["podFailurePolicy"]["rules"]
        codes = rule["onExitCodes"]
        assert codes["operator"] == "NotIn"
        assert codes["containerName"] == container["name"]
        assert set(codes["values"]) - RESTART == {127}, codes  # command not found, says xpk, may pass
        assert set(codes["values"]) >= RESTART
        print(f"{variables['TYPE']}: the manifest of xpk has {found}")
        check_sigterm(folder, container["command"])


def check_sigterm(folder: Path, command: list[str]) -> None:
    """What xpk's container does with SIGTERM."""
    record = folder / "record"
    record.unlink(missing_ok=True)
    (folder / "image").mkdir(exist_ok=True)
    (folder / "image/python").write_text(PYTHON.format(record=record))
    (folder / "image/python").chmod(0o755)
    container = subprocess.Popen(
        command,
        env={"PATH": f"{folder}/image:/usr/bin:/bin"},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 30
        while not (record.exists() and record.read_text()):
            assert time.monotonic() < end, "the program was not started"
            time.sleep(0.05)
        line = ["-m", "drl_jax", "train", "--config=cifar10:t6", "--workdir=gs://bucket/runs/a", "$run"]
        assert record.read_text().split() == line, record.read_text()
        began = time.monotonic()
        container.send_signal(signal.SIGTERM)
        assert container.wait(60) == 42
        print(f"  SIGTERM to its container: exit code 42 after {time.monotonic() - began:.1f} s")
    finally:
        if container.poll() is None:
            os.killpg(container.pid, signal.SIGKILL)
            container.wait()


def check_sky(folder: Path) -> None:
    """Both files, and that a wrong key or a missing value is refused."""
    python = install(folder, "sky") / "python"
    values = json.dumps(dict.fromkeys(("BUCKET", "NAME", "DATA", "CONFIG"), "x"))

    def load(text: str, given: str = values) -> subprocess.CompletedProcess:
        file = folder / "task.yaml"
        file.write_text(text)
        command = [python, "-c", SKY, file, given]
        # It writes to the home folder, and looks for the files of `workdir`.
        return subprocess.run(
            command, cwd=ROOT, env=os.environ | {"HOME": str(folder)}, capture_output=True, text=True
        )

    for name in ("sky_tpu.yaml", "sky_gpu.yaml"):
        text = (ROOT / "launch" / name).read_text()
        done = load(text)
        assert done.returncode == 0, done.stderr
        task = json.loads(done.stdout.splitlines()[-1])
        assert task["recovery"]["recover_on_exit_codes"] == [42], task
        assert "exec .venv/bin/python -m drl_jax train" in task["run"]
        assert {**task["mounts"], **task["storage"]} == {"/tmp/data/x": "gs://x/data/x"}, task
        print(f"{name}: {task['nodes']} x {task['accelerators']}, {task['recovery']}")
        for wrong, given, expected in [
            (text.replace("setup:", "setups:"), values, "setup"),
            (text, "{}", "'NAME' is None"),
        ]:
            done = load(wrong, given)
            last = done.stderr.strip().splitlines()[-1]
            assert done.returncode != 0, "accepted"
            assert expected in last, done.stderr
            print(f"  refused: {last[:150]}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        check_xpk(Path(place))
        check_sky(Path(place))
    print("all dry runs passed")
