"""`detect`: its numbers are those of its arrays, sets are what they are named, and a mistake is one line."""

import json

import numpy as np
import pytest
from PIL import Image

from drl_jax.applications.detection import Statistics
from drl_jax.commands.detect import CONTROL, compare, lines
from drl_jax.main import main
from drl_jax.metrics.ranking import auroc, average_precision
from drl_jax.report.images import save_grid

SETS = ("noise", "constant", "rotated")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of other sizes than the model's: 40 grey ones of 11x9 pixels, half black and half white."""
    folder = tmp_path_factory.mktemp("images") / "black and white"
    folder.mkdir()
    for i in range(40):
        Image.new("L", (11, 9), 255 * (i % 2)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def output(tmp_path_factory, folder):
    """What the command writes for the digits."""
    output = tmp_path_factory.mktemp("detect")
    against = f"--against={','.join(SETS)},{folder}"
    words = [f"--output={output}", against, "--levels=3,1", "--count=30", "--draws=2"]
    assert main(["detect", "--model=digits", *words]) == 0
    return output


def test_the_table_is_that_of_the_arrays(output):
    result = json.loads((output / "detect.json").read_text())
    assert result["levels"] == [3, 1]
    assert result["examples"] == {
        "the data": 30, CONTROL: 30, "noise": 30, "constant": 30, "rotated": 30, "black and white": 30,
    }  # fmt: skip
    with np.load(output / "detect.npz") as file:
        arrays = dict(file)
    own = arrays["data.energy"]
    assert own.shape == (2, 30)
    for name in (*SETS, "black and white", CONTROL):
        others = arrays[f"against/{name}.energy"]
        for level in range(2):
            assert result["auroc"]["energy"][name][level] == auroc(own[level], others[level])
            expected = average_precision(own[level], others[level])
            assert result["average_precision"]["energy"][name][level] == expected
    # At level 1 noise is far from digits, and other digits are not.
    assert result["auroc"]["energy"]["noise"][1] > 0.99
    assert 0.3 < result["auroc"]["energy"][CONTROL][1] < 0.7
    text = lines(result)
    assert text[1].split() == ["level", "3", "level", "1"]
    area, mean = (result[name]["energy"]["noise"][0] for name in ("auroc", "average_precision"))
    assert any(line.startswith(f"noise{' ' * 20}") and f"{area:.3f} ({mean:.3f})" in line for line in text)


def test_a_set_does_not_depend_on_the_others(output, tmp_path):
    words = [f"--output={tmp_path}", "--against=noise", "--levels=1", "--count=30", "--draws=2"]
    (tmp_path / "detect_level_4.png").write_bytes(b"")  # of an earlier run
    assert main(["detect", "--model=digits", *words]) == 0
    assert [file.name for file in tmp_path.glob("detect_level_*")] == ["detect_level_1.png"]
    with np.load(tmp_path / "detect.npz") as alone, np.load(output / "detect.npz") as among:
        for name in alone.keys() - {"levels"}:
            np.testing.assert_array_equal(alone[name][0], among[name][1])


def test_the_images(output):
    for name in ("detect.png", "detect_level_1.png", "detect_level_3.png"):
        with Image.open(output / name) as image:
            assert image.size[0] > 400


def test_a_statistic_that_is_too_low_is_atypical():
    rng = np.random.default_rng(0)
    own, control = (Statistics(rng.normal(size=500), np.ones(500)) for _ in range(2))
    low = Statistics(rng.normal(-5, 0.1, size=500), np.ones(500))
    scores = compare(own, {CONTROL: control, "low": low})
    assert scores["energy"]["low"][0] < 0.001
    assert scores["atypicality"]["low"][0] > 0.999
    assert scores["score_norm"]["low"][0] == 0.5
    assert scores["atypicality"][CONTROL][0] == pytest.approx(0.5, abs=0.1)


MISTAKES = {
    "--levels=1,6": "--levels=1,6 is not possible: the levels are 0 to 5",
    "--against=noise,": "--against= is not possible; name made, noise, gaussian",
    "--against=points": "--against=points is not possible",
    "--against=no_such_set": "--against=no_such_set: config.data.name='no_such_set'",
    "--split=test": "config.data.split='test': config.data.name='digits' has only 'train'",
    "--count=0": "--count=0 is not possible: it must be a whole number of at least 1",
}


@pytest.mark.parametrize("flag", MISTAKES)
def test_a_mistake_is_one_line(flag, program, tmp_path):
    done = program("detect", "--model=digits", f"--output={tmp_path}", "--count=2", flag)
    assert done.code == 1
    assert MISTAKES[flag] in done.err
    assert len(done.err.splitlines()) == 1


def test_two_sets_of_one_name(program, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_grid(np.zeros((1, 9, 9, 1), np.uint8), tmp_path / name / "x" / "1.png")
    flag = f"--against={tmp_path}/a/x,{tmp_path}/b/x"
    done = program("detect", "--model=digits", f"--output={tmp_path}", "--count=2", flag)
    assert done.code == 1
    assert "names two sets 'x'; rename one" in done.err
