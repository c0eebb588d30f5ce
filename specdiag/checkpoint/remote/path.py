"""What the paths of the hub and of the web have in common."""

import hashlib
import os
import stat
from abc import abstractmethod
from collections.abc import Generator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from specdiag.checkpoint.remote.ranges import Ranges
from specdiag.files import DistantPath


class Found(NamedTuple):
    """A file of `size` bytes, or a folder; `stamp` changes when its content changes."""

    is_folder: bool
    size: int
    stamp: str


def pinned(path: Path) -> Path:
    """Return a path whose content stays the same: that of a commit, if it is at the hub."""
    return path.pinned() if isinstance(path, RemotePath) else path


class RemotePath(DistantPath):
    """A path such as ``hf://owner/repo/file``, of which `str` keeps both slashes.

    Its methods are those of `pathlib.Path` that reading a checkpoint needs.
    """

    @abstractmethod
    def look(self) -> Found:
        """Return what is at this path; raise FileNotFoundError if there is nothing."""

    @abstractmethod
    def iterdir(self) -> Generator[Self, None, None]:
        """Yield the files and folders in this folder."""

    @abstractmethod
    def ranges(self) -> Ranges:
        """Return the bytes of the file."""

    @abstractmethod
    def pinned(self) -> Self:
        """Return the path of the content as it is now, which later changes do not affect."""

    @abstractmethod
    def origin(self, pinned: Self) -> str:
        """Return a sentence on the pinned version that was read from this path."""

    def open_stream(self) -> BinaryIO:
        """Open the file for reading."""
        return self.ranges().open()

    def __str__(self) -> str:
        first, *rest = self.parts or ("",)
        return "/".join([f"{first}/" if first.endswith(":") else first, *rest])

    def __fspath__(self) -> str:
        return str(self)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:  # noqa: ARG002
        """Return mode, size and an inode that changes with the content."""
        found = self.look()
        mode = stat.S_IFDIR if found.is_folder else stat.S_IFREG
        inode = int.from_bytes(hashlib.sha256(found.stamp.encode()).digest()[:7])
        fields = (mode, inode, 0, 1, 0, 0, found.size, 0, 0, 0)
        return os.stat_result(fields, {"st_mtime_ns": 0})

    def exists(self) -> bool:
        """Return whether there is a file or folder."""
        try:
            self.look()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Return whether it is a folder."""
        return self.exists() and self.look().is_folder

    def is_file(self) -> bool:
        """Return whether it is a file."""
        return self.exists() and not self.look().is_folder

    def glob(self, pattern: str) -> Generator[Self, None, None]:
        """Yield the files and folders in this folder whose name matches."""
        return (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def resolve(self, strict: bool = False) -> Self:  # noqa: ARG002
        """Return this path."""
        return self

    def absolute(self) -> Self:
        """Return this path."""
        return self
