"""launch/README.md: its commands run, with stubs of the engines that record how they are called."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.launch import manifests

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "launch/README.md").read_text()
STUBS = (
    ".venv/bin/python",
    *(f"bin/{name}" for name in ("docker", "gcloud", "kubectl", "xpk", "gcluster", "sky", "drl-jax")),
)
STUB = """#!/bin/sh
name=$(basename "$0")
{ printf '%s\\n' "$name" "$@"; printf '\\0'; } >>"$RECORDS/calls"
case "$name $*" in "kubectl create -f -") cat >>"$RECORDS/created";; esac
"""
SECTIONS = (
    "Before the first job",
    "GKE: JobSet",
    "xpk",
    "gcluster",
    "SkyPilot",
    "Kubeflow Trainer",
    "Logs and images",
)


def code(section: str) -> list[str]:
    """The blocks of shell code under a heading and its own headings."""
    (text,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return re.findall(r"```bash\n(.*?)```", text, re.DOTALL)


VARIABLES, *_ = code("Before the first job")


def run(folder: Path, blocks: list[str]) -> list[list[str]]:
    """Runs blocks in a copy of launch/, and returns each call of a stub."""
    for name in STUBS:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(STUB)
        file.chmod(0o755)
    shutil.copytree(ROOT / "launch", folder / "launch")
    environment = {"PATH": f"{folder}/bin:/usr/bin:/bin", "RECORDS": str(folder)}
    script = "\n".join([VARIABLES, *blocks])
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment, check=True)
    return [call.splitlines() for call in (folder / "calls").read_text().split("\0") if call]


@pytest.mark.parametrize("section", SECTIONS)
def test_the_commands_of_a_section(section, tmp_path):
    assert run(tmp_path, code(section))


def test_the_check_that_it_names(tmp_path):
    calls = run(tmp_path, code("GKE: JobSet"))
    (check,) = [call for call in calls if call[0] == "python"]
    assert check == ["python", "-m", manifests.__name__, "job.yaml"]
    assert manifests.problems(list(yaml.safe_load_all((tmp_path / "job.yaml").read_text()))) == []


@pytest.mark.parametrize(("section", "kinds"), [
    ("GKE: JobSet", ["JobSet"]), ("Kubeflow Trainer", ["TrainingRuntime", "TrainJob"]),
])  # fmt: skip
def test_what_is_created(section, kinds, tmp_path):
    submit, *_ = code(section)
    assert run(tmp_path, [submit]) == [["kubectl", "create", "-f", "-"]]
    documents = list(yaml.safe_load_all((tmp_path / "created").read_text()))
    assert [document["kind"] for document in documents] == kinds
    assert {document["metadata"]["name"] for document in documents} == {"t6"}
    assert manifests.problems(documents) == []


def test_what_the_engines_are_called_with(tmp_path):
    blocks = [block for section in ("xpk", "gcluster", "SkyPilot") for block in code(section)]
    calls = run(tmp_path, blocks)
    assert [call[:3] for call in calls] == [
        ["xpk", "workload", "create"],
        ["xpk", "workload", "create"],
        ["gcluster", "job", "submit"],
        ["gcluster", "job", "logs"],
        ["gcluster", "job", "cancel"],
        ["sky", "jobs", "launch"],
        ["sky", "jobs", "launch"],
    ]
    for call in calls[:3]:
        assert call[-1].endswith(
            "python -m drl_jax 'train' '--config=cifar10:t6' '--workdir=gs://my-bucket/runs/t6'"
        )


def test_the_machines_that_it_names_exist():
    rows = re.findall(r"\| `([a-z]\S+)` \| (\S+) \| (\d) \|(.*)", PAGE)
    assert len(rows) == 10
    for accelerator, machine, count, rest in rows:
        if accelerator in manifests.TPUS:
            assert manifests.TPUS[accelerator][machine][0] == int(count)
            for topology in re.findall(r"\d+(?:x\d+)+", rest):
                assert manifests.fits(machine, topology)
        else:
            assert manifests.GPUS[accelerator] == (machine, int(count))
    for machine, topology in re.findall(r"TYPE=(ct\S+) TOPOLOGY=(\S+)", PAGE):
        assert manifests.fits(machine, topology)
