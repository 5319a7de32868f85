"""Writes the parts of the pages in docs/ that come from the code.

    python docs/pages.py           writes them
    python docs/pages.py --check   exit code 1 if a page does not match the code

They are the table of config keys (configuration.md), the options of the applications (applications.md), and
the list of files and the two algorithms (architecture.md). Each is between
`<!-- NAME: written by docs/pages.py -->` and `<!-- end of NAME -->`.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

from drl_jax.config import options, schema
from drl_jax.config.rules import Key

HERE = Path(__file__).parent
ROOT = HERE.parent
PACKAGE = ROOT / "drl_jax"
SCHEMA = PACKAGE / "config/schema.py"
LAYERS = ROOT / "tests/test_layers.py"


def keys() -> str:
    """Makes a table of the keys of each group, as Markdown."""
    comments = _comments()
    parts = []
    for group in fields(schema.Config):
        for network, cls in schema.NETWORKS.items() if group.name == "network" else [("residual", None)]:
            cls = cls or type(getattr(schema.Config, group.name))
            with_name = f" with `config.network.name={network}`" if group.name == "network" else ""
            parts += [f"### config.{group.name}{with_name}", "", cls.__doc__ or "", ""]
            parts += ["| key | value | default | may change | meaning |", "|---|---|---|---|---|"]
            for name, key in schema.keys(network).items():
                if name.startswith(f"{group.name}."):
                    parts.append(_row(name, key, comments[cls.__name__, name.split(".")[1]]))
            parts.append("")
    return "\n".join(parts)


def option_table(command: str) -> Callable[[], str]:
    """Makes a function that makes a table of the options of an application, as Markdown.

    Args:
      command: the application.
    """

    def make() -> str:
        lines = ["| option | default | what it is |", "|---|---|---|"]
        for form, default, meaning in options.rows(command):
            lines.append(f"| `{_escaped(form)}` | {_escaped(default)} | {_escaped(meaning)} |")
        return "\n".join([*lines, ""])

    return make


def files() -> str:
    """Makes a list of the package's files in the order of the packages, as Markdown."""
    lines = ["| file | what it is |", "|---|---|"]
    for file in sorted(PACKAGE.rglob("*.py"), key=_place):
        name, text = file.relative_to(PACKAGE), _first_line(file)
        if name.name == "__init__.py":
            lines.append(f"| **drl_jax/{'' if name.parent == Path() else f'{name.parent}/'}** | {text} |")
        else:
            lines.append(f"| [{name}](../drl_jax/{name}) | {text} |")
    return "\n".join(lines) + "\n"


def code(file: str, *function: str) -> Callable[[], str]:
    """Makes a function that quotes a function of the package, without its docstring, as Markdown.

    Args:
      file: its path in the package.
      function: its name, after the names of the functions around it.
    """

    def quote() -> str:
        path = PACKAGE / file
        text = path.read_text()
        node: ast.AST = ast.parse(text)
        for name in function:
            node = next(n for n in ast.walk(node) if isinstance(n, ast.FunctionDef) and n.name == name)
        assert isinstance(node, ast.FunctionDef)
        assert node.end_lineno is not None
        numbers = list(range(node.lineno, node.end_lineno + 1))
        if ast.get_docstring(node):
            docstring = node.body[0]
            numbers = [n for n in numbers if not docstring.lineno <= n <= (docstring.end_lineno or 0)]
        lines = [text.splitlines()[n - 1][node.col_offset :] for n in numbers]
        first, last = node.lineno, node.end_lineno
        place = f"[drl_jax/{file}, lines {first}–{last}](../drl_jax/{file}#L{first}-L{last})"
        return "\n".join([f"{place}:", "", "```python", *lines, "```", ""])

    return quote


PARTS = {
    "configuration.md": {"keys": keys},
    "applications.md": {f"options of {command}": option_table(command) for command in options.COMMANDS},
    "architecture.md": {
        "files": files,
        "algorithm 1": code("core/objective.py", "recovery_likelihood", "objective"),
        "contrast": code("core/objective.py", "contrast"),
        "transition": code("core/transition.py", "mcmc_transition", "transition"),
        "algorithm 2": code("core/synthesis.py", "descend"),
    },
}


def write(page: str, name: str) -> str:
    """Returns a page with its written parts made anew.

    Args:
      page: the text of the page.
      name: of its file.
    """
    for part, make in PARTS[name].items():
        begin, end = f"<!-- {part}: written by docs/pages.py -->\n", f"<!-- end of {part} -->"
        before, rest = page.split(begin)
        page = before + begin + "\n" + make() + "\n" + end + rest.split(end, 1)[1]
    return page


def _row(name: str, key: Key, comment: str) -> str:
    cells = [f"`{name}`", key.text, f"`{key.default}`", "yes" if key.is_free else "", comment]
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _comments() -> dict[tuple[str, str], str]:
    """The comment behind each key in schema.py, by class and key; it may go on in the next lines."""
    text, found = SCHEMA.read_text(), {}
    for cls in ast.parse(text).body:
        if isinstance(cls, ast.ClassDef):
            for node in cls.body:
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    found[cls.name, node.target.id] = " ".join(_comment(text.splitlines(), node))
    return found


def _comment(lines: list[str], node: ast.AnnAssign) -> Iterator[str]:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    first = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
    yield first.strip().removeprefix("#").strip()
    for line in lines[node.end_lineno :]:
        if not line.strip().startswith("#"):
            return
        yield line.strip().removeprefix("#").strip()


def _order() -> list[str]:
    """The order of the packages, as tests/test_layers.py has it."""
    for node in ast.parse(LAYERS.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ORDER":
            return eval(compile(ast.Expression(node.value), LAYERS, "eval"))
    raise ValueError(f"{LAYERS} has no ORDER")


def _place(file: Path) -> tuple:
    """Sort key: the order of the packages; in a package, the files before its folders."""
    name = file.relative_to(PACKAGE)
    first = name.with_suffix("").parts[0]
    return (
        -1 if first == "__init__" else _order().index(first),
        name.parent.as_posix(),
        name.name != "__init__.py",
        name.name,
    )


def _first_line(file: Path) -> str:
    return _escaped((ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0])


def _escaped(cell: str) -> str:
    return cell.replace("|", r"\|")


def main() -> None:
    for name in PARTS:
        page = HERE / name
        old = page.read_text()
        new = write(old, name)
        if "--check" in sys.argv[1:] and new != old:
            sys.exit(f"docs/{name} does not match the code: run docs/pages.py")
        page.write_text(new)


if __name__ == "__main__":
    main()
