"""The YAML files of launch/: complete and valid for their engines, and changed ones are found."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from yamllint import linter
from yamllint.config import YamlLintConfig

from tests.launch import manifests

LAUNCH = Path(__file__).parents[2] / "launch"
VALUES = {
    "NAME": "t6",
    "IMAGE": "europe-docker.pkg.dev/project/repository/drl_jax:tpu",
    "BUCKET": "bucket",
    "DATA": "cifar10",
    "CONFIG": "cifar10:t6",
    "QUEUE": "queue",
}
RENDERED = sorted([*LAUNCH.glob("jobset_*.yaml"), LAUNCH / "trainjob.yaml"])
TPU = LAUNCH / "jobset_tpu.yaml"
SLICES = LAUNCH / "jobset_tpu_slices.yaml"
NODES = LAUNCH / "jobset_gpu_nodes.yaml"
TRAINJOB = LAUNCH / "trainjob.yaml"
LINT = YamlLintConfig(
    "{extends: default, rules: {line-length: {max: 120}, document-start: disable, "
    "comments: {min-spaces-from-content: 1}}}"
)


def run(*files: Path | str, **variables: str) -> subprocess.CompletedProcess:
    environment = {"PATH": "/usr/bin:/bin"} | variables
    return subprocess.run([LAUNCH / "render", *files], env=environment, capture_output=True, text=True)


@functools.cache
def rendered(file: Path) -> str:
    done = run(file, **VALUES)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def render(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(rendered(file)))


@pytest.mark.parametrize("file", RENDERED, ids=lambda file: file.name)
def test_a_file_is_valid(file):
    assert manifests.problems(render(file)) == []


@pytest.mark.parametrize("file", sorted(LAUNCH.glob("*.yaml")), ids=lambda file: file.name)
def test_the_form_of_a_file(file):
    assert [str(problem) for problem in linter.run(file.read_text(), LINT)] == []


def test_the_linter_finds_a_key_that_is_given_twice():
    assert [problem.rule for problem in linter.run("a: 1\na: 2\n", LINT)] == ["key-duplicates"]


@pytest.mark.parametrize("file", RENDERED, ids=lambda file: file.name)
def test_a_file_names_its_machines(file):
    selectors = re.findall(r"cloud.google.com/gke-(?:tpu-)?accelerator: (\S+)", file.read_text())
    (accelerator,) = selectors
    machines = (
        set(manifests.TPUS[accelerator])
        if accelerator in manifests.TPUS
        else {manifests.GPUS[accelerator][0]}
    )
    named = manifests.machines_named(file.read_text())
    if file != TRAINJOB:
        assert named
    assert named <= machines


# What a user may get wrong: where (a path in the last of the file's documents), the value, and what is said.
JOB = ("spec", "replicatedJobs", 0, "template", "spec")
POD = (*JOB, "template", "spec")
MAIN = (*POD, "containers", 0)
RULE = (*JOB, "podFailurePolicy", "rules", 0)
REMOVE = object()


@pytest.mark.parametrize(
    ("file", "path", "value", "expected"),
    [
        (TPU, (*JOB, "paralelism"), 4, "no key .spec.replicatedJobs[0].template.spec.paralelism"),
        (TPU, (*POD, "nodeSelectors"), {}, "no key"),
        (TPU, ("spec", "failurePolicy", "maxRestart"), 1, "no key .spec.failurePolicy.maxRestart"),
        (TPU, (*MAIN, "resources", "limits", "google.com/tpu"), [4], "ResourceQuantity"),
        (TPU, (*JOB, "completions"), "four", "completions"),
        (TPU, ("spec", "failurePolicy", "rules", 0, "action"), "FailJobset", "no action FailJobset"),
        (TPU, ("spec", "failurePolicy", "rules", 0, "action"), "RestartJobSet", "not FailJobSet"),
        (
            TPU,
            ("spec", "failurePolicy", "rules", 0, "action"),
            REMOVE,
            ".spec.failurePolicy.rules[0].action is missing",
        ),
        (TPU, ("spec", "failurePolicy", "rules", 0, "name"), REMOVE, "rules[0].name is missing"),
        (TPU, (*JOB, "template"), REMOVE, "template: Input should be"),
        (TPU, ("spec", "failurePolicy", "restartStrategy"), "Blocking", "no restartStrategy Blocking"),
        (TPU, ("spec", "failurePolicy", "restartStrategy"), "Recreate", "share the workdir"),
        (TPU, ("spec", "failurePolicy", "maxRestarts"), 0, "maxRestarts"),
        (TPU, ("metadata", "labels"), {}, "kueue.x-k8s.io/queue-name is missing"),
        (TPU, ("metadata", "annotations"), {}, "exclusive-topology is missing"),
        (TPU, (*POD, "restartPolicy"), "OnFailure", "restartPolicy"),
        (TPU, (*POD, "terminationGracePeriodSeconds"), 30, "below 120"),
        (TPU, (*JOB, "backoffLimit"), 6, "backoffLimit"),
        (TPU, (*RULE, "onExitCodes", "operator"), "NotInn", "NotIn"),
        (TPU, (*RULE, "onExitCodes", "values"), [42], "42 and 128 to 255"),
        (TPU, (*RULE, "onExitCodes", "containerName"), "main", "do not exist: main"),
        (TPU, (*JOB, "parallelism"), 2, "completions is 4 and parallelism 2"),
        (TPU, (*JOB, "parallelism"), 2, "2 hosts of 4 chips are not the 16 chips of 4x4"),
        (TPU, (*MAIN, "resources", "limits", "google.com/tpu"), 8, "with 8 chips per host"),
        (TPU, (*MAIN, "resources", "limits", "google.com/tpu"), 3, "no machine of tpu-v6e-slice has so many"),
        (TPU, (*MAIN, "resources", "limits"), {"nvidia.com/gpu": 8}, "not google.com/tpu"),
        (TPU, (*POD, "nodeSelector", manifests.TOPOLOGY), "4x5", "no topology 4x5"),
        (
            TPU,
            (*POD, "nodeSelector", manifests.TPU),
            "tpu-v6e",
            "no cloud.google.com/gke-tpu-accelerator tpu-v6e",
        ),
        (TPU, (*POD, "tolerations"), [], "toleration of google.com/tpu"),
        (TPU, (*POD, "dnsPolicy"), "ClusterFirst", "dnsPolicy"),
        (TPU, (*MAIN, "command"), ["bash", "-c", "python -m drl_jax"], "SIGTERM"),
        (TPU, (*MAIN, "args"), ["train", "--workdir=runs/t6"], "--workdir"),
        (TPU, (*MAIN, "env", 0, "value"), "/elsewhere", "TFDS_DATA_DIR"),
        (TPU, (*MAIN, "env", 1, "value"), "/cache", "JAX_COMPILATION_CACHE_DIR"),
        (TPU, (*MAIN, "env", 2, "name"), "JAX_PROCESS_ID", "JAX_PROCESS_ID: on TPUs"),
        (NODES, ("spec", "replicatedJobs", 0, "replicas"), 2, "pods of one job"),
        (NODES, (*JOB, "parallelism"), 4, "JAX_NUM_PROCESSES is not 4"),
        (NODES, ("metadata", "name"), "other", "JAX_COORDINATOR_ADDRESS is not other-node-0-0.other:PORT"),
        (NODES, (*MAIN, "env", 5, "valueFrom", "fieldRef", "fieldPath"), "metadata.name", "JAX_PROCESS_ID"),
        (NODES, (*MAIN, "resources", "limits", "nvidia.com/gpu"), 4, "has 8"),
        (NODES, (*POD, "nodeSelector", manifests.GPU), "nvidia-h100", "gke-accelerator nvidia-h100"),
        (TRAINJOB, ("spec", "trainer", "numNode"), 2, "no key .spec.trainer.numNode"),
        (TRAINJOB, ("spec", "runtimeRef", "name"), "other", "no runtime other"),
        (TRAINJOB, ("spec", "trainer", "resourcesPerNode", "limits", "nvidia.com/gpu"), 4, "has 8"),
        (TRAINJOB, ("spec", "trainer", "command"), ["sh", "-c", "python -m drl_jax"], "SIGTERM"),
    ],
)
def test_a_mistake_is_found(file, path, value, expected):
    documents = render(file)
    place = documents[-1]
    for key in path[:-1]:
        place = place[key]
    if value is REMOVE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    assert any(expected in problem for problem in manifests.problems(documents)), manifests.problems(
        documents
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda template: template["spec"]["failurePolicy"].update(restartStrategy="Recreate"),
            "share the workdir",
        ),
        (lambda template: template["spec"]["replicatedJobs"][0].update(name="trainer"), "not called node"),
        (
            lambda template: template["spec"]["replicatedJobs"][0]["template"].update(
                metadata={"labels": {}}
            ),
            "labelled",
        ),
    ],
)
def test_a_mistake_in_a_runtime_is_found(change, expected):
    documents = render(TRAINJOB)
    change(documents[0]["spec"]["template"])
    assert any(expected in problem for problem in manifests.problems(documents))


def test_more_hosts_and_other_topologies_are_valid():
    for machine, topology, hosts, chips, accelerator in [
        ("ct6e-standard-4t", "16x16", 64, 4, "tpu-v6e-slice"),
        ("ct5p-hightpu-4t", "4x4x8", 32, 4, "tpu-v5p-slice"),
        ("ct6e-standard-8t", "2x4", 1, 8, "tpu-v6e-slice"),
    ]:
        (document,) = render(SLICES)
        spec = document["spec"]["replicatedJobs"][0]["template"]["spec"]
        pod = spec["template"]["spec"]
        spec.update(parallelism=hosts, completions=hosts)
        pod["nodeSelector"].update({manifests.TPU: accelerator, manifests.TOPOLOGY: topology})
        pod["containers"][0]["resources"]["limits"]["google.com/tpu"] = chips
        assert manifests.problems([document]) == []
        assert manifests.fits(machine, topology)


@pytest.mark.parametrize(("machine", "topology"), [
    ("ct6e-standard-4t", "32x32"), ("ct6e-standard-8t", "4x4"), ("ct5p-hightpu-4t", "4x4"),
    ("ct5p-hightpu-4t", "4x4x6"), ("ct4p-hightpu-4t", "8x16x64"), ("ct9-standard-4t", "4x4"),
])  # fmt: skip
def test_a_topology_that_does_not_exist(machine, topology):
    assert not manifests.fits(machine, topology)


def test_a_variable_is_missing():
    done = run(TPU, NAME="t6", IMAGE="image", BUCKET="bucket", DATA="")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"launch/render: {TPU} needs these variables: CONFIG=… DATA=… QUEUE=…\n"


@pytest.mark.parametrize("value", ["a: b", 'a"b', "$(id)", "-a", "a\nb", "{a}", "a#b", "ä", "\\1", "&"])
def test_a_value_that_would_break_the_yaml(value):
    done = run(TPU, **VALUES | {"NAME": value})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"launch/render: NAME={value} is not possible: ")


@pytest.mark.parametrize(
    ("files", "expected"), [((), "usage"), ((TPU, TPU), "usage"), (("no.yaml",), "no file no.yaml")]
)
def test_a_wrong_call_of_render(files, expected):
    done = run(*files, **VALUES)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("launch/render: ")
    assert done.stderr.count("\n") == 1
    assert expected in done.stderr


def test_what_is_rendered():
    (document,) = render(TPU)
    pod = document["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert document["metadata"]["name"] == "t6"
    assert pod["containers"][0]["image"] == VALUES["IMAGE"]
    assert pod["containers"][0]["args"] == ["train", "--config=cifar10:t6", "--workdir=gs://bucket/runs/t6"]


GCSFS = """
import fsspec

