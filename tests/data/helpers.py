"""Tiny data sets in the formats of the original ones, and functions to read sources."""

import io
import tarfile
import zipfile
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
