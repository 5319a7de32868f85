import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from drl_jax.data.prepare import prepare
from drl_jax.data.sources import CELEB_A_CROP, Remembered, open_source
from drl_jax.errors import UserError
from tests.data.tiny_sets import encoded, read_by_the_library


def images_of(source) -> np.ndarray:
    return source.take(np.arange(len(source)))


def sorted_rows(pixels: np.ndarray) -> np.ndarray:
    """Images in an order that depends on nothing but themselves."""
    rows = pixels.reshape(len(pixels), -1)
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar10_is_read_to_the_bit(tiny_cifar10, split):
    source = open_source("cifar10", split=split, data_dir=tiny_cifar10.data_dir)
    pixels = images_of(source)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(sorted_rows(pixels), sorted_rows(tiny_cifar10.pixels[split]))


def test_parts_of_a_split_can_be_named(tiny_cifar10):
    part = open_source("cifar10", split="train[:5]", data_dir=tiny_cifar10.data_dir)
    whole = open_source("cifar10", data_dir=tiny_cifar10.data_dir)
    np.testing.assert_array_equal(images_of(part), whole.take(np.arange(5)))


def test_the_environment_names_the_data_directory(tiny_cifar10, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", tiny_cifar10.data_dir)
    assert len(open_source("cifar10")) == 20


def test_each_image_is_decoded_once():
    class Counting:
        def __init__(self):
            self.decoded: list[int] = []

        def __len__(self):
            return 10

        def take(self, indices):
            self.decoded.extend(indices.tolist())
            return indices.astype(np.uint8)[:, None, None, None]

    counting = Counting()
    source = Remembered(counting, (1, 1, 1))
    for indices in ([3, 1, 3], [1, 2], [0, 1, 2, 3]):
        np.testing.assert_array_equal(source.take(np.array(indices)).ravel(), indices)
    assert sorted(counting.decoded) == [0, 1, 2, 3]


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_and_a_zip_are_read_in_natural_order(tmp_path, packed):
    numbers = [10, 2, 1]
    folder = tmp_path / "images"
    for number in numbers:
        file = folder / "part 1" / f"face{number}.PNG"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(np.full((4, 4, 3), number, np.uint8)))
    (folder / "part 1" / "._face1.png").write_bytes(b"left behind by a file manager")
    (folder / "list.txt").write_text("not a image")
    path = folder
    if packed:
        path = tmp_path / "images.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in folder.rglob("*"):
                archive.write(file, file.relative_to(folder))
    source = open_source("folder", path=str(path), image_size=4)
    np.testing.assert_array_equal(images_of(source)[:, 0, 0, 0], [1, 2, 10])


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "good.png").write_bytes(encoded(np.zeros((4, 4, 3), np.uint8)))
    (tmp_path / "half.png").write_bytes(encoded(np.zeros((64, 64, 3), np.uint8))[:60])
    source = open_source("folder", path=str(tmp_path), image_size=4)
    with pytest.raises(UserError, match=rf"data.path: {tmp_path}/half.png is"):
        images_of(source)


def test_faces_from_a_folder_are_those_of_the_prepared_set(aligned_faces, tmp_path):
    prepare("celeb_a", data_dir=str(tmp_path), path=str(aligned_faces))
    prepared = open_source("celeb_a", image_size=64, data_dir=str(tmp_path))
    folder = open_source(
        "folder",
        path=str(aligned_faces / "img_align_celeba.zip"),
        image_size=64,
        crop=CELEB_A_CROP,
    )
    assert len(prepared) == 4  # of six: one is for validation, one for tests
    np.testing.assert_array_equal(sorted_rows(images_of(prepared)), sorted_rows(folder.take(np.arange(4))))


