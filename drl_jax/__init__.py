"""Diffusion recovery likelihood in JAX (Gao, Song, Poole, Wu, Kingma; ICLR 2021)."""

__version__ = "0.1.0"
