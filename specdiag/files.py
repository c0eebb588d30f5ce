"""Open regular files for reading."""

import importlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PosixPath, PurePath
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Self

from specdiag.wording import shown

if TYPE_CHECKING:
    import numpy as np  # imported inside functions: it takes longer than listing a lock


class DistantPath(PosixPath):
    """The path of a file on another machine: its methods ask a server, and read bytes by ranges."""

    def __new__(cls, *parts: str | PurePath) -> Self:
        """Return a path with slashes, also on Windows, where `PosixPath` refuses to be made."""
        return PurePath.__new__(cls, *parts)

    def open_stream(self) -> BinaryIO:
        """Open the file for reading."""
        raise NotImplementedError


class OutsideError(ValueError):
    """A path of a lock leads out of its folder."""


_limits: dict[Path, Path] = {}


def confine(folder: Path, root: Path) -> None:
    """Refuse from now on files of `folder` that are links out of `root`; both are resolved.

    A checkpoint can consist of several files, and readers look for others beside it.
    """
    _limits[folder] = root


def limit_of(folder: Path) -> Path | None:
    """Return the folder that links in `folder` may not leave, or None if they may lead anywhere."""
    return _limits.get(folder.resolve()) if _limits else None


class File(NamedTuple):
    """A regular file as it was when it was opened."""

    path: Path
    size: int
    stamp: tuple[int, int, int]  # time of the last change, inode, device

    @property
    def name(self) -> str:
        """The file's name, safe to print."""
        return shown(self.path.name, quote=False)


_found: ContextVar[set[File] | None] = ContextVar("found", default=None)


@contextmanager
def found_files() -> Iterator[set[File]]:
    """Give the set to which `find_file` adds what it returns in this block and thread."""
    files: set[File] = set()
    token = _found.set(files)
    try:
        yield files
    finally:
        _found.reset(token)


def is_plain_name(name: str) -> bool:
    """Return whether a name is that of a file in the same folder on any system."""
    return name not in ("", ".", "..") and not re.search(r"[/\\:\x00-\x1f]", name)


def find_file(path: Path) -> File:
    """Return the regular file at `path`.

    A pipe or device raises ValueError and is not opened; a link out of the folder to which the
    file's folder is confined raises OutsideError.
    """
    status = path.stat()
    root = None if isinstance(path, DistantPath) else limit_of(path.parent)
    if root and not path.resolve().is_relative_to(root):
        name = shown(path.name, quote=False)
        raise OutsideError(f"{name} leads out of the lock's folder by a link; put a file there")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{shown(path.name, quote=False)}: not a regular file; name a file")
    file = _described(path, status)
    if (found := _found.get()) is not None:
        found.add(file)
    return file


def _described(path: Path, status: os.stat_result) -> File:
    return File(path, status.st_size, (status.st_mtime_ns, status.st_ino, status.st_dev))


def open_file(file: File) -> BinaryIO:
    """Open `file` for reading; raise ValueError if it changed since `find_file`."""
    if find_file(file.path) != file:
        raise ValueError(f"{file.name}: changed since it was opened; open it again")
    if isinstance(file.path, DistantPath):
        return file.path.open_stream()
    # If a pipe replaced the file in the meantime, opening it without O_NONBLOCK never returns.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    stream = os.fdopen(os.open(file.path, flags), "rb")
    if _described(file.path, os.fstat(stream.fileno())) != file:  # a link was swapped in just now
        stream.close()
        raise ValueError(f"{file.name}: changed since it was opened; open it again")
    return stream


def read_file(path: Path, limit: int) -> bytes:
    """Return the content of the regular file at `path`, of at most `limit` bytes.

    Raises
    ------
    ValueError
        If it is no regular file, or larger.
    OSError
        If it cannot be read.
    """
    with open_file(find_file(path)) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{shown(str(path), quote=False)}: more than {limit:,} bytes")
    return content


def read_text(path: Path, limit: int) -> str:
    """Return the text of the regular file at `path`; `read_file` has the errors.

    A text that is not UTF-8 raises ValueError, too.
    """
    try:
        return read_file(path, limit).decode()
    except UnicodeDecodeError as error:
        where = shown(str(path), quote=False)
        raise ValueError(f"{where}: byte {error.start:,} is not UTF-8; expected text") from None


def read_array(stream: BinaryIO, offset: int, n_bytes: int, where: str) -> "np.ndarray":
    """Return `n_bytes` bytes from `offset` as an array of uint8."""
    import numpy as np

    try:
        array = np.empty(n_bytes, dtype=np.uint8)
    except MemoryError:
        raise ValueError(f"{where}: {n_bytes:,} bytes do not fit in memory") from None
    stream.seek(offset)
    view, filled = array.data, 0
    while filled < n_bytes:
        count = stream.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            raise ValueError(f"{where}: the file ends {n_bytes - filled:,} bytes too early")
        filled += count
    return array


def read_bytes(stream: BinaryIO, offset: int, n_bytes: int, where: str) -> bytes:
    """Return `n_bytes` bytes from `offset`."""
    return read_array(stream, offset, n_bytes, where).tobytes()


def library(name: str, where: str) -> Any:
    """Return a package that reads a format, imported; raise ValueError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(
            f"{where}: reading it needs the package {name}; pip install 'specdiag[formats]'"
        ) from None
