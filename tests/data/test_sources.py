import os
import shutil
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from sklearn.datasets import load_digits

from drl_jax.data.prepare import prepare
from drl_jax.data.sources import (
    CELEB_A_CROP,
    Cached,
    InMemory,
    WithTimeout,
    fingerprint,
    has_split,
    open_source,
)
from drl_jax.errors import UserError
from tests.data.helpers import encode, read_all, read_with_tfds, sort_images


@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar10_has_the_pixels_of_the_original_files(tiny_cifar10, split):
    source = open_source("cifar10", image_size=32, split=split, data_dir=tiny_cifar10.data_dir)
    pixels = read_all(source)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(sort_images(pixels), sort_images(tiny_cifar10.pixels[split]))


def test_a_split_can_be_a_part(tiny_cifar10):
    part = open_source("cifar10", image_size=32, split="train[:5]", data_dir=tiny_cifar10.data_dir)
    whole = open_source("cifar10", image_size=32, data_dir=tiny_cifar10.data_dir)
    np.testing.assert_array_equal(read_all(part), whole.take(np.arange(5)))


def test_the_environment_gives_the_data_directory(tiny_cifar10, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", tiny_cifar10.data_dir)
    assert len(open_source("cifar10", image_size=32)) == 20
    assert has_split("cifar10", "test")


def test_digits_are_those_of_scikit_learn(tmp_path):
    rows, _ = load_digits(return_X_y=True)
    source = open_source("digits", image_size=8, channels=1, data_dir=str(tmp_path / "unused"))
    expected = np.round(np.asarray(rows).reshape(-1, 8, 8, 1) * 255 / 16)
    images = read_all(source)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, expected)
    assert not (tmp_path / "unused").exists()


def test_digits_can_be_cropped_and_resized_and_get_three_channels():
    digits = read_all(open_source("digits", image_size=8, channels=1))
    cropped = read_all(open_source("digits", image_size=4, channels=1, crop=(1, 3, 4, 4)))
    np.testing.assert_array_equal(cropped, digits[:, 1:5, 3:7])
    larger = read_all(open_source("digits", image_size=16))
    assert larger.shape == (1797, 16, 16, 3)
    np.testing.assert_array_equal(larger[..., 0], larger[..., 2])


def test_digits_points_and_folders_have_only_train():
    for name in ("digits", "points", "folder"):
        assert has_split(name, "train")
        assert not has_split(name, "test")


def test_cached_images_are_read_once():
    class Counting:
        def __init__(self):
            self.read: list[int] = []

        def __len__(self):
            return 10

        def take(self, indices):
            self.read.extend(indices.tolist())
            return indices.astype(np.uint8)[:, None, None, None]

    counting = Counting()
    source = Cached(counting, (1, 1, 1))
    for indices in ([3, 1, 3], [1, 2], [0, 1, 2, 3]):
        np.testing.assert_array_equal(source.take(np.array(indices)).ravel(), indices)
    assert sorted(counting.read) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (lambda: time.sleep(30), r"^2 examples were not read within config.data.timeout=0.1 seconds"),
        (lambda: sys.exit(3), r"^a reader of the data failed with SystemExit: 3$"),
        (lambda: [][0], r"^a reader of the data failed with IndexError: "),
    ],
)
def test_a_reader_that_hangs_or_fails_becomes_a_user_error(behaviour, message):
    class Faulty(InMemory):
        def take(self, indices):
            return behaviour()

    source = WithTimeout(Faulty(np.zeros((4, 2), np.float32)), timeout=0.1)
    with pytest.raises(UserError, match=message):
        source.take(np.arange(2))


def test_a_fingerprint_reads_16_examples_and_tells_data_apart():
    class Counting(InMemory):
        read = 0

        def take(self, indices):
            Counting.read += len(indices)
            return super().take(indices)

    points = np.random.default_rng(0).standard_normal((1000, 2)).astype(np.float32)
    source = fingerprint(Counting(points))
    assert Counting.read == 16
    assert source["examples"] == 1000
    assert source == fingerprint(InMemory(points.copy()))
    assert source != fingerprint(InMemory(points[::-1]))
    assert source != fingerprint(InMemory(points[:999]))


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_and_a_zip_are_read_in_natural_order(tmp_path, packed):
    folder = tmp_path / "images"
    for number in (10, 2, 1):
        file = folder / "part 1" / f"face{number}.PNG"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(np.full((4, 4, 3), number, np.uint8)))
    (folder / "part 1" / "._face1.png").write_bytes(b"left behind by a file manager")
    (folder / "list.txt").write_text("not an image")
    path = folder
    if packed:
        path = tmp_path / "images.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in folder.rglob("*"):
                archive.write(file, file.relative_to(folder))
    source = open_source("folder", path=str(path), image_size=4)
    np.testing.assert_array_equal(read_all(source)[:, 0, 0, 0], [1, 2, 10])


def test_the_message_names_a_damaged_file(tmp_path):
    (tmp_path / "good.png").write_bytes(encode(np.zeros((4, 4, 3), np.uint8)))
    (tmp_path / "half.png").write_bytes(encode(np.zeros((64, 64, 3), np.uint8))[:60])
    source = open_source("folder", path=str(tmp_path), image_size=4)
    with pytest.raises(UserError, match=rf"config.data.path: {tmp_path}/half.png is"):
        read_all(source)


