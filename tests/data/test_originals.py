"""The originals of data sets in the forms that people have them: prepared as from the original form."""

import gzip
import os
import pickle
import re
import shlex
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from drl_jax.config.overrides import parse
from drl_jax.data import cifar_pickle, downloads
from drl_jax.data.prepare import prepare
from drl_jax.data.sources import open_source
from drl_jax.errors import UserError
from tests.data.helpers import (
    idx_files,
    python_2_pickle,
    python_archive,
    read_all,
    read_with_tfds,
    sort_images,
    write_cifar10_archive,
    write_cifar100_archive,
    write_files,
    write_tar,
)


def prepared(name: str, path: Path, data_dir: Path) -> dict[str, bytes]:
    """Prepares a data set, and returns its files: examples, labels and features."""
    prepare(name, data_dir=str(data_dir), path=str(path))
    files = [file for file in (data_dir / name).rglob("*") if file.is_file()]
    assert not (data_dir / "downloads").exists()
    return {file.name: file.read_bytes() for file in files if file.name != "dataset_info.json"}


def refused(name: str, tmp_path: Path, path: Path | None) -> str:
    """The line of a `prepare` that must fail, and must leave nothing."""
    data_dir = tmp_path / "new" / "tfds"
    with pytest.raises(UserError) as error:
        prepare(name, data_dir=str(data_dir), path=None if path is None else str(path))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()
    return str(error.value)


# CIFAR


@pytest.fixture(scope="session")
def cifar(tmp_path_factory):
    """For cifar10 and cifar100: the binary archive, the files of the python one, and what is prepared."""
    made = {}
    for name, write in (("cifar10", write_cifar10_archive), ("cifar100", write_cifar100_archive)):
        folder = tmp_path_factory.mktemp(name)
        binary = folder / f"cifar-{name[5:]}-binary.tar.gz"
        write(binary)
        made[name] = SimpleNamespace(
            binary=binary,
            python=python_archive(binary, python_2_pickle),
            prepared=prepared(name, binary, folder / "tfds"),
        )
    return made


FORMS = {
    "the archive": lambda files, to: write_tar(to / "cifar-{n}-python.tar.gz", files),
    "tgz": lambda files, to: write_tar(to / "cifar-{n}-python.tgz", files),
    "unpacked by a browser": lambda files, to: write_tar(to / "cifar-{n}-python.tar", files),
    "the folder": lambda files, to: write_files(to, files),
    "the folder in another": lambda files, to: write_files(to / "data" / "cifar", files),
    "a renamed folder": lambda files, to: write_files(to, {Path(n).name: c for n, c in files.items()}),
}


def packed(form, files, to: Path, name: str) -> None:
    form(files, to)
    for path in to.iterdir():
        path.rename(to / path.name.replace("{n}", name.removeprefix("cifar")))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_of_the_python_archive_is_that_of_the_binary_one(name, form, cifar, tmp_path):
    originals = tmp_path / "originals"
    originals.mkdir()
    packed(FORMS[form], cifar[name].python, originals, name)
    assert prepared(name, originals, tmp_path / "tfds") == cifar[name].prepared


def test_cifar10_of_python_is_read(cifar, tmp_path):
    write_files(tmp_path, cifar["cifar10"].python)
    prepare("cifar10", data_dir=str(tmp_path), path=str(tmp_path / "cifar-10-batches-py"))
    images = read_all(open_source("cifar10", image_size=32, data_dir=str(tmp_path)))
    rows = [cifar_pickle.read(tmp_path / f"cifar-10-batches-py/data_batch_{i}")["data"] for i in range(1, 6)]
    expected = np.concatenate(rows).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(sort_images(images), sort_images(expected))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_path_to_cifar_itself(name, cifar, tmp_path):
    folder = tmp_path / "python"
    write_files(folder, cifar[name].python)
    (inner,) = folder.iterdir()
    assert prepared(name, inner, tmp_path / "a") == cifar[name].prepared
    archive = tmp_path / "download (1).tar.gz"  # as a browser names a second one
    write_tar(archive, cifar[name].python)
    assert prepared(name, archive, tmp_path / "b") == cifar[name].prepared
    with tarfile.open(cifar[name].binary) as binary:
        binary.extractall(tmp_path / "binary", filter="data")
    assert prepared(name, tmp_path / "binary", tmp_path / "c") == cifar[name].prepared
    (inner,) = (tmp_path / "binary").iterdir()
    assert prepared(name, inner, tmp_path / "d") == cifar[name].prepared
    first = next(file for file in inner.iterdir() if file.suffix == ".bin")
    assert prepared(name, first, tmp_path / "e") == cifar[name].prepared


