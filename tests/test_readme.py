"""What the README and the pages say is so: written parts are current, code runs, links point to files."""

import ast
import json
import re
import runpy
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

import drl_jax
from drl_jax.checkpoints.orbax import FOLDER, Retention, open_checkpoints
from drl_jax.commands import APPLICATIONS, COMMANDS
from drl_jax.config import loading, schema
from drl_jax.config.build import build
from drl_jax.config.overrides import parse
from drl_jax.parallel.mesh import place
from tests.test_layers import ORDER

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "launch/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
TABLE = runpy.run_path(str(ROOT / "docs/table.py"), run_name="table")
MEASUREMENTS = runpy.run_path(str(ROOT / "docs/measurements.py"), run_name="measurements")
WRITTEN = runpy.run_path(str(ROOT / "docs/pages.py"), run_name="pages")


def python_code(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_readme_has_the_table_of_the_results():
    assert TABLE["write"](README, ROOT / "docs/results") == README


def test_the_pages_have_the_tables_of_the_measurements():
    pages = [page.read_text() for page in MEASUREMENTS["PAGES"]]
    for page in pages:
        assert MEASUREMENTS["write"](page, ROOT / "docs/results") == page
    for name in MEASUREMENTS["TABLES"]:
        assert sum(f"<!-- {name}: written by" in page for page in pages) == 1, name


@pytest.mark.parametrize("name", WRITTEN["PARTS"])
def test_the_pages_match_the_code(name):
    """If not, run docs/pages.py."""
    page = (ROOT / "docs" / name).read_text()
    assert WRITTEN["write"](page, name) == page


def test_the_page_of_the_config_has_every_key():
    page = (ROOT / "docs/configuration.md").read_text()
    for network in schema.NETWORKS:
        for key in schema.keys(network):
            assert f"| `{key}` |" in page


def test_the_readme_has_code_that_prints_what_it_says(capsys):
    (code,) = python_code(README)
    (said,) = re.findall(r"make it ([\d.]+)", code)
    exec(code, {})
    assert f"{float(capsys.readouterr().out):.2f}" == said


def test_the_readme_has_one_command_for_the_tests():
    # As .ci/run reads it.
    script = "sed -n '/<!-- tests -->/,/^```$/p' README.md | sed '1,/^```/d; /^```$/d'"
    assert script in (ROOT / ".ci/run").read_text()
    found = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    (command,) = found.stdout.splitlines()
    assert "pip install -q -r requirements-dev.lock" in command
    assert command.endswith("pytest -q")


def test_the_readme_has_every_command_and_config():
    for command in (*COMMANDS, *APPLICATIONS):
        assert f"| `{command}` |" in README
    for name in loading.names():
        assert f"`--config={name}" in README
    for page in PAGES:
        # Names in flags of which the value is no placeholder, such as NAME.
        for value in re.findall(r"""--config=([a-z]\S*?)[`\s"]""", page.read_text()):
            if not value.startswith("mine.py"):
                parse([f"--config={value}"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_point_to_files(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    for link in links:
        if "://" not in link:
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_a_config_file_of_your_own():
    (code,) = python_code((ROOT / "docs/configuration.md").read_text())
    namespace = {}
    exec(code, namespace)
    config = schema.from_config_dict(namespace["get_config"]("small"))
    assert isinstance(config.network, schema.Residual)
    assert config.network.blocks_per_resolution == 2
    build(config)


def test_orbax_alone_reads_the_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workdir = epath.Path(tmp_path) / "runs/digits"
    config = parse(["--config=digits"]).config
    schema.save(config, workdir / schema.FILE)
    like = jax.eval_shape(build(config).init_state, jax.random.key(0))
    ones = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), like.replace(key=None))
    state = place().replicate(ones.replace(key=jax.random.key(0)))
    with open_checkpoints(workdir / FOLDER, Retention(1)) as checkpoints:
        checkpoints.save(4000, state, {})
    namespace = {}
    for code in python_code((ROOT / "docs/reliability.md").read_text()):
        exec(code, namespace)
    jax.tree.map(np.testing.assert_array_equal, namespace["weights"], state.ema_params)
    assert "kernel" in namespace["weights"]["input"]
    assert namespace["f"](jnp.zeros((3, 8, 8, 1)), jnp.zeros(3, int)).shape == (3,)


def test_contributing_has_the_order_of_the_packages():
    (order,) = re.findall(r"errors < .*?< main", CONTRIBUTING, re.DOTALL)
    assert re.split(r"[<,\s]+", order) == [name for name in ORDER if name != "__main__"]


def test_contributing_shows_code_of_the_package():
    (code,) = python_code(CONTRIBUTING)
    assert code in (ROOT / "drl_jax/core/mcmc/base.py").read_text()


def test_contributing_names_what_exists():
    package = Path(drl_jax.__file__).parents[1]
    for name in set(re.findall(r"`((?:drl_jax|tests|docs)/\S+?)`", CONTRIBUTING)):
        if "NAME" not in name:
            assert (package / name).exists(), name
    for name, file in (
        ("SAMPLERS", "config/build.py"),
        ("_network", "config/build.py"),
        ("_make_transition", "config/build.py"),
        ("build", "config/build.py"),
        ("NETWORKS", "config/schema.py"),
        ("Sampler", "config/schema.py"),
        ("METRICS", "evaluation/scores.py"),
        ("COMMANDS", "commands/__init__.py"),
        ("NEED_WORKDIR", "commands/__init__.py"),
        ("call", "commands/__init__.py"),
        ("start_job", "commands/job.py"),
        ("Transition", "core/transition.py"),
        ("Objective", "core/objective.py"),
    ):
        assert f"`{name}`" in CONTRIBUTING
        assert name in _defined(package / "drl_jax" / file)


def _defined(file: Path) -> set[str]:
    """The names that a module defines."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_what_the_table_says_of_a_result(tmp_path):
    def result(seed: int, **scores) -> str:
        return json.dumps(
            {
                "scores": scores,
                "data_vs_data": {"frechet_pixels": 0.25, "fid_25000": 2.0},
                "training": {"seconds": 90 + 60 * seed, "machine": "8 TPU devices"},
                "config": {"training": {"seed": seed}},
            }
        )

    (tmp_path / "digits.json").write_text(result(0, frechet_pixels=0.5, kid_pixels=0.1))
    (tmp_path / "ring_0.json").write_text(result(0, **{"total_variation/level_0": 0.0512}))
    (tmp_path / "ring_1.json").write_text(result(1, **{"total_variation/level_0": 0.0833}))
    (tmp_path / "cifar10_t6.json").write_text(result(0, fid_50000=9.625, inception_score=8.31))
    rows = {row.split(" | ")[0]: row for row in TABLE["table"](tmp_path).splitlines()}
    assert rows["| digits 8x8"].endswith(
        "| – | Fréchet distance of pixels 0.5 (data against data: 0.25) | 1.5 min, 8 TPU devices |"
    )
    expected = "| total variation 0.0512, 0.0833 (seeds 0, 1) | at most 2.5 min each, 8 TPU devices |"
    assert rows["| ring of eight Gaussians"].endswith(expected)
    expected = "| FID 9.58, IS 8.30 | FID of 50000 9.62; IS 8.31 |"
    assert expected in rows["| CIFAR-10, T6 (K = 30)"]
    assert rows["| CelebA 64, T6"].endswith("| FID 5.98 | not run |  |")


@pytest.mark.parametrize("file", sorted((ROOT / "docs/results").glob("*.json")), ids=lambda f: f.stem)
def test_a_result_has_its_protocol(file):
    result = json.loads(file.read_text())
    assert {"samples", "reference"} <= result["protocol"].keys()
    for part in ("samples", "reference"):
        assert len(result["protocol"][part]["sha256"]) == 64
    assert result["commit"]
    assert not result["commit"].endswith("-dirty")
