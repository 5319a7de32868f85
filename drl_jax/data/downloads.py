"""Downloads the original files of a data set, or takes them from the user's folder.

A builder of tensorflow-datasets gets its files through a download manager. The library's own needs TensorFlow
to open an archive; the one here does not.
"""

import contextlib
import hashlib
import http.client
import io
import os
import shutil
import sys
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from etils import epath

from drl_jax.errors import UserError


class Downloads:
    """A download manager for builders of tensorflow-datasets.

    Methods take one URL or path, or a list or dict of them, and return paths in the same structure. A
    downloaded file must have the SHA-256 that the builder lists. A file of the user's is found by its
    original name; its content is not checked.
    """

    def __init__(self, name: str, url_infos: Mapping[str, Any], folder: epath.PathLike, path: str | None):
        """Keeps its arguments; downloads nothing.

        Args:
          name: of the data set, for messages.
          url_infos: what the builder knows about each URL: `filename` and `checksum` (SHA-256).
          folder: for downloads and unpacked archives.
          path: the user's folder of original files, or one of these files; None downloads them.
        """
        self._name = name
        self._url_infos = url_infos
        self._folder = epath.Path(folder)
        # Each process has its own: an interrupted one may leave a folder that is incomplete.
        self._unpacked = self._folder / f"unpacked.{os.getpid()}"
        self._path = None if path is None else epath.Path(path).expanduser()
        self.downloaded_size = 0

    def download(self, urls: Any) -> Any:
        """Downloads files and returns their paths."""
        return _map(self._download, urls)

    def extract(self, paths: Any) -> Any:
        """Unpacks archives and returns the folders."""
        return _map(self._extract, paths)

    def download_and_extract(self, urls: Any) -> Any:
        """Downloads and unpacks archives and returns the folders."""
        return _map(lambda url: self._extract(self._download(url)), urls)

    def iter_archive(self, path: Any) -> Iterator[tuple[str, io.BytesIO]]:
        """Yields name and content of each file in a tar or zip, in the archive's order."""
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
                f"config.data.path must be set for config.data.name={self._name!r}: a folder with the "
                "original files, which have to be downloaded by hand"
            )
        return self._path

    def _download(self, url: Any) -> epath.Path:
        url = getattr(url, "url", url)  # builders may wrap a URL in a Resource
        info = self._url_infos.get(url)
        filename = (info and info.filename) or os.path.basename(urllib.parse.urlsplit(url).path)
        file = self._fetch(url, filename, info) if self._path is None else self._find(filename, self._path)
        self.downloaded_size += file.stat().length
        return file

    def _find(self, filename: str, path: epath.Path) -> epath.Path:
        folder = path if path.is_dir() else path.parent
        file = folder / filename
        if not file.is_file():
            raise UserError(
                f"config.data.path={str(path)!r}: config.data.name={self._name!r} is made from {filename}, "
                f"which is not in {folder}"
            )
        return file

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
                f"config.data.name={self._name!r}: cannot download {url}: {error}; download {filename} by "
                "other means and set config.data.path to its folder"
            ) from error
        return file

    def _extract(self, path: Any) -> epath.Path:
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
        except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
            raise UserError(
                f"config.data.name={self._name!r}: {path} is damaged or incomplete: {_one_line(error)}"
            ) from error


def fetch(url: str, file: epath.PathLike, *, sha256: str) -> None:
    """Downloads a file. If this fails, nothing is left at `file`.

    Args:
      url: of the file, over http(s).
      file: path to write.
      sha256: how the SHA-256 of the content must begin, in hex digits.

    Raises:
      OSError: the download failed or the SHA-256 differs; the text of the error is one line.
    """
    file = epath.Path(file)
    part = file.parent / f"{file.name}.{os.getpid()}.part"
    try:
        digest = _copy(url, part)
        if not digest.startswith(sha256):
            raise OSError(f"the file has changed: its SHA-256 is {digest} instead of {sha256}")
        part.replace(file)
    except (OSError, http.client.HTTPException) as error:
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