WRITERS = {
    "Python 2, protocol 0": lambda batch: python_2_pickle(batch, 0),
    "Python 3, protocol 0": lambda batch: pickle.dumps(batch, 0),
    "Python 3, protocol 1": lambda batch: pickle.dumps(batch, 1),
    "Python 3, protocol 2": lambda batch: pickle.dumps(batch, 2),
    "columns first": lambda batch: pickle.dumps(
        {key: np.asfortranarray(value) if key == b"data" else value for key, value in batch.items()}, 2
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_cifar_as_other_programs_pickle_it(writer, cifar, tmp_path):
    files = python_archive(cifar["cifar10"].binary, WRITERS[writer])
    write_files(tmp_path / "originals", files)
    assert prepared("cifar10", tmp_path / "originals", tmp_path / "tfds") == cifar["cifar10"].prepared


class Hostile:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


HOSTILE = {
    "a command": pickle.dumps(Hostile(), 0),
    "a command, protocol 2": pickle.dumps({b"data": Hostile()}, 2),
    "a command, protocol 4": pickle.dumps(Hostile(), 4),
    "old": b"(S'touch pwned'\nios\nsystem\n.",
    "eval": b"c__builtin__\neval\n(S'1'\ntR.",
    "a builtin behind numpy": b"cnumpy\nload\n(S'x'\ntR.",
    "a class of numpy": b"cnumpy\nndarray\n(K\x01tR.",
    "a codec": b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.",
    "an own class": b"(cnumpy\nndarray\no.",
    "an extension": b"\x80\x02\x82\x01.",
    "a foreign id": b"P1\n.",
    "state of a function": b"cnumpy\ndtype\n}b.",
    "no end": b"}",
    "nothing": b"",
    "a list": b"].",
    "a key that is a list": b"}(]K\x01u.",
    "a number": b"K\x01.",
    "an empty stack": b"0.",
    "a tuple of nothing": b"\x85.",
    "no memo": b"h\x05.",
    "a text that is too short": b"T\xff\xff\xff\x7fabc.",
    "a negative length": b"T\xff\xff\xff\xffabc.",
    "a long number": b"L" + b"9" * 100_000 + b"L\n.",
    "an endless list": b"]q\x00h\x00a.",
    "an endless dict": b"}q\x00X\x04\x00\x00\x00datah\x00s.",
    "a web page": b"<html>quota exceeded</html>",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_pickle_is_one_line_and_runs_nothing(content, cifar, tmp_path, monkeypatch):
    files = cifar["cifar10"].python | {"cifar-10-batches-py/data_batch_3": content}
    write_files(tmp_path / "originals", files)
    monkeypatch.chdir(tmp_path)
    message = refused("cifar10", tmp_path, tmp_path / "originals")
    assert "cifar-10-batches-py/data_batch_3" in message
    assert [path.name for path in tmp_path.iterdir()] == ["originals"]


def test_a_pickle_with_any_damage_is_read_or_refused(cifar, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = cifar["cifar10"].python["cifar-10-batches-py/data_batch_1"]
    head = len(content) - 4 * 3072  # most of the file is pixels
    file, rng, outcomes = tmp_path / "batch", np.random.default_rng(0), []
    for _ in range(1500):
        damaged = bytearray(content)
        for at in rng.integers(head if rng.random() < 0.9 else len(content), size=rng.integers(1, 4)):
            damaged[at] = rng.integers(256)
        file.write_bytes(damaged[: rng.integers(len(content))] if rng.random() < 0.2 else damaged)
        try:
            outcomes.append(cifar_pickle.read(file))
        except UserError as error:
            outcomes.append(str(error))
    lines = [each for each in outcomes if isinstance(each, str)]
    start = f"config.data.path: {file} is not a file of CIFAR's python archive, or is damaged: "
    assert all(line.startswith(start) and "\n" not in line for line in lines)
    assert 50 < len(lines) < len(outcomes) - 50
    assert [path.name for path in tmp_path.iterdir()] == ["batch"]


def test_the_reader_of_pickles_imports_nothing_that_runs_them():
    assert "pickle" not in vars(cifar_pickle)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"data_batch_2": None, "test_batch": None}, "data_batch_2, test_batch missing in "),
        ({"data_batch_2": python_2_pickle({b"labels": [1]})}, "data_batch_2 has no pixels of 3x32x32"),
        (
            {"test_batch": python_2_pickle({b"labels": [1], b"data": np.zeros((2, 3072), np.uint8)})},
            "test_batch has no label for each image",
        ),
        ({"batches.meta": python_2_pickle({b"num_vis": 3072})}, "batches.meta has no list label_names"),
    ],
)
def test_what_is_wrong_with_files_of_cifar(change, expected, cifar, tmp_path):
    files = cifar["cifar10"].python | {f"cifar-10-batches-py/{name}": value for name, value in change.items()}
    write_files(tmp_path / "originals", {name: value for name, value in files.items() if value is not None})
    message = refused("cifar10", tmp_path, tmp_path / "originals")
    assert "config.data.name='cifar10'" in message
    assert expected in message
    assert ("unpack cifar-10-python.tar.gz again" in message) == ("missing" in expected)


