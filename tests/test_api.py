"""The API: the samples of the program, the functions of the core, and one clear error for a mistake."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import linen as nn
from safetensors.numpy import save

import drl_jax
from drl_jax import api, pretrained
from drl_jax.checkpoints import weights
from drl_jax.checkpoints.digests import sha256
from drl_jax.config import schema
from drl_jax.core import energy
from drl_jax.core.levels import diffuse_to
from drl_jax.core.model import Model
from drl_jax.core.randomness import example_keys, fold_in
from drl_jax.core.synthesis import descend
from drl_jax.data.sources import open_source
from drl_jax.errors import UserError
from drl_jax.main import main
from drl_jax.pixels import to_unit
from tests.helpers import CONFIGS, POINTS, last_of_each, run, small


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    """The workdir of a short run, with samples and an exported file."""
    workdir = tmp_path_factory.mktemp("run")
    run("train", f"--config={CONFIGS}/digits.py", f"--workdir={workdir}", *small())
    run("sample", f"--workdir={workdir}")
    run("export", f"--workdir={workdir}")
    return workdir


@pytest.fixture(scope="module")
def model(workdir) -> api.TrainedModel:
    return drl_jax.load(workdir)


@pytest.fixture(scope="module")
def noisy(model) -> np.ndarray:
    """Two examples at x_2."""
    return np.asarray(jax.random.normal(jax.random.key(3), (2, *model.parts.shape)))


def assert_equal_models(one: api.TrainedModel, other: api.TrainedModel) -> None:
    for tree in ("params", "spectral"):
        jax.tree.map(np.testing.assert_array_equal, getattr(one.model, tree), getattr(other.model, tree))
    assert one.config.network == other.config.network
    assert one.config.levels == other.config.levels


def test_a_workdir_and_its_export_are_the_same_model(workdir, model):
    exported = drl_jax.load(workdir / pretrained.FILE)
    assert_equal_models(model, exported)
    assert exported.about["step"] == model.about["step"] == 4
    assert exported.config.data.data_dir is None
    assert str(workdir) not in str(exported.about)
    assert "digits [8, 8, 1], 3 levels, step 4" in repr(exported)
    earlier = drl_jax.load(str(workdir), step=2)
    assert earlier.about["step"] == 2


def test_samples_are_those_of_the_program(workdir, model):
    with np.load(workdir / "samples.npz") as file:
        np.testing.assert_array_equal(model.sample(0, 6), file["arr_0"])
    np.testing.assert_array_equal(model.sample(jax.random.key(0), 3), model.sample(0, 6)[:3])
    assert (model.sample(1, 3) != model.sample(0, 3)).any()


@pytest.mark.parametrize("level", [0, 2])
def test_energy_and_score_are_those_of_the_core(level, model):
    x = model.sample(0, 3)
    t, levels = jnp.full(3, level), model.parts.levels
    scale = float(levels.scale[level])

    def log_density(x):
        return energy.marginal(model.model.bind(), levels, t)(scale * x)

    unit = jnp.asarray(to_unit(x))
    np.testing.assert_allclose(model.energy(x, level), -log_density(unit), rtol=1e-5)
    expected = jax.grad(lambda x: log_density(x).sum())(unit)
    np.testing.assert_allclose(model.score(x, level), expected, rtol=1e-3, atol=1e-3 * abs(expected).max())
    # Floats in units of the model are the same examples.
    np.testing.assert_array_equal(model.energy(to_unit(x), level), model.energy(x, level))


@pytest.mark.parametrize("level", [0, 2])
def test_statistics_are_those_of_noisy_examples(level, model):
    x = np.random.default_rng(0).integers(0, 256, (17, 8, 8, 1), np.uint8)  # in two parts
    found = model.statistics(5, x, level)
    keys, t = fold_in(example_keys(jax.random.key(5), 17), 0), jnp.full(17, level)
    x_t = np.asarray(diffuse_to(keys, jnp.asarray(to_unit(x)), t, model.parts.levels))
    for rows in (slice(0, 3), slice(14, 17)):
        np.testing.assert_allclose(found.energy[rows], model.energy(x_t[rows], level), rtol=1e-4, atol=1e-3)
        norms = np.linalg.norm(model.score(x_t[rows], level).reshape(3, -1), axis=1)
        np.testing.assert_allclose(found.score_norm[rows], norms, rtol=1e-3)
    assert found.energy.shape == found.score_norm.shape == (17,)


def test_denoising_is_the_lower_levels(model, noisy):
    x = model.denoise(7, noisy, 2)
    keys = example_keys(jax.random.key(7), 2)
    parts = model.parts
    expected, _, _ = descend(keys, model.model.bind(), parts.levels, parts.transition, jnp.asarray(noisy), 2)
    assert x.dtype == np.uint8
    # One program compiles to other roundings than the other, and a byte is truncated.
    assert np.abs(x.astype(int) - 127.5 * (np.clip(expected, -1, 1) + 1)).max() < 1.5


def test_completions_are_the_image_where_it_is_known(model):
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1) * 4
    known = np.zeros((8, 8), bool)
    known[:, :5] = True
    x = model.inpaint(0, image, known, 3)
    assert x.shape == (3, 8, 8, 1)
    np.testing.assert_array_equal(x[:, known], np.broadcast_to(image[known], (3, 40, 1)))
    assert len({each.tobytes() for each in x}) == 3
    np.testing.assert_array_equal(model.inpaint(0, image, known[..., None], 2), x[:2])


def test_interpolations_are_between_their_ends(model):
    rows = model.interpolate(0, 5)
    assert rows.shape == (5, 8, 8, 1)
    np.testing.assert_array_equal(model.interpolate(0, 3), rows[[0, 2, 4]])
    shared = model.interpolate(0, 3, noise="shared")
    sample = model.sample(0, 1).astype(int)
    for first in (rows[:1], shared[:1]):
        assert np.abs(first - sample).max() <= 1  # other programs round to bytes differently
    assert np.abs(rows[-1].astype(int) - shared[-1]).max() > 1
    x, y = np.zeros((8, 8, 1), np.uint8), np.full((8, 8, 1), 255, np.uint8)
    for level in (1, 3):
        assert model.interpolate(0, 4, between=(x, y), level=level).shape == (4, 8, 8, 1)


IMAGE = np.zeros((1, 8, 8, 1), np.uint8)
HALF = np.arange(64).reshape(8, 8) < 32
MISTAKES = {
    "shape": (lambda m: m.energy(IMAGE[0], 0), r"x has the shape \[8, 8, 1\]; right is \[n, 8, 8, 1\]"),
    "no rows": (lambda m: m.energy(IMAGE[:0], 0), r"x has the shape \[0, 8, 8, 1\]"),
    "dtype": (lambda m: m.energy(IMAGE.astype(int), 0), "x is of type int64; right is uint8"),
    "range": (
        lambda m: m.energy(IMAGE + 200.0, 0),
        "x has floats up to 200: data are in .* at most 20; bytes",
    ),
    "not finite": (
        lambda m: m.score(IMAGE * np.nan, 0),
        "x has numbers that are not finite, the first in row 0",
    ),
    "level": (lambda m: m.energy(IMAGE, 3), "level=3 is not possible: it must be a whole number from 0 to 2"),
    "negative level": (lambda m: m.score(IMAGE, -1), "level=-1 is not possible"),
    "level of another type": (lambda m: m.energy(IMAGE, True), "level=True is not possible"),
    "level of statistics": (lambda m: m.statistics(0, IMAGE, 3), "level=3 is not possible"),
    "no draws": (lambda m: m.statistics(0, IMAGE, 0, 0), "n=0 is not possible"),
    "level above": (lambda m: m.diffuse(0, IMAGE, 4), "from 0 to 3"),
    "level of noise": (lambda m: m.denoise(0, IMAGE, 0), "from 1 to 3"),
    "count": (lambda m: m.sample(0, 0), "n=0 is not possible: it must be a whole number of at least 1"),
    "one row": (lambda m: m.interpolate(0, 1), "at least 2"),
    "no completion": (lambda m: m.inpaint(0, IMAGE[0], HALF, 0), "n=0 is not possible"),
    "seed": (lambda m: m.sample(-1, 2), "key=-1 is not possible: it must be a seed"),
    "old key": (lambda m: m.sample(jax.random.PRNGKey(0), 2), "one key of jax.random.key"),
    "noise": (
        lambda m: m.interpolate(0, 3, noise="none"),
        "noise='none' is not possible: it must be mixed or",
    ),
    "level without ends": (lambda m: m.interpolate(0, 3, level=1), "give between="),
    "mask without holes": (
        lambda m: m.inpaint(0, IMAGE[0], np.ones((8, 8), bool)),
        "nothing is left to draw",
    ),
    "mask of numbers": (lambda m: m.inpaint(0, IMAGE[0], np.ones((8, 8))), "known is of float64"),
    "mask of another shape": (
        lambda m: m.inpaint(0, IMAGE[0], np.ones((4, 8), bool)),
        r"\[4, 8\]; right is \[8, 8, 1\] or \[8, 8\]",
    ),
    "image of another shape": (
        lambda m: m.inpaint(0, IMAGE[0, :4], HALF),
        r"x has the shape \[4, 8, 1\]; right is \[8, 8, 1\]",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_error(mistake, model):
    call, expected = MISTAKES[mistake]
    with pytest.raises(UserError, match=expected) as error:
        call(model)
    assert "\n" not in str(error.value)


def test_what_is_no_model(workdir, tmp_path):
    with pytest.raises(UserError, match="'digit' is no model: it must be one that ships"):
        drl_jax.load("digit")
    with pytest.raises(UserError, match="source=s3://a/b is not possible: it must be a folder"):
        drl_jax.load("s3://a/b")
    with pytest.raises(UserError, match="is no model: it has no config"):
        drl_jax.load(tmp_path)
    with pytest.raises(UserError, match="step=3 is possible only with the workdir of a run"):
        drl_jax.load(workdir / pretrained.FILE, step=3)
    with pytest.raises(UserError, match="has no checkpoint"):
        drl_jax.load(workdir, step=3)
    content = (workdir / pretrained.FILE).read_bytes()
    file = tmp_path / "a.safetensors"
    for damaged in (content[:-5], content[:100], b"", b"no weights of a model", content[:-3] + b"\1\1\1"):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged"):
            drl_jax.load(file)
    for metadata in (None, {"format": "pt"}):
        file.write_bytes(save({"a": np.zeros(2)}, metadata))
        with pytest.raises(UserError, match="of this program" if metadata else "not a safetensors file"):
            drl_jax.load(file)


class Broken(nn.Module):
    """Infinite at level 1 alone."""

    @nn.compact
    def __call__(self, y, t):
        return jnp.where(t == 1, jnp.inf, 0.0) * jnp.sum(y**2, axis=(1, 2, 3))


@pytest.mark.parametrize("method", ["sample", "denoise", "interpolate", "between", "inpaint"])
def test_chains_that_leave_the_finite_numbers_are_not_returned(method, model, noisy):
    arrays = Model(Broken(), model.parts.levels, params={}, spectral={})
    broken = api.TrainedModel("broken", model.config, model.parts, arrays, model.about)
    calls = {
        "sample": lambda: broken.sample(0, 2),
        "denoise": lambda: broken.denoise(0, noisy, 2),
        "interpolate": lambda: broken.interpolate(0, 3),
        "between": lambda: broken.interpolate(0, 3, between=(IMAGE[0], IMAGE[0] + 9), level=3),
        "inpaint": lambda: broken.inpaint(0, IMAGE[0], HALF, 2),
    }
    with pytest.raises(UserError, match="chains left the finite numbers, at level 1, step 0"):
        calls[method]()


def test_points(tmp_path):
    run("train", f"--config={CONFIGS}/points.py:ring", f"--workdir={tmp_path}", *POINTS)
    model = drl_jax.load(tmp_path)
    x = model.sample(0, 5)
    assert (x.shape, x.dtype) == ((5, 2), np.float32)
    assert model.energy(x, 0).shape == (5,)
    with pytest.raises(UserError, match="x is of type uint8; right is floats"):
        model.energy(np.zeros((1, 2), np.uint8), 0)


def test_the_models_that_ship():
    assert pretrained.names() == ["cifar10", "digits", "fashion_mnist"]
    sizes = {name: len(pretrained.weights_of(name).read_bytes()) for name in pretrained.names()}
    assert sum(sizes.values()) < 12e6  # bytes; all travel in each wheel


@pytest.mark.parametrize("name", pretrained.names())
def test_a_model_that_ships_has_its_scores_beside_it(name):
    model = drl_jax.load(name)
    assert model.config.data.name == name
    assert model.about["step"] == model.config.training.steps
    result = json.loads((pretrained.weights_of(name).parent / "result.json").read_text())
    assert result["protocol"]["samples"]["weights_sha256"] == sha256(model.model)
    # A key that is younger than the result has its default.
    defaults = schema.to_dict(schema.Config())["network"]
    assert defaults | result["config"]["network"] == schema.to_dict(model.config)["network"]
    assert result["training"]["commit"] == model.about["commit"]


def test_the_samples_of_digits_look_like_digits():
    model = drl_jax.load("digits")
    # Its samples have the pixels of digits: not those of noise, which have a mean of 127 and as much spread.
    data = open_source("digits", image_size=8, channels=1).take(np.arange(500))
    samples = model.sample(0, 64)
    assert abs(samples.mean() - data.mean()) < 8
    assert abs(samples.mean(0) - data.mean(0)).mean() < 16
    # A digit is more probable at level 0 than its pixels in another order.
    shuffled = np.random.default_rng(0).permuted(data[:64].reshape(64, -1), axis=1).reshape(64, 8, 8, 1)
    assert (model.energy(data[:64], 0) < model.energy(shuffled, 0)).mean() > 0.98


def test_training_begins_with_given_weights(workdir, model, tmp_path, capsys):
    file = shutil.copy(workdir / pretrained.FILE, tmp_path / "given.safetensors")
    flags = [*small(training__init=file), f"--config={CONFIGS}/digits.py", f"--workdir={tmp_path}/run"]
    # The first update moves nothing: its learning rate is 0.
    run("train", *flags, "--config.training.steps=1")
    first = drl_jax.load(tmp_path / "run")
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6)  # the average of equal numbers
    jax.tree.map(same, first.model.params, model.model.params)
    # The run goes on without the file.
    file.unlink()
    run("train", *flags, "--config.training.steps=2")
    moved = drl_jax.load(tmp_path / "run").model.params
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), moved, model.model.params)))
    flags[-1] = f"--workdir={tmp_path}/other"
    capsys.readouterr()
    assert main(last_of_each(["train", *flags])) == 1
    assert f"config.training.init='{file}' is not possible: '{file}' is no model" in capsys.readouterr().err
    wide = ["--config.network.width=16", f"--config.training.init={workdir / pretrained.FILE}"]
    assert main(last_of_each(["train", *flags, *wide])) == 1
    assert "has another network than config.network" in capsys.readouterr().err


def test_what_is_written_is_read_again(workdir, tmp_path):
    tree, about, _ = weights.read(epath.Path(workdir / pretrained.FILE), "a")
    weights.write(epath.Path(tmp_path / "b"), tree, about)
    again, about_again, _ = weights.read(epath.Path(tmp_path / "b"), "b")
    jax.tree.map(np.testing.assert_array_equal, tree, again)
    assert about == about_again
