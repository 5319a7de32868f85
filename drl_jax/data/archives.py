"""The files in zip and tar archives, and in archives inside of them, read at random."""

import bz2
import gzip
import io
import lzma
import os
import posixpath
import shlex
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

from drl_jax.data.notes import shown
from drl_jax.data.walk import (
    MAX_CONFIG,
    PREVIEW,
    RUN,
    RUN_CONFIG,
    is_config_of_run,
    is_hidden,
    suffix_of,
    without_previews,
)
from drl_jax.errors import UserError

SUFFIXES = (
    *(".zip", ".tar", ".tgz", ".tbz2", ".txz"),
    *(".tar.gz", ".tar.bz2", ".tar.xz"),
)
_DEPTH = 4  # of archives inside archives
_PIECE = 2**20  # bytes that are copied at a time
_BLOCK = 512  # of a tar
_OTHERS = {b"Rar!": "unrar x", b"7z\xbc\xaf\x27\x1c": "7z x", b"\x28\xb5\x2f\xfd": "tar --zstd -xf"}
_STREAMS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}

_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
# What damage raises in the readers of archives. The zip reader raises NotImplementedError for a bad header.
DAMAGE = (
    OSError,
    EOFError,
    NotImplementedError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
)

Read = Callable[[], bytes]


@runtime_checkable
class Stream(Protocol):
    """What can be read from beginning to end."""

    def read(self, size: int = -1, /) -> bytes: ...


class Contents(NamedTuple):
    """The files of an archive.

    Attributes:
      files: by name, what reads each.
      left_out: how many others there are, by suffix or by kind.
      copied: bytes that were unpacked to a temporary file.
    """

    files: dict[str, Read]
    left_out: Counter[str]
    copied: int


def open_archive(path: str, is_wanted: Callable[[str], bool]) -> Contents:
    """Lists an archive: zip, tar, or tar compressed by gzip, bzip2 or xz.

    What can only be read from beginning to end (a compressed tar, an archive inside an archive) is unpacked
    to a temporary file, if it fits in half of the free space there. What lies below the folder of a run of
    this program is left out, as in `walk.list_files`.

    Args:
      path: of the archive.
      is_wanted: whether, by its name, a file is wanted.

    Raises:
      UserError: it is no such archive, is damaged or encrypted, or there is no room to unpack it.
    """
    opener = _Opener(path, is_wanted)
    try:
        file = File(os.open(path, os.O_RDONLY))
        opener.add(Slice(file, 0, os.fstat(file.descriptor).st_size), "", depth=0)
    except OSError as error:
        raise UserError(
            f"config.data.path: {shown(path)} cannot be read: {error.strerror or error}"
        ) from error
    return opener.contents()


def how_to_unpack(path: str, command: str = "") -> str:
    """Returns the end of a message: the command that unpacks an archive, and the flag that names its folder.

    Args:
      path: of the archive.
      command: the program that unpacks it; without it `unzip` or `tar`.
    """
    path = os.path.abspath(path)
    folder = os.path.join(os.path.dirname(path), os.path.basename(path).split(".")[0] + "_images")
    given = shlex.quote(path)
    if not command:
        command = "unzip -q" if path.lower().endswith(".zip") else "tar -xf"
    target = {"unzip -q": "-d", "7z x": "-o", "unrar x": ""}.get(command, "-C")
    separator = "" if target == "-o" else " "
    unpack = f"{command} {given} {target}{separator}{shlex.quote(folder + '/')}".replace("  ", " ")
    return (
        f"unpack it by: mkdir -p {shlex.quote(folder)} && {unpack} and give "
        f"--config.data.path={shlex.quote(folder)}"
    )


def is_archive(name: str) -> bool:
    """Returns whether a file name is that of an archive."""
    return name.lower().endswith(SUFFIXES)


