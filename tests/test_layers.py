"""The order of the packages: each imports only from those before it. The core needs five libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import drl_jax

PACKAGE = Path(drl_jax.__file__).parent
ORDER = [
    *(
        "errors",
        "core",
        "applications",
        "machine",
        "files",
        "pretrained",
        "ownership",
        "arrays",
        "pixels",
        "data",
        "metrics",
        "parallel",
    ),
    *(
        "checkpoints",
        "report",
        "evaluation",
        "training",
        "config",
        "planning",
        "api",
        "commands",
        "main",
        "__main__",
    ),
]
CORE_LIBRARIES = {"jax", "flax", "optax", "numpy", "jaxtyping"} | sys.stdlib_module_names
FILES = sorted(file for file in PACKAGE.rglob("*.py") if "configs" not in file.parts)


def imports(source: str) -> list[str]:
    """The modules that import statements name, wherever in the file they are."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def layer(module: str) -> int:
    """The place of a module of this package in the order; −1 for drl_jax itself."""
    parts = module.split(".")
    return ORDER.index(parts[1]) if len(parts) > 1 and parts[1] in ORDER else -1


def upward(file: Path, source: str) -> list[str]:
    """The imports of a file that point to a package after its own."""
    own = ORDER.index(file.relative_to(PACKAGE).with_suffix("").parts[0])
    return [name for name in imports(source) if name.split(".")[0] == "drl_jax" and layer(name) > own]


def test_every_file_has_a_place_in_the_order():
    first = {file.relative_to(PACKAGE).with_suffix("").parts[0] for file in FILES}
    assert first - {"__init__"} <= set(ORDER)
    assert {"core", "training", "main"} <= first


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_import_points_upward(file):
    if file == PACKAGE / "__init__.py":
        # The API, which is imported when it is used; `test_overrides` checks that JAX is not before.
        ours = [name for name in imports(file.read_text()) if name.startswith("drl_jax")]
        assert all(name.startswith("drl_jax.api") for name in ours)
        return
    assert upward(file, file.read_text()) == []


def test_an_upward_import_would_be_found():
    file = PACKAGE / "core" / "levels.py"
    assert upward(file, "from drl_jax.training import step") == ["drl_jax.training.step"]
    assert upward(file, "def f():\n    from drl_jax.data.sources import Source") == [
        "drl_jax.data.sources.Source"
    ]
    assert upward(PACKAGE / "main.py", "from drl_jax.core import energy") == []


def test_packages_have_no_cycle():
    # Inside a package, too: files import each other in one direction.
    graph = {}
    for file in FILES:
        name = ".".join(("drl_jax", *file.relative_to(PACKAGE).with_suffix("").parts))
        graph[name.removesuffix(".__init__")] = imports(file.read_text())
    modules = set(graph)
    edges = {
        name: {
            target
            for i in named
            for target in (i, i.rpartition(".")[0])
            if target in modules and target != name and not name.startswith(f"{target}.")
        }
        for name, named in graph.items()
    }
    done, active = set(), []

    def visit(name):
        assert name not in active, f"cycle: {' -> '.join([*active[active.index(name) :], name])}"
        if name in done:
            return
        active.append(name)
        for target in sorted(edges[name]):
            # A package's __init__ imports its own files; these may import each other.
            if not target.startswith(f"{name}."):
                visit(target)
        active.pop()
        done.add(name)

    for name in sorted(modules):
        visit(name)


@pytest.mark.parametrize(
    "file", sorted((PACKAGE / "core").rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE))
)
def test_the_core_imports_five_libraries(file):
    assert {name.split(".")[0] for name in imports(file.read_text())} <= CORE_LIBRARIES | {"drl_jax"}


PROGRAM = """
import importlib, importlib.abc, sys

import flax.linen, jax, jaxtyping, numpy, optax  # and everything that they import themselves

before = set(sys.modules)

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
    importlib.import_module("sklearn_of_nobody")
except ImportError as error:
    print(error)
"""


def test_the_core_imports_where_nothing_else_can_be_imported():
    files = sorted((PACKAGE / "core").rglob("*.py"))
    modules = [".".join(("drl_jax", *file.relative_to(PACKAGE).with_suffix("").parts)) for file in files]
    # jaxlib's modules load late; everything else must be loaded already or be allowed.
    allowed = CORE_LIBRARIES | {"drl_jax", "jaxlib", "ml_dtypes"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(allowed=allowed, modules=modules)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(PACKAGE.parent), "JAX_PLATFORMS": "cpu", "PATH": ""},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    # The block works: it refuses the last import of the program.
    assert done.stdout.strip() == "the core asked for sklearn_of_nobody"
