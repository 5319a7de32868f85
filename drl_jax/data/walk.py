"""The files of a folder and of its subfolders: each once, and what is left out, counted by kind."""

import errno
import json
import os
import re
import stat
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from drl_jax.data.notes import shown
from drl_jax.errors import UserError

RUN_CONFIG = "config.json"  # in the folder of a run
MAX_CONFIG = 2**20  # bytes of it
RUN = "folder of a run of this program"  # how such folders are counted
PREVIEW = "image of samples beside their arrays"  # how such files are counted
NO_SUFFIX = "without a suffix"  # how such files are counted
_PLURALS = {
    RUN: "folders of runs of this program",
    PREVIEW: "images of samples beside their arrays",
    "link to nothing": "links to nothing",
    "link to a file that is there already": "links to files that are there already",
    "pipe, socket or device": "pipes, sockets or devices",
    "link, pipe or device": "links, pipes or devices",
    "second copy of a name": "second copies of names",
}
_PREVIEWS = ("samples.png", "samples_process.png")  # what `sample` and `evaluate` write beside the samples
_SAMPLES = re.compile(r"samples(_[0-9]+)?\.npz")
_RUN_KEYS = {"format", "data", "levels", "sampler", "checkpoint"}  # of a run's config
_HIDDEN = (".", "__MACOSX")  # how names begin that file managers leave behind
# No folder ends in these, so a link to nothing that does has cost no images.
_FILES = (
    *(".bib", ".csv", ".doc", ".docx", ".htm", ".html", ".ini", ".ipynb", ".json", ".jsonl", ".log", ".mat"),
    *(".md", ".md5", ".mp4", ".pdf", ".pkl", ".pt", ".pth", ".py", ".rst", ".sh", ".sha256", ".toml", ".tsv"),
    *(".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml"),
)


class Listing(NamedTuple):
    """What is in a folder.

    Attributes:
      names: of the wanted files, relative to the folder, in natural order.
      left_out: how many others there are, by suffix or by kind.
      dangling: the wanted names that are links to nothing.
    """

    names: list[str]
    left_out: Counter[str]
    dangling: list[str]


def list_files(root: str, is_wanted: Callable[[str], bool]) -> Listing:
    """Lists a folder with its subfolders. Every real folder, and every file that links lead to, comes once.

    Folders of runs of this program are left out: their images are samples of a model.

    Args:
      root: the folder.
      is_wanted: whether, by its name, a file is wanted.

    Raises:
      UserError: a folder cannot be listed, a link to nothing may have led to a folder, or `root` itself is
        the folder of a run.
    """
    if is_run(root):
        raise UserError(
            f"config.data.path={shown(root)} is the folder of a run of this program; give a folder of images "
            "outside of it"
        )
    return _Walk(root, is_wanted).listing()


def is_run(folder: str) -> bool:
    """Returns whether a folder is the workdir of a run."""
    try:
        with open(os.path.join(folder, RUN_CONFIG), "rb") as file:
            return is_config_of_run(file.read(MAX_CONFIG))
    except OSError:
        return False


def is_config_of_run(content: bytes) -> bool:
    """Returns whether the content of a file `RUN_CONFIG` is the config of a run."""
    try:
        config = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(config, dict) and config.keys() >= _RUN_KEYS


