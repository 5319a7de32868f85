"""Annealed importance sampling against normalising constants that are known."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from drl_jax.applications import likelihood
from drl_jax.applications.likelihood import Chains, Normal, Path


class Density(NamedTuple):
    """A density of which log Z is known.

    Attributes:
      log_density: (parameters, y) -> log p up to log Z.
      parameters: arrays. Densities that differ in them alone share compiled programs.
      log_z: in nats.
      draw: (key, n) -> exact draws.
    """

    log_density: Callable
    parameters: tuple
    log_z: float
    draw: Callable


def of_gaussian(parameters, y):
    mean, width = parameters
    return -0.5 * jnp.sum(((y - mean[None]) / width[None]) ** 2, axis=-1)


def gaussian(size, low=0.8):
    """A Gaussian whose axes have unequal widths, low … 1."""
    rng = np.random.default_rng(size)
    mean = (0.05 * rng.standard_normal(size)).astype(np.float32)
    width = np.exp(rng.uniform(np.log(low), 0.0, size)).astype(np.float32)
    log_z = size / 2 * np.log(2 * np.pi) + np.log(width.astype(np.float64)).sum()
    draw = lambda key, n: mean[None] + width[None] * jax.random.normal(key, (n, size))
    return Density(of_gaussian, (mean, width), log_z, draw)


def of_mixture(parameters, y):
    centres, widths, masses = (jnp.asarray(values, jnp.float32)[None] for values in parameters)
    terms = jnp.log(masses / (widths * np.sqrt(2 * np.pi))) - 0.5 * ((y - centres) / widths) ** 2
    return jax.nn.logsumexp(terms, axis=1)


def mixture():
    """Two narrow modes on a line, with unequal weights."""
    centres, widths, masses = parameters = np.array([[-1.0, 1.2], [0.2, 0.3], [0.3, 2.5]])

    def draw(key, n):
        which, noise = jax.random.split(key)
        mode = jax.random.bernoulli(which, masses[1] / masses.sum(), (n,)).astype(int)
        at = lambda values: jnp.asarray(values, jnp.float32)[mode]
        return (at(centres) + at(widths) * jax.random.normal(noise, (n,)))[:, None]

    return Density(of_mixture, tuple(parameters), np.log(masses.sum()), draw)


def standard(size, bound=8.0):
    return Normal(jnp.zeros(size), jnp.ones(size), bound)


@partial(jax.jit, static_argnums=0)
def explore(log_density, parameters, keys, normal, explorer, first):
    log_density = partial(log_density, parameters)
    return likelihood.explore(keys, log_density, normal, explorer, 20, first=first)


@partial(jax.jit, static_argnums=0)
def anneal(log_density, parameters, keys, normal, chains, path, first=0):
    return likelihood.anneal(keys, partial(log_density, parameters), normal, chains, path, first=first)


def find_path(key, density, normal, chains):
    """β and step sizes, by a run in parts."""
    keys = jax.random.split(key, chains)
    explorer = likelihood.begin(keys, normal)
    parts = [Path(jnp.zeros(1), jnp.exp(explorer.log_step_size)[None])]
    while explorer.beta < 1:
        first = 20 * (len(parts) - 1)
        assert first < 1000
        explorer, part = explore(*density[:2], keys, normal, explorer, first)
        parts.append(part)
    betas, sizes = (jnp.concatenate(values) for values in zip(*parts, strict=True))
    end = int(np.argmax(betas == 1)) + 1
    return Path(betas[:end], sizes[:end])


def both_sides(new_key, density, normal, *, chains, steps):
    """(the two sides, mean acceptance, the last positions of the forward run)."""
    path = likelihood.refine(find_path(new_key(), density, normal, chains), steps)
    keys, back_keys = jax.random.split(new_key(), (2, chains))
    start = Chains(normal.draw(jax.random.split(new_key(), chains)), jnp.zeros(chains))
    end, acceptance = anneal(*density[:2], keys, normal, start, path)
    start = Chains(density.draw(new_key(), chains), jnp.zeros(chains))
    back, _ = anneal(*density[:2], back_keys, normal, start, path.back())
    size = int(np.prod(normal.mean.shape))
    sides = likelihood.sandwich(np.asarray(end.log_weight), np.asarray(back.log_weight), size)
    return sides, acceptance, end.position


@pytest.mark.parametrize(("size", "chains", "steps"), [(2, 500, 100), (32, 200, 200), (3072, 32, 400)])
def test_both_sides_bracket_the_log_z_of_a_gaussian(size, chains, steps, new_key):
    density = gaussian(size, low=0.9 if size > 1000 else 0.8)
    sides, acceptance, position = both_sides(new_key, density, standard(size), chains=chains, steps=steps)
    assert sides.doubt == ""
    log_z = density.log_z
    forward, reverse = sides.forward, sides.reverse
    for found in (forward, reverse):
        assert abs(found.log_z - log_z) < 3 * found.standard_error + 1e-3
        assert found.effective_size > chains / 3
    assert forward.log_z - 3 * forward.standard_error < log_z < reverse.log_z + 3 * reverse.standard_error
    assert sides.log_z == forward.log_z
    assert 0.6 < float(acceptance[steps // 2 :].mean()) <= 1
    assert np.isfinite(position).all()


def test_both_sides_bracket_the_log_z_of_a_mixture(new_key):
    normal = Normal(jnp.zeros(1), jnp.full(1, 1.2), 4.0)
    sides, _, position = both_sides(new_key, mixture(), normal, chains=1000, steps=100)
    assert sides.doubt == ""
    for found in sides[:2]:
        assert abs(found.log_z - mixture().log_z) < 3 * found.standard_error
        assert found.standard_error < 0.05
    # The chains end in both modes.
    assert 0.02 < float((position < 0).mean()) < 0.4


def test_a_run_that_is_too_short_is_recognised(new_key):
    density = gaussian(3072, low=0.05)  # the same number of steps, for axes that are much narrower
    sides, _, _ = both_sides(new_key, density, standard(3072), chains=32, steps=400)
    assert sides.log_z is None
    assert "effective size" in sides.doubt
    assert sides.forward.log_z + 1 < density.log_z < sides.reverse.log_z - 1  # the bounds hold


def test_draws_that_miss_a_mode_are_recognised(new_key):
    # The reverse run begins in the smaller mode alone, with a tenth of the mass.
    density = mixture()
    density = density._replace(draw=lambda key, n: -jnp.abs(mixture().draw(key, n)))
    normal = Normal(jnp.zeros(1), jnp.full(1, 1.2), 4.0)
    sides, _, _ = both_sides(new_key, density, normal, chains=1000, steps=100)
    assert sides.log_z is None
    assert "standard errors" in sides.doubt


def test_a_density_that_is_not_integrable_has_a_log_z_inside_of_the_box(new_key):
    # It grows towards the faces of the box, where proposals that leave it are refused.
    normal = Normal(jnp.array([0.3, -0.2]), jnp.full(2, 0.7), 1.0)
    log_z = 2 * np.log(quad(lambda y: np.exp(y**2 + y), -1, 1)[0])
    keys = jax.random.split(new_key(), 3000)
    start = normal.draw(keys)
    np.testing.assert_array_less(np.abs(start), 1 + 1e-6)
    path = likelihood.refine(Path(jnp.array([0.0, 1.0]), jnp.array([0.3, 0.3])), 50)
    grows = lambda parameters, y: jnp.sum(y**2 + y, axis=1)
    end, acceptance = anneal(grows, (), keys, normal, Chains(start, jnp.zeros(3000)), path)
    assert likelihood.inside(end.position, 1.0).all()
    assert float(acceptance.max()) < 0.9  # the box has refused some
    found = likelihood.estimate(np.asarray(end.log_weight))
    assert abs(found.log_z - log_z) < 3 * found.standard_error
    assert found.standard_error < 0.02


def test_the_normal_of_a_box_is_normalised_and_has_its_moments(new_key):
    normal = Normal(jnp.array([0.5]), jnp.array([0.8]), 1.0)
    cells = (np.arange(4000) + 0.5) / 2000 - 1
    mass = np.exp(np.asarray(normal.log_density(jnp.asarray(cells, jnp.float32)[:, None]), np.float64)) / 2000
    assert mass.sum() == pytest.approx(1, abs=1e-5)
    n = 100_000
    y = np.asarray(normal.draw(jax.random.split(new_key(), n)), np.float64)
    mean = (mass * cells).sum()
    variance = (mass * cells**2).sum() - mean**2
    assert abs(y.mean() - mean) < 5 * np.sqrt(variance / n)
    assert y.var() == pytest.approx(variance, rel=0.02)
    fitted = likelihood.fit_normal(jnp.array([[0.0, 1.0, 5.0], [2.0, 1.0, 5.0]]), 9.0)
    np.testing.assert_allclose(fitted.mean, [1, 1, 5])
    np.testing.assert_allclose(fitted.deviation, [1, 0.01 / np.sqrt(3), 0.01 / np.sqrt(3)], rtol=1e-3)


def test_the_path_is_dense_where_the_density_changes_fast(new_key):
    found = find_path(new_key(), gaussian(32, low=0.1), standard(32), 200)
    assert found.betas[0] == 0
    assert found.betas[-1] == 1
    gaps = np.diff(found.betas)
    assert (gaps > 0).all()
    assert gaps[-2] > 10 * gaps[0]
    assert found.step_sizes[-1] < 0.5 * found.step_sizes[1]  # narrower axes
    path = likelihood.refine(found, 300)
    assert len(path.betas) == 301
    np.testing.assert_array_equal(path.betas[jnp.array([0, -1])], [0, 1])
    back = path.back(stay=2)
    np.testing.assert_array_equal(back.betas[:4], [1, 1, 1, path.betas[-2]])
    np.testing.assert_array_equal(back.step_sizes[2:], path.step_sizes[::-1])


def test_a_run_in_parts_is_the_run(new_key):
    density = gaussian(3)
    path = Path(jnp.linspace(0.0, 1.0, 7) ** 2, jnp.linspace(0.1, 0.6, 7))
    keys, normal = jax.random.split(new_key(), 4), standard(3)
    start = Chains(normal.draw(keys), jnp.zeros(4))
    run = partial(anneal, *density[:2])
    whole, acceptance = run(keys, normal, start, path)
    half, first = run(keys, normal, start, Path(path.betas[:4], path.step_sizes[:4]))
    rest, second = run(keys, normal, half, Path(path.betas[3:], path.step_sizes[3:]), 3)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), rest, whole)
    np.testing.assert_allclose(jnp.concatenate([first, second]), acceptance, rtol=1e-5)
    # A chain is a function of its own key: in another order, the same chains.
    other, _ = run(keys[::-1], normal, Chains(start.position[::-1], jnp.zeros(4)), path)
    np.testing.assert_allclose(other.position[::-1], whole.position, rtol=1e-4, atol=1e-5)


def test_the_estimate_of_weights():
    # Weights 1 and 3: mean 2, deviation √2; (4²) / (1 + 9) = 1.6.
    found = likelihood.estimate(np.log([1.0, 3.0]) + 1000)
    assert found.log_z == pytest.approx(1000 + np.log(2))
    assert found.standard_error == pytest.approx(np.sqrt(2) / (2 * np.sqrt(2)))
    assert found.effective_size == pytest.approx(1.6)
    assert likelihood.estimate(np.log([2.0, 2.0]), is_reverse=True).log_z == pytest.approx(-np.log(2))


def test_when_both_sides_bracket():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, 100)) * 0.1
    agree = likelihood.sandwich(noise[0] + 5, noise[1] - 5, 2)
    assert agree.doubt == ""
    assert agree.log_z == agree.forward.log_z == pytest.approx(5, abs=0.05)
    for forward, reverse, size, doubt in [
        (noise[0] + 5, noise[1] - 5.2, 2, "nats above the forward one"),
        (noise[0] + 5, noise[1] - 4.8, 2, "nats below the forward one"),
        (50 * noise[0], noise[1], 2, "the forward run has an effective size of"),
        (noise[0], 50 * noise[1], 2, "the reverse run has an effective size of"),
        (noise[0] + np.nan, noise[1], 2, "the forward run left the finite numbers"),
    ]:
        sides = likelihood.sandwich(forward, reverse, size)
        assert doubt in sides.doubt
        assert sides.log_z is None
    # 0.2 nats are 1e-4 bits per dimension of a large image: rounding.
    assert likelihood.sandwich(noise[0] + 5, noise[1] - 5.2, 3072).doubt == ""


def test_bits_per_dimension():
    # A uniform density on [-1, 1] has one bit per number, and 8 bits less a little per byte: 255 of 256 wide.
    log_density = np.full(3, 64 * np.log(0.5))
    np.testing.assert_allclose(likelihood.bits_per_dimension(log_density, 64, is_bytes=False), 1)
    bits = likelihood.bits_per_dimension(log_density, 64, is_bytes=True)
    np.testing.assert_allclose(bits, np.log2(255))
