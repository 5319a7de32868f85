"""`diagnose`: its figures equal the closed form of a Gaussian model, and show what levels lose."""

import json
from dataclasses import replace

import numpy as np
import pytest
from etils import epath
from PIL import Image

import drl_jax
from drl_jax.commands.diagnose import Row, diagnose, lines, measure
from drl_jax.config.options import Diagnose
from drl_jax.core.model import Model
from drl_jax.errors import UserError
from drl_jax.main import main
from drl_jax.parallel.preemption import Stop
from tests.test_chain import Normal


@pytest.mark.parametrize("level", [1, 4])
def test_gap_and_displacement_are_those_of_a_normal_density(level):
    shipped = drl_jax.load("digits")
    levels = shipped.parts.levels
    model = replace(shipped, model=Model(Normal(), levels, params={}, spectral={}))
    black = np.zeros((300, 8, 8, 1), np.uint8)  # all pixels are -1
    options = Diagnose(method="mala", seed=3)
    (row,), examples = measure(model, black, level, (150,), options, lambda x: {"count": float(len(x))})
    # −log p_t is 4 ‖y‖², y = scale x_t, so the posterior of y given x_{t+1} has the precision κ in each pixel
    # and the mean m x_{t+1}.
    variance = levels.sigma[level + 1] ** 2
    precision = 8 + 1 / variance
    m = 1 / (variance * precision)
    pixels = 64  # of which each has E x_{t+1}² = E x_t² = 1
    gap = 4 * pixels * ((1 / precision + m**2) - levels.scale[level] ** 2)
    assert row.gap == pytest.approx(gap, rel=0.03)
    displacement = np.sqrt((1 / precision + (1 - m) ** 2) / variance)
    assert row.displacement == pytest.approx(displacement, rel=0.03)
    assert row[:2] == (level, 150)
    assert row.scores == {"count": 300}
    assert examples.shape == (1, 300, 8, 8, 1)


def test_levels_with_more_noise_lose_more_of_the_digits(tmp_path):
    output = f"--output={tmp_path}"
    assert main(["diagnose", "--model=digits", output, "--levels=3,0", "--steps=8,16", "--count=60"]) == 0
    result = json.loads((tmp_path / "diagnose.json").read_text())
    rows = [Row(**row) for row in result["levels"]]
    assert [row[:2] for row in rows] == [(3, 8), (3, 16), (0, 8), (0, 16)]
    precision = [row.scores["precision_pixels"] for row in rows]
    assert precision[0] < 0.95 < precision[2]  # with 898 chains: 0.93 and 1
    assert rows[1].gap < rows[0].gap  # more steps find a lower energy
    assert rows[0].displacement < rows[1].displacement
    assert result["scores"]["data"]["precision_pixels"] > 0.95
    with np.load(tmp_path / "diagnose.npz") as file:
        assert file["drawn"].shape == (2, 2, 60, 8, 8, 1)
        assert (file["levels"].tolist(), file["steps"].tolist()) == ([3, 0], [8, 16])
        data, drawn = file["data"].astype(float), file["drawn"].astype(float)
    # From x_1 each image comes back; from x_4 it may become another one.
    distance = np.sqrt(((drawn[:, 0] - data) ** 2).mean((1, 2, 3, 4)))
    assert distance[1] < 25 < 40 < distance[0]
    with Image.open(tmp_path / "diagnose.png") as image:
        assert image.size[1] > image.size[0]  # three columns, eight rows


def test_the_table_has_a_row_for_each_number_of_steps():
    bounds = {name: {"frechet_pixels": 0.5} for name in ("samples", "data", "data_vs_data")}
    text = lines([Row(2, 15, -0.25, 0.875, {"frechet_pixels": 0.125})], bounds)
    names = ["level", "steps", "energy", "gap", "relative", "displacement", "frechet_pixels"]
    assert text[0].split() == names
    assert text[1].split() == ["2", "15", "-0.25", "0.875", "0.125"]
    assert [line.rsplit(maxsplit=1)[1] for line in text[2:]] == ["0.5"] * 3
    assert len(set(map(len, text))) == 1


def test_levels_that_are_no_chains_are_refused(capsys, tmp_path):
    assert main(["diagnose", "--model=digits", "--levels=6"]) == 1
    assert capsys.readouterr().err == ("drl-jax: --levels=6 is not possible: the levels are 0 to 5\n")
    assert main(["diagnose", "--model=digits", "--method=nuts"]) == 1
    assert capsys.readouterr().err.startswith("drl-jax: --method='nuts' is not possible: it must be ")
    shipped = drl_jax.load("digits")
    config = replace(shipped.config, sampler=replace(shipped.config.sampler, name="normal"))
    with pytest.raises(UserError, match=r"^`diagnose` is for models whose levels are chains; digits has "):
        diagnose(replace(shipped, config=config), Diagnose(), epath.Path(tmp_path), Stop())
