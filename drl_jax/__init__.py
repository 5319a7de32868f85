"""Diffusion recovery likelihood in JAX (Gao, Song, Poole, Wu, Kingma; ICLR 2021)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drl_jax.api import TrainedModel, image_grid, load

__version__ = "0.1.0"
__all__ = ["TrainedModel", "image_grid", "load"]


def __getattr__(name: str) -> Any:
    """Imports the API, and JAX with it, when it is used first: the program checks its flags without JAX."""
    if name in __all__:
        from drl_jax import api

        return getattr(api, name)
    raise AttributeError(f"module 'drl_jax' has no attribute {name!r}")
