import errno
import functools
import hashlib
import http.server
import os
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import shuffle

from drl_jax.data.downloads import Downloads
from drl_jax.data.prepare import prepare
from drl_jax.data.tfds_build import build
from drl_jax.errors import UserError
from tests.data.helpers import LABELS, encode, read_with_tfds, write_cifar10_archive


def leftovers(data_dir: str) -> list[str]:
    """Files under a data directory that belong to no complete data set."""
    return [
        os.path.join(parent, file)
        for parent, _, files in os.walk(data_dir)
        for file in files
        if "incomplete" in parent or "unpacked" in parent or file.endswith((".part", ".tmp"))
    ]


@pytest.mark.parametrize("split", ["train", "test"])
def test_tfds_alone_reads_the_prepared_cifar10(tiny_cifar10, split):
    records = read_with_tfds("cifar10", split, tiny_cifar10.data_dir)
    pixels, labels = tiny_cifar10.pixels[split], tiny_cifar10.labels[split]
    assert len(records) == len(pixels)
    for record in records:
        index = int(record["id"].decode().removeprefix(f"{split}_"))
        np.testing.assert_array_equal(record["image"], pixels[index])
        assert record["label"] == labels[index]


def test_cifar10_has_the_files_of_the_library_builder(tiny_cifar10):
    files = sorted(os.listdir(os.path.join(tiny_cifar10.data_dir, "cifar10", "3.0.2")))
    assert files == [
        "cifar10-test.array_record-00000-of-00001",
        "cifar10-train.array_record-00000-of-00001",
        "dataset_info.json",
        "features.json",
        "label.labels.txt",
    ]
    features: Any = tfds.builder("cifar10", data_dir=tiny_cifar10.data_dir).info.features
    assert features["label"].names == LABELS
    assert features["image"].shape == (32, 32, 3)
    # The library's builder shuffles by keys, so the order is not that of the archive.
    records = read_with_tfds("cifar10", "train", tiny_cifar10.data_dir)
    ids = [record["id"] for record in records]
    assert ids != sorted(ids)


def test_the_summary_has_the_splits_and_the_folder(tiny_cifar10):
    directory = os.path.join(tiny_cifar10.data_dir, "cifar10", "3.0.2")
    expected = f"cifar10/3.0.2: train 20, test 4 examples, in {directory}"
    assert tiny_cifar10.summary == expected
    assert prepare("cifar10", data_dir=tiny_cifar10.data_dir) == expected  # prepared already
    assert os.listdir(tiny_cifar10.data_dir) == ["cifar10"]


def test_the_path_may_be_the_archive(tmp_path):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    write_cifar10_archive(archive, per_batch=1)
    summary = prepare("cifar10", data_dir=str(tmp_path / "tfds"), path=str(archive))
    assert "train 5, test 1" in summary


@pytest.mark.parametrize("damage", ["short batch", "short archive", "no archive", "not an archive"])
def test_the_message_names_a_bad_archive_and_no_files_are_left(tmp_path, damage):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    truncated = "data_batch_3.bin" if damage == "short batch" else None
    write_cifar10_archive(archive, truncated=truncated)
    if damage == "short archive":
        archive.write_bytes(archive.read_bytes()[:-5000])
    elif damage == "no archive":
        archive.unlink()
    elif damage == "not an archive":
        archive.write_text("a web page")
    expected = "data_batch_3.bin" if truncated else "cifar-10-binary.tar.gz"
    with pytest.raises(UserError, match=expected) as caught:
        prepare("cifar10", data_dir=str(tmp_path / "tfds"), path=str(tmp_path))
    assert "\n" not in str(caught.value)
    assert "config.data.name='cifar10'" in str(caught.value)
    assert leftovers(str(tmp_path)) == []
    assert not os.path.exists(tmp_path / "tfds" / "cifar10" / "3.0.2")


def test_celeb_a_without_its_lists_is_refused(celeb_a_files, tmp_path):
    archive = celeb_a_files / "img_align_celeba.zip"
    (tmp_path / archive.name).write_bytes(archive.read_bytes())
    with pytest.raises(UserError, match=r"config.data.path=.*list_eval_partition.txt"):
        prepare("celeb_a", data_dir=str(tmp_path / "tfds"), path=str(tmp_path))


def test_celeb_a_has_the_splits_of_the_list(celeb_a_files, tmp_path, capfd):
    summary = prepare("celeb_a", data_dir=str(tmp_path), path=str(celeb_a_files))
    assert summary.startswith("celeb_a/2.1.0: train 4, validation 1, test 1 examples")
    # No progress bars and no lines of the library in a file or a pipe.
    assert capfd.readouterr() == ("", "writing the examples of celeb_a\n")


@pytest.mark.parametrize("name", ["digits", "points", "folder"])
def test_some_data_need_no_preparation(name, tmp_path):
    path = "." if name == "folder" else None
    done = prepare(name, data_dir=str(tmp_path), path=path)
    assert done == f"config.data.name={name!r} needs no preparation"
    assert os.listdir(tmp_path) == []


def test_the_message_about_an_unknown_name_lists_similar_ones(tmp_path):
    with pytest.raises(UserError, match=r"config.data.name='celeba' is unknown; try celeb_a"):
        prepare("celeba", data_dir=str(tmp_path))


