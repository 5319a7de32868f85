"""The energy network: its size, its variants, its convolution."""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from drl_jax.core.levels import make_levels
from drl_jax.core.mcmc import langevin
from drl_jax.core.model import bind
from drl_jax.core.networks import convolution, winograd
from drl_jax.core.networks.layers import Convolution
from drl_jax.core.networks.residual import ResidualEnergy, halve, leaky_relu
from drl_jax.core.transition import mcmc_transition

tiny = partial(ResidualEnergy, width=4, multipliers=(1, 2), blocks_per_resolution=1)


def shapes(net, side, colours=3):
    images = jax.ShapeDtypeStruct((2, side, side, colours), jnp.float32)
    levels = jax.ShapeDtypeStruct((2,), jnp.int32)
    return jax.eval_shape(net.init, jax.random.key(0), images, levels)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("side", "multipliers", "blocks", "expected"),
    [
        # Counted in the authors' code.
        (32, (1, 2, 2, 2), 8, 34_833_408),
        (32, (1, 2, 2, 2), 2, 9_056_256),
        (64, (1, 2, 2, 2, 4), 6, 56_269_568),
        (128, (1, 2, 2, 2, 4, 4), 2, 29_119_232),
        (128, (1, 2, 2, 2, 4, 4), 5, 71_904_512),
    ],
)
def test_number_of_parameters(side, multipliers, blocks, expected):
    net = ResidualEnergy(multipliers=multipliers, blocks_per_resolution=blocks)
    assert count(shapes(net, side)["params"]) == expected