class File:
    """An open file, which is closed when nobody holds it any more."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def __del__(self, close=os.close):  # when Python ends, `os` may be gone before
        close(self.descriptor)


class Slice(io.RawIOBase):
    """A part of a file, as a file. `content` may be called by several threads at once."""

    def __init__(self, file: File, offset: int, size: int):
        super().__init__()
        self.file, self.offset, self._size, self._position = file, offset, size, 0

    def content(self, start: int = 0, size: int | None = None) -> bytes:
        """Reads `size` bytes from `start` on, or fewer at the end; None is all of them."""
        wanted = max(0, min(self._size if size is None else size, self._size - start))
        pieces = []
        while wanted > 0:
            piece = os.pread(self.file.descriptor, wanted, self.offset + start)
            if not piece:
                break
            pieces.append(piece)
            start, wanted = start + len(piece), wanted - len(piece)
        return b"".join(pieces)

    def part(self, offset: int, size: int) -> "Slice":
        """A part of this part."""
        return Slice(self.file, self.offset + offset, size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("a seek to before the file")
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        content = self.content(self._position, None if size is None or size < 0 else size)
        self._position += len(content)
        return content

    def readinto(self, buffer) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


class _Opener:
    """Collects the files of an archive and of those inside of it."""

    def __init__(self, path: str, is_wanted: Callable[[str], bool]):
        self._path = path
        self._is_wanted = is_wanted
        self._spool = Spool(self._refusal)
        self._files: dict[str, Read] = {}
        self._left_out: dict[str, Counter[str]] = {}  # by folder
        self._runs: set[str] = set()  # folders of runs of this program
        self._arrays: list[str] = []  # names that end in .npz

    def contents(self) -> Contents:
        """What was found, without the folders of runs: in a tar, a run's config may come last."""
        outer = [run for run in self._runs if not run or not self._is_of_run(posixpath.dirname(run))]
        left_out = Counter({RUN: len(outer)})
        for folder, counts in self._left_out.items():
            if not self._is_of_run(folder):
                left_out += counts
        wanted = [name for name in self._files if not self._is_of_run(name)]
        files = {name: self._files[name] for name in without_previews(wanted, self._arrays)}
        left_out[PREVIEW] = len(wanted) - len(files)
        return Contents(files, +left_out, self._spool.size)

    def add(self, archive: Slice, prefix: str, *, depth: int) -> None:
        """Adds the files of an archive, with `prefix` before their names."""
        start = archive.content(0, 8)
        stream = next((_STREAMS[magic] for magic in _STREAMS if start.startswith(magic)), None)
        if start.startswith(b"PK"):
            self._add_zip(archive, prefix, depth)
        elif stream is not None:
            self._add_tar(archive, prefix, depth, stream=stream(archive))
        elif archive.content(257, 5) == b"ustar" or _is_old_tar(archive):
            self._add_tar(archive, prefix, depth)
        elif command := next((_OTHERS[magic] for magic in _OTHERS if start.startswith(magic)), None):
            raise self._refusal(prefix, "is an archive that is not read", command)
        elif zipfile.is_zipfile(archive):  # with a program before it, which unpacks it
            self._add_zip(archive, prefix, depth)
        elif not start:
            raise UserError(f"{self._where(prefix)} is empty")
        elif not prefix:
            raise UserError(
                f"config.data.path={shown(self._path)} is neither a zip nor a tar; give a folder or an "
                "archive of images, or arrays (.npz, .npy)"
            )
        else:
            raise UserError(f"{self._where(prefix)} is neither a zip nor a tar")

    def _add_zip(self, file: Slice, prefix: str, depth: int) -> None:
        try:
            archive = zipfile.ZipFile(file)
        except (*DAMAGE, ValueError) as error:
            raise UserError(
                f"{self._where(prefix)} is a zip that is damaged or not complete: {error}"
            ) from None
        infos = [info for info in archive.infolist() if not info.is_dir()]
        members = {_normal(prefix + info.filename): info for info in infos}
        self._count("second copy of a name", prefix, len(infos) - len(members))
        for name, info in members.items():
            if posixpath.basename(name) == RUN_CONFIG and _is_run(partial(archive.open, info)):
                self._runs.add(posixpath.dirname(name))
        for name, info in members.items():
            if self._is_of_run(name) or not self._wants(name):
                continue
            if info.flag_bits & 1:
                raise self._refusal(prefix, f"is encrypted: {shown(info.filename)}", "7z x")
            if info.compress_type not in _METHODS:
                problem = f"has a compression that is not read: {shown(info.filename)}"
                raise self._refusal(prefix, problem, "7z x")
            if not is_archive(name):
                self._add_file(name, partial(archive.read, info))
                continue
            try:
                with archive.open(info) as member:
                    inner = self._spool.add(member, name)
            except DAMAGE as error:
                raise UserError(f"{self._where(name)} is damaged: {_text(error)}") from error
            self._add_inner(inner, name, depth)

    def _add_tar(self, file: Slice, prefix: str, depth: int, stream: Stream | None = None) -> None:
        """Adds the files of a tar; `stream` unpacks it."""
        last, inner = "its first file", {}
        try:
            # A stream goes forward only: to go back would mean to unpack everything again.
            source: Any = file if stream is None else stream
            mode: Any = "r:" if stream is None else "r|"
            with tarfile.open(fileobj=source, mode=mode, tarinfo=_Member) as archive:
                while (member := archive.next()) is not None:
                    archive.members.clear()  # pyright: ignore  # 1 kB for each file
                    last = member.name
                    name = _normal(prefix + member.name)
                    is_config = posixpath.basename(name) == RUN_CONFIG and member.isreg()
                    if is_config and _is_run(partial(_opened, archive, member)):
                        self._runs.add(posixpath.dirname(name))
                    if not self._wants_member(member, name):
                        continue
                    if stream is None:
                        content = file.part(member.offset_data, member.size)
                    else:
                        content = self._spool.add(_opened(archive, member), name)
                    if is_archive(name):
                        self._count("second copy of a name", name, name in inner)
                        inner[name] = content
                    else:
                        self._add_file(name, content.content)
            while stream is not None and stream.read(_PIECE):  # its checksum comes last
                pass
        except DAMAGE as error:
            raise UserError(
                f"{self._where(prefix)} is damaged or not complete, at or after {shown(last)}: {_text(error)}"
            ) from error
        for name, content in inner.items():
            if not self._is_of_run(name):
                self._add_inner(content, name, depth)

    def _add_file(self, name: str, read: Read) -> None:
        self._count("second copy of a name", name, name in self._files)
        self._files[name] = read

    def _add_inner(self, archive: Slice, name: str, depth: int) -> None:
        if depth == _DEPTH:
            raise UserError(f"{self._where(name)}: more than {_DEPTH} archives inside of each other")
        self.add(archive, f"{name}/", depth=depth + 1)

    def _wants_member(self, member: tarfile.TarInfo, name: str) -> bool:
        if member.isdir() or not self._wants(name, is_file=member.isreg()):
            return False
        if not member.isreg():
            self._count("link, pipe or device", name)
            return False
        if member.issparse():
            raise self._refusal(name, "is a sparse file", "tar -xf")
        return True

    def _wants(self, name: str, *, is_file: bool = True) -> bool:
        """Whether a file is wanted; counts it if not."""
        if any(is_hidden(part) for part in name.split("/") if part != ".."):
            self._count("hidden", name)
            return False
        if self._is_wanted(name) or is_archive(name):
            return True
        if name.endswith(".npz"):
            self._arrays.append(name)
        self._count(suffix_of(name) if is_file else "link, pipe or device", name)
        return False

    def _count(self, kind: str, name: str, number: int = 1) -> None:
        """Counts files, in the folder of the one with this name."""
        if number:
            self._left_out.setdefault(posixpath.dirname(name), Counter())[kind] += number

    def _is_of_run(self, name: str) -> bool:
        """Whether a file or folder is in the folder of a run, or is it."""
        return any(name == run or name.startswith(f"{run}/") or not run for run in self._runs)

    def _where(self, prefix: str) -> str:
        inside = f"/{shown(prefix.rstrip('/'))}" if prefix else ""
        return f"config.data.path: {shown(self._path)}{inside}"

    def _refusal(self, prefix: str, problem: str, command: str = "") -> UserError:
        return UserError(f"{self._where(prefix)} {problem}; {how_to_unpack(self._path, command)}")


