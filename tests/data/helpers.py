"""Tiny data sets in the formats of the original ones, and functions to read sources."""

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from drl_jax.data.sources import Source

LABELS = ["airplane", "automobile", "bird", "cat", "deer"]
LABELS += ["dog", "frog", "horse", "ship", "truck"]


def read_all(source: Source) -> np.ndarray:
    return source.take(np.arange(len(source)))


def sort_images(images: np.ndarray) -> np.ndarray:
    """The images as rows, in an order that depends only on their pixels."""
    rows = images.reshape(len(images), -1)
    return rows[np.lexsort(rows.T)]


def encode(pixels: np.ndarray, format: str = "PNG") -> bytes:
    """The content of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def read_with_tfds(name: str, split: str, data_dir: str | None = None) -> Any:
    """The records of a prepared data set, read without this project's code."""
    return tfds.data_source(name, split=split, data_dir=data_dir)


def write_cifar10_archive(path: Path, *, per_batch: int = 4, truncated: str | None = None):
    """Writes a cifar-10-binary.tar.gz with five training batches and one test batch.

    Args:
      path: of the archive.
      per_batch: number of images.
      truncated: name of a batch that lacks its last bytes.

    Returns:
      For each split: pixels `[n, 32, 32, 3]` and labels `[n]`.
    """
    rng = np.random.default_rng(0)
    splits = {"train": ([], []), "test": ([], [])}
    with tarfile.open(path, "w:gz") as archive:

        def add(name: str, content: bytes):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

        add("batches.meta.txt", ("\n".join(LABELS) + "\n\n").encode())
        for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
            planes = rng.integers(256, size=(per_batch, 3, 32, 32), dtype=np.uint8)
            labels = rng.integers(10, size=per_batch, dtype=np.uint8)
            rows = np.concatenate([labels[:, None], planes.reshape(per_batch, -1)], axis=1)
            add(name, rows.tobytes()[: -100 if name == truncated else None])
            pixels, all_labels = splits["test" if name == "test_batch.bin" else "train"]
            pixels.append(planes.transpose(0, 2, 3, 1))
            all_labels.append(labels)
    return {
        split: (np.concatenate(pixels), np.concatenate(labels)) for split, (pixels, labels) in splits.items()
    }


def write_celeb_a_files(folder: Path) -> None:
    """Writes the original files of a CelebA of six faces: JPEGs of 218 × 178 in a zip, and the lists."""
    rng = np.random.default_rng(1)
    names = [f"{i:06d}.jpg" for i in range(1, 7)]
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        for name in names:
            small = rng.integers(256, size=(11, 9, 3), dtype=np.uint8)
            image = Image.fromarray(small).resize((178, 218), Image.Resampling.BICUBIC)
            archive.writestr(f"img_align_celeba/{name}", encode(np.asarray(image), "JPEG"))

    def write(file: str, header: list[str], rows: list[str]):
        lines = [*header, *(f"{name} {row}" for name, row in zip(names, rows, strict=True))]
        (folder / file).write_text("\n".join(lines) + "\n")

    features: Any = tfds.builder("celeb_a", data_dir=str(folder)).info.features
    attributes, landmarks = list(features["attributes"]), list(features["landmarks"])
    write("list_eval_partition.txt", [], ["0", "0", "0", "0", "1", "2"])
    write("identity_CelebA.txt", [], ["7"] * 6)
    write("list_attr_celeba.txt", ["6", " ".join(attributes)], ["1 -1 " * 20] * 6)
    write("list_landmarks_align_celeba.txt", ["6", " ".join(landmarks)], ["3 " * 10] * 6)