def test_where_there_is_no_cifar(tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    message = refused("cifar10", tmp_path, tmp_path / "empty")
    assert capfd.readouterr() == ("", "")
    for name in ("binary.tar.gz", "python.tar.gz", "batches-bin", "batches-py"):
        assert f"cifar-10-{name}" in message
    (tmp_path / "file.txt").write_text("x")
    assert "file.txt" in refused("cifar10", tmp_path, tmp_path / "file.txt")


# Fashion-MNIST, and other sets in its format

IDX_FORMS = {
    "four files": lambda name: name,
    "unpacked": lambda name: name.removesuffix(".gz"),
    "of Kaggle": lambda name: name.replace("-idx", ".idx").removesuffix(".gz"),
    "of Kaggle, in folders": lambda name: f"{name.removesuffix('.gz')}/{name.removesuffix('.gz')}",
    "of torchvision": lambda name: f"FashionMNIST/raw/{name.removesuffix('.gz')}",
}


@pytest.mark.parametrize("form", IDX_FORMS)
@pytest.mark.parametrize("name", ["fashion_mnist", "mnist", "kmnist"])
def test_sets_in_the_format_of_mnist(name, form, tmp_path):
    files = idx_files()
    content = lambda given, wanted: given if wanted.endswith(".gz") else gzip.decompress(given)
    write_files(
        tmp_path / "originals", {IDX_FORMS[form](n): content(c, IDX_FORMS[form](n)) for n, c in files.items()}
    )
    summary = prepare(name, data_dir=str(tmp_path), path=str(tmp_path / "originals"))
    assert summary.startswith(f"{name}/3.0.1: train 7, test 3 examples, in ")
    for split, stem in (("train", "train"), ("test", "t10k")):
        raw = gzip.decompress(files[f"{stem}-images-idx3-ubyte.gz"])[16:]
        expected = np.frombuffer(raw, np.uint8).reshape(-1, 28, 28, 1)
        images = open_source(name, image_size=28, channels=1, split=split, data_dir=str(tmp_path))
        np.testing.assert_array_equal(sort_images(read_all(images)), sort_images(expected))
        labels = sorted(gzip.decompress(files[f"{stem}-labels-idx1-ubyte.gz"])[8:])
        assert sorted(each["label"] for each in read_with_tfds(name, split, str(tmp_path))) == labels


def test_the_path_may_be_one_of_the_four_files(tmp_path):
    write_files(tmp_path / "originals", idx_files())
    file = tmp_path / "originals" / "train-images-idx3-ubyte.gz"
    assert "train 7, test 3" in prepare("fashion_mnist", data_dir=str(tmp_path), path=str(file))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train-images-idx3-ubyte.gz", b"<html>"),
        ("train-images-idx3-ubyte.gz", b""),
        ("train-images-idx3-ubyte.gz", idx_files()["train-images-idx3-ubyte.gz"][:-40]),
        ("train-images-idx3-ubyte.gz", idx_files()["train-labels-idx1-ubyte.gz"]),
        ("t10k-labels-idx1-ubyte.gz", idx_files()["train-labels-idx1-ubyte.gz"]),
        ("t10k-labels-idx1-ubyte.gz", gzip.compress(b"\0\0\x0d\x01\0\0\0\x03" + b"\0" * 12)),
        ("t10k-labels-idx1-ubyte.gz", gzip.compress(b"\0\0\x08\xff")),
    ],
    ids=["text", "empty", "cut", "labels for images", "of train", "of floats", "header"],
)
def test_a_damaged_file_of_mnist_is_named(name, content, tmp_path):
    write_files(tmp_path / "originals", idx_files() | {name: content})
    assert name in refused("fashion_mnist", tmp_path, tmp_path / "originals")


