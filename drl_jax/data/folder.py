"""Images of one's own: files in a folder or in an archive, or arrays."""

import glob
import os
import shlex
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from drl_jax.data import archives, array_files, cifar, exports, idx, originals, viewing, walk
from drl_jax.data.array_files import ArrayImages, open_arrays
from drl_jax.data.decoding import CropResize, Damaged, Unreadable
from drl_jax.data.notes import shown
from drl_jax.errors import UserError

_MAX_BYTES = 2**30  # of an image file
_NO_READER = {".heic": "HEIC", ".heif": "HEIC", ".jxl": "JPEG XL", ".svg": "SVG"} | dict.fromkeys(
    (
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mos", ".mrw"),
        *(".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
    ),
    "raw photographs",
)
_UNPACKERS = {".gz": "gunzip", ".bz2": "bunzip2", ".xz": "unxz"}  # of single files
_MANY_BYTES = 2**24  # unpacked at a start, which takes a while


class ImageFiles:
    """A source of image files. Each call of `take` decodes them."""

    def __init__(
        self, names: Sequence[str], read: Callable[[str], bytes], origin: str, crop_resize: CropResize
    ):
        """Keeps its arguments; reads nothing.

        Args:
          names: file names, in the order of the examples.
          read: returns the content of the file with a given name.
          origin: the folder or archive that the names belong to, for messages.
          crop_resize: how images are decoded.
        """
        self._names = names
        self._read = read
        self._origin = origin
        self._crop_resize = crop_resize

    def __len__(self) -> int:
        return len(self._names)

    def take(self, indices: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n height width channels"]:
        return np.stack([self._decode(self._names[int(i)]) for i in indices])

    def _decode(self, name: str) -> UInt8[np.ndarray, "height width channels"]:
        origin = f"config.data.path: {shown(os.path.join(self._origin, name))}"
        try:
            encoded = self._read(name)
        except UserError:
            raise
        except Exception as error:  # damaged archives raise errors of many types
            if isinstance(error, OSError) and error.errno is not None:  # of the system, not of a bad stream
                raise Unreadable(f"{origin} cannot be read: {error.strerror or error}") from error
            reason = " ".join(str(error).split()) or type(error).__name__
            raise Damaged(f"{origin} is damaged: {reason}") from error
        return self._crop_resize.decode(encoded, origin)


def open_folder(path: str, crop_resize: CropResize, *, is_tolerant: bool = False) -> ImageFiles | ArrayImages:
    """Opens images: a folder with its subfolders, an archive, or arrays. The order is natural, by names.

    A folder without images may hold arrays, or else archives. What is left out is reported.

    Args:
      path: of the folder, archive or array.
      crop_resize: what is done to each image.
      is_tolerant: whether links to nothing are damaged examples, and not refused.

    Raises:
      UserError: there is nothing to read at the path, or a part of it cannot be read.
    """
    root = os.path.expanduser(path)
    try:
        mode = os.stat(root).st_mode
    except (FileNotFoundError, NotADirectoryError):
        problem = "is a link to nothing" if os.path.islink(root) else "does not exist"
        raise UserError(
            f"config.data.path={path!r} {problem}; give a folder or an archive of images"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: the path has a zero byte
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"config.data.path={path!r} cannot be read: {reason}") from error
    if stat.S_ISDIR(mode):
        return _open_directory(root, crop_resize, is_tolerant=is_tolerant)
    if not stat.S_ISREG(mode):
        raise UserError(f"config.data.path={path!r} is no file; give a folder or an archive of images")
    if _is_array(root):
        return open_arrays([root], crop_resize)[0]
    stem, suffix = os.path.splitext(root)
    if _is_image(stem) and suffix.lower() in _UNPACKERS:
        unpacker = _UNPACKERS[suffix.lower()]
        raise UserError(
            f"config.data.path={path!r} is one compressed image; unpack it by {unpacker} and give the folder "
            "that it is in"
        )
    if other := _other_form(root, Counter([walk.suffix_of(root)])):
        raise UserError(f"config.data.path={path!r} {other}")
    if _is_image(root):
        raise UserError(f"config.data.path={path!r} is one image; give the folder that it is in")
    return _open_archives([root], root, crop_resize)


def _open_directory(root: str, crop_resize: CropResize, *, is_tolerant: bool) -> ImageFiles | ArrayImages:
    is_known = lambda name: _is_image(name) or _is_array(name) or archives.is_archive(name)
    listing = walk.list_files(root, is_known)
    found = walk.without_previews(listing.names, listing.names)
    kinds = {kind: [n for n in found if is_kind(n)] for kind, is_kind in _KINDS.items()}
    used = next((kind for kind, names in kinds.items() if names), None)
    if used is None:
        other = _other_form(root, listing.left_out)
        raise UserError(f"config.data.path={root!r} {other or _no_images(root, listing.left_out)}")
    left_out = listing.left_out + Counter(
        walk.suffix_of(name) for kind, names in kinds.items() if kind != used for name in names
    )
    left_out += Counter({walk.PREVIEW: len(listing.names) - len(found)})
    dangling = [name for name in listing.dangling if _KINDS[used](name)]
    if dangling and not is_tolerant:
        raise UserError(
            f"config.data.path: {shown(os.path.join(root, dangling[0]))} is a link to nothing, as "
            f"{len(dangling)} of {len(kinds[used])} names are; restore the files or delete the links"
        )
    names = kinds[used]
    paths = [os.path.join(root, name) for name in names] if used != "images" else []
    if used == "images":
        _report_left_out(root, len(names), left_out, crop_resize)
        return ImageFiles(names, lambda name: _read_file(os.path.join(root, name)), root, crop_resize)
    if used == "arrays":
        source, without = open_arrays(paths, crop_resize)
        left_out += Counter(f"{walk.suffix_of(name)} of fewer than three axes" for name in without)
        _report_left_out(root, len(source), left_out, crop_resize)
        return source
    return _open_archives(paths, root, crop_resize, left_out)


def _open_archives(
    paths: Sequence[str], root: str, crop_resize: CropResize, left_out: Counter[str] | None = None
) -> ImageFiles:
    files: dict[str, archives.Read] = {}
    left_out, copied = left_out or Counter(), 0
    for path in paths:
        contents = archives.open_archive(path, _is_image)
        prefix = "" if path == root else f"{os.path.relpath(path, root)}/"
        files |= {f"{prefix}{name}": read for name, read in contents.files.items()}
        left_out += contents.left_out
        copied += contents.copied
        if not files and (form := next((each for each in _UNPACKED if each in contents.left_out), None)):
            what = _UNPACKED[form]
            raise UserError(
                f"config.data.path: {shown(path)} holds {what}, which are not read in an archive; "
                f"{archives.how_to_unpack(path)}"
                + ("" if what == "arrays" else "; `check` prints then how to export them")
            )
    if not files:
        raise UserError(f"config.data.path={root!r} {_no_images(root, left_out)}")
    names = list(files)
    walk.sort_naturally(names)
    _report_left_out(root, len(names), left_out, crop_resize)
    if copied >= _MANY_BYTES:
        crop_resize.notes.once(
            "copied",
            f"config.data.path={root!r}: {copied / 2**20:,.0f} MiB were unpacked to a temporary file, as at "
            "each start; an unpacked folder, a zip or a tar without compression starts at once",
        )
    return ImageFiles(names, lambda name: files[name](), root, crop_resize)


def _read_file(path: str) -> bytes:
    if os.path.islink(path) and not os.path.exists(path):
        raise Damaged(f"config.data.path: {shown(path)} is a link to nothing")
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size > _MAX_BYTES:
            raise Damaged(f"config.data.path: {shown(path)} has more than {_MAX_BYTES:,} bytes")
        return file.read()


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in viewing.SUFFIXES


def _is_array(name: str) -> bool:
    return name.lower().endswith(array_files.SUFFIXES)


# What a folder may hold; the first kind that is there is read.
_KINDS: dict[str, Callable[[str], bool]] = {
    "images": _is_image,
    "arrays": _is_array,
    "archives": archives.is_archive,
}


def _report_left_out(root: str, count: int, left_out: Counter[str], crop_resize: CropResize) -> None:
    if left_out:
        crop_resize.notes.once(
            "left out",
            f"config.data.path={shown(root)}: {count:,} {'image' if count == 1 else 'images'}; left out "
            f"{'is' if left_out.total() == 1 else 'are'} {walk.as_text(left_out)}{_convert(left_out)}",
        )


def _convert(left_out: Counter[str]) -> str:
    found = list(dict.fromkeys(_NO_READER[kind] for kind in left_out if kind in _NO_READER))
    hints = [f"{' and '.join(found)}: convert them to PNG or JPEG first"] if found else []
    hints += [f"{kind}: unpack them by {_UNPACKERS[kind]}" for kind in _UNPACKERS if kind in left_out]
    return f" ({'; '.join(hints)})" if hints else ""


def _no_images(root: str, left_out: Counter[str]) -> str:
    if names := _originals(Path(root)):
        return (
            f"holds the originals of {' or '.join(names)}, which are no image files; run `prepare` with "
            f"--config.data.name={names[0]} --config.data.path={shlex.quote(root)}, then give "
            f"--config.data.name={names[0]}"
        )
    held = f"only {walk.as_text(left_out)}{_convert(left_out)}" if left_out else "nothing"
    if walk.NO_SUFFIX in left_out:
        held += " (a file needs a suffix such as .png to be read)"
    return f"holds no images: {held}; give images ({_SOME}, …), arrays (.npz, .npy), or an archive of images"


def _originals(path: Path) -> tuple[str, ...]:
    """The data sets that the originals at a path may be of."""
    if (name := cifar.name_of(path)) is not None:
        return (name,)
    return idx.SETS[:3] if originals.find(path, originals.forms(_IDX)) is not None else ()


_IDX = "train-images-idx3-ubyte.gz"
_SOME = ".png, .jpg, .webp, .bmp, .gif, .tif, .pgm, .jp2"


# What is read only outside of archives, or is exported from there.
_UNPACKED = {".npz": "arrays", ".npy": "arrays", ".parquet": "Parquet files", ".mdb": "files of LMDB"}


def _other_form(root: str, left_out: Counter[str]) -> str:
    """What to do with data in a form that is not read; empty if it is none that is known."""
    path = os.path.abspath(root)
    if ".parquet" in left_out:
        files = f"{glob.escape(path)}/**/*.parquet" if os.path.isdir(path) else glob.escape(path)
        return f"holds Parquet, which is not read; {exports.export_parquet(files, f'{path}_images')}"
    if ".mdb" in left_out and (found := exports.find_lmdbs(path)):
        held = "LMDB" if len(found) == 1 else f"{len(found)} LMDBs, of which the command takes the first"
        return f"holds {held}, which is not read; {exports.export_lmdb(found[0], f'{found[0]}_images')}"
    return ""
