"""CIFAR-10 and CIFAR-100: their originals in each form that people have, as files of the binary archive."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from drl_jax.data import cifar_pickle
from drl_jax.data.originals import find
from drl_jax.errors import UserError

_PIXELS = 3 * 32 * 32


class Layout(NamedTuple):
    """The files of a data set.

    Attributes:
      stem: how the names of its archives begin.
      binary: the folder in the binary archive.
      python: the folder in the python archive.
      batches: the files of images: in the python archive → in the binary archive.
      names: the files of label names in the binary archive → the list in the file `meta`.
      meta: the file of label names in the python archive.
      labels: the lists of labels in a file of images of the python archive; a byte each in the binary one.
      features: what tensorflow-datasets calls these labels.
    """

    stem: str
    binary: str
    python: str
    batches: Mapping[str, str]
    names: Mapping[str, str]
    meta: str
    labels: tuple[str, ...]
    features: tuple[str, ...]


LAYOUTS = {
    "cifar10": Layout(
        stem="cifar-10",
        binary="cifar-10-batches-bin",
        python="cifar-10-batches-py",
        batches={name: f"{name}.bin" for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")},
        names={"batches.meta.txt": "label_names"},
        meta="batches.meta",
        labels=("labels",),
        features=("label",),
    ),
    "cifar100": Layout(
        stem="cifar-100",
        binary="cifar-100-binary",
        python="cifar-100-python",
        batches={"train": "train.bin", "test": "test.bin"},
        names={
            "coarse_label_names.txt": "coarse_label_names",
            "fine_label_names.txt": "fine_label_names",
        },
        meta="meta",
        labels=("coarse_labels", "fine_labels"),
        features=("coarse_label", "label"),
    ),
}


def name_of(path: Path) -> str | None:
    """Returns which data set a path holds the originals of, as an archive or unpacked; None if of none."""
    for name, layout in LAYOUTS.items():
        archives = [*_archives(layout, "binary"), *_archives(layout, "python")]
        first = next(iter(layout.batches))
        if path.name in archives or find(path, archives) is not None:
            return name
        for label_names, batch in ((layout.meta, first), (next(iter(layout.names)), layout.batches[first])):
            there = find(path, (label_names,))
            if there is not None and (there.parent / batch).is_file():
                return name
    return None


def stage(name: str, path: Path, folder: Path, extract: Callable[[Path], Path]) -> Path:
    """Makes the files of the binary archive out of what the user has.

    Args:
      name: of the data set.
      path: an archive, binary or python, or the folder that was in it; or a folder with one of these.
      folder: an empty folder to work in.
      extract: unpacks an archive, and returns the folder.

    Returns:
      A folder with the folder of the binary archive.

    Raises:
      UserError: none of them is there, or files of it are missing or damaged.
    """
    layout = LAYOUTS[name]
    first = next(iter(layout.batches))
    binary, python = (layout.batches[first], *layout.names), (layout.meta,)
    root = path
    if path.is_file():
        root = path.parent if path.name in (*layout.batches, *layout.batches.values()) else extract(path)
    target = folder / layout.binary
    for kind, batch, archive in (("binary", binary, layout.binary), ("python", python, layout.python)):
        there = find(root, batch)
        if there is None and (packed := find(root, _archives(layout, kind))):
            there = find(extract(packed), batch)
            if there is None:
                raise UserError(f"config.data.path: {packed} does not hold the folder {archive}")
        if there is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (_link if kind == "binary" else _convert)(name, layout, there.parent, target)
            return folder
    raise UserError(
        f"config.data.path={str(path)!r}: config.data.name={name!r} is made from "
        f"{layout.stem}-binary.tar.gz or {layout.stem}-python.tar.gz, or from the unpacked folder "
        f"{layout.binary} or {layout.python}, and none of them is in {root}"
    )


def examples(name: str, prefix: str, paths: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Reads examples from files of the binary archive. The library's builder reads these with TensorFlow.

    Keys and ids are those of the library's builder. A record is a byte for each label, then the pixels.

    Args:
      name: of the data set.
      prefix: of the ids.
      paths: of the files.

    Yields:
      A number from 0 on, and the features.

    Raises:
      UserError: a file is damaged.
    """
    features = LAYOUTS[name].features
    size, index = len(features) + _PIXELS, 0
    for path in map(Path, paths):
        content = np.frombuffer(path.read_bytes(), np.uint8)
        if len(content) == 0 or len(content) % size:
            raise UserError(
                f"config.data.name={name!r}: {path.name} has {len(content)} bytes, not a multiple of "
                f"{size:,}; it is damaged"
            )
        for record in content.reshape(-1, size):
            image = record[len(features) :].reshape(3, 32, 32).transpose(1, 2, 0)
            labels = dict(zip(features, map(int, record), strict=False))
            yield index, {"id": f"{prefix}{index:05d}", "image": image, **labels}
            index += 1


def _archives(layout: Layout, kind: str) -> tuple[str, ...]:
    """The names of an archive: the original one first, then what browsers and people make of it."""
    return tuple(f"{layout.stem}-{kind}{suffix}" for suffix in (".tar.gz", ".tgz", ".tar"))


def _link(name: str, layout: Layout, source: Path, target: Path) -> None:
    _require(name, source, [*layout.names, *layout.batches.values()], f"{layout.stem}-binary.tar.gz")
    os.symlink(source.absolute(), target)


def _convert(name: str, layout: Layout, source: Path, target: Path) -> None:
    """Writes the files of the python archive as those of the binary one."""
    _require(name, source, [layout.meta, *layout.batches], f"{layout.stem}-python.tar.gz")
    target.mkdir()
    meta = cifar_pickle.read(source / layout.meta)
    for file, key in layout.names.items():
        texts = meta.get(key)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"config.data.name={name!r}: {source / layout.meta} has no list {key}")
        (target / file).write_text("".join(f"{text}\n" for text in texts) + "\n")
    for file, binary in layout.batches.items():
        batch = cifar_pickle.read(source / file)
        pixels = batch.get("data")
        columns = [batch.get(label) for label in layout.labels]
        if not isinstance(pixels, np.ndarray) or pixels.shape[1] != _PIXELS or not len(pixels):
            raise UserError(f"config.data.name={name!r}: {source / file} has no pixels of 3x32x32")
        if not all(_are_labels(column, len(pixels)) for column in columns):
            raise UserError(f"config.data.name={name!r}: {source / file} has no label for each image")
        rows = np.concatenate([np.array(columns, np.uint8).T, pixels], axis=1)
        (target / binary).write_bytes(rows.tobytes())


def _are_labels(column: Any, count: int) -> bool:
    is_list = isinstance(column, list) and len(column) == count
    return is_list and all(type(label) is int and 0 <= label < 256 for label in column)


def _require(name: str, folder: Path, files: list[str], archive: str) -> None:
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise UserError(
            f"config.data.path: {', '.join(missing)} missing in {folder}, which config.data.name={name!r} "
            f"needs; unpack {archive} again, or download it again"
        )