# CelebA

LISTS = ("list_eval_partition", "list_attr_celeba", "list_landmarks_align_celeba")
IMAGES = "img_align_celeba"


def faces(celeb_a_files: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(celeb_a_files / f"{IMAGES}.zip") as archive:
        return {Path(name).name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("inside", [IMAGES, f"{IMAGES}/{IMAGES}", f"Img/{IMAGES}", ""])
def test_celeb_a_of_unpacked_images(inside, celeb_a_files, tmp_path):
    lists = {path.name: path.read_bytes() for path in celeb_a_files.glob("*.txt")}
    place = {"list_eval_partition.txt": "Eval/"}
    write_files(
        tmp_path / "originals", {place.get(name, "Anno/") + name: text for name, text in lists.items()}
    )
    write_files(tmp_path / "originals" / inside, faces(celeb_a_files))
    expected = prepared("celeb_a", celeb_a_files, tmp_path / "a")
    assert prepared("celeb_a", tmp_path / "originals", tmp_path / "b") == expected


def only_the_zip(files: Path, to: Path) -> Path:
    (to / f"{IMAGES}.zip").write_bytes((files / f"{IMAGES}.zip").read_bytes())
    return to


def the_zip_itself(files: Path, to: Path) -> Path:
    return only_the_zip(files, to) / f"{IMAGES}.zip"


def the_folder(files: Path, to: Path) -> Path:
    write_files(to / IMAGES, faces(files))
    return to


def of_kaggle(files: Path, to: Path) -> Path:
    write_files(to / IMAGES / IMAGES, faces(files))
    write_files(to, {f"{name}.csv": b"image_id,a\n000001.jpg,1\n" for name in LISTS})
    return to


def zip_of_kaggle(files: Path, to: Path) -> Path:
    with zipfile.ZipFile(to / "archive.zip", "w") as archive:
        for name, content in faces(files).items():
            archive.writestr(f"{IMAGES}/{IMAGES}/{name}", content)
        archive.writestr("list_attr_celeba.csv", "image_id\n")
    return to / "archive.zip"


@pytest.mark.parametrize("form", [only_the_zip, the_zip_itself, the_folder, of_kaggle, zip_of_kaggle])
def test_celeb_a_without_its_lists_names_what_gives_the_same_images(form, celeb_a_files, tmp_path):
    prepare("celeb_a", data_dir=str(tmp_path / "tfds"), path=str(celeb_a_files))
    (tmp_path / "my faces").mkdir()
    path = form(celeb_a_files, tmp_path / "my faces")
    message = refused("celeb_a", tmp_path, path)
    for name in (*LISTS, "identity_CelebA"):
        assert f"{name}.txt" in message
    flags = shlex.split(message[message.index("--config.data.name=folder ") :])
    assert [flag.partition("=")[0] for flag in flags] == [
        *("--config.data.name", "--config.data.path", "--config.data.crop")
    ]
    data = parse(["--config=celeba64", *flags]).config.data
    own = open_source("folder", path=data.path, image_size=64, crop=data.crop)
    splits = [
        read_all(open_source("celeb_a", image_size=64, split=split, data_dir=str(tmp_path / "tfds")))
        for split in ("train", "validation", "test")
    ]
    np.testing.assert_array_equal(sort_images(read_all(own)), sort_images(np.concatenate(splits)))


def test_all_missing_originals_are_named_at_once(celeb_a_files, tmp_path):
    (tmp_path / "originals").mkdir()
    (tmp_path / "originals" / "list_attr_celeba.txt").write_text("6\n")
    message = refused("celeb_a", tmp_path, tmp_path / "originals")
    assert (
        "made from img_align_celeba.zip, list_eval_partition.txt, list_landmarks_align_celeba.txt, "
        f"identity_CelebA.txt, which are not in {tmp_path}/originals" in message
    )
    assert "list_attr_celeba.txt" not in message
    assert "folder" not in message.removeprefix("config.data.path")
    idx = idx_files()
    write_files(tmp_path / "idx", {"train-images-idx3-ubyte.gz": idx["train-images-idx3-ubyte.gz"]})
    message = refused("fashion_mnist", tmp_path, tmp_path / "idx")
    assert all(name in message for name in idx.keys() - {"train-images-idx3-ubyte.gz"})
    assert "train-images" not in message


@pytest.mark.parametrize("name", ["celeb_a", "cifar10", "fashion_mnist"])
def test_a_path_that_does_not_exist_is_blamed_itself(name, tmp_path):
    message = refused(name, tmp_path, tmp_path / "nowhere")
    assert message.startswith(f"config.data.path='{tmp_path}/nowhere' does not exist")


# What cannot be prepared


@pytest.fixture
def no_network(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a download began")

    monkeypatch.setattr(downloads, "fetch", fail)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("lsun", "scenes/church_outdoor_train_lmdb.zip"),
        ("lsun/bedroom", "scenes/bedroom_train_lmdb.zip"),
        ("lsun/cat:3.1.0", "objects/cat.zip"),
        ("LSUN", "scenes/church_outdoor_train_lmdb.zip"),
        ("lsun/TV_monitor", "objects/tv-monitor.zip"),
    ],
)
def test_lsun_says_at_once_how_to_export(name, url, tmp_path, no_network):
    message = refused(name, tmp_path, None)
    assert message.startswith(f"config.data.name={name!r} cannot be prepared, ")
    assert f"http://dl.yf.io/lsun/{url}" in message


def test_lsun_that_is_there_is_exported(tmp_path, no_network):
    folder = tmp_path / "lsun" / "bedroom_train_lmdb"
    write_files(folder, {"data.mdb": b"", "lock.mdb": b""})
    message = refused("lsun/bedroom", tmp_path, tmp_path / "lsun")
    assert f" {folder} bedroom_images and give --config.data.path=bedroom_images" in message
    assert "http" not in message
    (tmp_path / "lsun.zip").write_bytes(b"")
    for path in ("lsun.zip", "nowhere"):
        message = refused("lsun/bedroom", tmp_path, tmp_path / path)
        assert message.startswith(f"config.data.path='{tmp_path}/{path}' holds no LMDB; ")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lsun/chruch", "did you mean lsun/church_outdoor? "),
        ("lsun/church", "did you mean lsun/church_outdoor? "),
        ("LSUN/bedrooms", "did you mean lsun/bedroom? "),
        ("lsun/tv_monitors:3.1.0", "did you mean lsun/tv-monitor? "),
        ("lsun/zebra crossings", ""),
    ],
)
def test_a_category_that_lsun_has_not(name, meant, tmp_path, no_network):
    message = refused(name, tmp_path, None)
    start = f"config.data.name={name!r} is no category of LSUN; {meant}categories are bedroom, bridge, "
    assert message.startswith(start)


