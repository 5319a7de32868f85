"""The examples in the docstrings of the core and of the API run, and give what they say."""

import doctest
import functools
import importlib
from pathlib import Path

import pytest

import drl_jax
from drl_jax import api

PACKAGE = Path(drl_jax.__file__).parent
MODULES = sorted(
    ".".join(("drl_jax", *file.relative_to(PACKAGE).with_suffix("").parts))
    for package in ("core", "api")
    for file in (PACKAGE / package).rglob("*.py")
    if ">>> " in file.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, monkeypatch):
    # The examples share one model, and with it the programs that are compiled.
    monkeypatch.setattr(api, "load", functools.cache(api.load))
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0


def test_there_are_examples():
    assert {"drl_jax.core.levels", "drl_jax.core.mcmc.langevin", "drl_jax.core.synthesis"} <= set(MODULES)
