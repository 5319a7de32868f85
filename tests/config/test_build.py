"""From a config to the parts of a run."""

import jax
import jax.numpy as jnp
import numpy as np

from drl_jax.config.build import build
from drl_jax.config.overrides import parse
from drl_jax.core.model import bind
from drl_jax.core.randomness import example_keys
from drl_jax.core.synthesis import synthesize
from tests.helpers import CONFIGS

SMALL = (f"--config={CONFIGS}/digits.py", "--config.network.width=8", "--config.sampler.noise_scale=0.9")


def parts(*flags):
    return build(parse([*SMALL, *flags]).config)


def test_extra_steps_are_of_sampling_alone():
    short, extra, long = (
        parts(f"--config.sampler.steps={steps}", f"--config.sampler.extra_steps={more}")
        for steps, more in ((3, 0), (3, 2), (5, 0))
    )
    state = jax.jit(short.init_state)(jax.random.key(0))
    f = bind(short.network, state.params)
    keys = example_keys(jax.random.key(1), 4)

    def samples(made):
        return jax.jit(lambda keys: synthesize(keys, f, made.levels, made.transition, made.shape)[0])(keys)

    def negatives(made):
        x = jnp.zeros((4, *made.shape))
        return jax.jit(lambda keys: made.objective(keys, x, f, f)[1].negative)(keys)

    np.testing.assert_array_equal(samples(extra), samples(long))
    np.testing.assert_array_equal(negatives(extra), negatives(short))