def test_celeb_a_as_a_prepared_set_and_as_a_zip_has_the_same_images(celeb_a_files, tmp_path):
    prepare("celeb_a", data_dir=str(tmp_path), path=str(celeb_a_files))
    prepared = open_source("celeb_a", image_size=64, data_dir=str(tmp_path))
    archive = str(celeb_a_files / "img_align_celeba.zip")
    folder = open_source("folder", path=archive, image_size=64, crop=CELEB_A_CROP)
    assert len(prepared) == 4  # of six: one is for validation, one for tests
    np.testing.assert_array_equal(sort_images(read_all(prepared)), sort_images(folder.take(np.arange(4))))


def test_points_are_the_same_at_each_call():
    source = open_source("points", image_size=32, density="ring")
    again = open_source("points", image_size=32, density="ring")
    points = read_all(source)
    assert points.shape == (1_000_000, 2)
    assert points.dtype == np.float32
    np.testing.assert_array_equal(points, read_all(again))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cifer10"}, r"config.data.name='cifer10' is unknown; try cifar10"),
        ({"name": "digit"}, r"config.data.name='digit' is unknown; try digits"),
        ({"split": "trian"}, r"config.data.split='trian' of config.data.name='cifar10'"),
        ({"name": "points"}, r"config.data.density=None.*ring"),
        ({"name": "points", "density": "rings"}, r"config.data.density='rings'.*ring"),
        ({"name": "points", "density": "ring", "split": "test"}, r"config.data.split='test'"),
        ({"name": "digits", "split": "test"}, r"config.data.split='test'.* has only 'train'"),
        ({"name": "folder"}, r"config.data.path must be set"),
        ({"name": "folder", "path": "no/where"}, r"config.data.path='no/where' does not exist"),
        ({"name": "folder", "path": __file__}, r"config.data.path=.* is neither a zip nor a tar"),
        ({"crop": (0, 0, 40, 40)}, r"config.data.crop=.*cifar10 train example"),
    ],
)
def test_the_message_about_a_mistake_is_one_line_with_the_key(options, message, tiny_cifar10):
    given = {"name": "cifar10", "image_size": 32, "data_dir": tiny_cifar10.data_dir}
    with pytest.raises(UserError, match=message) as caught:
        read_all(open_source(**{**given, **options}))
    assert "\n" not in str(caught.value)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no images"):
        open_source("folder", path=str(tmp_path), image_size=8)


def test_the_message_about_a_missing_set_ends_in_the_command_that_prepares_it(tmp_path):
    missing = str(tmp_path / "my data")
    command = "python -m drl_jax prepare --config=configs/cifar10.py"
    with pytest.raises(UserError) as caught:
        open_source("cifar10", image_size=32, data_dir=missing, prepare_command=command)
    assert str(caught.value) == (
        f"config.data.name='cifar10' is not prepared under {missing}; run: "
        f"{command} --config.data.data_dir='{missing}'"
    )


@pytest.fixture
def copy_of_cifar10(tiny_cifar10, tmp_path):
    """A data directory that a test may damage."""
    shutil.copytree(tiny_cifar10.data_dir, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_a_set_in_another_format_is_refused(copy_of_cifar10):
    (info,) = copy_of_cifar10.glob("cifar10/*/dataset_info.json")
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    for file in copy_of_cifar10.glob("cifar10/*/*array_record*"):
        file.rename(str(file).replace("array_record", "tfrecord"))
    message = r"config.data.name='cifar10' .* is in the format tfrecord.*config.data.data_dir"
    with pytest.raises(UserError, match=message):
        open_source("cifar10", image_size=32, data_dir=str(copy_of_cifar10))
    with pytest.raises(UserError, match=message):
        prepare("cifar10", data_dir=str(copy_of_cifar10))


@pytest.mark.parametrize("damage", ["short shard", "flipped bytes", "no shard", "short info", "no info"])
def test_the_message_about_a_damaged_set_is_one_line(copy_of_cifar10, damage):
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
        with pytest.raises(UserError, match="is not a complete data set"):
            prepare("cifar10", data_dir=str(copy_of_cifar10))
    with pytest.raises(UserError, match=r"config.data.name='cifar10' under .* cannot be read") as caught:
        read_all(open_source("cifar10", image_size=32, data_dir=str(copy_of_cifar10)))
    assert "\n" not in str(caught.value)


def test_no_source_needs_tensorflow_or_imports_jax(tiny_cifar10):
    program = (
        "import sys; from drl_jax.data.sources import open_source; "
        "open_source('points', image_size=1, density='ring'); "
        "assert not {'tensorflow_datasets', 'sklearn'} & set(sys.modules); "
        "open_source('digits', image_size=8); "
        "assert 'tensorflow_datasets' not in sys.modules; "
        f"open_source('cifar10', image_size=32, data_dir={tiny_cifar10.data_dir!r}); "
        "assert not {'tensorflow', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="TFDS_DATA_DIR is not set")
@pytest.mark.parametrize(("split", "size"), [("train", 50_000), ("test", 10_000)])
def test_the_real_cifar10_has_the_images_that_tfds_reads(split, size):
    try:
        records = read_with_tfds("cifar10", split)
    except (ValueError, AssertionError):
        pytest.skip("cifar10 is not prepared there")
    source = open_source("cifar10", image_size=32, split=split)
    assert len(source) == size
    some = np.random.default_rng(0).choice(size, 200, replace=False)
    expected = np.stack([records[int(i)]["image"] for i in some])
    np.testing.assert_array_equal(source.take(some), expected)
