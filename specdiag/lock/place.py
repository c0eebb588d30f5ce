"""Where the files of a lock are: below its folder, also when links are followed.

A lock can come from a stranger, together with a folder of links. So every path that is read or
written for a lock comes from here, each time that it is used.
"""

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from specdiag.files import OutsideError
from specdiag.wording import shown

if TYPE_CHECKING:
    from filelock import FileLock


def inside(root: Path, relative: str | Path) -> Path:
    """Return the path of a file of a lock in the folder `root`, without links in its folders.

    The file itself can be a link to another file below `root`, or missing.

    Raises
    ------
    OutsideError
        If the path, with its links followed, is not below `root`.
    """
    root = root.resolve()
    path, name = root / relative, shown(str(relative), quote=False)
    try:
        real = path.resolve()
    except RuntimeError:  # before Python 3.13
        raise OutsideError(f"{name}: a loop of links; put a file or folder in its place") from None
    if not real.is_relative_to(root):
        raise OutsideError(
            f"{name} leads out of the lock's folder by a link; put a file or folder in its place"
        )
    return path.parent.resolve() / path.name


def beside(target: Path, name: str) -> Path:
    """Return the path of a file or folder beside the file that `inside` returned.

    Raises
    ------
    OutsideError
        If it is a link that leads out of the folder.
    """
    return inside(target.parent, name)


def file_lock(target: Path, *, blocking: bool = True) -> "FileLock":
    """Return the file lock to hold while `target` is made; its file stays, empty.

    A link in its place is removed: a file lock can empty the file that it opens.
    """
    from filelock import FileLock

    path = target.with_name(f".{target.name}.lock")
    if path.is_symlink():
        path.unlink()
    return FileLock(path, blocking=blocking)


def check_local(root: Path, url: str, *, allow_local: bool) -> None:
    """Raise OutsideError if a file URL of a lock names a file outside of the lock's folder.

    Such a file is read only where the user says so: a stranger's lock could copy any file.
    """
    if allow_local or not url.startswith("file:"):
        return
    path = Path(url2pathname(urlsplit(url).path))
    if not path.resolve().is_relative_to(root.resolve()):
        raise OutsideError(
            f"{shown(url, quote=False)} is outside of the lock's folder; "
            "if you trust the lock, give --allow-local"
        )
