"""Data that are not read as they are: the commands that export them to a folder of images."""

import difflib
import os
import shlex

from drl_jax.data import walk
from drl_jax.errors import UserError

_CONTENT, _LOCK = "data.mdb", "lock.mdb"  # in the folder of an LMDB
# The images keep their own bytes, and Pillow knows them by their content: the suffix does not matter.
# Programs of one line, whose arguments are where the data are and where the images go.
_PARQUET = (
    "import glob, sys, pyarrow.parquet as p; "
    'order = lambda row: sorted(row, key=lambda k: k not in ("image", "img")); '
    'content = lambda x: x.get("bytes") if isinstance(x, dict) else x; '
    "image = lambda row: next((y for k in order(row) if isinstance(y := content(row[k]), bytes)), None); "
    '[open(f"{sys.argv[2]}/{n}_{i}.png", "wb").write(image(row) or sys.exit(f"no image in row {i} of {f}")) '
    "for n, f in enumerate(sorted(glob.glob(sys.argv[1], recursive=True))) "
    "for i, row in enumerate(p.read_table(f).to_pylist())]"
)
_LMDB = (
    "import lmdb, os, sys; "
    "data = lmdb.open(sys.argv[1], subdir=os.path.isdir(sys.argv[1]), readonly=True, lock=False); "
    '[open(f"{sys.argv[2]}/{i}.webp", "wb").write(v) for i, (k, v) in enumerate(data.begin().cursor())]'
)
_SCENES = (
    *("bedroom", "bridge", "church_outdoor", "classroom", "conference_room"),
    *("dining_room", "kitchen", "living_room", "restaurant", "tower"),
)
_OBJECTS = (
    *("airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining_table"),
    *("dog", "horse", "motorbike", "person", "potted_plant", "sheep", "sofa", "train", "tv-monitor"),
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


def find_lmdbs(path: str) -> list[str]:
    """Finds the LMDBs at a path: the folders that hold data.mdb, and other files *.mdb, sorted.

    Args:
      path: of a folder, which may hold them in subfolders, or of a file in one of them.

    Raises:
      UserError: a folder cannot be listed.
    """
    if os.path.isdir(path):
        files = [os.path.join(path, name) for name in walk.list_files(path, _is_mdb).names]
    elif os.path.basename(path) == _LOCK:
        files = [os.path.join(os.path.dirname(path), _CONTENT)]
    else:
        files = [path]
    files = [file for file in files if _is_mdb(file) and os.path.isfile(file)]
    return [os.path.dirname(file) if os.path.basename(file) == _CONTENT else file for file in files]


def _is_mdb(name: str) -> bool:
    return name.endswith(".mdb") and os.path.basename(name) != _LOCK


def export_lmdb(files: str, folder: str) -> str:
    """Writes the command that exports the images of an LMDB, whose values are image files, as LSUN's.

    Args:
      files: the LMDB: its folder, or a file *.mdb that needs none.
      folder: where the images go.

    Returns:
      One line for a shell, and the flag that names the folder.
    """
    return _command("lmdb", _LMDB, files, folder)


def _command(package: str, program: str, files: str, folder: str) -> str:
    where = shlex.quote(folder)
    run = f"python -c '{program}' {shlex.quote(files)} {where}"
    command = f"pip install {package} && mkdir -p {where} && {run}"
    return f"export it by: {command} and give --config.data.path={where}"


def refuse_lsun(name: str, path: str | None) -> None:
    """Says how the images of LSUN are exported, if a name of tensorflow-datasets is LSUN's.

    Args:
      name: such as "lsun/church_outdoor".
      path: the user's folder, or None.

    Raises:
      UserError: it is LSUN.
    """
    base, _, category = name.lower().replace("-", "_").partition("/")
    if base.split(":")[0] != "lsun":
        return
    category = category.split(":")[0] or "church_outdoor"
    known = {each.replace("-", "_"): each for each in (*_SCENES, *_OBJECTS)}
    if category not in known:
        words = {each.partition("_")[0]: each for each in known.values()} | known  # "church", too
        similar = difflib.get_close_matches(category, words, n=1)
        meant = f"did you mean lsun/{words[similar[0]]}? " if similar else ""
        raise UserError(
            f"config.data.name={name!r} is no category of LSUN; {meant}categories are "
            f"{', '.join(known.values())}"
        )
    is_scene, category = category in _SCENES, known[category]
    lmdb = f"{category}_train_lmdb" if is_scene else category
    if path is None:
        url = f"http://dl.yf.io/lsun/{'scenes' if is_scene else 'objects'}/{lmdb}.zip"
        there = f"download {url} and unpack it; "
    elif found := find_lmdbs(os.path.abspath(os.path.expanduser(path))):
        there, lmdb = "", found[0]
    else:
        raise UserError(
            f"config.data.path={path!r} holds no LMDB; for config.data.name={name!r} give the folder with "
            f"data.mdb that is in {lmdb}.zip"
        )
    raise UserError(
        f"config.data.name={name!r} cannot be prepared, because its builder needs TensorFlow; nothing was "
        f"downloaded; {there}{export_lmdb(lmdb, f'{category}_images')} --config.data.name=folder"
    )