def GCSFileSystem():
    storage = fsspec.filesystem("memory")
    storage.pipe("/bucket/data/cifar10/3.0.2/dataset_info.json", b"{}")
    storage.pipe("/bucket/data/other/1.0.0/dataset_info.json", b"{}")
    return storage
"""


def copy_command(document: dict[str, Any]) -> list[str]:
    """The command of the container that copies the data set."""
    spec = document["spec"].get("template", document)["spec"]
    (container,) = spec["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["initContainers"]
    return container["command"]


def test_all_files_copy_the_data_set_alike():
    commands = [copy_command(render(file)[0]) for file in RENDERED]
    assert commands == [commands[0]] * 5
    assert commands[0][-2:] == ["bucket/data/cifar10/", "/data/cifar10"]


@pytest.mark.parametrize("data", ["cifar10", "missing"])
def test_the_data_set_is_copied(data, tmp_path):
    """The container's program, with files in memory in place of Cloud Storage."""
    (tmp_path / "gcsfs.py").write_text(GCSFS)
    _, flag, program, source, target = copy_command(render(TPU)[0])
    paths = [source.replace("cifar10", data), f"{tmp_path}{target}".replace("cifar10", data)]
    command = [sys.executable, flag, program, *paths]
    done = subprocess.run(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    copied = [str(path.relative_to(tmp_path)) for path in (tmp_path / "data").rglob("*.json")]
    if data == "cifar10":
        assert (done.returncode, copied) == (0, ["data/cifar10/3.0.2/dataset_info.json"])
    else:  # which stops the job: podFailurePolicy says so
        assert (done.returncode, copied) == (1, [])
        assert "bucket/data/missing" in done.stderr


def test_the_check_by_hand(tmp_path, capsys):
    (document,) = render(TPU)
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(document))
    assert manifests.main(str(file)) == 0
    assert capsys.readouterr().out == "no problem found\n"
    document["spec"]["replicatedJobs"][0]["template"]["spec"]["completions"] = 5
    file.write_text(yaml.safe_dump(document))
    assert manifests.main(str(file)) == 1
    assert capsys.readouterr().out == "JobSet: completions is 5 and parallelism 4\n"


