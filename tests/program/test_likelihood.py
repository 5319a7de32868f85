"""`likelihood`: against integration on a grid, in parts, and where it gives no number."""

import json
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import drl_jax
from drl_jax import api
from drl_jax.applications.likelihood import sandwich
from drl_jax.core.levels import diffuse_to
from drl_jax.core.randomness import example_keys
from drl_jax.data.densities import RING
from drl_jax.data.sources import open_source
from drl_jax.errors import UserError
from drl_jax.main import main
from drl_jax.parallel.annealer import Annealer, Progress, Settings, Side
from drl_jax.parallel.preemption import Stopped
from tests.helpers import CONFIGS, POINTS, log_z_on_grid, run

SHORT = ("--chains=256", "--steps=50", "--examples=500")


def read(folder):
    return json.loads((folder / api.LIKELIHOOD_FILE).read_text())


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The workdir of a short run of points, with its likelihood."""
    workdir = tmp_path_factory.mktemp("points")
    run("train", f"--config={CONFIGS}/points.py:ring", f"--workdir={workdir}", *POINTS)
    run("likelihood", f"--model={workdir}", *SHORT)
    return workdir


@pytest.fixture(scope="module")
def model(workdir):
    return drl_jax.load(workdir)


def test_bits_per_dimension_are_those_of_a_grid(workdir, model):
    found = read(workdir)["levels"]["0"]
    on_grid = log_z_on_grid(model, 0)
    error = found["forward"]["standard_error"]
    assert 0 < error < 0.01
    assert abs(found["log_z"] - on_grid) < 3 * error
    # The same points, with the same noise, normalised by the grid.
    points = RING.sample(np.random.default_rng([0, 1]), 500)
    keys = example_keys(jax.random.fold_in(jax.random.key(0), 0), 500)
    x = diffuse_to(keys, jnp.asarray(points), jnp.zeros(500, int), model.parts.levels)
    bits = -model.log_density(np.asarray(x), log_z=on_grid) / (2 * np.log(2))
    assert abs(found["data"]["bits_per_dimension"] - bits.mean()) < 0.02
    assert found["data"]["standard_error"] == pytest.approx(bits.std(ddof=1) / np.sqrt(500), rel=1e-3)
    assert found["data"]["outside"] == 0


def test_log_density_takes_the_log_z_of_the_command(workdir, model, tmp_path):
    # The density sums to 1 inside of the box, and is 0 outside.
    side, bound = 300, model.bound(0)
    centres = (2 * (np.arange(side) + 0.5) / side - 1) * bound
    points = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2).astype(np.float32)
    mass = np.exp(model.log_density(points)).sum() * (2 * bound / side) ** 2
    assert mass == pytest.approx(1, abs=0.03)
    assert model.log_density(np.array([[0.0, bound + 0.01]]))[0] == -np.inf
    # Also of an exported file, with the result beside it; not of other weights.
    run("export", f"--workdir={workdir}", f"--output={tmp_path}")
    exported = drl_jax.load(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"log Z of level 0 is not known: run `drl-jax likelihood --model="):
        exported.log_density(points[:2])
    shutil.copy(workdir / api.LIKELIHOOD_FILE, tmp_path)
    np.testing.assert_allclose(exported.log_density(points[:2]), model.log_density(points[:2]), rtol=1e-5)
    result = read(tmp_path)
    (tmp_path / api.LIKELIHOOD_FILE).write_text(json.dumps(result | {"weights_sha256": "0"}))
    with pytest.raises(UserError, match="is of other weights"):
        exported.log_density(points[:2])
    result["levels"]["0"] |= {"log_z": None, "doubt": "both sides differ"}
    (tmp_path / api.LIKELIHOOD_FILE).write_text(json.dumps(result))
    with pytest.raises(UserError, match="log Z of level 0 is not known: both sides differ"):
        exported.log_density(points[:2])


def test_a_run_that_was_stopped_goes_on(workdir, tmp_path, monkeypatch, capfd):
    flags = ("likelihood", f"--model={workdir}", f"--output={tmp_path}", *SHORT)
    advance, count = Annealer.advance, 0

    def stopped(*arguments):
        nonlocal count
        count += 1
        if count == 4:  # one part of the search, and one of two of the forward run
            raise Stopped("stopped")
        return advance(*arguments)

    monkeypatch.setattr(Annealer, "advance", stopped)
    assert main(list(flags)) == 42
    assert not (tmp_path / api.LIKELIHOOD_FILE).exists()
    monkeypatch.setattr(Annealer, "advance", advance)
    capfd.readouterr()
    run(*flags)
    assert "level 0: goes on where" in capfd.readouterr().out
    whole, again = (read(folder)["levels"]["0"] for folder in (workdir, tmp_path))
    for side in ("forward", "reverse"):
        assert again[side] == pytest.approx(whole[side], rel=1e-4)
    # Other settings begin a new run, beside the first.
    run(*flags, "--seed=1")
    assert "goes on" not in capfd.readouterr().out
    assert read(tmp_path)["levels"]["0"]["forward"]["log_z"] != again["forward"]["log_z"]
    assert len(list((tmp_path / "likelihood").glob("level_0_*.npz"))) == 2


def test_the_api_gives_the_estimate_of_the_command_and_another_number_of_devices_a_near_one(workdir, model):
    sides = model.estimate_log_z(0, chains=256, steps=50)
    found = read(workdir)["levels"]["0"]
    assert sides.forward._asdict() == pytest.approx(found["forward"], rel=1e-5)
    assert sides.log_z == sides.forward.log_z
    settings = Settings(chains=256, steps=50, reach=model.reach)
    key = jax.random.key(0)
    alone = Annealer(model.model, model.parts.transition, (2,), key, settings, devices=jax.devices()[:1]).run(
        0
    )
    for one, several in zip(alone[:2], sides[:2], strict=True):
        errors = np.hypot(one.standard_error, several.standard_error)
        assert abs(one.log_z - several.log_z) < 4 * errors
    # Seven chains do not divide over four devices.
    odd = Annealer(model.model, model.parts.transition, (2,), key, settings._replace(chains=7))
    assert odd._placement.num_devices == 1


class Finished(Annealer):
    """Stands for an annealer whose run is at its end, with weights around e^log_z up to a few nats."""

    def __init__(self, log_z, spread):
        rng = np.random.default_rng(0)
        self._forward, self._reverse = log_z + spread * rng.standard_normal(64), np.full(64, -log_z)

    def start(self, t):
        side = Side(*(np.zeros(()) for _ in Side._fields))
        own: dict[str, Any] = {name: np.zeros(1) for name in Progress._fields}
        return Progress(**{**own, "forward": side, "reverse": side})

    def advance(self, t, progress):
        return None

    def length(self, progress):
        return 20.0

    def result(self, progress):
        return sandwich(self._forward, self._reverse, 64)


def test_bits_of_bytes_and_where_the_sides_do_not_bracket_there_is_no_number(tmp_path, capfd, monkeypatch):
    flags = ("likelihood", "--model=digits", f"--output={tmp_path}", "--examples=20", "--levels=4")
    monkeypatch.setattr(api.TrainedModel, "annealer", lambda *_, **__: Finished(-3.0, 0.1))
    run(*flags)
    model, found = drl_jax.load("digits"), read(tmp_path)
    data = open_source("digits", image_size=8, channels=1)
    examples = data.take(np.sort(np.random.default_rng([0, 1]).permutation(len(data))[:20]))
    keys = example_keys(jax.random.fold_in(jax.random.key(0), 4), 20)
    levels = model.parts.levels
    x = diffuse_to(keys, jnp.asarray(examples / np.float32(127.5) - 1), jnp.full(20, 4), levels)
    scale, log_z = levels.scale[4], found["levels"]["4"]["log_z"]
    assert log_z == pytest.approx(-3, abs=0.1)
    nats = -model.energy(np.asarray(x), 4) + 64 * np.log(scale) - log_z
    assert found["levels"]["4"]["data"]["log_density"] == pytest.approx(nats.mean(), rel=1e-4)
    bits = found["levels"]["4"]["data"]["bits_per_dimension"]
    assert bits == pytest.approx(np.mean(-nats / 64 / np.log(2) + np.log2(127.5)), rel=1e-4)
    printed = capfd.readouterr().out
    assert f"{bits:.4f} ± " in printed
    assert "split train, was_trained_on True" in printed
    assert "of bytes (0 to 255): log2 127.5 more" in printed

    monkeypatch.setattr(api.TrainedModel, "annealer", lambda *_, **__: Finished(-3.0, 9.0))
    run(*flags, "--levels=3")
    both = read(tmp_path)["levels"]
    assert both["4"] == found["levels"]["4"]  # kept: the protocol is the same
    assert both["3"]["log_z"] is both["3"]["data"] is None
    printed = capfd.readouterr().out
    assert "no number: the forward run has an effective size of" in printed
    assert "more than 400 steps are needed" in printed


MISTAKES = {
    "level": ("--levels=0,1", "--levels=0,1 is not possible: the levels are 0 to 0"),
    "levels twice": ("--levels=0,0", "levels from 0 on, with commas, each once"),
    "no chains": ("--chains=0", "--chains=0 is not possible: it must be a whole number of at least 16"),
    "split": ("--split=test", "--split=test is not possible with points, which are drawn anew"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake, workdir, program):
    flag, expected = MISTAKES[mistake]
    outcome = program("likelihood", f"--model={workdir}", flag)
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert expected in outcome.err


def test_a_mistake_in_the_api_is_one_clear_error(model):
    for call, expected in (
        (lambda: model.estimate_log_z(0, chains=3), "chains=3 is not possible"),
        (lambda: model.estimate_log_z(0, steps=0), "steps=0 is not possible"),
        (lambda: model.estimate_log_z(0, 1), "level=1 is not possible"),
        (lambda: model.log_density(np.zeros((1, 2)), 1), "level=1 is not possible"),
        (lambda: model.bound(-1), "level=-1 is not possible"),
    ):
        with pytest.raises(UserError, match=expected):
            call()
