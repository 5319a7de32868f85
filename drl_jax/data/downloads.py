"""Downloads the original files of a data set, or takes them from the user's folder.

A builder of tensorflow-datasets gets its files through a download manager. The library's own needs TensorFlow
to open an archive; the one here does not.
"""

import contextlib
import errno
import gzip
import hashlib
import http.client
import io
import lzma
import os
import shutil
import sys
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from etils import epath

from drl_jax.data import celeba, cifar
from drl_jax.data.originals import find, find_jpegs, forms, is_idx
from drl_jax.errors import UserError

# RuntimeError and NotImplementedError: of a zip that is encrypted, or packed in a way that is not known.
_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error),
    *(EOFError, RuntimeError),
)


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # no fault of the network


class Downloads:
    """A download manager for builders of tensorflow-datasets.

    Methods take one URL or path, or a list or dict of them, and return paths in the same structure. A
    downloaded file must have the SHA-256 that the builder lists. A file of the user's is found by its
    original name, or by one of the forms in which people have it; its digest is not compared.
    """

    def __init__(
        self,
        name: str,
        url_infos: Mapping[str, Any],
        folder: epath.PathLike,
        path: str | None,
        *,
        given_name: str | None = None,
    ):
        """Keeps its arguments; downloads nothing.

        Args:
          name: of the data set.
          url_infos: what the builder knows about each URL: `filename` and `checksum` (SHA-256).
          folder: for downloads and unpacked archives.
          path: the user's folder of original files, or one of these files; None downloads them.
          given_name: the user's form of the name, with a config or a version, for messages; None is `name`.
        """
        self._name, self.given_name = name, given_name or name
        self._url_infos = url_infos
        self._folder = epath.Path(folder)
        # Each process has its own: an interrupted one may leave a folder that is incomplete.
        self._unpacked = self._folder / f"unpacked.{os.getpid()}"
        self._path = None if path is None else Path(os.path.expanduser(path))
        self.downloaded_size = 0

    def download(self, urls: Any) -> Any:
        """Downloads files and returns their paths."""
        if self._path is not None:
            self._require(self._path, urls)
        return _map(self._download, urls)

    def extract(self, paths: Any) -> Any:
        """Unpacks archives and returns the folders."""
        return _map(self._extract, paths)

    def download_and_extract(self, urls: Any) -> Any:
        """Downloads and unpacks archives and returns the folders."""
        if self._path is not None and self._name in cifar.LAYOUTS:
            extract = lambda archive: Path(self._extract(archive))
            return cifar.stage(self._name, self._path, Path(self._unpacked) / "staged", extract)
        return _map(self._extract, self.download(urls))

    def iter_archive(self, path: Any) -> Iterator[tuple[str, io.BytesIO]]:
        """Yields name and content of each file in a tar or zip, in the archive's order."""
        if os.path.isdir(path):  # as unpacked
            for file in sorted(os.listdir(path)):
                if os.path.isfile(os.path.join(path, file)):
                    yield file, io.BytesIO((Path(path) / file).read_bytes())
            return
        with self._name_damaged_archive(path):
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    for member in archive.infolist():
                        if not member.is_dir():
                            yield member.filename, io.BytesIO(archive.read(member))
            else:
                with tarfile.open(path) as archive:
                    for member in archive:
                        if file := archive.extractfile(member):
                            yield member.name, io.BytesIO(file.read())

    def delete_unpacked(self) -> None:
        """Deletes what `extract` unpacked."""
        shutil.rmtree(self._unpacked, ignore_errors=True)

    @property
    def manual_dir(self) -> epath.Path:
        """The user's folder of files that cannot be downloaded automatically.

        Raises:
          UserError: the user gave no folder.
        """
        if self._path is None:
            raise UserError(
                f"config.data.path must be set for config.data.name={self.given_name!r}: a folder with the "
                "original files, which have to be downloaded by hand"
            )
        return epath.Path(self._path)

    def _download(self, url: Any) -> epath.Path:
        url = getattr(url, "url", url)  # builders may wrap a URL in a Resource
        info, filename = self._url_infos.get(url), self._filename(url)
        found = None if self._path is None else self._find(filename, self._path)
        file = self._fetch(url, filename, info) if found is None else epath.Path(found)
        self.downloaded_size += file.stat().length
        return file

    def _filename(self, url: Any) -> str:
        url = getattr(url, "url", url)
        info = self._url_infos.get(url)
        return (info and info.filename) or os.path.basename(urllib.parse.urlsplit(url).path)

    def _require(self, path: Path, urls: Any) -> None:
        """Checks that the user has all files. Raises UserError with the names of those that are missing."""
        leaves: list[Any] = []
        _map(leaves.append, urls)
        missing = [name for name in map(self._filename, leaves) if self._find(name, path) is None]
        if not missing:
            return
        alone = celeba.images_alone(path) if self._name == celeba.NAME else None
        raise UserError(
            f"config.data.path={str(path)!r}: config.data.name={self.given_name!r} is made from "
            f"{', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not in "
            f"{path if path.is_dir() else path.parent}" + (f"; {alone}" if alone else "")
        )

    def _find(self, filename: str, path: Path) -> Path | None:
        """Where the user has an original: beside the file, or in the folder or those below it."""
        if path.is_file():
            names = forms(filename)
            beside = [path.parent / name for name in names if (path.parent / name).is_file()]
            return path if path.name in names else next(iter(beside), None)
        found = find(path, forms(filename))
        return find_jpegs(path) if found is None and filename == celeba.ARCHIVE else found

    def _fetch(self, url: str, filename: str, info: Any) -> epath.Path:
        file = self._folder / filename
        if file.exists():
            return file  # `fetch` gives a file this name only after it has checked its SHA-256
        self._folder.mkdir(parents=True, exist_ok=True)
        print(f"downloading {url}", file=sys.stderr)
        try:
            fetch(url, file, sha256=info.checksum if info else "")
        except OSError as error:
            raise UserError(
                f"config.data.name={self.given_name!r}: cannot download {url}: {error}; download {filename} "
                "by other means and set config.data.path to its folder"
            ) from error
        return file

    def _extract(self, path: Any) -> epath.Path:
        if is_idx(os.path.basename(path)):
            return epath.Path(path)  # its reader unpacks it
        folder = self._unpacked / os.path.basename(path)
        with self._name_damaged_archive(path):
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    archive.extractall(folder)
            else:
                with tarfile.open(path) as archive:
                    archive.extractall(folder, filter="data")
        return folder

    @contextlib.contextmanager
    def _name_damaged_archive(self, path: Any) -> Iterator[None]:
        """Turns errors about the content of an archive into a UserError with its path."""
        try:
            yield
        except _DAMAGED as error:
            raise UserError(
                f"config.data.name={self.given_name!r}: {path} is damaged or incomplete: {_one_line(error)}"
            ) from error