class Coloured(tfds.core.GeneratorBasedBuilder):
    """A builder that yields pixels, and fails if `failure` is set."""

    VERSION = tfds.core.Version("1.0.0")
    failure: Exception | None = None
    meanwhile: Callable[[], None] | None = None

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({"image": tfds.features.Image()})
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(3):
            yield i, {"image": np.full((2, 2, 3), i, np.uint8)}
            if self.failure:
                raise self.failure
        if self.meanwhile:
            self.meanwhile()


def downloads(name: str, folder, **options) -> Downloads:
    return Downloads(name, options.pop("url_infos", {}), str(folder), options.pop("path", None))


def test_a_builder_that_yields_pixels_needs_no_tensorflow(tmp_path):
    builder = Coloured(data_dir=str(tmp_path), file_format="array_record")
    build(builder, downloads("coloured", tmp_path))
    records = read_with_tfds("coloured", "train", str(tmp_path))
    assert sorted(int(record["image"].mean()) for record in records) == [0, 1, 2]


def test_a_large_split_is_sorted_without_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 10)
    builder = Coloured(data_dir=str(tmp_path), file_format="array_record")
    build(builder, downloads("coloured", tmp_path))
    assert len(read_with_tfds("coloured", "train", str(tmp_path))) == 3
    assert shuffle.MAX_MEM_BUFFER_SIZE == 10


def test_a_set_that_another_process_has_written_meanwhile_is_kept(tmp_path):
    builder = Coloured(data_dir=str(tmp_path), file_format="array_record")
    theirs = tmp_path / "coloured" / "1.0.0" / "theirs"

    def write():
        theirs.parent.mkdir()
        theirs.write_text("")

    builder.meanwhile = write
    build(builder, downloads("coloured", tmp_path))
    assert theirs.exists()
    assert os.listdir(tmp_path / "coloured") == ["1.0.0"]


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (ModuleNotFoundError("No module named 'tensorflow'"), "without TensorFlow"),
        (KeyError("labels"), "could not be prepared in .*KeyError: 'labels'"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_the_message_about_a_builder_that_fails_is_one_line(tmp_path, failure, message):
    builder = Coloured(data_dir=str(tmp_path), file_format="array_record")
    builder.failure = failure
    with pytest.raises(UserError, match=message) as caught:
        build(builder, downloads("coloured", tmp_path))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path / "coloured") == []


@pytest.fixture
def server(tmp_path):
    """A web server on this machine: `.url(name)`, files in `.folder`."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        port = httpd.server_address[1]
        yield SimpleNamespace(folder=folder, url=lambda name: f"http://127.0.0.1:{port}/{name}")
        httpd.shutdown()
        thread.join()


def info(content: bytes, filename: str) -> SimpleNamespace:
    return SimpleNamespace(checksum=hashlib.sha256(content).hexdigest(), filename=filename)


def test_a_download_is_checked_and_kept(server, tmp_path):
    content = encode(np.zeros((4, 4, 3), np.uint8))
    (server.folder / "a.png").write_bytes(content)
    url = server.url("a.png")
    files = downloads("set", tmp_path / "kept", url_infos={url: info(content, "b.png")})
    assert files.download({"images": [url]}) == {"images": [epath.Path(tmp_path / "kept" / "b.png")]}
    assert files.downloaded_size == len(content)
    (server.folder / "a.png").unlink()
    again = downloads("set", tmp_path / "kept", url_infos={url: info(content, "b.png")})
    with open(again.download(url), "rb") as file:
        assert file.read() == content


@pytest.mark.parametrize("case", ["other content", "not found", "web page", "no server"])
def test_the_message_about_a_failed_download_is_one_line_and_no_files_are_left(server, tmp_path, case):
    (server.folder / "a.zip").write_bytes(b"changed")
    (server.folder / "a.html").write_text("<html>quota</html>")
    url = server.url({"not found": "b.zip", "web page": "a.html"}.get(case, "a.zip"))
    if case == "no server":
        url = "http://127.0.0.1:9/a.zip"
    files = downloads("set", tmp_path / "kept", url_infos={url: info(b"content", "a.zip")})
    with pytest.raises(UserError, match=r"config.data.name='set'.*a.*config.data.path") as caught:
        files.download(url)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path / "kept") == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_not_called_a_failed_download(number, tmp_path, monkeypatch):
    def fail(url, path):
        path.write_bytes(b"part")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("drl_jax.data.downloads._copy", fail)
    files = downloads("set", tmp_path / "kept", url_infos={"http://x/a.zip": info(b"", "a.zip")})
    with pytest.raises(UserError) as caught:
        files.download("http://x/a.zip")
    assert str(caught.value) == f"{tmp_path}/kept/a.zip cannot be written: {os.strerror(number)}"
    assert os.listdir(tmp_path / "kept") == []


def test_a_set_that_must_be_downloaded_by_hand_needs_a_path(tmp_path):
    with pytest.raises(UserError, match=r"config.data.path must be set for config.data.name='set'"):
        _ = downloads("set", tmp_path).manual_dir
    assert str(downloads("set", tmp_path, path="/here").manual_dir) == "/here"
