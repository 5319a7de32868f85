"""The authors' Adam, its schedule, and clipping, against formulas worked out here in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from drl_jax.training.optimizer import make_optimizer

# 1 − β₂ᵏ at k = 1 is 1e-3, and single precision rounds .999 by 2^-25: 3e-5 of it, half that in its root.
TOLERANCE = 3e-5


def run(optimizer, gradients):
    """The parameter after each update, from 0."""
    p = jnp.zeros(())
    state, path = optimizer.init(p), []
    for g in gradients:
        updates, state = optimizer.update(jnp.asarray(g, jnp.float32), state, p)
        p = optax.apply_updates(p, updates)
        path.append(np.asarray(p).item())
    return np.array(path)


def reference(gradients, rate, beta1, beta2, epsilon):
    """p −= lr √(1 − β₂ᵏ) / (1 − β₁ᵏ) m / (√v + ε): the formula of the authors' framework."""
    p, m, v, path = 0.0, 0.0, 0.0, []
    for k, g in enumerate(gradients, start=1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        p -= rate(k - 1) * np.sqrt(1 - beta2**k) / (1 - beta1**k) * m / (np.sqrt(v) + epsilon)
        path.append(p)
    return np.array(path)


@pytest.mark.parametrize("scale", [1.0, 1e-7])  # at 1e-7, epsilon's place decides
def test_adam_has_epsilon_where_the_authors_have_it(scale):
    gradients = scale * np.array([1.0, -2.0, 0.5, 3.0, 1.0])
    optimizer = make_optimizer(learning_rate=1e-3, warmup_steps=0)
    expected = reference(gradients, lambda n: 1e-3, 0.9, 0.999, 1e-7)
    np.testing.assert_allclose(run(optimizer, gradients), expected, rtol=TOLERANCE)
    usual = run(optax.adam(1e-3, eps=1e-7), gradients)
    differs = np.abs(usual - expected).max() / np.abs(expected).max()
    assert (differs > 0.1) == (scale < 1)  # the test distinguishes the two formulas


def test_warm_up_starts_at_zero_and_is_linear():
    # lr · min(1, n / 1000) with n = 0 at the first update. Constant gradients: every update is −lr.
    path = run(make_optimizer(learning_rate=1.0, warmup_steps=4), np.ones(8))
    steps = -np.diff(np.append(0.0, path))
    np.testing.assert_allclose(steps, [0, 0.25, 0.5, 0.75, 1, 1, 1, 1], atol=TOLERANCE)


def test_cosine_ends_at_zero():
    optimizer = make_optimizer(learning_rate=1.0, warmup_steps=0, decay_steps=4)
    steps = -np.diff(np.append(0.0, run(optimizer, np.ones(6))))
    expected = [0.5 * (1 + np.cos(np.pi * min(1, n / 4))) for n in range(6)]
    np.testing.assert_allclose(steps, expected, atol=TOLERANCE)


def test_clipping_bounds_the_norm_of_the_whole_gradient():
    # Adam is blind to the scale of gradients until epsilon counts: give it an epsilon of 1.
    plain = make_optimizer(learning_rate=1.0, warmup_steps=0, epsilon=1.0)
    clipped = make_optimizer(learning_rate=1.0, warmup_steps=0, epsilon=1.0, clip_norm=5.0)
    gradient = {"a": jnp.array([30.0, 0.0]), "b": jnp.array(40.0)}  # of norm 50
    tenth = jax.tree.map(lambda g: g / 10, gradient)
    a, _ = clipped.update(gradient, clipped.init(gradient))
    b, _ = plain.update(tenth, plain.init(gradient))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), a, b)
