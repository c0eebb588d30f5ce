"""Files beside a checkpoint: their names, their digests, and which of them are kept.

Beside NAME.ckpt, whose SHA-256 begins with DIGEST, lie

- NAME.ckpt.DIGEST.json, its receipt (`specdiag.obtain.state`);
- NAME.ckpt.DIGEST.nc, the Dataset of its spectra;
- NAME.ckpt.TABLE, each CSV or JSON file that its recipe left, such as ``evaluation.json``;
- NAME.ckpt.logs, the folder of the logger that `train --log` names;
- NAME.ckpt.BUILD.run, the folder of an unfinished build.

DIGEST and BUILD are 16 hexadecimal digits. A file that is not ours and has such a name is moved
aside, never removed.
"""

import functools
import glob
import hashlib
import itertools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from specdiag.files import find_file, open_file, read_file
from specdiag.lock.place import beside
from specdiag.obtain.fetch import part_path
from specdiag.outputs import UNFINISHED, has_mark, whole_file
from specdiag.wording import one_line

if TYPE_CHECKING:
    import xarray as xr

_DIGITS = "[0-9a-f]" * 16
_LARGEST = 2**31  # bytes of a Dataset of spectra; those of a thousand matrices take ten million

_log = logging.getLogger(__name__)


def receipt_path(target: Path, sha256: str) -> Path:
    """Return the path of the receipt of a checkpoint with this SHA-256."""
    return beside(target, f"{target.name}.{sha256[:16]}.json")


def receipts(target: Path) -> Iterator[Path]:
    """Return the receipts beside a checkpoint: of its file, older files, one to be moved here."""
    found = _named(target, f"{_DIGITS}.json")
    return (path for path in found if path.is_file() and not path.is_symlink())


def spectra_path(target: Path) -> Path:
    """Return the path of the Dataset of a checkpoint's spectra."""
    return beside(target, f"{target.name}.{sha256_of(target)[:16]}.nc")


def table_path(target: Path, name: str) -> Path:
    """Return the path of a table that the recipe of a checkpoint left under `name`."""
    return beside(target, f"{target.name}.{name}")


def build_folder(target: Path, declaration: str, parent: str | None) -> Path:
    """Return the folder of a build; one of the same declaration and parent resumes there."""
    digest = hashlib.sha256(f"{declaration} {parent}".encode()).hexdigest()
    return beside(target, f"{target.name}.{digest[:16]}.run")


def logs_path(target: Path) -> Path:
    """Return the path of the folder of a training's logger."""
    return beside(target, f"{target.name}.logs")


def finished_path(folder: Path) -> Path:
    """Return the path where a finished build keeps a copy of its receipt."""
    return folder / "receipt"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits; read again only if it has changed."""
    status = path.stat()
    return _sha256_of(path, (status.st_size, status.st_mtime_ns, status.st_ino))


@functools.lru_cache(maxsize=4096)
def _sha256_of(path: Path, stamp: tuple[int, int, int]) -> str:  # noqa: ARG001 - part of the key
    with open_file(find_file(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def arriving_path(target: Path) -> Path:
    """Return the path of a fetched checkpoint that has no receipt yet."""
    return beside(target, f".{target.name}.fetched{UNFINISHED}")


def unfinished(target: Path) -> list[Path]:
    """Return the folders of builds of a checkpoint, and what has arrived of a fetch."""
    folders = _named(target, f"{_DIGITS}.run")
    arriving = arriving_path(target)
    return [
        *(path for path in folders if path.is_dir() and not path.is_symlink()),
        *(path for path in (arriving, part_path(arriving)) if path.is_file()),
    ]


def move_aside(path: Path) -> None:
    """Give what has the name `path`, and is not ours, the free name `path`.old-1 or a later one."""
    if not os.path.lexists(path):
        return
    names = (path.with_name(f"{path.name}.old-{n}") for n in itertools.count(1))
    free = next(name for name in names if not os.path.lexists(name))
    path.rename(free)
    _log.warning("%s was not written by specdiag, or was changed since: it is %s now", path, free)


def attach_spectra(target: Path) -> Path:
    """Return the path of the Dataset of a checkpoint's spectra; write it if it is missing.

    A Dataset without the right checksum at its end is damaged: the checkpoint is measured again.
    A file that is not a checkpoint, or has no matrix, raises ValueError.
    """
    path = spectra_path(target)
    if not _is_intact(path):
        if os.path.lexists(path):
            _log.warning("%s is damaged: measuring %s again", path.name, target.name)
        _write_spectra(target, path)
    return path


def attached_spectra(target: Path) -> "xr.Dataset":
    """Return the Dataset of a checkpoint's spectra, measured if it is missing or damaged.

    Errors are those of `attach_spectra`.
    """
    from specdiag.dataset.netcdf import read_spectra

    path = attach_spectra(target)
    try:
        return read_spectra(path)
    except ValueError as error:
        _log.warning("%s: measuring %s again", one_line(error), target.name)
    _write_spectra(target, path)
    return read_spectra(path)


def _write_spectra(target: Path, path: Path) -> None:
    from specdiag.dataset.netcdf import as_netcdf
    from specdiag.dataset.spectra import alpha

    content = as_netcdf(alpha(target))
    if path.is_symlink() or not has_mark(path):
        move_aside(path)
    with whole_file(path) as file:
        file.write(content)
        file.write(checksum(content))


def _is_intact(path: Path) -> bool:
    """Return whether a Dataset beside a checkpoint ends with the checksum of its content."""
    if path.is_symlink() or not path.is_file():
        return False
    content = memoryview(read_file(path, _LARGEST))
    length = len(checksum(b""))
    return content[-length:] == checksum(content[:-length])


def checksum(content: bytes | memoryview) -> bytes:
    """Return what follows the content of a Dataset; HDF5 does not read behind its last block."""
    return f"\nspecdiag sha256 {hashlib.sha256(content).hexdigest()}\n".encode()


def other_spectra(target: Path) -> Iterator[Path]:
    """Return the Datasets beside a checkpoint that belong to earlier files of it."""
    found = _named(target, f"{_DIGITS}.nc")
    return (path for path in found if path != spectra_path(target) and has_mark(path))


def _named(target: Path, pattern: str) -> Iterator[Path]:
    return target.parent.glob(f"{glob.escape(target.name)}.{pattern}")