def fetch(url: str, file: epath.PathLike, *, sha256: str) -> None:
    """Downloads a file. If this fails, nothing is left at `file`.

    Args:
      url: of the file, over http(s).
      file: path to write.
      sha256: how the SHA-256 of the content must begin, in hex digits.

    Raises:
      OSError: the download failed or the SHA-256 differs; the text of the error is one line.
      UserError: the disk is full, or cannot be written.
    """
    file = epath.Path(file)
    part = file.parent / f"{file.name}.{os.getpid()}.part"
    try:
        digest = _copy(url, part)
        if not digest.startswith(sha256):
            raise OSError(f"the file has changed: its SHA-256 is {digest} instead of {sha256}")
        part.replace(file)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            raise UserError(f"{file} cannot be written: {error.strerror}") from error
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        # The text of a URLError only says that it wraps another error. A timeout may have no text.
        cause = error.reason if type(error) is urllib.error.URLError else error
        raise OSError(_one_line(cause) or type(cause).__name__) from error
    finally:
        part.unlink(missing_ok=True)


def _copy(url: str, path: epath.Path) -> str:
    """Downloads to `path` and returns the SHA-256 of the content."""
    parts = urllib.parse.urlsplit(url)
    if parts.hostname == "drive.google.com":
        # Google Drive answers with a page about viruses for large files unless the URL has confirm=t.
        query = urllib.parse.parse_qs(parts.query)
        url = "https://drive.usercontent.google.com/download?export=download&confirm=t&id=" + query["id"][0]
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=60) as response, path.open("wb") as file:
        if response.headers.get_content_type() == "text/html":
            raise OSError("the server sent a web page instead of the file (perhaps a quota is used up)")
        while block := response.read(2**20):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def _map(function: Callable[[Any], Any], tree: Any) -> Any:
    """Applies a function to the leaves of nested dicts and lists."""
    if isinstance(tree, Mapping):
        return {key: _map(function, value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_map(function, value) for value in tree]
    return function(tree)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
