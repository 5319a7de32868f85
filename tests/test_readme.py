"""What the README says is so: its table is what the files of results say, its code runs."""

import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
TABLE = runpy.run_path(str(ROOT / "docs/table.py"), run_name="table")


def test_the_readme_has_the_table_of_the_results():
    assert TABLE["write"](README, ROOT / "docs/results") == README


def test_the_readme_has_code_that_prints_what_it_says(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (said,) = re.findall(r"make it ([\d.]+)", code)
    exec(code, {})
    assert f"{float(capsys.readouterr().out):.2f}" == said


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
