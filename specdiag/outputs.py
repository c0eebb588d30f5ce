"""Write files as a whole or not at all; replace only files that specdiag wrote.

Outputs that users name go through `write_output`. Each kind has its own suffix and a mark, by which
a file is known as an output of specdiag.
"""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from specdiag.files import DistantPath, File, find_file, open_file

# What an output begins with, by its suffix: the whole text, or a pattern in its first bytes.
_STARTS = {
    ".html": re.compile(rb'<meta name="generator" content="specdiag">'),
    ".json": re.compile(rb'\A{\n "version": 1,\n "tensor_digest": "'),  # beside an export
    ".md": re.compile(rb"\A<!-- written by specdiag -->"),
    ".pdf": re.compile(rb"/Creator \(specdiag\)"),
    ".png": re.compile(rb"Software\x00specdiag"),
    ".safetensors": re.compile(rb'\A.{8}{"__metadata__":{"specdiag_export":', re.DOTALL),
    ".svg": re.compile(rb"<dc:title>specdiag</dc:title>"),
    ".txt": re.compile(rb"\ACaptions of figures, written by specdiag"),
}
# The name of a file that is being written: that of its target, eight digits, this suffix.
UNFINISHED = ".specdiag"
_TEMPORARY = re.compile(rf"\..+\.[0-9a-f]{{8}}{re.escape(UNFINISHED)}", re.DOTALL)
_LARGEST = 2**24  # bytes that are searched for a mark
# Files that belong to a checkpoint of a lock: a receipt, and the Dataset of its spectra.
_BESIDE = re.compile(r".+\.[0-9a-f]{16}\.(nc|json)")


def write_output(path: Path, content: bytes | memoryview, *, overwrite: bool = False) -> None:
    """Write a file that a user named, after `check_output_path`."""
    check_output_path(path, overwrite=overwrite)
    write_whole(path, content)


def check_output_path(path: Path, *, overwrite: bool = False) -> None:
    """Raise an error if an output must not replace what has this name, through links or directly.

    Parameters
    ----------
    path : Path
        Of the output.
    overwrite : bool
        Whether any regular file may be replaced, not only an output of specdiag of that kind.

    Raises
    ------
    FileExistsError
        If a file without our mark has that name, and `overwrite` is false.
    ValueError
        If a pipe, a device or a folder has that name, or a file that belongs to a checkpoint.
    """
    check_target(path)
    if not path.exists():
        return
    if _BESIDE.fullmatch(path.resolve().name):
        raise ValueError(f"{path}: a file that belongs to a checkpoint; choose another name")
    if not overwrite and not has_mark(path):
        raise FileExistsError(
            f"{path} exists and is not an output of specdiag; choose another name, or replace it "
            "(--force, overwrite=True)"
        )


def has_mark(path: Path) -> bool:
    """Return whether an existing file is an output of specdiag of the kind of its suffix."""
    try:
        file = find_file(path)
        if path.suffix.lower() == ".nc":
            return _is_dataset(file)
        mark = _STARTS.get(path.suffix.lower())
        if not mark:
            return False
        with open_file(file) as stream:
            return bool(mark.search(stream.read(_LARGEST)))
    except (ValueError, OSError):
        return False


def _is_dataset(file: File) -> bool:
    import h5py

    with open_file(file) as stream, h5py.File(stream, "r") as content:
        attributes: Any = content.attrs
        return {"schema_version", "provenance"} <= {*attributes}


def write_whole(target: Path, content: bytes | memoryview) -> None:
    """Write a file; its name never holds a part of the content."""
    with whole_file(target) as file:
        file.write(content)


@contextmanager
def whole_file(target: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that gets its name when the block ends without an error.

    It is written beside the target, then published: after a killed process, a full disk, a power
    cut or a second writer the name holds the whole old file or the whole new one. A link is kept;
    the file that it points to is replaced. An OSError that names no file, such as that of a full
    disk, gets the name of the target. What killed writers left in that folder is removed first.

    Raises
    ------
    ValueError
        If a pipe, a device or a folder has that name.
    """
    check_target(target)
    named, target = target, target.resolve()
    sweep(target.parent)
    try:
        file, temporary = _temporary(target)
        with file:
            try:
                yield file
                publish(file, temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:  # closing the file can raise one, too
        if error.errno and error.filename is None:
            error.filename = str(named)
        raise


def _temporary(target: Path) -> tuple[IO[bytes], Path]:
    """Open a new file beside `target`, locked as long as it is open; return it and its path."""
    while True:
        path = target.with_name(f".{target.name}.{secrets.token_hex(4)}{UNFINISHED}")
        file = path.open("x+b")
        lock_open(file)
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file, path
        file.close()  # another process removed it before it was locked


def sweep(folder: Path) -> None:
    """Remove the unfinished files of killed writers in a folder: those that no process locks."""
    with suppress(OSError):
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                with suppress(OSError), path.open("r+b") as file:
                    if lock_open(file, wait=False):
                        path.unlink()


def lock_open(file: IO[bytes], *, wait: bool = True) -> bool:
    """Lock an open file against other processes and `sweep`; return whether it is locked.

    Without `fcntl`, as on Windows, nothing is locked, and `sweep` removes nothing.
    """
    try:
        import fcntl
    except ImportError:
        return False
    with suppress(OSError):  # another process has locked it, or the file system has no locks
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    return False


def publish(file: IO[bytes], path: Path, target: Path) -> None:
    """Sync the open file at `path` and give it the name `target`, so that both survive a power cut.

    Both names are in the same folder.
    """
    sync(file)
    path.replace(target)
    with suppress(OSError):  # some file systems cannot sync a folder
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def check_target(target: Path) -> None:
    """Raise ValueError if `target` exists and is not a regular file."""
    if target.exists() and not target.is_file():
        raise ValueError(f"{target}: not a regular file; give the name of a file")


def is_input(path: Path, source: Path) -> bool:
    """Return whether the existing file `path` is read when `source` is opened.

    It is `source` itself, or any file in a folder or beside the JSON index of a sharded checkpoint.
    """
    if isinstance(source, DistantPath):
        return False
    if source.is_dir() or source.suffix == ".json":
        folder = source if source.is_dir() else source.parent
        return path.resolve().parent == folder.resolve()
    return source.exists() and path.samefile(source)


def sync(file: IO[bytes]) -> None:
    """Flush an open file to the disk."""
    file.flush()
    os.fsync(file.fileno())