def by_name(tree):
    return {"/".join(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def test_which_kernels_are_normalised_and_how():
    # All are divided, except: second convolutions are capped, the readout and attention are left
    # alone.
    variables = shapes(tiny(attention=(16,)), 16)
    vectors = by_name(variables["spectral"])
    kernels = {name: leaf for name, leaf in by_name(variables["params"]).items() if "kernel" in name}
    for name, kernel in kernels.items():
        layer = name.removesuffix("/kernel")
        kind = "cap" if layer.endswith("conv_2") else "divide"
        vector = vectors.pop(f"{layer}/{kind}", None)
        if layer == "readout" or layer.startswith("attention"):
            assert vector is None
        else:
            assert vector.shape == kernel.shape[-1:]
    assert not vectors
    assert sum("conv_2" in name for name in kernels) == 2
    assert sum("attention" in name for name in kernels) == 4


def test_one_by_one_shortcuts():
    # A change from 4 to 8 channels: 1x1 kernels have 8 · (9 − 1) · 4 numbers fewer.
    wide, narrow = (shapes(tiny(conv_shortcut=wide), 16)["params"] for wide in (True, False))
    assert narrow["block_1_0"]["shortcut"]["kernel"].shape == (4, 8)
    assert count(wide) - count(narrow) == 8 * 4 * 8
    assert "shortcut" not in wide["block_0_0"]


@pytest.mark.parametrize(
    ("colours", "options"), [(3, {}), (1, {"attention": (16, 8), "conv_shortcut": False})]
)
def test_energies_of_examples_are_independent(colours, options, new_key, draw_parameters):
    # Coloured images and grey ones; the energy of one does not change with its company.
    net = tiny(**options)
    x, t = jax.random.normal(new_key(), (3, 16, 16, colours)), jnp.array([0, 4, 2])
    apply = jax.jit(partial(net.apply, {"params": draw_parameters(net, x, t)}))
    together = apply(x, t)
    assert together.shape == (3,)
    assert len(np.unique(together)) == 3
    np.testing.assert_allclose(apply(x.at[0].set(9.0), t)[1:], together[1:], rtol=1e-5)
    # The level matters, and only the example's own.
    other = apply(x, t.at[0].set(1))
    assert abs(other[0] - together[0]) > 1e-3 * abs(together[0])
    np.testing.assert_allclose(other[1:], together[1:], rtol=1e-5)


def test_attention_in_closed_form(new_key, draw_parameters):
    # x + proj(softmax(q kᵀ / √C) v) over the 16 · 16 positions, one head, written out in NumPy.
    net = ResidualEnergy(
        width=4, multipliers=(1,), blocks_per_resolution=1, attention=(16,), final_activation=lambda x: x
    )
    x, t = jax.random.normal(new_key(), (2, 16, 16, 3)), jnp.array([0, 1])
    params = draw_parameters(net, x, t)
    _, state = jax.jit(partial(net.apply, capture_intermediates=True))({"params": params}, x, t)
    seen = state["intermediates"]
    before = np.asarray(seen["block_0_0"]["__call__"][0], np.float64).reshape(2, 256, 4)
    weights = jax.tree.map(np.asarray, params["attention_0_0"])
    dense = lambda name, x: x @ weights[name]["kernel"] + weights[name]["bias"]
    scores = np.einsum("bic,bjc->bij", dense("q", before), dense("k", before)) / np.sqrt(4)
    scores = np.exp(scores - scores.max(axis=2, keepdims=True))
    scores /= scores.sum(axis=2, keepdims=True)
    expected = before + dense("proj", scores @ dense("v", before))
    after = np.asarray(seen["attention_0_0"]["__call__"][0]).reshape(2, 256, 4)
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(after - before).max() > 0.1


def test_attention_follows_blocks_of_its_side_only():
    params = shapes(tiny(attention=(16,)), 32)["params"]
    assert "attention_1_0" in params
    assert "attention_0_0" not in params
    params = shapes(tiny(attention=(8,)), 32)["params"]
    assert not [name for name in params if "attention" in name]


def test_how_layers_start(new_key):
    # Glorot's uniform of a 3x3 kernel with 16 inputs and outputs: within √(3 / 144) = .144. With a
    # zero start of variance scale 1e-10: √(3e-10 / 144) = 1.44e-6, and gain 1. Of 2304 numbers the
    # largest is within a percent.
    for zero_start, kind, bound in ((False, "divide", 0.14434), (True, "cap", 1.4434e-6)):
        layer = Convolution(16, zero_start=zero_start)
        variables = layer.init(new_key(), jnp.zeros((1, 4, 4, 16)))
        params, vectors = jax.tree.map(np.asarray, (variables["params"], variables["spectral"]))
        assert 0.99 * bound < np.abs(params["kernel"]).max() <= bound
        np.testing.assert_array_equal(params["bias"], np.zeros(16))
        assert ("gain" in params) == zero_start
        # u is truncated N(0, .02²): Flax divides by the truncated normal's .88, so that .0455 is
        # the farthest.
        assert list(vectors) == [kind]
        assert 0.005 < np.std(vectors[kind]) < np.abs(vectors[kind]).max() < 0.0455
    np.testing.assert_array_equal(params["gain"], np.ones(16))


def test_gain_multiplies_convolution_and_bias(new_key):
    # (conv + bias) g: twice the gain is twice the output, bias and all.
    layer = Convolution(4, zero_start=True)
    x = jax.random.normal(new_key(), (1, 4, 4, 3))
    params = {
        "kernel": jax.random.normal(new_key(), (3, 3, 3, 4)),
        "bias": jax.random.normal(new_key(), (4,)),
        "gain": jnp.ones(4),
    }
    once = np.asarray(layer.apply({"params": params}, x))
    twice = np.asarray(layer.apply({"params": params | {"gain": jnp.full(4, 2.0)}}, x))
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-6)
    plain = lax.conv_general_dilated(
        x, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(once, plain + params["bias"][None, None, None], rtol=1e-5, atol=1e-5)


def test_halving_is_the_mean_over_squares():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(halve(x)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])


def test_bfloat16(new_key, draw_parameters):
    # Eight bits of precision: 2^-8 of a number at every layer, a dozen layers deep: 5 % of the
    # energies' size.
    x, t = jax.random.normal(new_key(), (4, 16, 16, 3)), jnp.array([0, 1, 3, 5])
    params = draw_parameters(tiny(attention=(8,)), x, t)
    wide, narrow = (
        jax.jit(tiny(attention=(8,), dtype=dtype).apply)({"params": params}, x, t)
        for dtype in (None, jnp.bfloat16)
    )
    assert wide.dtype == narrow.dtype == jnp.float32
    deviation = np.max(np.abs(narrow - wide)) / np.max(np.abs(wide))
    assert 1e-5 < deviation < 0.05  # above zero: it was really computed in bfloat16
    # Parameters stay in float32.
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(shapes(tiny(dtype=jnp.bfloat16), 16))}
    assert dtypes == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(("height", "width"), [(30, 30), (18, 18), (32, 16)])
