"""`prepare`: fetches and prepares a data set."""

from drl_jax.config.schema import Config
from drl_jax.data.prepare import prepare as prepare_data


def prepare(config: Config) -> None:
    """Fetches and prepares the data set of a config, if it is not prepared yet."""
    print(prepare_data(config.data.name, data_dir=config.data.data_dir, path=config.data.path), flush=True)
