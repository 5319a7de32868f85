"""Spectral normalisation against NumPy's singular values, and its gradient against the closed form
v uᵀ.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drl_jax.core import spectral


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def kernel_with(values, shape, seed=0):
    """A kernel of that shape whose matrix [inputs, outputs] has these singular values, and its (σ,
    U, Vᵀ).
    """
    stream = np.random.default_rng(seed)
    rows, columns = int(np.prod(shape[:-1])), shape[-1]
    left, _ = np.linalg.qr(stream.standard_normal((rows, len(values))))
    right, _ = np.linalg.qr(stream.standard_normal((columns, len(values))))
    return jnp.asarray((left * values @ right.T).reshape(shape)), left, right.T


def start(outputs, seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(outputs))


def largest(kernel):
    return np.linalg.svd(np.reshape(kernel, (-1, kernel.shape[-1])), compute_uv=False)[0]


SHAPES = [(7, 5), (5, 7), (3, 3, 2, 6)]


@pytest.mark.parametrize("shape", SHAPES)
def test_sigma_is_the_largest_singular_value(shape):
    # The error of the vector shrinks by (σ_2/σ_1)² = 1/4 an iteration: 4^-40 is below rounding.
    kernel, _, right = kernel_with(np.array([3.0, 1.5, 0.5]), shape)
    u = spectral.converge({"w": {"kernel": kernel}}, {"w": {"divide": start(shape[-1])}}, iterations=40)
    u = u["w"]["divide"]
    sigma, again = spectral.spectral_norm(kernel, u)
    assert sigma == pytest.approx(3.0, rel=1e-12)
    assert sigma == pytest.approx(largest(kernel), rel=1e-12)
    # u is the right singular vector, up to its sign, and stays.
    assert abs(u @ right[0]) == pytest.approx(1, rel=1e-12)
    np.testing.assert_allclose(again, u, atol=1e-12)


@pytest.mark.parametrize("iterations", [1, 3])
def test_iterations(iterations):
    # In the basis of singular vectors an iteration is u_i ← σ_i² u_i, made a unit vector; and σ = v
    # M u′ᵀ with v = M u / |M u|, u′ the unit vector along v M, is |v M| of the last iteration.
    values = np.array([2.0, 1.5, 0.5])
    kernel, _, right = kernel_with(values, (7, 3))
    before = np.array([0.2, -0.7, 0.4])
    sigma, u = spectral.spectral_norm(kernel, jnp.asarray(before @ right), iterations=iterations)
    last = before * values ** (2 * (iterations - 1))
    v = values * last / np.linalg.norm(values * last)
    assert sigma == pytest.approx(np.linalg.norm(values * v), rel=1e-12)
    expected = before * values ** (2 * iterations)
    np.testing.assert_allclose(u, expected / np.linalg.norm(expected) @ right, atol=1e-12)
    # Warming up is the same iteration.
    params, vectors = {"kernel": kernel}, {"divide": jnp.asarray(before @ right)}
    warm = spectral.converge(params, vectors, iterations=iterations)
    np.testing.assert_allclose(warm["divide"], u, atol=1e-14)
    # And it composes: more iterations in one call are as many calls.
    _, new = spectral.normalize(params, vectors, iterations=iterations)
    for _ in range(iterations):
        _, vectors = spectral.normalize(params, vectors)
    np.testing.assert_allclose(vectors["divide"], new["divide"], atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [4.0, 0.25])
def test_division_gives_norm_one_from_above_and_below(shape, size):
    kernel, _, right = kernel_with(size * np.array([1.0, 0.3]), shape)
    normal, _ = spectral.normalize({"kernel": kernel}, {"divide": jnp.asarray(right[0])})
    np.testing.assert_allclose(normal["kernel"], kernel / size, rtol=1e-12)
    assert largest(normal["kernel"]) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("size", [4.0, 1.0, 0.25, 1e-6])
def test_cap_only_shrinks(size):
    # σ + 1e-6 is divided out and, below 1, multiplied back.
    kernel, _, right = kernel_with(size * np.array([1.0, 0.3]), (3, 3, 2, 6))
    normal, _ = spectral.normalize({"kernel": kernel}, {"cap": jnp.asarray(right[0])})
    shrink = max(size + 1e-6, 1)
    np.testing.assert_allclose(normal["kernel"], kernel / shrink, rtol=1e-12, atol=1e-20)


def test_normalisation_is_idempotent():
    # Of norm one, a kernel stays as it is, divided or capped (the cap leaves off 1e-6 once more).
    kernel, _, right = kernel_with(np.array([4.0, 1.0]), (6, 5))
    params = {"a": {"kernel": kernel}, "b": {"kernel": kernel}}
    vectors = {"a": {"divide": jnp.asarray(right[0])}, "b": {"cap": jnp.asarray(right[0])}}
    once, _ = spectral.normalize(params, vectors)
    twice, _ = spectral.normalize(once, vectors)
    np.testing.assert_allclose(twice["a"]["kernel"], once["a"]["kernel"], rtol=1e-12)
    np.testing.assert_allclose(twice["b"]["kernel"], once["b"]["kernel"], rtol=1.1e-6)


def test_gradient_of_sigma_is_v_u():
    # With v and u held constant σ = v M uᵀ is linear in M: dσ/dM = vᵀ u, here from a u that is not
    # converged.
    kernel, left, right = kernel_with(np.array([2.0, 1.5, 0.5]), (7, 3))
    before = np.array([0.2, -0.7, 0.4])
    vector = jnp.asarray(before @ right)
    gradient = jax.grad(lambda kernel: spectral.spectral_norm(kernel, vector)[0])(kernel)
    v = np.array([2.0, 1.5, 0.5]) * before
    u = np.array([4.0, 2.25, 0.25]) * before
    v, u = left @ (v / np.linalg.norm(v)), (u / np.linalg.norm(u)) @ right
    np.testing.assert_allclose(gradient, np.outer(v, u), atol=1e-13)


@pytest.mark.parametrize("mark", ["divide", "cap"])
def test_gradient_flows_through_sigma(mark):
    # L = <C, W/σ>: dL/dW = C/σ − <C, W>/σ² v uᵀ, for a kernel above the cap too (σ + 1e-6 there).
    kernel, left, right = kernel_with(np.array([2.0, 1.5, 0.5]), (7, 3))
    weight = np.random.default_rng(5).standard_normal((7, 3))

    def loss(kernel):
        normal, _ = spectral.normalize({"kernel": kernel}, {mark: jnp.asarray(right[0])})
        return jnp.sum(weight * normal["kernel"])

    sigma = 2.0 + (1e-6 if mark == "cap" else 0)
    expected = weight / sigma - np.sum(weight * kernel) / sigma**2 * np.outer(left[:, 0], right[0])
    np.testing.assert_allclose(jax.grad(loss)(kernel), expected, atol=1e-12)


def test_gradient_below_the_cap_is_that_of_the_kernel_itself():
    # There σ is multiplied back: the map is the identity, and so is its derivative.
    kernel, _, right = kernel_with(np.array([0.5, 0.2]), (7, 3))
    weight = np.random.default_rng(5).standard_normal((7, 3))

    def loss(kernel):
        normal, _ = spectral.normalize({"kernel": kernel}, {"cap": jnp.asarray(right[0])})
        return jnp.sum(weight * normal["kernel"])

    np.testing.assert_allclose(jax.grad(loss)(kernel), weight, atol=1e-12)


def test_vectors_are_constants_to_the_gradient():
    kernel, _, _ = kernel_with(np.array([2.0, 1.5, 0.5]), (7, 3))

    def total(kernel, u):
        normal, vectors = spectral.normalize({"kernel": kernel}, {"divide": u}, iterations=2)
        return jnp.sum(normal["kernel"] ** 3), jnp.sum(vectors["divide"] ** 3)

    u, other = start(3), start(3, seed=9)
    # Values do depend on u; only derivatives are cut: of both results in u, and of the new u in the
    # kernel.
    assert all(abs(a - b) > 1e-3 for a, b in zip(total(kernel, u), total(kernel, other), strict=True))
    of_kernels, of_vectors = jax.jacrev(total, argnums=(0, 1))(kernel, u)
    np.testing.assert_array_equal(of_kernels[1], np.zeros(3))
    np.testing.assert_array_equal(of_vectors[1], np.zeros(3))
    np.testing.assert_array_equal(of_vectors[0], np.zeros((7, 3)))
    assert np.any(of_kernels[0] != 0)


def test_what_has_no_vector_is_untouched():
    kernel, _, right = kernel_with(np.array([4.0, 1.0]), (6, 5))
    other = {"kernel": kernel * 3, "bias": jnp.ones(5)}
    params = {"deep": {"a": {"kernel": kernel, "bias": jnp.ones(5)}}, "free": other}
    vectors = {"deep": {"a": {"divide": jnp.asarray(right[0])}}}
    normal, new = spectral.normalize(params, vectors)
    assert jax.tree.structure(normal) == jax.tree.structure(params)
    assert jax.tree.structure(new) == jax.tree.structure(vectors)
    jax.tree.map(np.testing.assert_array_equal, normal["free"], other)
    np.testing.assert_array_equal(normal["deep"]["a"]["bias"], np.ones(5))
    assert not np.allclose(normal["deep"]["a"]["kernel"], kernel)


def test_a_kernel_of_zeros_stays_finite():
    # x / √max(Σx², 1e-12) of zeros is zeros: σ = 0, and the cap divides by 1e-6, not by 0.
    zeros = {"kernel": jnp.zeros((4, 3))}
    normal, vectors = spectral.normalize(zeros, {"cap": start(3)})
    np.testing.assert_array_equal(normal["kernel"], np.zeros((4, 3)))
    np.testing.assert_array_equal(vectors["cap"], np.zeros(3))
