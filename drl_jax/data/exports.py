"""Data that are not read as they are: the lines that export them to a folder of images."""

import json
import shlex
from pathlib import Path

from drl_jax.errors import UserError

_SCENES = (
    *("bedroom", "bridge", "church_outdoor", "classroom", "conference_room"),
    *("dining_room", "kitchen", "living_room", "restaurant", "tower"),
)


def refuse_lsun(name: str, path: str | None) -> None:
    """Says how the images of LSUN are exported, if a name of tensorflow-datasets is LSUN's.

    Args:
      name: such as "lsun/church_outdoor".
      path: the user's folder, or None.

    Raises:
      UserError: it is LSUN.
    """
    base, _, category = name.partition("/")
    if base.split(":")[0] != "lsun":
        return
    category = category.split(":")[0] or "church_outdoor"
    is_scene, folder = category in _SCENES, f"{category}_images"
    lmdb = f"{category}_train_lmdb" if is_scene else category
    url = f"http://dl.yf.io/lsun/{'scenes' if is_scene else 'objects'}/{lmdb}.zip"
    there, lmdb = ("", path) if path else (f"download {url} and unpack it; ", lmdb)
    raise UserError(
        f"config.data.name={name!r} cannot be prepared, because its builder needs TensorFlow; nothing was "
        f"downloaded; {there}export its images: {_lmdb_line(lmdb, folder)}; then train with "
        f"--config.data.name=folder --config.data.path={folder}"
    )


def check_folder(path: str | None) -> str:
    """Checks what data.name=folder is to read, as far as `prepare` can.

    Args:
      path: config.data.path.

    Returns:
      One line that says that nothing is to be prepared.

    Raises:
      UserError: the path is missing, or what is there must be exported first.
    """
    if path is None:
        line = _lmdb_line("church_outdoor_train_lmdb", "church")
        raise UserError(
            "config.data.path must be set for config.data.name='folder': a folder or a zip of images; "
            f"those of LSUN have to be exported: {line}; then take --config.data.path=church"
        )
    root = Path(path).expanduser()
    if not root.exists():
        raise UserError(f"config.data.path={path!r} does not exist; give a folder or a zip of images")
    lmdb = next((each for each in (root, root.parent) if (each / "data.mdb").is_file()), None)
    if lmdb is not None and (lmdb == root or root.suffix == ".mdb"):
        line = _lmdb_line(lmdb, "images")
        raise UserError(
            f"config.data.path={path!r} is an LMDB; export its images: {line}; then take "
            "--config.data.path=images"
        )
    parquet = root if root.suffix == ".parquet" else next(iter(sorted(root.glob("*.parquet"))), None)
    if parquet is not None:
        pattern = parquet if parquet == root else root / "*.parquet"
        raise UserError(
            f"config.data.path={path!r} holds parquet files; export the images of their column image: "
            f"{_parquet_line(pattern, 'images')}; then take --config.data.path=images"
        )
    return "config.data.name='folder' needs no preparation"


def _lmdb_line(path: str | Path, folder: str) -> str:
    """The line that exports the images of an LMDB, whose values are image files."""
    program = (
        f"import lmdb, os, pathlib; os.makedirs({json.dumps(folder)}); "
        f'[pathlib.Path({json.dumps(folder)}, key.decode() + ".webp").write_bytes(image) for key, image in '
        f"lmdb.open({json.dumps(str(path))}, readonly=True, lock=False).begin().cursor()]"
    )
    return f"pip install lmdb; python -c {shlex.quote(program)}"


def _parquet_line(pattern: str | Path, folder: str) -> str:
    """The line that exports the images of parquet files, as Hugging Face writes them."""
    program = (
        f"import glob, os, pathlib, pyarrow.parquet as pq; os.makedirs({json.dumps(folder)}); "
        f'[pathlib.Path({json.dumps(folder)}, f"{{i:03d}}_{{j:07d}}.png").write_bytes(row["bytes"]) '
        f"for i, file in enumerate(sorted(glob.glob({json.dumps(str(pattern))}))) for j, row in "
        'enumerate(pq.read_table(file, columns=["image"])["image"].to_pylist())]'
    )
    return f"python -c {shlex.quote(program)}"