def without_previews(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """Returns file names without those of images that this program writes beside samples.

    Args:
      names: of the files.
      others: of files that may be the samples, which are arrays.
    """
    folders = {os.path.dirname(name) for name in others if _SAMPLES.fullmatch(os.path.basename(name))}
    return [
        name
        for name in names
        if os.path.basename(name) not in _PREVIEWS or os.path.dirname(name) not in folders
    ]


def is_hidden(name: str) -> bool:
    """Returns whether a part of a path is one that file managers leave behind."""
    return name.startswith(_HIDDEN)


def suffix_of(name: str) -> str:
    """Returns the suffix of a file name in lower case, or `NO_SUFFIX`."""
    return shown(os.path.splitext(name)[1].lower()) or NO_SUFFIX


def sort_naturally(names: list[str]) -> None:
    """Sorts names so that 9.png is before 10.png. The whole name decides between 1.png and 01.png."""
    names.sort()
    names.sort(key=_natural)


def as_text(left_out: Counter[str]) -> str:
    """Returns counts as text, the largest first: "12 .txt, 1 hidden"."""
    counts = [
        f"{count:,} {kind if count == 1 else _PLURALS.get(kind, kind)}"
        for kind, count in left_out.most_common(8)
    ]
    if others := len(left_out) - len(counts):
        counts.append(f"files of {others:,} other kinds")
    return ", ".join(counts)


class _Walk:
    """A walk through a folder. Real folders come before those that links lead to, so that a file has its
    own name where it has one."""

    def __init__(self, root: str, is_wanted: Callable[[str], bool]):
        self._root = root
        self._is_wanted = is_wanted
        self._names: list[str] = []
        self._inodes = array("Q")  # of `names`; links are compared with them
        self._devices = array("Q")
        self._linked_files: list[str] = []
        self._linked_folders: deque[str] = deque([""])
        self._visited: set[tuple[int, int]] = set()
        self._left_out: Counter[str] = Counter()
        self._dangling: list[str] = []
        self._lost: list[str] = []  # links to nothing that may have led to folders

    def listing(self) -> Listing:
        while self._linked_folders:
            self._visit_tree(self._linked_folders.popleft())
        if self._lost:
            path = os.path.join(self._root, min(self._lost))
            raise UserError(
                f"config.data.path: {shown(path)} is a link to nothing, and may have led to a folder; "
                "restore it, such as a disk that is not mounted, or delete the link"
            )
        self._add_linked_files()
        self._names += self._dangling
        sort_naturally(self._names)
        sort_naturally(self._dangling)
        return Listing(self._names, self._left_out, self._dangling)

    def _visit_tree(self, top: str) -> None:
        """Visits a folder and its real subfolders; notes the links in them."""
        folders, links = [top], []
        while folders:
            folder = folders.pop()
            path = os.path.join(self._root, folder)
            try:
                status = os.stat(path)
                if (status.st_dev, status.st_ino) in self._visited:
                    continue
                self._visited.add((status.st_dev, status.st_ino))
                if folder and is_run(path):
                    self._left_out[RUN] += 1
                    continue
                with os.scandir(path) as entries:
                    for entry in entries:
                        self._sort_out(entry, folder, status.st_dev, folders, links)
            except OSError as error:
                raise UserError(
                    f"config.data.path: {shown(path)} cannot be listed: {error.strerror or error}"
                ) from error
        links.sort()
        self._linked_folders.extend(links)

    def _sort_out(
        self, entry: os.DirEntry[str], folder: str, device: int, folders: list[str], links: list[str]
    ) -> None:
        name = f"{folder}/{entry.name}" if folder else entry.name
        if is_hidden(entry.name):
            self._left_out["hidden"] += 1
        elif entry.is_symlink():
            self._sort_out_link(name, links)
        elif entry.is_dir(follow_symlinks=False):
            folders.append(name)
        elif not entry.is_file(follow_symlinks=False):
            self._left_out["pipe, socket or device"] += 1
        elif self._is_wanted(entry.name):
            self._names.append(name)
            self._inodes.append(entry.inode())
            self._devices.append(device)
        else:
            self._left_out[suffix_of(entry.name)] += 1

    def _sort_out_link(self, name: str, links: list[str]) -> None:
        path = os.path.join(self._root, name)
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise UserError(
                    f"config.data.path: {shown(path)} cannot be followed: {error.strerror or error}"
                ) from error
            if self._is_wanted(name):
                self._dangling.append(name)
            elif suffix_of(name) in _FILES:
                self._left_out["link to nothing"] += 1
            else:
                self._lost.append(name)
            return
        if stat.S_ISDIR(mode):
            links.append(name)
        elif not stat.S_ISREG(mode):
            self._left_out["pipe, socket or device"] += 1
        elif self._is_wanted(name):
            self._linked_files.append(name)
        else:
            self._left_out[suffix_of(name)] += 1

    def _add_linked_files(self) -> None:
        """Adds each file that links lead to, unless it is there under its own name."""
        if not self._linked_files:
            return
        there = set(zip(self._devices, self._inodes, strict=True))
        sort_naturally(self._linked_files)
        for name in self._linked_files:
            status = os.stat(os.path.join(self._root, name))
            if (status.st_dev, status.st_ino) in there:
                self._left_out["link to a file that is there already"] += 1
                continue
            there.add((status.st_dev, status.st_ino))
            self._names.append(name)


def _natural(name: str) -> str:
    """Sort key in which a number compares by its length first. One string takes little memory."""
    return re.sub("[0-9]+", _number, name)


def _number(match: re.Match[str]) -> str:
    digits = match[0].lstrip("0")
    return f"\0{chr(len(digits))}{digits}"  # no name contains \0, which comes before every character
