"""Markov chain Monte Carlo: one sampler a file, each a pair of pure functions `init` and `step`."""

from drl_jax.core.mcmc.base import Info, Sampler, run
from drl_jax.core.mcmc.langevin import langevin
from drl_jax.core.mcmc.mala import mala

__all__ = ["Info", "Sampler", "langevin", "mala", "run"]