@pytest.mark.parametrize("name", ["sky_tpu.yaml", "sky_gpu.yaml"])
def test_a_sky_file(name, tmp_path):
    task = yaml.safe_load((LAUNCH / name).read_text())
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [42]
    assert set(task["envs"]) == {"NAME", "BUCKET", "DATA", "CONFIG"}
    assert task["file_mounts"] == {"/tmp/data/${DATA}": "gs://${BUCKET}/data/${DATA}"}
    for part in ("setup", "run"):
        script = tmp_path / part
        script.write_text("#!/usr/bin/env bash\n" + task[part])
        subprocess.run([Path(sys.executable).parent / "shellcheck", script], check=True)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$TFDS_DATA_DIR $JAX_COMPILATION_CACHE_DIR $PPID" "$@"; exit 42\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", tmp_path / "run"],
        cwd=tmp_path,
        env={"BUCKET": "b", "NAME": "t6", "DATA": "cifar10", "CONFIG": "cifar10:t6", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 42
    data, cache, parent, *arguments = done.stdout.split()
    assert (data, cache) == ("/tmp/data", "gs://b/cache")
    assert arguments == ["-m", "drl_jax", "train", "--config=cifar10:t6", "--workdir=gs://b/runs/t6"]
    assert int(parent) == os.getpid()  # the program has taken the place of the shell


@pytest.mark.parametrize(
    ("file", "changed", "expected"),
    [
        ("jobset_tpu.yaml", {"BUCKET": "gs://bucket"}, "BUCKET=gs://bucket is not possible: only the name"),
        (
            "jobset_tpu.yaml",
            {"BUCKET": "bucket/folder"},
            "BUCKET=bucket/folder is not possible: only the name",
        ),
        ("jobset_tpu.yaml", {"NAME": "My_Run"}, "NAME=My_Run is not possible: small letters, digits and -"),
        ("jobset_tpu.yaml", {"NAME": "n" * 43}, "at most 42 characters"),
        ("slurm.sh", {}, "slurm.sh is no YAML file of this folder"),
        ("sky_tpu.yaml", {}, "sky_tpu.yaml needs no render: SkyPilot fills it in itself"),
    ],
)
def test_what_would_fail_on_the_cluster_is_refused(file, changed, expected):
    done = run(LAUNCH / file, **(VALUES | changed))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert expected in done.stderr