def test_a_failed_download_of_a_set_with_configs_leaves_nothing(tmp_path, monkeypatch, capfd):
    def fail(url, file, **_):
        raise OSError("no network")

    monkeypatch.setattr(downloads, "fetch", fail)
    message = refused("imagenet_resized/64x64", tmp_path, None)
    assert message.startswith("config.data.name='imagenet_resized/64x64': cannot download http://")
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch("downloading http://.*zip\n", err)


@pytest.mark.parametrize("name", ["svhn_cropped", "oxford_flowers102", "stl10"])
def test_a_set_that_needs_tensorflow_is_refused_before_a_download(name, tmp_path, no_network):
    message = refused(name, tmp_path, None)
    assert message.startswith(f"config.data.name={name!r} cannot be prepared without TensorFlow")


def test_the_folder_of_a_config_without_a_path(tmp_path):
    assert refused("folder", tmp_path, None).startswith("config.data.path must be set")
    assert "`prepare` with --config.data.name=lsun/church_outdoor" in refused("folder", tmp_path, None)
    message = refused("folder", tmp_path, tmp_path / "nowhere")
    assert message.startswith(f"config.data.path='{tmp_path}/nowhere' does not exist")


@pytest.mark.parametrize("name", ["CIFAR-10", "cifar 10", "cifar-10"])
def test_a_name_that_is_no_name(name, tmp_path):
    assert re.search(r" is unknown; try .*cifar10", refused(name, tmp_path, None))
