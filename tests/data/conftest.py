from types import SimpleNamespace

import pytest

from drl_jax.data.prepare import prepare
from tests.data.helpers import write_celeb_a_files, write_cifar10_archive


@pytest.fixture(scope="session")
def tiny_cifar10(tmp_path_factory):
    """A prepared cifar10 of 20 and 4 images: `.data_dir`, `.summary`, `.pixels[split]`, `.labels[split]`."""
    originals, data_dir = tmp_path_factory.mktemp("originals"), tmp_path_factory.mktemp("tfds")
    splits = write_cifar10_archive(originals / "cifar-10-binary.tar.gz")
    summary = prepare("cifar10", data_dir=str(data_dir), path=str(originals))
    return SimpleNamespace(
        data_dir=str(data_dir),
        summary=summary,
        pixels={split: pixels for split, (pixels, _) in splits.items()},
        labels={split: labels for split, (_, labels) in splits.items()},
    )


@pytest.fixture(scope="session")
def celeb_a_files(tmp_path_factory):
    """A folder with the original files of a CelebA of six faces."""
    folder = tmp_path_factory.mktemp("celeba")
    write_celeb_a_files(folder)
    return folder
