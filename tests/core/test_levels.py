"""Noise levels against their defining identities, and diffused data against exact moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from drl_jax.core import energy
from drl_jax.core.levels import diffuse, draw_levels, extract, make_levels, respaced_schedule
from drl_jax.core.randomness import fold_in, standard_normal


# Around every change of the stride's rounding, and both ends of the range.
@pytest.mark.parametrize("count", [2, 3, 6, 7, 32, 100, 251, 335, 400, 499, 500, 501])
def test_rule_of_the_respaced_schedule(count):
    # The rule in words: stretches end at i · (1000 // 2(T−1)) for i < T and at 999; a_i is the
    # product of √(1−β) after the end before, up to and with its own; β = linspace(1e-4, .02, 1000).
    # Here by loops.
    beta = np.linspace(1e-4, 0.02, 1000)
    ends = [i * (1000 // (2 * (count - 1))) for i in range(count)] + [999]
    a, start = [], 0
    for end in ends:
        a.append(np.sqrt(np.prod(1 - beta[start : end + 1])))
        start = end + 1
    levels = make_levels(count)
    np.testing.assert_allclose(levels.a, a, rtol=1e-12, atol=0)
    # No level is empty: each adds noise.
    assert levels.num_levels == count
    assert np.all(levels.sigma > 0)


def every_kind(test):
    return pytest.mark.parametrize("count", [1, 2, 4, 6, 501, 1000])(test)


@every_kind
def test_identities(count):
    levels = make_levels(count)
    assert levels.a.shape == levels.sigma.shape == (count + 1,)
    assert all(
        getattr(levels, name).shape == (count,)
        for name in ("scale", "is_recovery", "step_squared", "temperature", "weight")
    )
    assert all(array.dtype == np.float64 for array in vars(levels).values())
    # Variance is preserved: a² + σ² = 1, of a step and from the start. σ = √(1 − a²) loses what 1 −
    # a² loses.
    np.testing.assert_allclose(levels.a**2 + levels.sigma**2, 1, rtol=1e-14)
    np.testing.assert_allclose(levels.a_cum**2 + levels.sigma_cum**2, 1, rtol=1e-14)
    # The cumulative form is the step's, applied: σ_cum[i]² = a_i² σ_cum[i−1]² + σ_i².
    variance = levels.sigma[0] ** 2
    for i in range(1, count + 1):
        variance = levels.a[i] ** 2 * variance + levels.sigma[i] ** 2
        assert levels.sigma_cum[i] ** 2 == pytest.approx(variance, rel=1e-9)
    np.testing.assert_allclose(np.log(levels.a).cumsum(), np.log(levels.a_cum), rtol=1e-12)
    np.testing.assert_allclose(levels.weight, levels.sigma[1] / levels.sigma[1:], rtol=1e-15)
    assert levels.weight[0] == 1


@every_kind
def test_all_chains_end_in_the_same_noise(count):
    # √∏(1−β) over the linear chain of Ho et al. is 6.353e-3 (0.00635282 in the authors' arrays).
    assert make_levels(count).a_cum[-1] == pytest.approx(0.00635282, rel=1e-6)


@pytest.mark.parametrize("count", [1, 2, 6, 501])
def test_the_last_level_of_a_stretched_chain_is_a_marginal_model(count):
    levels = make_levels(count)
    np.testing.assert_array_equal(levels.is_recovery, [1] * (count - 1) + [0])
    np.testing.assert_array_equal(levels.scale, [*levels.a[1:-1], 1])


def test_six_levels():
    # The table of the authors' six levels, to the digits that it prints.
    levels = make_levels(6)
    np.testing.assert_allclose(
        levels.sigma, [0.01, 0.323680, 0.516495, 0.632211, 0.713242, 0.773369, 0.999741], atol=5e-7
    )
    np.testing.assert_allclose(
        levels.step_squared,
        [2.0954e-5, 1.7277e-3, 4.686e-3, 7.920e-3, 1.0742e-2, 1.9196e-2],
        rtol=5e-4 / 4.6,
    )


def test_one_level():
    # One jump over the whole chain, without a tether: s² = b² σ_1², weight 1.
    levels = make_levels(1)
    beta = np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(levels.a, np.sqrt([1 - beta[0], np.prod(1 - beta[1:])]), rtol=1e-12)
    np.testing.assert_allclose(levels.step_squared, 2e-4 * np.prod([1 - levels.a[1] ** 2]))
    assert (levels.is_recovery[0], levels.scale[0], levels.weight[0]) == (0, 1, 1)


def test_a_thousand_levels():
    # Every β is a level; x_0 is the data itself; all levels keep the tether; F = f / σ_cum[t+1].
    levels, beta = make_levels(1000), np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(levels.sigma, [0, *np.sqrt(beta)], rtol=1e-13)
    np.testing.assert_allclose(levels.a, [1, *np.sqrt(1 - beta)], rtol=1e-15)
    np.testing.assert_array_equal(levels.is_recovery, np.ones(1000))
    np.testing.assert_array_equal(levels.scale, levels.a[1:])
    np.testing.assert_allclose(levels.step_squared, 2e-4 * beta, rtol=1e-13)
    np.testing.assert_allclose(levels.temperature, np.sqrt(1 - np.cumprod(1 - beta)), rtol=1e-9)


@pytest.mark.parametrize("count", [6, 1000])
def test_temperatures(count):
    make = make_levels
    np.testing.assert_array_equal(make(count, temperature="one").temperature, np.ones(count))
    levels = make(count, temperature="step")
    np.testing.assert_array_equal(levels.temperature, levels.step_squared)
    levels = make(count, temperature="noise")
    np.testing.assert_array_equal(levels.temperature, levels.sigma_cum[1:])


def test_steps():
    # s_t² = b² σ_{t+1}² (σ_cum[t] / σ_cum[0])^growth.
    levels = make_levels(6, b_squared=0.03, step_growth=0.0)
    np.testing.assert_allclose(levels.step_squared, 0.03 * levels.sigma[1:] ** 2, rtol=1e-15)
    ratio = levels.sigma_cum[:-1] / levels.sigma_cum[0]
    for growth in (0.5, 1.0, 2.0):
        grown = make_levels(6, b_squared=0.03, step_growth=growth).step_squared
        np.testing.assert_allclose(grown, levels.step_squared * ratio**growth, rtol=1e-13)


@pytest.mark.parametrize("proportions", [None, (1, 3, 3, 3, 1, 1), (0.5, 1, 1, 1, 2, 0.5)])
def test_levels_are_drawn_in_proportion(proportions):
    levels, n = make_levels(6, proportions=proportions), 60_000
    expected = np.full(6, 1 / 6) if proportions is None else np.array(proportions) / np.sum(proportions)
    np.testing.assert_allclose(levels.probability, expected, rtol=1e-15)
    t = draw_levels(jax.random.split(jax.random.key(0), n), levels)
    assert t.dtype == jnp.int32
    assert set(np.unique(t)) == set(range(6))
    # The counts are multinomial: Pearson's statistic is below 20.5 in 99.9 % of draws (5 degrees of freedom).
    assert stats.chisquare(np.bincount(t, minlength=6), n * expected).statistic < 20.5


@pytest.mark.parametrize("proportions", [(1, 2), (1, 1, 1, 1, 1, 0), (1, 1, 1, 1, 1, np.nan)])
def test_proportions_that_are_not_possible(proportions):
    with pytest.raises(ValueError, match="it must be 6 positive numbers"):
        make_levels(6, proportions=proportions)


@pytest.mark.parametrize("count", [1, 2, 6, 20])
def test_another_sigma_0_changes_the_ends_of_level_0_alone(count):
    usual, levels = make_levels(count), make_levels(count, sigma_0=0.03)
    assert levels.sigma[0] == levels.sigma_cum[0] == pytest.approx(0.03, rel=1e-12)
    # Every x_i from x_1 on has the same noise as before, so only the step to x_1 is another.
    np.testing.assert_allclose(levels.a_cum[1:], usual.a_cum[1:], rtol=1e-14)
    np.testing.assert_allclose(levels.sigma[2:], usual.sigma[2:], rtol=1e-14)
    assert levels.a[1] == pytest.approx(usual.a_cum[1] / np.sqrt(1 - 0.03**2), rel=1e-14)
    # The steps of Langevin chains follow from their formula.
    expected = 2e-4 * levels.sigma[1:] ** 2 * levels.sigma_cum[:-1] / 0.03
    np.testing.assert_allclose(levels.step_squared, expected, rtol=1e-12)


def test_the_usual_sigma_0_may_be_given():
    given, usual = make_levels(6, sigma_0=0.01), make_levels(6)
    for name, values in vars(usual).items():
        np.testing.assert_allclose(getattr(given, name), values, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("sigma_0", [0.0, -0.1, 0.324, 1.0, np.nan])
def test_impossible_sigma_0(sigma_0):
    with pytest.raises(ValueError, match=r"it must be above 0 and below 0\.3238$"):
        make_levels(6, sigma_0=sigma_0)
    with pytest.raises(ValueError, match="is not possible with 1000 levels"):
        make_levels(1000, sigma_0=sigma_0)


@pytest.mark.parametrize("count", [-1, 0, 502, 999, 1001])
def test_impossible_counts_say_what_is_possible(count):
    message = rf"^{count} levels are not possible; possible are 1 to 501, and 1000$"
    with pytest.raises(ValueError, match=message):
        make_levels(count)


@pytest.mark.parametrize("count", [0, 502])
def test_the_schedule_has_no_empty_stretches(count):
    with pytest.raises(ValueError, match=f"T = {count} .* 1 to 501"):
        respaced_schedule(count)


def test_steps_that_would_divide_by_the_noise_of_noiseless_data():
    with pytest.raises(ValueError, match=r"^step_growth=1.0 is not possible with 1000 levels; it must be 0"):
        make_levels(1000, step_growth=1.0)


@pytest.mark.parametrize("shape", [(2,), (8, 8, 3)])
def test_noise_is_a_function_of_the_examples_key_alone(shape, new_key):
    keys = jax.random.split(new_key(), 6)
    draw = lambda keys: standard_normal(keys, jnp.zeros((len(keys), *shape)))
    whole = draw(keys)
    np.testing.assert_array_equal(draw(keys[2:4]), whole[2:4])
    np.testing.assert_array_equal(draw(keys[::-1]), whole[::-1])
    # Different keys, different noise; folding in makes others again.
    rows = np.concatenate([whole, draw(fold_in(keys, 0)), draw(fold_in(keys, 1))])
    assert len(np.unique(rows.reshape(18, -1), axis=0)) == 18
    np.testing.assert_array_equal(
        jax.random.key_data(fold_in(keys, 7)[3]),
        jax.random.key_data(jax.random.fold_in(keys[3], 7)),
    )


def test_extract_broadcasts():
    t = jnp.array([2, 0])
    values = np.array([0.1, 0.2, 0.3])
    picked = extract(values, t, jnp.zeros((2, 4, 4, 3), jnp.bfloat16))
    assert (picked.shape, picked.dtype) == ((2, 1, 1, 1), jnp.bfloat16)
    picked = extract(values, t, jnp.zeros(2))
    np.testing.assert_array_equal(picked, np.array([0.3, 0.1], np.float32))


@pytest.mark.parametrize("level", [-1, 6])
def test_a_level_out_of_range_is_refused(level):
    # JAX would take the nearest level; NumPy would count from the end.
    levels = make_levels(6)
    f = lambda y, t: jnp.sum(y, axis=1)
    with pytest.raises(ValueError, match=rf"^level {level} is out of range: it must be from 0 to 5$"):
        energy.marginal(f, levels, jnp.array([0, level]))(jnp.zeros((2, 3)))


@pytest.mark.parametrize("count", [6, 1000])
@pytest.mark.parametrize("t", [0, 1, -1])
def test_moments_of_the_diffused_pair(count, t, new_key):
    # Given the data x: x_t ~ N(a_cum x, σ_cum²), x_{t+1} ~ N(a_cum' x, σ_cum'²), covariance a_{t+1}
    # σ_cum[t]².
    levels, size = make_levels(count), 200_000
    t = range(count)[t]
    x = jnp.full((size, 1), 0.7)
    x_t, x_next = diffuse(jax.random.split(new_key(), size), x, jnp.full(size, t), levels)
    mean = 0.7 * levels.a_cum[[t, t + 1]]
    variance = levels.sigma_cum[[t, t + 1]] ** 2
    covariance = levels.a[t + 1] * variance[0]
    draws = np.concatenate([x_t, x_next], axis=1).astype(np.float64)
    # Five standard errors: σ/√n of a mean, σ²√(2/n) of a variance, √((σ²σ'² + c²)/n) of a
    # covariance. Rounding of numbers of size .7 to float32 is beside it where there is little
    # noise.
    error = 5 / np.sqrt(size)
    rounding = 1e-7
    np.testing.assert_array_less(np.abs(draws.mean(0) - mean), error * np.sqrt(variance) + rounding)
    found = np.cov(draws.T)
    np.testing.assert_array_less(
        np.abs(np.diag(found) - variance), np.sqrt(2) * error * variance + rounding**2
    )
    assert abs(found[0, 1] - covariance) <= (error * np.sqrt(variance.prod() + covariance**2) + rounding**2)


def test_a_pair_of_rows_has_its_own_levels(new_key):
    # Row by row, the batch is what each row gives alone at its own level.
    levels, keys = make_levels(6), jax.random.split(new_key(), 3)
    x, t = jax.random.normal(new_key(), (3, 4)), jnp.array([0, 5, 3])
    x_t, x_next = diffuse(keys, x, t, levels)
    for i in range(3):
        one_t, one_next = diffuse(keys[i : i + 1], x[i : i + 1], t[i : i + 1], levels)
        np.testing.assert_array_equal(x_t[i : i + 1], one_t)
        np.testing.assert_array_equal(x_next[i : i + 1], one_next)