def test_points_are_drawn_once_from_their_density():
    source = open_source("points", density="ring", size=1000, seed=3)
    again = open_source("points", density="ring", size=1000, seed=3)
    other = open_source("points", density="ring", size=1000, seed=4)
    points = images_of(source)
    assert points.shape == (1000, 2)
    assert points.dtype == np.float32
    np.testing.assert_array_equal(points, images_of(again))
    assert (points != images_of(other)).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cifer10"}, r"data.name='cifer10' is unknown; try cifar10"),
        ({"name": "cifar10", "split": "trian"}, r"data.split='trian' of data.name='cifar10'"),
        ({"name": "points"}, r"data.density must be set.*ring"),
        ({"name": "points", "density": "rings"}, r"data.density='rings' is unknown"),
        ({"name": "points", "density": "ring", "split": "test"}, r"data.split='test'"),
        ({"name": "points", "density": "ring", "size": 0}, r"data.size=0"),
        ({"name": "folder", "image_size": 8}, r"data.path must be set"),
        ({"name": "folder", "path": "."}, r"data.image_size must be set"),
        ({"name": "folder", "path": "no/where", "image_size": 8}, r"data.path='no/where' does not"),
        ({"name": "folder", "path": __file__, "image_size": 8}, r"is not a zip"),
        ({"name": "cifar10", "channels": 2}, r"data.channels=2"),
        ({"name": "cifar10", "crop": (0, 0, 40, 40)}, r"data.crop=.*cifar10 train example"),
    ],
)
def test_mistakes_are_answered_in_one_line_that_names_the_key(options, message, tiny_cifar10):
    with pytest.raises(UserError, match=message) as caught:
        images_of(open_source(**{"data_dir": tiny_cifar10.data_dir, **options}))
    assert "\n" not in str(caught.value)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no images"):
        open_source("folder", path=str(tmp_path), image_size=8)


def test_a_missing_set_is_answered_by_the_command_that_prepares_it(tmp_path):
    missing = str(tmp_path / "my data")
    with pytest.raises(UserError) as caught:
        open_source(
            "cifar10",
            data_dir=missing,
            prepare_command="python -m drl_jax prepare --config=configs/cifar10.py",
        )
    assert str(caught.value) == (
        f"data.name='cifar10' is not prepared under {missing}; run: "
        "python -m drl_jax prepare --config=configs/cifar10.py "
        f"--config.data.data_dir='{missing}'"
    )


@pytest.fixture
def copy_of_cifar10(tiny_cifar10, tmp_path):
    """A data directory that a test may damage."""
    shutil.copytree(tiny_cifar10.data_dir, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_a_set_in_another_format_is_refused_by_name(copy_of_cifar10):
    (info,) = copy_of_cifar10.glob("cifar10/*/dataset_info.json")
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    for file in copy_of_cifar10.glob("cifar10/*/*array_record*"):
        file.rename(str(file).replace("array_record", "tfrecord"))
    message = r"data.name='cifar10' .* is in the format tfrecord.*data.data_dir"
    with pytest.raises(UserError, match=message):
        open_source("cifar10", data_dir=str(copy_of_cifar10))
    with pytest.raises(UserError, match=message):
        prepare("cifar10", data_dir=str(copy_of_cifar10))


@pytest.mark.parametrize("damage", ["short shard", "flipped bytes", "no shard", "short info", "no info"])
def test_a_damaged_set_is_reported_in_one_line(copy_of_cifar10, damage):
    (shard,) = copy_of_cifar10.glob("cifar10/*/cifar10-train*")
    (info,) = copy_of_cifar10.glob("cifar10/*/dataset_info.json")
    content = shard.read_bytes()
    if damage == "short shard":
        shard.write_bytes(content[: len(content) // 2])
    elif damage == "flipped bytes":
        middle = len(content) // 3
        shard.write_bytes(content[:middle] + bytes(4000) + content[middle + 4000 :])
    elif damage == "no shard":
        shard.unlink()
    elif damage == "short info":
        info.write_text(info.read_text()[:100])
    elif damage == "no info":
        info.unlink()
        with pytest.raises(UserError, match="is not a whole data set"):
            prepare("cifar10", data_dir=str(copy_of_cifar10))
    with pytest.raises(UserError, match=r"data.name='cifar10' under .* cannot be read") as caught:
        images_of(open_source("cifar10", data_dir=str(copy_of_cifar10)))
    assert "\n" not in str(caught.value)


def test_no_source_needs_tensorflow_or_starts_jax(tiny_cifar10):
    program = (
        "import sys; from drl_jax.data.sources import open_source; "
        "open_source('points', density='ring', size=10); "
        "assert 'tensorflow_datasets' not in sys.modules; "
        f"open_source('cifar10', data_dir={tiny_cifar10.data_dir!r}); "
        "assert not {'tensorflow', 'sklearn', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="TFDS_DATA_DIR names no data sets")
@pytest.mark.parametrize(("split", "size"), [("train", 50_000), ("test", 10_000)])
def test_the_real_cifar10_agrees_with_the_library(split, size):
    try:
        library = read_by_the_library("cifar10", split)
    except (ValueError, AssertionError):
        pytest.skip("cifar10 is not prepared there")
    source = open_source("cifar10", split=split)
    assert len(source) == size
    some = np.random.default_rng(0).choice(size, 200, replace=False)
    expected = np.stack([library[int(i)]["image"] for i in some])
    np.testing.assert_array_equal(source.take(some), expected)
