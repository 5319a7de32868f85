"""Settings that must be made before JAX starts its backend."""

import itertools
import os
import signal
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drl_jax.parallel.startup import provide_threads

# Whoever started the tests may have ignored these (`nohup`, `&`). What is ignored stays so in the program.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)

PLATFORM = os.environ.get("DRL_JAX_TEST_PLATFORM", "cpu")  # cuda: for the tests of the core
jax.config.update("jax_platforms", PLATFORM)
if PLATFORM != "cpu":
    # The expected numbers are of float32 products. Accelerators round the factors by default.
    jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_num_cpu_devices", 4)  # sharding is tested without accelerators
provide_threads(4, per_device=2)
jax.config.update("jax_numpy_rank_promotion", "raise")  # a missing axis is a bug, not a broadcast


@pytest.fixture(scope="session", autouse=True)
def _share_compiled_programs(tmp_path_factory):
    """Tests that compile the same program compile it once, as for a user who starts it again."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture
def new_key():
    """A function that gives another key at every call, so that no two draws of a test share one."""
    counter = itertools.count()
    return lambda: jax.random.fold_in(jax.random.key(20201215), next(counter))


@pytest.fixture
def draw_parameters():
    """A function of a module and its arguments: parameters N(0, .2²), so that no zero start hides a
    part.

    Drawn by NumPy, without compiling the module's own initialisation.
    """

    def draw(module, *arguments):
        shaped = jax.eval_shape(module.init, jax.random.key(0), *arguments)["params"]
        stream = np.random.default_rng(0)
        normal = lambda leaf: jnp.asarray(0.2 * stream.standard_normal(leaf.shape), leaf.dtype)
        return jax.tree.map(normal, shaped)

    return draw


@pytest.fixture
def as_nobody():
    """A function that calls another one without the rights of root; it may read what others may."""

    def call(function, *arguments):
        if os.geteuid() != 0:
            return function(*arguments)
        os.seteuid(65534)
        try:
            return function(*arguments)
        finally:
            os.seteuid(0)

    return call


@pytest.fixture
def open_to_all():
    """A folder that every user may enter; those of pytest are the user's own."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)
