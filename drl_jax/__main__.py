"""`python -m drl_jax`: the same as the console script `drl-jax`."""

from drl_jax.main import program

if __name__ == "__main__":
    program()
