"""The models that ship: for each a folder with its weights and with its scores."""

import importlib.resources

from etils import epath

FILE = "model.safetensors"


def names() -> list[str]:
    """Returns the names of the models."""
    folder = importlib.resources.files(__name__)
    return sorted(each.name for each in folder.iterdir() if each.joinpath(FILE).is_file())


def weights_of(name: str) -> epath.Path:
    """Returns the file of the weights of a model."""
    return epath.Path(str(importlib.resources.files(__name__).joinpath(name, FILE)))
