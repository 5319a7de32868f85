"""Settings that must be made before JAX starts its backend."""

import itertools

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)  # sharding is tested without accelerators
jax.config.update("jax_numpy_rank_promotion", "raise")  # a missing axis is a bug, not a broadcast
jax.config.update("jax_enable_compilation_cache", False)


@pytest.fixture
def new_key():
    """A function that gives another key at every call, so that no two draws of a test share one."""
    counter = itertools.count()
    return lambda: jax.random.fold_in(jax.random.key(20201215), next(counter))
