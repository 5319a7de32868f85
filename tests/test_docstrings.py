"""Every public function of the core and of the applications says what it takes and what it returns."""

import ast
from pathlib import Path

import pytest

import drl_jax

PACKAGE = Path(drl_jax.__file__).parent
FUNCTIONS = [
    (file, node)
    for file in sorted([*(PACKAGE / "core").rglob("*.py"), *(PACKAGE / "applications").rglob("*.py")])
    for node in ast.parse(file.read_text()).body
    if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
]


@pytest.mark.parametrize(
    ("file", "node"), FUNCTIONS, ids=lambda value: value.name if isinstance(value, ast.FunctionDef) else ""
)
def test_args_and_returns(file, node):
    text = ast.get_docstring(node) or ""
    assert text.splitlines()[0].endswith((".", ":")), "the first line is a sentence"
    given = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    for name in given:
        # `lr, beta: …` documents two.
        assert any(
            name in line.split(":")[0].replace(",", " ").split() for line in text.splitlines() if ":" in line
        ), f"{file.name}: {node.name} does not document {name}"
    if given:
        assert "Args:" in text
    if not (isinstance(node.returns, ast.Constant) and node.returns.value is None):
        assert "Returns:" in text
