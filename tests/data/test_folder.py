"""Folders, archives and arrays of one's own: what is read, what is left out and reported, what is refused."""

import bz2
import gzip
import io
import logging
import lzma
import os
import random
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from PIL import Image

from drl_jax.config import schema
from drl_jax.config.schema import Config
from drl_jax.data import archives, folder, walk
from drl_jax.data.decoding import Damaged, Unreadable
from drl_jax.data.sources import open_source
from drl_jax.errors import UserError
from tests.data.helpers import encode, read_all, write_files


def image(value: int, format: str = "PNG") -> bytes:
    """An image file of 4 × 4 pixels with one value."""
    return encode(np.full((4, 4, 3), value, np.uint8), format)


def write_images(folder: Path, *values: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for value in values:
        (folder / f"{value}.png").write_bytes(image(value))


def opened(path, **options):
    return open_source("folder", path=str(path), image_size=4, **options)


def values(path, **options) -> list[int]:
    """The value of each image of a data set, in order."""
    return read_all(opened(path, **options))[:, 0, 0, 0].tolist()


def reported(path, caplog, **options) -> str:
    """What opening a data set prints."""
    with caplog.at_level(logging.INFO, "drl_jax"):
        opened(path, **options).notes.listen()
    return "\n".join(record.getMessage() for record in caplog.records)


def refusal(path, **options) -> str:
    """The one line with which a data set is refused, when it is opened or read."""
    with pytest.raises(UserError) as caught:
        read_all(opened(path, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Folders


def test_formats_of_pillow_are_read_and_the_others_are_counted(tmp_path, caplog):
    formats = {"ppm": "PPM", "pgm": "PPM", "jfif": "JPEG", "TIFF": "TIFF", "tga": "TGA", "avif": "AVIF"}
    for number, (suffix, format) in enumerate(formats.items()):
        (tmp_path / f"{number}.{suffix}").write_bytes(image(100, format))
    for name in ("a.txt", "b.txt", "c.heic", "noise", ".hidden.png", "d.eps"):
        (tmp_path / name).write_bytes(b"other")
    assert values(tmp_path) == [100] * len(formats)
    line = reported(tmp_path, caplog)
    assert line.startswith(f"config.data.path={tmp_path}: 6 images; left out are 2 .txt, ")
    for part in (
        "1 .heic",
        "1 without a suffix",
        "1 hidden",
        "1 .eps",
        "(HEIC: convert them to PNG or JPEG first)",
    ):
        assert part in line


def test_nothing_is_reported_of_a_folder_of_plain_images(tmp_path, caplog):
    write_images(tmp_path, 1, 2)
    assert reported(tmp_path, caplog) == ""


def test_links_to_folders_are_visited_once_and_loops_end(tmp_path, caplog):
    data, other = tmp_path / "data", tmp_path / "other"
    write_images(data / "a", 1, 2)
    write_images(data / "b" / "deep", 3)
    write_images(other, 9)
    (data / "self").symlink_to(data)
    (data / "a" / "parent").symlink_to(data)
    (data / "a" / "to_b").symlink_to(data / "b")
    (data / "b" / "to_a").symlink_to(data / "a")
    (data / "outside").symlink_to(other)
    (data / "outside_again").symlink_to(other)
    (other / "back").symlink_to(data)
    assert values(data) == [1, 2, 3, 9]
    assert walk.list_files(str(data), lambda name: name.endswith(".png")).names == [
        *("a/1.png", "a/2.png", "b/deep/3.png", "outside/9.png"),
    ]
    assert values(data / "self") == [1, 2, 3, 9]  # the data set may itself be given by a link


def test_links_to_files_are_read_once(tmp_path, caplog):
    data, other = tmp_path / "data", tmp_path / "other"
    write_images(data, 1, 2)
    write_images(other, 7)
    (data / "0.png").symlink_to(data / "1.png")
    (data / "3.png").symlink_to(other / "7.png")
    (data / "4.png").symlink_to(other / "7.png")
    assert values(data) == [1, 2, 7]
    assert "left out are 2 links to files that are there already" in reported(data, caplog)


@pytest.mark.parametrize("target", ["nowhere.png", "loop.png"])
def test_a_link_to_nothing_is_named(tmp_path, target):
    write_images(tmp_path, 1, 2)
    (tmp_path / "loop.png").symlink_to(tmp_path / target)
    assert re.search(rf"{tmp_path}/loop.png is a link to nothing, as 1 of 3", refusal(tmp_path))
    assert values(tmp_path, skip_damaged=True) == [1, 2, 1]


@pytest.mark.parametrize("name", ["disk", "images v1.0", "deep/part_2"])
def test_a_link_to_nothing_that_may_be_a_folder_is_named(tmp_path, name, caplog):
    write_images(tmp_path / "deep", 1)
    (tmp_path / "labels.txt").symlink_to("/no/where.txt")
    (tmp_path / ".hidden").symlink_to("/no/where")
    assert values(tmp_path) == [1]
    assert "left out are 1 hidden, 1 link to nothing" in reported(tmp_path, caplog)
    (tmp_path / name).symlink_to("/no/where")
    for options in ({}, {"skip_damaged": True}, {"for_check": True}):
        line = refusal(tmp_path, **options)
        assert line.startswith(
            f"config.data.path: {tmp_path}/{name} is a link to nothing, and may have led to"
        )


def test_pipes_and_sockets_do_not_block(tmp_path, caplog):
    write_images(tmp_path, 1)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server, tempfile.TemporaryDirectory() as short:
        server.bind(f"{short}/s.png")
        (tmp_path / "to_socket").symlink_to(short)
        assert values(tmp_path) == [1]
        assert "left out are 3 pipes, sockets or devices" in reported(tmp_path, caplog)
    assert "is no file" in refusal(tmp_path / "pipe.png")
    assert "is no file" in refusal("/dev/zero")


def test_a_folder_or_file_without_permission_is_named(open_to_all, as_nobody):
    write_images(open_to_all, 1)
    write_images(open_to_all / "closed", 2)
    (open_to_all / "closed").chmod(0)
    try:
        line = as_nobody(refusal, open_to_all)
        assert line == f"config.data.path: {open_to_all}/closed cannot be listed: Permission denied"
        (open_to_all / "closed").chmod(0o755)
        (open_to_all / "1.png").chmod(0)
        line = as_nobody(refusal, open_to_all)
        assert line == f"config.data.path: {open_to_all}/1.png cannot be read: Permission denied"
        # It is no damage, so it is not skipped either.
        with pytest.raises(Unreadable, match="Permission denied"):
            as_nobody(lambda: values(open_to_all, skip_damaged=True))
        (open_to_all / "1.png").chmod(0o644)
        write_images(open_to_all / "closed" / "inner", 3)
        (open_to_all / "closed").chmod(0)
        assert "closed/inner' cannot be read: Permission denied" in as_nobody(
            refusal, open_to_all / "closed" / "inner"
        )
        (open_to_all / "data").mkdir()
        (open_to_all / "data" / "linked").symlink_to(open_to_all / "closed" / "inner")
        assert "data/linked cannot be followed: Permission denied" in as_nobody(refusal, open_to_all / "data")
    finally:
        (open_to_all / "closed").chmod(0o755)


def test_the_folder_of_a_run_is_no_data(tmp_path, caplog):
    write_images(tmp_path, 1, 2)
    write_images(tmp_path / "runs" / "mine" / "samples", 8)
    schema.save(Config(), epath.Path(tmp_path / "runs/mine/config.json"))
    write_images(tmp_path / "other", 3)
    (tmp_path / "other" / "config.json").write_text('{"format": 1}')  # of another program
    assert values(tmp_path) == [1, 2, 3]
    assert "1 folder of a run of this program" in reported(tmp_path, caplog)
    assert "is the folder of a run of this program" in refusal(tmp_path / "runs" / "mine")
    assert values(tmp_path / "runs" / "mine" / "samples") == [8]  # somebody asks for them by name


def test_names_that_are_no_text_work_and_are_shown_on_one_line(tmp_path):
    for number, name in enumerate((b"caf\xe9.png", b"two\nlines.png", "\N{SNOWMAN}.png".encode())):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(image(number))
    assert sorted(values(tmp_path)) == [0, 1, 2]
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(b"bad")
    assert r"caf\udce9.png is not an image" in refusal(tmp_path)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/two\nlines.png")).write_bytes(b"bad")
    os.unlink(os.fsencode(tmp_path) + b"/caf\xe9.png")
    assert r"two\nlines.png is not an image" in refusal(tmp_path)


def test_the_order_is_natural():
    def key(name: str) -> tuple:
        parts = re.split(r"([0-9]+)", name)
        return [int(part) if i % 2 else part for i, part in enumerate(parts)], name

    stream = random.Random(0)
    names = list({"".join(stream.choices("01239ab./ \udce9é", k=stream.randint(1, 9))) for _ in range(5000)})
    expected = sorted(names, key=key)
    walk.sort_naturally(names)
    assert names == expected


def exported(path: Path, fake: Path, row: str = '{"image": {"bytes": x}}') -> str:
    """Runs the command with which data are refused, and returns the folder that it has made.

    Args:
      path: of the data.
      fake: a folder for packages that have what the command uses of the real ones.
      row: a row of Parquet with the image `x`.
    """
    for name, content in {
        "images.py": f"IMAGES, ROW = {[image(1), image(2)]!r}, {row!r}",
        "lmdb.py": FAKE_LMDB,
        "pyarrow/__init__.py": "",
        "pyarrow/parquet.py": FAKE_PARQUET,
    }.items():
        write_files(fake, {name: content.encode()})
    line = refusal(path)
    found = re.search(r"export it by: pip install (?:lmdb|pyarrow) && (.*) and give", line)
    assert found is not None
    subprocess.run(
        ["sh", "-c", found[1].replace("python -c", f"{shlex.quote(sys.executable)} -B -c")],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(fake), "PATH": os.environ["PATH"]},
    )
    return shlex.split(line.rpartition("--config.data.path=")[2])[0]


@pytest.mark.parametrize("name", ["data.mdb", "train-0.parquet"])
def test_forms_that_are_not_read_come_with_a_command(tmp_path, name):
    write_files(tmp_path / "it's [mine]", {name: bytes(100)})
    for path in (tmp_path / "it's [mine]", tmp_path / "it's [mine]" / name):
        assert values(exported(path, tmp_path / "fake")) == [1, 2]


FAKE_LMDB = """
import os
from images import IMAGES

class open:
    def __init__(self, path, subdir, readonly, lock):
        file = os.path.join(path, "data.mdb") if subdir else path
        assert os.path.isfile(file) and readonly and not lock
    def begin(self):
        return self
    def cursor(self):
        return iter([(b"key", each) for each in IMAGES])
"""
FAKE_PARQUET = """
import os
from images import IMAGES, ROW

class read_table:
    def __init__(self, path):
        assert os.path.isfile(path)
    def to_pylist(self):
        return [eval(ROW) for x in IMAGES]
"""


@pytest.mark.parametrize(
    "row",
    [
        '{"label": 1, "image": {"bytes": x, "path": None}, "key": b"k"}',
        '{"mask": {"bytes": b"m"}, "img": {"bytes": x}}',
        '{"url": "u", "caption": {"text": "t"}, "picture": {"path": "p", "bytes": x}}',
        '{"jpg": x, "label": 1}',
    ],
)
def test_the_column_of_images_in_parquet_is_found(tmp_path, row):
    (tmp_path / "train [1].parquet").write_bytes(b"")
    assert values(exported(tmp_path / "train [1].parquet", tmp_path / "fake", row)) == [1, 2]
    with pytest.raises(subprocess.CalledProcessError) as caught:
        exported(tmp_path / "train [1].parquet", tmp_path / "fake", '{"label": 1}')
    assert caught.value.stderr == f"no image in row 0 of {tmp_path}/train [1].parquet\n"


@pytest.mark.parametrize("lmdb", ["church", "deep/er/church", "faces.mdb"])
def test_the_lmdb_is_found(tmp_path, lmdb):
    file = tmp_path / "data" / lmdb / ("" if lmdb.endswith(".mdb") else "data.mdb")
    write_files(tmp_path / "data", {str(file.relative_to(tmp_path / "data")): b"", "readme.txt": b""})
    paths = [tmp_path / "data", file]
    if file.name == "data.mdb":
        (file.parent / "lock.mdb").write_bytes(b"")
        paths += [file.parent, file.parent / "lock.mdb"]
    for path in paths:
        folder = exported(path, tmp_path / "fake")
        assert folder == f"{tmp_path}/data/{lmdb}_images"
        assert values(folder) == [1, 2]
        shutil.rmtree(folder)
    write_files(tmp_path / "data" / "zoo", {"data.mdb": b"", "lock.mdb": b""})
    assert "holds 2 LMDBs, of which the command takes the first, " in refusal(tmp_path / "data")
    assert exported(tmp_path / "data", tmp_path / "fake") == f"{tmp_path}/data/{lmdb}_images"


def test_the_lock_of_an_lmdb_alone_is_none(tmp_path):
    (tmp_path / "lock.mdb").write_bytes(b"")
    assert "holds no images: only 1 .mdb" in refusal(tmp_path)


def test_what_a_folder_without_images_holds_is_reported(tmp_path):
    assert "holds no images: nothing; give images (.png" in refusal(tmp_path)
    (tmp_path / "a.heic").write_bytes(b"")
    (tmp_path / "b.txt").write_bytes(b"")
    line = refusal(tmp_path)
    assert "holds no images: only 1 .heic, 1 .txt (HEIC: convert them" in line
    for name in ("IMG_1.CR3", "c.png.gz", "noise"):
        (tmp_path / name).write_bytes(b"")
    line = refusal(tmp_path)
    assert "(HEIC and raw photographs: convert them to PNG or JPEG first; .gz: unpack them by gunzip)" in line
    assert " (a file needs a suffix such as .png to be read); give images (.png" in line


@pytest.mark.parametrize("name", ["1.png", "a.zip", "a.tar", "a.tar.gz", "a.npy", "a.npz"])
def test_an_empty_file_is_called_empty(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert refusal(tmp_path) == f"config.data.path: {tmp_path}/{name} is empty"


def test_the_originals_of_a_set_are_to_be_prepared(tmp_path):
    files = {
        "cifar10": ("cifar-10-batches-py/batches.meta", "cifar-10-batches-py/data_batch_1"),
        "cifar100": ("cifar-100-python/meta", "cifar-100-python/train"),
        "mnist": ("raw/train-images-idx3-ubyte", "raw/train-labels-idx1-ubyte"),
    }
    for name, (first, second) in files.items():
        content = {first: b"x", second: b"x"}
        write_files(tmp_path / name, content)
        (tmp_path / f"{name} archive").mkdir()
        paths = [tmp_path / name, (tmp_path / name / first).parent]
        if name != "mnist":
            archive = tmp_path / f"{name} archive" / f"cifar-{name[5:]}-python.tar.gz"
            archive.write_bytes(PACK["a.tgz"](content))
            paths += [archive, archive.parent]
        for path in paths:
            line = refusal(path)
            assert line.startswith(f"config.data.path={str(path)!r} holds the originals of {name}")
            flag = f"--config.data.path={shlex.quote(str(path))}, then give --config.data.name={name}"
            assert line.endswith(f"run `prepare` with --config.data.name={name} {flag}")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "meta").write_bytes(b"x")
    assert "holds no images: only 1 without a suffix" in refusal(tmp_path / "other")


def test_one_image_is_no_data_set(tmp_path):
    write_images(tmp_path, 1)
    assert "is one image; give the folder that it is in" in refusal(tmp_path / "1.png")
    (tmp_path / "2.png.gz").write_bytes(gzip.compress(image(1)))
    assert "is one compressed image; unpack it by gunzip and give the fol" in refusal(tmp_path / "2.png.gz")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert "is a link to nothing" in refusal(tmp_path / "gone")


# Archives


def add_to_tar(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def tar_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            add_to_tar(tar, name, content)
    return buffer.getvalue()


def zip_bytes(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


FILES = {
    "./faces/s1/10.png": image(10),
    "faces/s1/9.png": image(9),
    "faces/readme.txt": b"text",
    "faces/.hidden.png": b"x",
    "__MACOSX/faces/._9.png": b"x",
}
PACK = {
    "a.zip": zip_bytes,
    "a.tar": tar_bytes,
    "a.tar.gz": lambda files: gzip.compress(tar_bytes(files)),
    "a.tgz": lambda files: gzip.compress(tar_bytes(files)),
    "a.tar.bz2": lambda files: bz2.compress(tar_bytes(files)),
    "a.tar.xz": lambda files: lzma.compress(tar_bytes(files)),
    "named wrongly.zip": lambda files: gzip.compress(tar_bytes(files)),
}


@pytest.mark.parametrize("name", PACK)
def test_archives_are_read(tmp_path, name, caplog, monkeypatch):
    (tmp_path / name).write_bytes(PACK[name](FILES))
    assert values(tmp_path / name) == [9, 10]
    source = opened(tmp_path / name)
    np.testing.assert_array_equal(source.take(np.array([1, 0, 1]))[:, 0, 0, 0], [10, 9, 10])
    assert "were unpacked" not in reported(tmp_path / name, caplog)  # 0 MiB
    monkeypatch.setattr(folder, "_MANY_BYTES", 1)
    lines = reported(tmp_path / name, caplog)
    assert "2 images; left out are 2 hidden, 1 .txt" in lines
    is_compressed = name not in ("a.zip", "a.tar")
    assert ("were unpacked to a temporary file" in lines) == is_compressed


@pytest.mark.parametrize("outer", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("inner", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
def test_archives_inside_archives_are_read(tmp_path, outer, inner):
    content = PACK[inner]({"s1/1.pgm": image(1, "PPM"), "s1/2.pgm": image(2, "PPM")})
    again = PACK[inner]({f"x/{inner}": content})
    (tmp_path / outer).write_bytes(PACK[outer]({f"att/{inner}": again, "att/7.png": image(7)}))
    assert values(tmp_path / outer) == [7, 1, 2]


def test_a_folder_of_archives_is_read(tmp_path):
    for number, name in ((2, "n2.tar"), (1, "n1.zip"), (10, "n10.tar.gz")):
        pack = {".zip": zip_bytes, ".tar": tar_bytes}.get(name[-4:], PACK["a.tgz"])
        (tmp_path / name).write_bytes(pack({"1.png": image(number), "2.png": image(number)}))
    assert values(tmp_path) == [1, 1, 2, 2, 10, 10]


def test_archives_beside_images_are_left_out(tmp_path, caplog):
    write_images(tmp_path, 1)
    (tmp_path / "a.zip").write_bytes(zip_bytes({"2.png": image(2)}))
    np.save(tmp_path / "b.npy", np.zeros((3, 4, 4, 3), np.uint8))
    assert values(tmp_path) == [1]
    assert "1 image; left out are 1 .npy, 1 .zip" in reported(tmp_path, caplog)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice_is_read_once(tmp_path, caplog):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, tarfile.open(tmp_path / "a.tar", "w") as tar:
        for value in (1, 2):
            archive.writestr("same.png", image(value))
            add_to_tar(tar, "same.png", image(value))
    for name in ("a.zip", "a.tar"):
        caplog.clear()
        assert values(tmp_path / name) == [2]  # the last one counts, as for programs that unpack
        assert "left out is 1 second copy of a name" in reported(tmp_path / name, caplog)


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("where", ["", "runs/mine/", "./runs/mine/"])
def test_the_folder_of_a_run_in_an_archive_is_no_data(tmp_path, pack, where, caplog):
    schema.save(Config(), epath.Path(tmp_path / "config.json"))
    run = {
        f"{where}samples.png": image(8),
        f"{where}log.txt": b"",
        f"{where}samples/a.zip": zip_bytes({"7.png": image(7)}),
        f"{where}config.json": (tmp_path / "config.json").read_bytes(),
        f"{where}samples/6.png": image(6),
        f"{where}inner/config.json": (tmp_path / "config.json").read_bytes(),
    }
    others = {"1.png": image(1), "runs/2.png": image(2), "runs/mine2/3.png": image(3)}
    others |= {"other/config.json": b'{"format": 1}', "other/4.png": image(4)}  # of another program
    archive = tmp_path / pack
    if where:
        archive.write_bytes(PACK[pack](run | others))
        assert values(archive) == [1, 4, 2, 3]
        assert "left out are 1 folder of a run of this program, 1 .json" in reported(archive, caplog)
    else:
        archive.write_bytes(PACK[pack](run))
        assert "holds no images: only 1 folder of a run of this program" in refusal(archive)
        archive.write_bytes(PACK[pack]({"run.tar": tar_bytes(run), "1.png": image(1)}))
        assert values(archive) == [1]
        assert "left out is 1 folder of a run of this program" in reported(archive, caplog)


@pytest.mark.parametrize("pack", ["a.zip", "a.tar", "a.tar.gz"])
def test_names_that_come_to_the_same_are_counted(tmp_path, pack, caplog):
    files = {"3.png": image(3), "./3.png": image(4), "i.zip/1.png": image(1)}
    (tmp_path / pack).write_bytes(PACK[pack](files | {"i.zip": zip_bytes({"1.png": image(2)})}))
    assert values(tmp_path / pack) == [4, 2]
    assert "left out are 2 second copies of names" in reported(tmp_path / pack, caplog)


def test_a_zip_behind_a_program_is_read(tmp_path):
    packed = zip_bytes({"1.png": image(1), "2.png": image(2)})
    (tmp_path / "faces.exe").write_bytes(b"MZ" + bytes(5000) + packed)
    assert values(tmp_path / "faces.exe") == [1, 2]
    (tmp_path / "a.tar").write_bytes(tar_bytes({"faces.zip": b"#!/bin/sh\n" + packed}))
    assert values(tmp_path / "a.tar") == [1, 2]


def test_a_file_is_closed_when_python_ends(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"")
    file = archives.File(os.open(tmp_path / "a", os.O_RDONLY))
    descriptor, complaints = file.descriptor, []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    with monkeypatch.context() as ending:
        ending.setattr(archives, "os", None)  # as Python leaves a module when it ends
        del file
    assert complaints == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def noise(seed: int) -> bytes:
    return encode(np.random.default_rng(seed).integers(256, size=(64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_bad_stream_in_a_zip_names_the_member(tmp_path, method):
    # One large member between two undamaged ones, with a hole in it.
    content = bytearray(zip_bytes({"1.png": image(1), "bad.png": noise(0), "9.png": image(9)}, method))
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    (tmp_path / "a.zip").write_bytes(content)
    assert f"config.data.path: {tmp_path}/a.zip/bad.png is damaged: " in refusal(tmp_path / "a.zip")
    with pytest.raises(Damaged):
        read_all(opened(tmp_path / "a.zip"))
    assert values(tmp_path / "a.zip", skip_damaged=True) == [1, 9, 1]


@pytest.mark.parametrize("name", PACK)
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_an_archive_that_is_cut_is_refused(tmp_path, name, part):
    content = PACK[name]({f"{i}.png": noise(i) for i in range(6)})
    (tmp_path / name).write_bytes(content[: int(part * len(content))])
    line = refusal(tmp_path / name)
    assert f"config.data.path: {tmp_path}/{name} is " in line
    assert "damaged or not complete" in line
    if "zip" not in name:
        assert re.search(r"at or after (\d.png|its first file)", line)


@pytest.mark.parametrize("cut", [0, 1024])
def test_a_tar_without_an_end_or_with_a_bad_header_is_refused(tmp_path, cut):
    content = bytearray(tar_bytes({f"{i}.png": image(i) for i in range(4)}))
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        offsets = [member.offset for member in tar]
        end = tar.offset
    if cut:
        content = content[:end]
    else:
        content[offsets[2] : offsets[2] + 20] = b"\xff" * 20
    (tmp_path / "a.tar").write_bytes(content)
    line = refusal(tmp_path / "a.tar")
    assert ("at or after 3.png: the archive has no end" if cut else "at or after 1.png: ") in line


def test_an_encrypted_zip_is_refused_with_a_command(tmp_path):
    content = bytearray(zip_bytes({"1.png": image(1)}))
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + place] |= 1  # the flag of encryption
    (tmp_path / "a.zip").write_bytes(content)
    line = refusal(tmp_path / "a.zip")
    assert f"{tmp_path}/a.zip is encrypted: 1.png; unpack it by: mkdir -p {tmp_path}/a_images && 7z x" in line


def test_archives_of_other_kinds_are_refused_with_a_command(tmp_path):
    for start, command in (
        (b"Rar!\x1a\x07", "unrar x"),
        (b"7z\xbc\xaf\x27\x1c", "7z x"),
        (b"\x28\xb5\x2f\xfd", "tar"),
    ):
        (tmp_path / "a").write_bytes(start + bytes(600))
        assert f"unpack it by: mkdir -p {tmp_path}/a_images && {command}" in refusal(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"text" * 300)
    assert "is neither a zip nor a tar" in refusal(tmp_path / "a")
    (tmp_path / "a").write_bytes(gzip.compress(b"text" * 300))
    assert "is damaged or not complete" in refusal(tmp_path / "a")


def test_a_compressed_tar_that_does_not_fit_is_refused_with_a_command(tmp_path, monkeypatch):
    path = tmp_path / "all faces.v1.tar.gz"
    path.write_bytes(PACK["a.tgz"]({f"{i}.png": image(i) for i in range(4)}))
    usage = archives.shutil.disk_usage("/")._replace(free=100)
    with monkeypatch.context() as patched:
        patched.setattr(archives.shutil, "disk_usage", lambda path: usage)
        line = refusal(path)
    assert "does not fit in half of the free space" in line
    command = re.search(r"unpack it by: (.*) and give --config.data.path='(.*)'$", line)
    assert command is not None
    subprocess.run(command[1], shell=True, check=True, timeout=60)
    assert values(command[2]) == [0, 1, 2, 3]


def test_links_in_a_tar_are_left_out(tmp_path, caplog):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add_to_tar(tar, "1.png", image(1))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"{kind!r}.png")
            member.type, member.linkname = kind, "1.png"
            tar.addfile(member)
    assert values(tmp_path / "a.tar") == [1]
    assert "3 links, pipes or devices" in reported(tmp_path / "a.tar", caplog)


# Arrays


def pixels(n: int = 5, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(n, *(shape or (4, 4, 3))), dtype=np.uint8)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_is_a_data_set(tmp_path, save):
    images = pixels()
    save(tmp_path / "a.npz", arr_0=images)
    np.testing.assert_array_equal(read_all(opened(tmp_path / "a.npz")), images)
    save(tmp_path / "b.npz", images=images, labels=np.arange(5), sha256=np.zeros(32, np.uint8))
    np.testing.assert_array_equal(read_all(opened(tmp_path / "b.npz")), images)
    save(tmp_path / "c.npz", images, np.arange(5))  # guided-diffusion's: arr_0 and the labels arr_1
    np.testing.assert_array_equal(read_all(opened(tmp_path / "c.npz")), images)


@pytest.mark.parametrize("shape", [(4, 4, 3), (4, 4, 1), (4, 4), (7, 5, 3), (6, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_is_a_data_set(tmp_path, shape, order):
    images = pixels(5, *shape)
    np.save(tmp_path / "a.npy", np.asarray(images, order=order))
    source = opened(tmp_path / "a.npy", channels=3 if shape[2:] == (3,) else 1)
    top, left = ((side - 4) // 2 for side in shape[:2])
    expected = images.reshape(5, *shape[:2], -1)
    if min(shape[:2]) == 4:
        expected = expected[:, top : top + 4, left : left + 4]
        np.testing.assert_array_equal(read_all(source), expected)
    assert read_all(source).shape == (5, 4, 4, 3 if shape[2:] == (3,) else 1)


def test_arrays_with_alpha_show_the_background(tmp_path):
    images = pixels(2, 4, 4, 4)
    images[..., 3] = 0
    np.save(tmp_path / "a.npy", images)
    assert (read_all(opened(tmp_path / "a.npy", background=(7,))) == 7).all()


def test_a_folder_of_arrays_is_one_data_set(tmp_path, caplog):
    images = pixels(9)
    np.savez(tmp_path / "part_2.npz", arr_0=images[3:5])
    np.save(tmp_path / "part_10.npy", images[5:])
    np.savez_compressed(tmp_path / "part_1.npz", arr_0=images[:3])
    np.save(tmp_path / "labels.npy", np.arange(9))
    np.testing.assert_array_equal(read_all(opened(tmp_path)), images)
    assert "9 images; left out is 1 .npy of fewer than three axes" in reported(tmp_path, caplog)


def test_images_of_samples_are_left_out_beside_the_samples(tmp_path, caplog):
    images = pixels(9)
    np.savez(tmp_path / "samples.npz", arr_0=images)
    for name in ("samples.png", "samples_process.png"):
        (tmp_path / name).write_bytes(image(9))
    np.testing.assert_array_equal(read_all(opened(tmp_path)), images)
    line = reported(tmp_path, caplog)
    assert line.endswith("9 images; left out are 2 images of samples beside their arrays")
    files = {f"drawn/{path.name}": path.read_bytes() for path in tmp_path.iterdir()}
    files |= {"1.png": image(1), "own/samples.png": image(2), "drawn/3.png": image(3)}
    files |= {"scores/samples_0000000.npz": b"", "scores/samples.png": image(4)}
    write_files(tmp_path / "data", files)
    for path in (tmp_path / "data", *(tmp_path / f"all{suffix}" for suffix in (".zip", ".tar"))):
        if path.suffix:
            path.write_bytes(PACK[f"a{path.suffix}"](files))
        caplog.clear()
        assert values(path) == [1, 3, 2]
        assert "3 images of samples beside their arrays" in reported(path, caplog)


@pytest.mark.parametrize(
    ("form", "named"),
    [
        ("a.npz", "arrays"),
        ("a.npy", "arrays"),
        ("x/a.parquet", "Parquet files"),
        ("x/data.mdb", "files of LMDB"),
    ],
)
@pytest.mark.parametrize("pack", ["all.zip", "all.tar", "all.tar.gz"])
def test_other_forms_in_an_archive_are_to_be_unpacked(tmp_path, form, named, pack):
    np.save(tmp_path / "a.npy", pixels(2))
    content = (tmp_path / "a.npy").read_bytes() if form == "a.npy" else b""
    (tmp_path / pack).write_bytes(PACK[pack.replace("all", "a")]({form: content, "readme.txt": b""}))
    for path in (tmp_path / pack, tmp_path):
        if path == tmp_path:
            (tmp_path / "a.npy").unlink()
        line = refusal(path)
        assert line.startswith(f"config.data.path: {tmp_path}/{pack} holds {named}, which are not read in an")
        assert f"; unpack it by: mkdir -p {tmp_path}/all_images && " in line
        assert f" and give --config.data.path={tmp_path}/all_images" in line
        assert line.endswith("; `check` prints then how to export them") == (named != "arrays")


def test_several_arrays_come_with_the_command_that_saves_one(tmp_path):
    images = pixels(6, 8, 8)
    path = tmp_path / "it's mnist.npz"
    np.savez(path, x_test=images[:2], y_test=np.arange(2), x_train=images, y_train=np.arange(6))
    line = refusal(path)
    found = re.search(r"holds x_test, y_test, x_train, y_train: .* by: (python .*) and give (.*)$", line)
    assert found is not None
    command = found[1].replace("python", shlex.quote(sys.executable), 1)
    subprocess.run(["sh", "-c", command], check=True, timeout=60)
    assert shlex.split(found[2]) == [f"--config.data.path={tmp_path}/it's mnist_x_train.npy"]
    source = open_source("folder", path=f"{tmp_path}/it's mnist_x_train.npy", image_size=8, channels=1)
    np.testing.assert_array_equal(read_all(source)[..., 0], images)


def test_imagenet_64_is_read_as_it_is_published(tmp_path):
    images = pixels(3, 8, 8, 3)
    rows = images.transpose(0, 3, 1, 2).reshape(3, -1)
    np.savez(tmp_path / "train_data_batch_1.npz", data=rows, labels=np.arange(3), mean=np.zeros(192))
    source = open_source("folder", path=str(tmp_path), image_size=8)
    np.testing.assert_array_equal(read_all(source), images)


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (
            np.zeros((2, 4, 4, 3), np.float32),
            r"holds float32 \[2, 4, 4, 3\]; right is uint8 .* scaled and rounded",
        ),
        (np.zeros((2, 4, 4, 3), np.int64), r"holds int64 \[2, 4, 4, 3\]; right is uint8"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"by x.transpose\(0, 2, 3, 1\)"),
        (np.zeros((8, 8, 3), np.uint8), "looks like one image"),
        (np.zeros((8, 8), np.uint8), r"right is uint8 \[n, height, width, channels\]"),
        (np.zeros((2, 4, 4, 7), np.uint8), "3 or 4"),
        (np.zeros((2, 2, 4, 4, 3), np.uint8), "right is uint8"),
        (np.zeros((0, 4, 4, 3), np.uint8), "holds no images"),
        (np.array([{"a": 1}] * 3, dtype=object), "holds Python objects, which are not read"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_other_arrays_are_refused(tmp_path, array, problem, packed):
    path = tmp_path / ("a.npz" if packed else "a.npy")
    if packed:
        np.savez(path, arr_0=array)
    else:
        np.save(path, array, allow_pickle=True)
    assert re.search(problem, refusal(path))
    assert str(path) in refusal(path)


def test_several_arrays_without_the_name_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", train=pixels(), test=pixels())
    assert "holds train, test: images are the array arr_0, or the only one" in refusal(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", features=np.zeros((3, 8)))
    assert "holds features: images are the array arr_0" in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.99])
def test_an_array_that_is_cut_is_refused(tmp_path, name, part):
    path = tmp_path / name
    np.savez(path, arr_0=pixels(50)) if name == "a.npz" else np.save(path, pixels(50))
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    assert f"config.data.path: {path}" in refusal(path)


def test_a_damaged_npz_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, arr_0=pixels(50))
    content = bytearray(path.read_bytes())
    content[1500] ^= 1
    path.write_bytes(content)
    assert f"config.data.path: {path} is damaged" in refusal(path)


def test_a_large_image_file_in_an_archive_keeps_its_pixels(tmp_path):
    stored = Image.fromarray(pixels(1, 300, 300, 3)[0])
    buffer = io.BytesIO()
    stored.save(buffer, "PNG")
    for name in PACK:
        (tmp_path / name).write_bytes(PACK[name]({"0.png": image(0), "a.png": buffer.getvalue()}))
        source = open_source("folder", path=str(tmp_path / name), image_size=300)
        np.testing.assert_array_equal(source.take(np.array([1]))[0], np.asarray(stored))