def python_2_pickle(batch: dict[bytes, Any], protocol: int = 2) -> bytes:
    """A pickle as Python 2 wrote the files of CIFAR's python archive: its opcodes, one by one.

    Args:
      batch: bytes, lists of whole numbers and of bytes, and arrays of uint8 [n, columns].
      protocol: 0 or 2.
    """

    def text(value: bytes) -> bytes:
        if protocol == 0:
            return b"S" + repr(value)[1:].encode() + b"\n"
        short = len(value) < 256
        return (b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value))) + value

    def number(value: int) -> bytes:
        if protocol == 0:
            return b"I%d\n" % value
        if 0 <= value < 2**16:
            return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)
        return b"J" + struct.pack("<i", value)

    def array(value: np.ndarray) -> bytes:
        shape = b"(" + b"".join(map(number, value.shape)) + b"t"
        dtype = b"cnumpy\ndtype\n(" + text(b"u1") + number(0) + number(1) + b"tR("
        dtype += number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
        made = (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n("
            + number(0)
            + b"t"
            + text(b"b")
            + b"tR"
        )
        false = b"I00\n" if protocol == 0 else b"\x89"
        return made + b"(" + number(1) + shape + dtype + false + text(value.tobytes()) + b"tb"

    def any_value(value: Any) -> bytes:
        if isinstance(value, bytes):
            return text(value)
        if isinstance(value, int):
            return number(value)
        if isinstance(value, np.ndarray):
            return array(value)
        if protocol == 0:
            return b"(l" + b"".join(any_value(each) + b"a" for each in value)
        return b"](" + b"".join(map(any_value, value)) + b"e"

    items = [text(key) + any_value(value) for key, value in batch.items()]
    if protocol == 0:
        return b"(dp0\n" + b"".join(item + b"s" for item in items) + b"."
    return b"\x80\x02}q\x01(" + b"".join(items) + b"u."


def python_archive(binary: Path, write: Callable[[dict[bytes, Any]], bytes]) -> dict[str, bytes]:
    """The files of CIFAR's python archive, made of those in the binary archive, by name.

    Args:
      binary: the binary archive, of CIFAR-10 or CIFAR-100.
      write: makes the content of a file.
    """
    with tarfile.open(binary) as archive:
        files = {
            Path(member.name).name: file.read() for member in archive if (file := archive.extractfile(member))
        }
    names = {name: content.split() for name, content in files.items() if name.endswith(".txt")}
    if is_10 := "batches.meta.txt" in names:
        folder, labels = "cifar-10-batches-py", [b"labels"]
        meta = {b"num_cases_per_batch": 10000, b"label_names": names["batches.meta.txt"], b"num_vis": 3072}
    else:
        folder, labels = "cifar-100-python", [b"coarse_labels", b"fine_labels"]
        meta = {name.removesuffix(".txt").encode(): texts for name, texts in names.items()}
    found = {f"{folder}/{'batches.meta' if is_10 else 'meta'}": write(meta)}
    for name in sorted(files.keys() - names.keys()):
        rows = np.frombuffer(files[name], np.uint8).reshape(-1, len(labels) + 3072)
        batch = {b"batch_label": b"of " + name.encode()}
        batch |= {label: rows[:, i].tolist() for i, label in enumerate(labels)}
        batch |= {b"data": np.ascontiguousarray(rows[:, len(labels) :])}
        batch |= {b"filenames": [b"image_s_%06d.png" % i for i in range(len(rows))]}
        found[f"{folder}/{name.removesuffix('.bin')}"] = write(batch)
    return found


def write_cifar100_archive(path: Path) -> None:
    """Writes a cifar-100-binary.tar.gz with five images of training and three of test."""
    rng = np.random.default_rng(2)
    coarse = "".join(f"kind_{i}\n" for i in range(20)).encode()
    fine = "".join(f"thing_{i}\n" for i in range(100)).encode()
    files = {"coarse_label_names.txt": coarse, "fine_label_names.txt": fine}
    for name, count in (("train.bin", 5), ("test.bin", 3)):
        rows = rng.integers(256, size=(count, 3074), dtype=np.uint8)
        rows[:, 0], rows[:, 1] = rng.integers(20, size=count), rng.integers(100, size=count)
        files[name] = rows.tobytes()
    write_tar(path, {f"cifar-100-binary/{name}": content for name, content in files.items()})


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    """Writes an archive; one whose name ends in gz is packed."""
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Writes files below a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def idx_files(counts: tuple[int, int] = (7, 3)) -> dict[str, bytes]:
    """The four files of a set in the format of MNIST, packed as the original ones, by name."""
    rng, files = np.random.default_rng(3), {}
    for stem, count in zip(("train", "t10k"), counts, strict=True):
        pixels, labels = rng.integers(256, size=(count, 28, 28), dtype=np.uint8), rng.integers(10, size=count)
        images = struct.pack(">4I", 0x803, count, 28, 28) + pixels.tobytes()
        files[f"{stem}-images-idx3-ubyte.gz"] = gzip.compress(images)
        content = struct.pack(">2I", 0x801, count) + labels.astype(np.uint8).tobytes()
        files[f"{stem}-labels-idx1-ubyte.gz"] = gzip.compress(content)
    return files
