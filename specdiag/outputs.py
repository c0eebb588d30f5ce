"""Write files as a whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from specdiag.files import DistantPath


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
    disk, gets the name of the target.

    Raises
    ------
    ValueError
        If a pipe, a device or a folder has that name.
    """
    import tempfile

    check_target(target)
    named, target = target, target.resolve()
    prefix, folder = f".{target.name}.", target.parent
    try:
        with tempfile.NamedTemporaryFile(prefix=prefix, dir=folder, delete=False) as file:
            temporary = Path(file.name)
            try:
                yield file
                temporary.chmod(usual_mode())
                publish(file, temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:  # closing the file can raise one, too
        if error.errno and error.filename is None:
            error.filename = str(named)
        raise


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


def usual_mode() -> int:
    """Return the permissions of a new file under the umask of this process."""
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def sync(file: IO[bytes]) -> None:
    """Flush an open file to the disk."""
    file.flush()
    os.fsync(file.fileno())
