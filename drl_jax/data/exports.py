"""Data that are not read as they are: the commands that export them to a folder of images."""

import shlex

from drl_jax.errors import UserError

# The images keep their own bytes, and Pillow knows them by their content: the suffix does not matter.
_PARQUET = """import glob, pyarrow.parquet as p
for n, f in enumerate(sorted(glob.glob({files!r}, recursive=True))):
    t = p.read_table(f)
    for i, x in enumerate(t["image" if "image" in t.column_names else "img"].to_pylist()):
        open({folder!r} + f"/{{n}}_{{i}}.png", "wb").write(x["bytes"])"""
_LMDB = """import lmdb
for i, (k, v) in enumerate(lmdb.open({files!r}, readonly=True, lock=False).begin().cursor()):
    open({folder!r} + f"/{{i}}.webp", "wb").write(v)"""
_SCENES = (
    *("bedroom", "bridge", "church_outdoor", "classroom", "conference_room"),
    *("dining_room", "kitchen", "living_room", "restaurant", "tower"),
)


def export_parquet(files: str, folder: str) -> str:
    """Writes the command that exports the images of Parquet files, as Hugging Face writes them.

    Args:
      files: their paths, as a pattern.
      folder: where the images go.

    Returns:
      One line for a shell, and the flag that names the folder.
    """
    return _command("pyarrow", _PARQUET, files, folder)


def export_lmdb(files: str, folder: str) -> str:
    """Writes the command that exports the images of an LMDB, whose values are image files, as LSUN's.

    Args:
      files: the folder of the LMDB.
      folder: where the images go.

    Returns:
      One line for a shell, and the flag that names the folder.
    """
    return _command("lmdb", _LMDB, files, folder)


def _command(package: str, program: str, files: str, folder: str) -> str:
    # One line: Python reads it from the escapes of the shell's $'…'.
    code = program.format(folder=folder, files=files)
    escaped = code.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    where = shlex.quote(folder)
    command = f"pip install {package} && mkdir -p {where} && python -c $'{escaped}'"
    return f"export it by: {command} and give --config.data.path={where}"


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
    is_scene = category in _SCENES
    lmdb = f"{category}_train_lmdb" if is_scene else category
    url = f"http://dl.yf.io/lsun/{'scenes' if is_scene else 'objects'}/{lmdb}.zip"
    there = "" if path else f"download {url} and unpack it; "
    raise UserError(
        f"config.data.name={name!r} cannot be prepared, because its builder needs TensorFlow; nothing was "
        f"downloaded; {there}{export_lmdb(path or lmdb, f'{category}_images')} --config.data.name=folder"
    )
