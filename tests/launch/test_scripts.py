"""The form of all scripts, and of the Dockerfile."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [
    path
    for folder in (ROOT / "launch", ROOT / ".ci", ROOT / "tests/launch")
    for path in sorted(folder.iterdir())
    if path.is_file() and path.read_bytes().startswith((b"#!/usr/bin/env bash", b"#!/bin/sh"))
]


def tool(name: str) -> str:
    """A program that is installed beside this Python; without it, the test is skipped."""
    path = shutil.which(name, path=Path(sys.executable).parent)
    if path is None:
        pytest.skip(f"{name} is not installed (pip install {name}-{'py' if name == 'shellcheck' else 'bin'})")
    return path


def test_the_scripts_are_found():
    assert {"slurm.sh", "tpu_vm.sh", "slurm_cluster", "run"} <= {script.name for script in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_the_form_of_a_script(script):
    subprocess.run(["bash", "-n", script], check=True)
    subprocess.run([tool("shellcheck"), script], check=True)


def test_the_form_of_the_dockerfile():
    subprocess.run([tool("hadolint"), ROOT / "launch/Dockerfile"], check=True)


def test_the_image_holds_what_the_package_needs():
    """Docker sees only what .dockerignore lets through, and copies only what the Dockerfile names."""
    lines = re.findall(r"^COPY (.*) \S+$", (ROOT / "launch/Dockerfile").read_text(), re.MULTILINE)
    copied = {name for line in lines for name in line.split()}
    assert {f"!{name}" for name in copied} <= set((ROOT / ".dockerignore").read_text().splitlines())
    assert all((ROOT / name).exists() for name in copied)
    assert {"pyproject.toml", "README.md", "LICENSE", "drl_jax", "configs", "requirements.lock"} == copied
