"""launch/bundle: what is in the folder, and that it installs without a network."""

import os
import platform
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.helpers import small
from tests.launch.conftest import LAUNCH

# Makes one small wheel instead of downloading or building; everything else is real Python.
PYTHON = f"""#!{sys.executable}
import os, sys, zipfile

if sys.argv[1:3] != ["-m", "pip"]:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
flags = dict(a.split("=", 1) for a in sys.argv if a.startswith("--") and "=" in a)
folder = flags.get("--wheel-dir") or flags["--dest"]
os.makedirs(folder, exist_ok=True)
if list := flags.get("--requirement"):
    name = "package-1"
    with open(list) as file, open(os.environ["LISTED"], "w") as copy:
        copy.write(file.read())
else:
    name = "jax-2" if "--dest" in flags else "drl_jax-3"
with zipfile.ZipFile(f"{{folder}}/{{name}}-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
    wheel.writestr("file", "x" * 1000)
"""


def build(folder: Path, *flags: str, **variables) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, LAUNCH / "bundle", *flags, folder],
        capture_output=True,
        text=True,
        env=os.environ | variables,
        cwd=folder.parent,
    )


@pytest.fixture
def made(tmp_path):
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return {"PYTHON": str(python), "LISTED": str(tmp_path / "listed")}


def test_what_a_bundle_holds(tmp_path, made):
    folder = tmp_path / "bundle"
    built = build(folder, "--with-jax=tpu", **made)
    assert (built.returncode, built.stderr, built.stdout.count("\n")) == (0, "", 1)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "SHA256SUMS", "install.sh", "jax/jax-2-py3-none-any.whl", "python", "requirements.txt",
        "source.tar.gz", "wheels.tar.xz",
    }  # fmt: skip
    assert (folder / "requirements.txt").read_text().split() == ["drl_jax==3", "package==1", "jax==2"]
    with tarfile.open(folder / "wheels.tar.xz") as archive:
        assert archive.getnames() == [
            "wheels/drl_jax-3-py3-none-any.whl",
            "wheels/package-1-py3-none-any.whl",
        ]
    with tarfile.open(folder / "source.tar.gz") as archive:
        names = archive.getnames()
        assert {"./launch/local", "./drl_jax/main.py"} <= set(names)
        assert not [name for name in names if name.endswith(".safetensors")]
    # The hashes of the lock file are checked; JAX, and what is not used, are not in the list.
    listed = (tmp_path / "listed").read_text()
    assert "orbax-checkpoint==" in listed
    assert listed.count("--hash=sha256:") > 200
    assert not {"jax", "jaxlib", "numpy", "scipy", "pyarrow", "uvloop"} & {
        line.split("==")[0] for line in listed.split()
    }


def test_a_damaged_bundle_and_another_python_are_refused(tmp_path, made):
    folder = tmp_path / "bundle"
    assert build(folder, "--with-jax=cpu", **made).returncode == 0

    def install() -> str:
        command = [folder / "install.sh", tmp_path / "target"]
        installed = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"PYTHON": sys.executable}
        )
        assert installed.returncode == 1
        return installed.stderr.splitlines()[-1]

    (folder / "python").write_text("3.10 sparc\n")
    assert "damaged" in install()
    sums = subprocess.run(
        ["sha256sum", "python"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    (folder / "SHA256SUMS").write_text(sums)
    found = f"{sys.version_info.major}.{sys.version_info.minor} {platform.machine()}"
    assert f"is Python {found}, and this bundle is for 3.10 sparc" in install()
    assert not (tmp_path / "target").exists()


def test_a_mistake_gives_one_line(tmp_path):
    for flags, said in ((("--with-jax=rocm",), "'rocm'"), ((), "is there already")):
        built = build(tmp_path, *flags)
        assert (built.returncode, built.stderr.count("\n")) == (1, 1)
        assert said in built.stderr
    built = build(tmp_path / "new", PYTHON="/no/python")
    said = "launch/bundle: /no/python: No such file or directory; PYTHON=… names another Python\n"
    assert (built.returncode, built.stderr) == (1, said)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_bundle_trains_where_there_is_no_network(tmp_path):
    """Downloads 270 MB."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    folder = tmp_path / "bundle"
    built = build(folder, "--with-jax=cpu", PYTHON=sys.executable)
    assert built.returncode == 0, built.stderr
    print(built.stdout)
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    # The weights of the models that ship cannot be compressed.
    weights = sum(file.stat().st_size for file in (LAUNCH.parent / "drl_jax").rglob("*.safetensors"))
    assert size - weights < 60e6

    offline = {name: value for name, value in environment.items() if not name.startswith("PIP_")}
    offline |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PYTHON": sys.executable}
    offline |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}
    offline |= {"JAX_NUM_CPU_DEVICES": "1"}  # compiles faster
    offline |= {name: "http://localhost:9" for name in ("http_proxy", "https_proxy")}
    alone = ["unshare", "--net"] if subprocess.run(["unshare", "--net", "true"]).returncode == 0 else []

    def run(*command: str | Path) -> str:
        called = subprocess.run([*alone, *command], env=offline, cwd=tmp_path, capture_output=True, text=True)
        assert called.returncode == 0, called.stderr
        return called.stdout

    assert run(folder / "install.sh", "target").startswith("drl_jax ")
    program = tmp_path / "target/venv/bin/drl-jax"
    run(program, "train", "--config=digits", "--workdir=run", *small())
    assert (tmp_path / "run/checkpoints/4").is_dir()
    assert (tmp_path / "target/source/launch/local").exists()
