"""Long chains: the method `run_chain`, and the command `chain`."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import linen as nn

import drl_jax
from drl_jax import api
from drl_jax.commands.chain import chain
from drl_jax.config.options import Chain
from drl_jax.core.model import Model
from drl_jax.errors import UserError
from drl_jax.main import main
from drl_jax.parallel.preemption import Stop, Stopped
from drl_jax.pixels import to_unit

IMAGES = np.zeros((2, 8, 8, 1), np.uint8)


class Normal(nn.Module):
    """N(0, ⅛) of every pixel, at every level of the digits that ship; quick to compile."""

    @nn.compact
    def __call__(self, y, t):
        temperature = jnp.asarray(drl_jax.load("digits").parts.levels.temperature, jnp.float32)
        return -4 * temperature[t] * jnp.sum(y**2, axis=(1, 2, 3))


class Broken(nn.Module):
    """Infinite at level 1 alone."""

    @nn.compact
    def __call__(self, y, t):
        return jnp.where(t == 1, jnp.inf, 0.0) * jnp.sum(y**2, axis=(1, 2, 3))


def load(network: nn.Module, **overrides: str) -> api.TrainedModel:
    """The model of digits that ships, with another network."""
    shipped = drl_jax.load("digits", overrides=overrides)
    return replace(shipped, model=Model(network, shipped.parts.levels, params={}, spectral={}))


@pytest.fixture(scope="module")
def model() -> api.TrainedModel:
    return load(Normal())


def test_a_chain_depends_on_its_key_alone_and_not_on_the_number_of_chains(model):
    # On four devices, so one chain or two are added to fill them. The step sizes are adapted by other chains.
    few, many = (model.run_chain(3, n, steps=(6, 13), method="mala", warmup=3) for n in (2, 3))
    assert many.examples.shape == many.states.shape == (2, 3, 8, 8, 1)
    assert many.examples.dtype == np.uint8
    np.testing.assert_allclose(few.states, many.states[:, :2], rtol=1e-3, atol=1e-3)
    assert [row.step_size for row in few.diagnostics] == [row.step_size for row in many.diagnostics]
    assert [(row.snapshot, row.level, row.steps) for row in many.diagnostics] == [
        *((0, t, 1) for t in (5, 4, 3, 2, 1, 0)),
        *((1, t, 2 + (t < 1)) for t in (5, 4, 3, 2, 1, 0)),
    ]


def test_chains_of_one_level_begin_at_given_examples_and_end_by_the_levels_below(model):
    x = np.asarray([IMAGES[0], IMAGES[1] + 200])
    run = model.run_chain(0, 4, steps=(1, 3), target="recovery", level=2, x=x, group=2, step_size=1e-3)
    start = model.parts.levels.scale[2] * run.states[0]
    np.testing.assert_allclose(start, np.repeat(to_unit(x), 2, axis=0), atol=2e-3)
    # The lower levels of `denoise` draw from the same keys.
    np.testing.assert_array_equal(run.examples[1], model.denoise(0, run.states[1], 2))
    marginal = model.run_chain(0, 2, steps=1, target="marginal", level=0, x=x, step_size=1e-3)
    np.testing.assert_allclose(marginal.states[0], to_unit(x), atol=1e-3)


MISTAKES = {
    "method": (
        {"method": "gibbs"},
        "method='gibbs' is not possible: it must be one of langevin, mala, hmc, n",
    ),
    "target": (
        {"target": "prior"},
        "target='prior' is not possible: it must be one of levels, recovery, marg",
    ),
    "no chains": ({"n": 0}, "n=0 is not possible"),
    "few steps": ({"steps": 5}, "steps=5 is too few: the model has 6 levels"),
    "no steps": ({"steps": ()}, "steps has no number"),
    "decreasing": ({"steps": (30, 20)}, "steps=20 is not possible: it must be a whole number of at least 31"),
    "no level": ({"target": "marginal"}, "target=marginal needs level, a whole number from 0 to 5"),
    "level out of range": ({"target": "marginal", "level": 6}, "level=6 is not possible"),
    "level of all": ({"level": 2}, "level and group are of target=recovery or marginal"),
    "start of all": ({"x": IMAGES}, "x is of target='recovery' or 'marginal'"),
    "rows": (
        {"target": "recovery", "level": 1, "x": IMAGES},
        "x has 2 rows; right is one for each of 4 groups",
    ),
    "shape": (
        {"target": "recovery", "level": 1, "x": IMAGES[:, 1:]},
        r"x has the shape \[2, 7, 8, 1\]; right is",
    ),
    "group": ({"target": "recovery", "level": 1, "group": 3}, "group=3 does not divide n=4"),
    "step size": ({"step_size": 0.0}, "step_size=0.0 is not possible: it must be above 0"),
    "acceptance": ({"acceptance": 1}, "acceptance=1 is not possible: it must be between 0 and 1"),
    "leapfrog steps": ({"leapfrog_steps": 0}, "leapfrog_steps=0 is not possible"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_error(mistake, model):
    settings, expected = MISTAKES[mistake]
    with pytest.raises(UserError, match=expected) as error:
        model.run_chain(0, **{"n": 4, "steps": 12, **settings})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 12},
        {"steps": (2, 4), "target": "marginal", "level": 1, "x": IMAGES},
        {"steps": 2, "target": "recovery", "level": 0},  # on its way to the start
        {"steps": 2, "target": "recovery", "level": 2, "x": IMAGES},  # on its way to examples
    ],
)
def test_chains_that_leave_the_finite_numbers_are_not_returned(settings):
    with pytest.raises(UserError, match="2 of 2 chains left the finite numbers, at level 1, step 0"):
        load(Broken()).run_chain(0, 2, **settings)


def test_a_stopped_command_goes_on_where_it_was(tmp_path):
    # Without scores; the signal comes in the first part, and again later.
    config = load(Normal(), **{"evaluation.metrics": "none"})
    options = Chain(method="hmc", steps=(8, 19), chains=3, warmup=3, leapfrog_steps=2)
    whole, folder = epath.Path(tmp_path / "whole"), epath.Path(tmp_path / "stopped")
    chain(config, options, whole, Stop())

    class StopLater(Stop):
        """Is asked to stop after some parts."""

        asked, after = 0, 0

        @property
        def requested(self):
            self.asked += 1
            return self.asked > self.after

        @requested.setter
        def requested(self, value): ...

    for after in (0, 12):
        stop = StopLater()
        stop.after = after
        with pytest.raises(Stopped, match="is kept; start again to continue"):
            chain(config, options, folder, stop)
        assert [path.name for path in folder.iterdir()] == ["chain_unfinished.npz"]
    chain(config, options, folder, Stop())
    with np.load(whole / "chain.npz") as expected, np.load(folder / "chain.npz") as found:
        assert set(found) == set(expected)
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])
    assert not (folder / "chain_unfinished.npz").exists()


def test_the_command_writes_scores_of_chains_beside_those_of_samples(tmp_path, caplog):
    model = load(Normal(), **{"evaluation.metrics": "frechet_pixels"})
    options = Chain(target="recovery", level=0, start="data", steps=(2, 5), chains=70, group=2)
    with caplog.at_level("INFO", "drl_jax"):
        chain(model, options, epath.Path(tmp_path), Stop())
    result = json.loads((tmp_path / "chain.json").read_text())
    assert set(result["scores"]) == {"2", "5", "samples", "data_vs_data"}
    # These chains begin at data and hardly move; the samples are noise.
    distances = [result["scores"][name]["frechet_pixels"] for name in ("5", "samples")]
    assert 3 * distances[0] < distances[1]
    assert "frechet_pixels is at most 1.5 × that of samples after 2, 5 steps" in caplog.text
    assert "data against data" in caplog.text
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"chain.npz", "chain.json", "chain.png", "chain_plots.png"}
    with np.load(tmp_path / "chain.npz") as file:
        assert file["examples"].shape == (2, 70, 8, 8, 1)
        assert file["trace_energy"].shape == (5, 70)
        # The two chains of a group begin at one digit, and two groups at two.
        x = to_unit(file["examples"][0])
    assert np.abs(x[0] - x[1]).mean() < 0.5 * np.abs(x[0] - x[2]).mean()


def test_a_wrong_flag_is_one_line(capfd):
    for flags, expected in (
        (["--start=noise"], "--start=noise is of --target=recovery or marginal"),
        (
            ["--steps=9,9"],
            "--steps=9,9 is not possible: it must be whole numbers of at least 1 that increase",
        ),
        (["--steps=5"], "steps=5 is too few: the model has 6 levels"),
        (["--method=gibbs"], "--method='gibbs' is not possible: it must be one of langevin, mala, hmc, nuts"),
    ):
        assert main(["chain", "--model=digits", *flags]) == 1
        error = capfd.readouterr().err
        assert expected in error
        assert error.count("\n") == 1
