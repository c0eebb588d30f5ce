"""Write files as a whole or not at all; replace only files that specdiag wrote.

Outputs that users name go through `write_output`. Each kind has its own suffix and a mark, by which
a file is known as an output of specdiag.
"""

import glob
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from specdiag.files import DistantPath, File, find_file, open_file

# What a file of each kind has in its first bytes; a PDF in its last.
_MARKS = {
    ".csv": re.compile(rb"\Astep,name,norm,rank,alpha,alpha_low,alpha_high(,stable_rank)?\r?\n"),
    ".html": re.compile(
        rb'\A<!DOCTYPE html>\n.*<meta name="generator" content="specdiag">', re.DOTALL
    ),
    ".json": re.compile(rb'\A{\s*"r2": {'),  # of an evaluation
    ".md": re.compile(rb"\A<!-- written by specdiag -->"),
    ".pdf": re.compile(rb"\n<< /Creator \(specdiag\) /Producer \(Matplotlib"),
    ".png": re.compile(rb"\A\x89PNG.{0,64}tEXtSoftware\x00specdiag", re.DOTALL),
    ".svg": re.compile(rb"\A<\?xml .*\n<!DOCTYPE svg .*<dc:title>specdiag</dc:title>", re.DOTALL),
    ".txt": re.compile(rb"\ACaptions of figures, written by specdiag"),
}
# The name of a file that is being written: that of its target, eight digits, this suffix.
UNFINISHED = ".specdiag"
_TEMPORARY = re.compile(rf"\..+\.[0-9a-f]{{8}}{re.escape(UNFINISHED)}", re.DOTALL)
_SEARCHED = 2**16  # bytes
_LOCKED = (".lock", ".py")  # locks and programs beside them
_BESIDE = re.compile(r"(.+)\.[0-9a-f]{16}\.(nc|json)")  # spectra or receipt of a checkpoint


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
        If a pipe, a device or a folder has that name, or if it is the name of a lock, a program, a
        checkpoint of a lock or its receipt or spectra, or a link to a file of another kind.
    """
    check_target(path)
    target = path.resolve()
    if path.is_symlink() and target.suffix.lower() != path.suffix.lower():
        raise ValueError(f"{path}: a link to {target}, a file of another kind; give another name")
    if path.suffix.lower() in _LOCKED:
        raise ValueError(f"{path}: locks and recipes are never replaced; give another name")
    if _belongs_to_checkpoint(path) or _belongs_to_checkpoint(target):
        raise ValueError(f"{path}: a checkpoint or a file that belongs to one; give another name")
    if target.exists() and not overwrite and not has_mark(target):
        raise FileExistsError(
            f"{path} exists and is not an output of specdiag; choose another name, or replace it "
            "(--force, overwrite=True)"
        )


def _belongs_to_checkpoint(path: Path) -> bool:
    """Return whether a file is a receipt, spectra of a checkpoint, or the checkpoint of these."""
    if not path.is_file():
        return False
    siblings = path.parent.glob(f"{glob.escape(path.name)}.*")
    names = [match[1] for other in siblings if (match := _BESIDE.fullmatch(other.name))]
    return path.name in names or _BESIDE.fullmatch(path.name) is not None


def has_mark(path: Path) -> bool:
    """Return whether an existing file is an output of specdiag of the kind of its suffix."""
    kind = path.suffix.lower()
    try:
        file = find_file(path)
        if kind == ".nc":
            return _is_dataset(file)
        with open_file(file) as stream:
            if kind == ".pdf":
                stream.seek(max(0, file.size - _SEARCHED))
            return kind in _MARKS and bool(_MARKS[kind].search(stream.read(_SEARCHED)))
    except (ValueError, OSError):
        return False


def _is_dataset(file: File) -> bool:
    import h5py

    try:
        with open_file(file) as stream, h5py.File(stream, "r") as content:
            attributes: Any = content.attrs
            return {"schema_version", "provenance"} <= {*attributes}
    except (RuntimeError, LookupError, TypeError):  # of a damaged file
        return False


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
    name = os.fsencode(target.name)[:100].decode(errors="ignore")  # file systems allow 255 bytes
    while True:
        path = target.with_name(f".{name}.{secrets.token_hex(4)}{UNFINISHED}")
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

    It is `source` itself, or any file, but for outputs of specdiag, in a folder or beside the JSON
    index of a sharded checkpoint.
    """
    if isinstance(source, DistantPath):
        return False
    if source.is_dir() or source.suffix == ".json":
        folder = source if source.is_dir() else source.parent
        return path.resolve().is_relative_to(folder.resolve()) and not has_mark(path.resolve())
    return source.exists() and path.samefile(source)


def sync(file: IO[bytes]) -> None:
    """Flush an open file to the disk."""
    file.flush()
    os.fsync(file.fileno())