def test_sides_that_cannot_be_halved(height, width):
    net = tiny(multipliers=(1, 2, 2))
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    level = jax.ShapeDtypeStruct((1,), jnp.int32)
    message = f"^images of {height}x{width} do not fit 3 resolutions: .* divisible by 4"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(net.init, jax.random.key(0), images, level)


def plain(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize(("height", "width"), [(5, 7), (1, 1)])
def test_gradients_of_the_convolution_are_those_of_lax(height, width, new_key):
    with jax.enable_x64(True):
        x = jax.random.normal(new_key(), (2, height, width, 3), jnp.float64)
        kernel = jax.random.normal(new_key(), (3, 3, 3, 5), jnp.float64)
        weight = jax.random.normal(new_key(), (2, height, width, 5), jnp.float64)

        def derivatives(convolve):
            # Not linear in the convolution, so that second derivatives mix both arguments.
            loss = lambda x, kernel: jnp.sum(weight * jnp.tanh(0.3 * convolve(x, kernel)))
            first = jax.grad(loss, argnums=(0, 1))

            # The gradient in weights of a gradient in images, and all other second-order ones.
            def squared(x, kernel):
                of_x, of_kernel = first(x, kernel)
                return jnp.sum(of_x**3) + jnp.sum(of_kernel**3)

            return jax.jit(
                lambda x, kernel: (
                    loss(x, kernel),
                    first(x, kernel),
                    jax.grad(squared, argnums=(0, 1))(x, kernel),
                )
            )(x, kernel)

        ours, theirs = derivatives(convolution.convolve), derivatives(plain)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-11), ours, theirs)


def test_gradients_on_other_platforms(new_key):
    # The branches that a CPU does not take.
    x, kernel = jax.random.normal(new_key(), (2, 6, 5, 3)), jax.random.normal(new_key(), (3, 3, 3, 4))
    g = jax.random.normal(new_key(), (2, 6, 5, 4))
    for ours, theirs in (
        (convolution._input_gradient, convolution._plain_input_gradient),
        (convolution._kernel_gradient, convolution._plain_kernel_gradient),
    ):
        np.testing.assert_allclose(ours(x, kernel, g), theirs(x, kernel, g), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 6), (5, 7), (8, 3)])
def test_the_convolution_of_winograd_is_that_of_lax(size, new_key):
    with jax.enable_x64(True):
        x = jax.random.normal(new_key(), (2, *size, 3), jnp.float64)
        kernel = jax.random.normal(new_key(), (3, 3, 3, 5), jnp.float64)
        ours = winograd.convolve(x, winograd.transform_kernel(kernel))
        np.testing.assert_allclose(ours, plain(x, kernel), rtol=1e-12, atol=1e-12)


def test_many_channels_are_convolved_by_winograd(new_key):
    def convolve(channels, dtype=jnp.float32):
        x = jax.random.normal(new_key(), (2, 6, 6, channels), dtype)
        kernel = jax.random.normal(new_key(), (3, 3, channels, channels), dtype)
        deviation = convolution.convolve(x, kernel) - plain(x, kernel)
        return float(jnp.abs(deviation).max() / jnp.abs(plain(x, kernel)).max())

    assert convolve(convolution._MANY // 2) == 0
    assert convolve(convolution._MANY, jnp.bfloat16) == 0
    # Rounding shows that it is the other form, and how little it is: 2⁻²³ is 1.2e-7.
    expected = (0, 2e-6) if jax.default_backend() == "cpu" else (-1, 0)
    assert expected[0] < convolve(convolution._MANY) <= expected[1]


def chain_text(convolve, monkeypatch, draw_parameters):
    """The compiled program of a chain of two steps whose network convolves with `convolve`."""
    monkeypatch.setattr("drl_jax.core.networks.layers.convolve", convolve)
    net = ResidualEnergy(width=8, multipliers=(1,), blocks_per_resolution=1)
    levels, t = make_levels(6), jnp.array([0, 5])
    x_next = jnp.zeros((2, 8, 8, 3))

    def chain(params, keys, x_next):
        transition = mcmc_transition(langevin, num_steps=2)
        return transition(keys, bind(net, params), levels, t, x_next)[0]

    keys = jax.random.split(jax.random.key(0), 2)
    params = draw_parameters(net, x_next, t)
    return jax.jit(chain).lower(params, keys, x_next).compile().as_text() or ""


def is_slow(text):
    """Whether there are convolutions that XLA:CPU's fast kernel does not take.

    Labels of a transposed convolution: its kernel has inputs and outputs exchanged (01oi), or the
    batch is summed over (f01b). A canonical one is b01f_01io->b01f.
    """
    return "01oi" in text or "f01b" in text


on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="reads a program that XLA:CPU compiled")


