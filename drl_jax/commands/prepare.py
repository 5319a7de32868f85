"""`prepare`: fetches and prepares a data set."""

from drl_jax.commands.common import voices
from drl_jax.config.schema import Config
from drl_jax.data.prepare import prepare as prepare_data


def prepare(config: Config) -> None:
    """Fetches and prepares the data set that a config names, if it is not there yet."""
    say, _ = voices()
    say(prepare_data(config.data.name, data_dir=config.data.data_dir, path=config.data.path))
