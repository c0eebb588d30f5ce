"""Files beside a checkpoint: their names, their digests, and which of them are kept.

Beside NAME.ckpt, whose SHA-256 begins with DIGEST, lie

- NAME.ckpt.DIGEST.json, its receipt (`specdiag.obtain.state`);
- NAME.ckpt.DIGEST.nc, the Dataset of its spectra;
- NAME.ckpt.TABLE, each CSV or JSON file that its recipe left, such as ``evaluation.json``;
- NAME.ckpt.BUILD.run, the folder of an unfinished build.
"""

import functools
import glob
import hashlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from specdiag.files import find_file, open_file

_log = logging.getLogger(__name__)


def receipt_path(target: Path, sha256: str) -> Path:
    """Return the path of the receipt of a checkpoint with this SHA-256."""
    return target.with_name(f"{target.name}.{sha256[:16]}.json")


def receipts(target: Path) -> Iterator[Path]:
    """Return the receipts beside a checkpoint: of its file, older files, one to be moved here."""
    found = target.parent.glob(f"{glob.escape(target.name)}.{'[0-9a-f]' * 16}.json")
    return (path for path in found if path.is_file())


def spectra_path(target: Path) -> Path:
    """Return the path of the Dataset of a checkpoint's spectra."""
    return target.with_name(f"{target.name}.{sha256_of(target)[:16]}.nc")


def table_path(target: Path, name: str) -> Path:
    """Return the path of a table that the recipe of a checkpoint left under `name`."""
    return target.with_name(f"{target.name}.{name}")


def build_folder(target: Path, declaration: str, parent: str | None) -> Path:
    """Return the folder of a build; one of the same declaration and parent resumes there."""
    digest = hashlib.sha256(f"{declaration} {parent}".encode()).hexdigest()
    return target.with_name(f"{target.name}.{digest[:16]}.run")


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


def attach_spectra(target: Path) -> Path:
    """Return the path of the Dataset of a checkpoint's spectra; write it if it is missing.

    A file that is not a checkpoint, or has no matrix, raises ValueError.
    """
    from specdiag.dataset.netcdf import as_netcdf
    from specdiag.dataset.spectra import alpha
    from specdiag.outputs import write_whole

    path = spectra_path(target)
    if not path.exists():
        write_whole(path, as_netcdf(alpha(target)))
    return path


def is_complete(target: Path) -> bool:
    """Return whether `complete` has nothing to do; a build in progress counts as unfinished."""
    return not _build_folders(target) and (not target.is_file() or spectra_path(target).exists())


def complete(target: Path) -> None:
    """Keep the tables and spectra of a published checkpoint, and remove the folders of all builds.

    The caller holds the file lock of the entry.
    """
    keep_tables(target)
    for folder in _build_folders(target):
        shutil.rmtree(folder)
    if target.is_file():
        try:
            attach_spectra(target)
        except ValueError as error:
            _log.warning("%s: no spectra: %s", target.name, error)
        for old in target.parent.glob(f"{glob.escape(target.name)}.*.nc"):
            if old != spectra_path(target):
                old.unlink()


def keep_tables(target: Path) -> None:
    """Move the tables of a published build beside its checkpoint, and remove the build's folder.

    The caller holds the file lock of the entry.
    """
    for folder in _build_folders(target):
        if _is_published(target, folder):
            for file in (*folder.glob("*.csv"), *folder.glob("*.json")):
                file.replace(table_path(target, file.name))
            shutil.rmtree(folder)


def _build_folders(target: Path) -> list[Path]:
    return list(target.parent.glob(f"{glob.escape(target.name)}.*.run"))


def _is_published(target: Path, folder: Path) -> bool:
    """Return whether a build was published: its file moved away, its receipt beside the target."""
    receipt = finished_path(folder)
    return (
        receipt.is_file()
        and not (folder / target.name).exists()
        and any(receipt.read_bytes() == other.read_bytes() for other in receipts(target))
    )