@on_cpu
def test_gradients_in_a_chain_keep_the_fast_kernel(monkeypatch, draw_parameters):
    text = chain_text(convolution.convolve, monkeypatch, draw_parameters)
    assert "while" in text
    assert "b01f_01io->b01f" in text
    assert not is_slow(text)
    # XLA's own gradients in the same chain do not: the labels are there to be seen.
    assert is_slow(chain_text(plain, monkeypatch, draw_parameters))


@on_cpu
def test_gradients_of_weights_are_forward_convolutions_too():
    # In a loop (as where a batch is cut in pieces), where XLA's own would be labelled.
    def gradient(convolve, x, kernel):
        def step(kernel, _):
            loss = lambda kernel: jnp.sum(convolve(nn.relu(convolve(x, kernel)), kernel) ** 2)
            return kernel - 0.1 * jax.grad(loss)(kernel), None

        return lax.scan(step, kernel, None, length=2)[0]

    given = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
    text = {
        convolve: jax.jit(partial(gradient, convolve)).lower(*given).compile().as_text()
        for convolve in (convolution.convolve, plain)
    }
    assert not is_slow(text[convolution.convolve])
    assert is_slow(text[plain])


@on_cpu
def test_a_chain_transforms_its_kernels_once():
    kernel = jnp.ones((3, 3, 64, 64))

    def chain(kernel, x):
        step = lambda x, _: (jnp.tanh(convolution.convolve(x, kernel)), None)
        return lax.scan(step, x, None, length=3)[0]

    text = jax.jit(chain).lower(kernel, jnp.ones((1, 4, 4, 64))).compile().as_text() or ""
    (name,) = re.findall(r" while\(.*body=(%[\w.\-]+)", text)
    body = text[text.index(f"\n{name} ") :].split("\n}")[0]
    # The loop gets the transformed kernel and not the kernel.
    assert "f32[16,64,64]" in body
    assert "f32[3,3,64,64]" not in body


FORMS: dict[str, Any] = {
    "scan": {"scan_blocks": True},
    "remat": {"remat": True},
    "both": {"scan_blocks": True, "remat": True},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_the_network_compute_the_same(form, new_key, draw_parameters):
    # A change of channels, and blocks before and after it.
    net = ResidualEnergy(width=4, multipliers=(1, 2), blocks_per_resolution=3)
    with jax.enable_x64(True):
        x, t = jax.random.normal(new_key(), (2, 8, 8, 3), jnp.float64), jnp.array([0, 3])
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), draw_parameters(net, x, t))

        def energies(net):
            def total(params, x):
                return jnp.sum(net.apply({"params": params}, x, t))

            return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))

        expected, found = (energies(n)(params, x) for n in (net, net.clone(**FORMS[form])))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-11), found, expected)
    # The names and shapes of parameters do not depend on the form.
    assert shapes(net, 16) == shapes(net.clone(**FORMS[form]), 16)


def test_scanned_blocks_are_in_the_program_once(draw_parameters):
    net = ResidualEnergy(width=4, multipliers=(1,), blocks_per_resolution=5)
    x, t = jnp.ones((1, 8, 8, 3)), jnp.zeros(1, jnp.int32)
    params = draw_parameters(net, x, t)

    def convolutions(net):
        program = str(jax.make_jaxpr(partial(net.apply, {"params": params}))(x, t))
        return len(re.findall(r"custom_vjp_call\[\s*name=convolve", program))

    assert convolutions(net) == 1 + 2 * 5
    assert convolutions(net.clone(scan_blocks=True)) == 1 + 2


def test_leaky_relu_and_its_gradient():
    x = jnp.array([-2.0, -0.0, 0.0, 3.0])
    np.testing.assert_allclose(leaky_relu(x), [-0.4, 0.0, 0.0, 3.0], rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(leaky_relu(x) * jnp.arange(1.0, 5.0)))(x)
    np.testing.assert_allclose(gradient, [0.2, 2.0, 3.0, 4.0], rtol=1e-6)
    # At 0 it is that of the authors' code, which takes the branch of x >= 0.
    np.testing.assert_array_equal(gradient[1:3], [2.0, 3.0])
