"""The mathematical core stands on JAX, Flax, Optax, NumPy and jaxtyping alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import drl_jax

PACKAGE = Path(drl_jax.__file__).parent
FILES = "__init__ types noise energy recovery synthesis spectral samplers/* networks/*"
CORE = sorted(file for name in FILES.split() for file in PACKAGE.glob(f"{name}.py"))
ALLOWED = {"drl_jax", "jax", "flax", "optax", "numpy", "jaxtyping"} | sys.stdlib_module_names
# Parts of this package that may need more: files, logs, images, command lines.
OUTER = {"drl_jax.data", "drl_jax.metrics", "drl_jax.reporting", "drl_jax.training"}

# Flax itself imports Orbax, and that some more of these: the statements tell what is ours.
NOT_OURS = "absl ml_collections clu orbax grain tensorflow_datasets tensorflow PIL sklearn matplotlib"


def imports(source):
    """The modules that a file's import statements name, wherever in the file they stand."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def forbidden(source):
    return [
        name
        for name in imports(source)
        if name.split(".")[0] not in ALLOWED or any(name.startswith(outer) for outer in OUTER)
    ]


def test_the_core_is_found():
    assert {"types.py", "recovery.py", "langevin.py", "residual.py"} <= {file.name for file in CORE}


@pytest.mark.parametrize("file", CORE, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_import_statements(file):
    assert forbidden(file.read_text()) == []


@pytest.mark.parametrize("name", NOT_OURS.split())
def test_a_foreign_import_would_be_seen(name):
    assert forbidden(f"def f():\n    import {name}.io") == [f"{name}.io"]
    assert forbidden(f"from {name} import io") == [f"{name}.io"]


PROGRAM = """
import importlib.abc, importlib.util, sys

import flax.linen, jax, jaxtyping, numpy, optax  # with all that these import themselves

before = set(sys.modules)
asked = []

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {allowed!r}:
            return None
        raise ImportError(f"the core asked for {{name}}")

sys.meta_path.insert(0, Block())
for name in {modules!r}:
    importlib.import_module(name)
foreign = {{name.split(".")[0] for name in set(sys.modules) - before}} - {allowed!r}
assert not foreign, foreign
try:
    importlib.import_module({missing!r})
except ImportError as error:
    print(error)
"""


def test_the_core_imports_where_nothing_else_can_be_imported():
    modules = [".".join(("drl_jax", *file.relative_to(PACKAGE).with_suffix("").parts)) for file in CORE]
    modules = [module.removesuffix(".__init__") for module in modules]
    # jaxlib's modules load late; everything else must be there already or be allowed.
    allowed = ALLOWED | {"jaxlib", "ml_dtypes"}
    program = PROGRAM.format(allowed=allowed, modules=modules, missing="sklearn_of_nobody")
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(PACKAGE.parent), "JAX_PLATFORMS": "cpu", "PATH": ""},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    # The block was really there: the last import of the program is one that it refuses.
    assert done.stdout.strip() == "the core asked for sklearn_of_nobody"