class Spool:
    """A temporary file for what cannot be read at random. It is gone when the process ends."""

    def __init__(self, refuse: Callable[[str, str], UserError]):
        """`refuse` makes the error from a name and the problem with it."""
        self._refuse = refuse
        self._file: File | None = None
        self.size = 0

    def add(self, stream: Stream, name: str) -> Slice:
        """Copies a stream to the end of the file. Returns where it is.

        Raises:
          UserError: it does not fit in half of the free space.
        """
        if self._file is None:
            with tempfile.TemporaryFile() as file:
                self._file = File(os.dup(file.fileno()))
            self._room = shutil.disk_usage(tempfile.gettempdir()).free // 2
        start = self.size
        while piece := stream.read(_PIECE):
            if self.size + len(piece) > self._room:
                raise self._refuse(
                    name,
                    f"does not fit in half of the free space of {tempfile.gettempdir()} "
                    f"({self._room / 2**30:.1f} GiB, $TMPDIR)",
                )
            while piece:
                written = os.pwrite(self._file.descriptor, piece, self.size)
                piece, self.size = piece[written:], self.size + written
        return Slice(self._file, start, self.size - start)


class _Member(tarfile.TarInfo):
    """A file in a tar. `tarfile` takes a bad header for the end of the archive; here it is an error."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # pyright: ignore
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError("the archive has no end" if not buf else str(error)) from None


def _normal(name: str) -> str:
    """The name of a member in one form: "a/1.png" for "./a//1.png"."""
    return posixpath.normpath(name)


def _is_run(open_config: Callable[[], Any]) -> bool:
    """Whether a member is the config of a run."""
    try:
        with open_config() as file:
            return is_config_of_run(file.read(MAX_CONFIG))
    except (*DAMAGE, RuntimeError):  # RuntimeError: it is encrypted
        return False


def _text(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _opened(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Stream:
    content = archive.extractfile(member)
    assert content is not None  # it is a regular file
    return content


def _is_old_tar(file: Slice) -> bool:
    """Whether a file is a tar of before 1988, which has no mark."""
    try:
        tarfile.TarInfo.frombuf(file.content(0, _BLOCK), "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True
