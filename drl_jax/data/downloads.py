"""The original files of a data set: downloaded once, or brought by the user.

This is what a builder of tensorflow-datasets asks of its download manager. The one that comes with
the library cannot open an archive without TensorFlow.
"""

import contextlib
import hashlib
import http.client
import io
import os
import sys
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from drl_jax.errors import UserError


class Originals:
    """Fetches and unpacks; paths come back in the shape (string, list or dict) that URLs came in.

    A downloaded file must have the digest that the builder knows. A file that the user brought is
    taken as it is, by its original name.
    """

    def __init__(self, name: str, url_infos: Mapping[str, Any], folder: str, path: str | None):
        """`folder` keeps downloads and what is unpacked; `path` holds files brought by the user."""
        self._name = name
        self._url_infos = url_infos
        self._folder = folder
        self._path = path and os.path.expanduser(path)
        self.downloaded_size = 0

    def download(self, urls: Any) -> Any:
        return _map(self._download, urls)

    def download_and_extract(self, urls: Any) -> Any:
        return _map(lambda url: self.extract(self._download(url)), urls)

    def extract(self, paths: Any) -> Any:
        return _map(self._extract, paths)

    def iter_archive(self, path: Any) -> Iterator[tuple[str, io.BytesIO]]:
        """Names and contents of the files in a tar or zip, in its order."""
        path = os.fspath(path)
        with self._reading(path):
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

    @property
    def manual_dir(self) -> epath.Path:
        if self._path is None:
            raise UserError(
                f"data.path must be set for data.name={self._name!r}: a folder with the original "
                "files, which have to be downloaded by hand"
            )
        return epath.Path(self._path)

    def _download(self, url: Any) -> str:
        url = getattr(url, "url", url)  # builders may wrap a URL in a Resource
        info = self._url_infos.get(url)
        filename = (info and info.filename) or os.path.basename(urllib.parse.urlsplit(url).path)
        file = self._brought(filename) if self._path else self._fetched(url, filename, info)
        self.downloaded_size += os.path.getsize(file)
        return file

    def _brought(self, filename: str) -> str:
        assert self._path is not None
        folder = self._path if os.path.isdir(self._path) else os.path.dirname(self._path)
        file = os.path.join(folder, filename)
        if not os.path.isfile(file):
            raise UserError(
                f"data.path={self._path!r}: data.name={self._name!r} is made from {filename}, "
                f"which is not in {folder or '.'}"
            )
        return file

    def _fetched(self, url: str, filename: str, info: Any) -> str:
        file = os.path.join(self._folder, filename)
        if os.path.exists(file):
            return file  # renamed to this once its digest was right
        os.makedirs(self._folder, exist_ok=True)
        print(f"downloading {url}", file=sys.stderr)
        try:
            fetch(url, file, sha256=info.checksum if info else "")
        except OSError as error:
            raise UserError(
                f"data.name={self._name!r}: cannot download {url}: {error}; {self._by_hand(filename)}"
            ) from error
        return file

    def _by_hand(self, filename: str) -> str:
        return f"download {filename} by other means and set data.path to its folder"

    def _extract(self, path: Any) -> str:
        path = os.fspath(path)
        # Under a name that starts afresh each time, so that half an archive is never taken for it.
        folder = os.path.join(self._folder, f"unpacked.{os.getpid()}", os.path.basename(path))
        with self._reading(path):
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    archive.extractall(folder)
            else:
                with tarfile.open(path) as archive:
                    archive.extractall(folder, filter="data")
        return folder

    @contextlib.contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        try:
            yield
        except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
            raise UserError(
                f"data.name={self._name!r}: {path} is damaged or cut short: {_line(error)}"
            ) from error


def _line(error: object) -> str:
    return " ".join(str(error).split())


def _map(function, urls: Any) -> Any:
    if isinstance(urls, Mapping):
        return {key: _map(function, value) for key, value in urls.items()}
    if isinstance(urls, list | tuple):
        return [_map(function, value) for value in urls]
    return function(urls)


def fetch(url: str, file: str, *, sha256: str) -> None:
    """Downloads a file, whole or not at all; its SHA-256 must begin with `sha256`.

    Raises OSError, whose text is one line, if it cannot be had or is another.
    """
    part = f"{file}.{os.getpid()}.part"
    try:
        digest = _copy(url, part)
        if not digest.startswith(sha256):
            raise OSError(f"it is not what it was (sha256 {digest} instead of {sha256})")
        os.replace(part, file)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        # A URLError says only that it wraps another error; a timeout may say nothing.
        cause = error.reason if type(error) is urllib.error.URLError else error
        raise OSError(_line(cause) or type(cause).__name__) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(part)


def _copy(url: str, path: str) -> str:
    """Downloads to `path`; the SHA-256 of what came."""
    parts = urllib.parse.urlsplit(url)
    if parts.hostname == "drive.google.com":
        # Asks about viruses before it hands out a large file, unless told beforehand to go on.
        query = urllib.parse.parse_qs(parts.query)
        url = "https://drive.usercontent.google.com/download?export=download&confirm=t&id=" + query["id"][0]
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=60) as response, open(path, "wb") as file:
        if response.headers.get_content_type() == "text/html":
            raise OSError("a web page came instead of the file (a quota may be used up)")
        while block := response.read(2**20):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()
