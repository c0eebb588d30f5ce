"""Names and digests of the files beside a checkpoint."""

import functools
import glob
import hashlib
from collections.abc import Iterator
from pathlib import Path


def receipt_path(path: Path, sha256: str) -> Path:
    """Return where the receipt of a checkpoint lies: beside it, named after its content."""
    return path.with_name(f"{path.name}.{sha256[:16]}.json")


def receipts(path: Path) -> Iterator[Path]:
    """Return the receipts beside a file: its own, and those of files before it or to come."""
    return path.parent.glob(f"{glob.escape(path.name)}.{'[0-9a-f]' * 16}.json")


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal digits; read again only when it has changed."""
    status = path.stat()
    return _sha256_of(path, (status.st_size, status.st_mtime_ns, status.st_ino))


@functools.lru_cache(maxsize=4096)
def _sha256_of(path: Path, stamp: tuple[int, int, int]) -> str:  # noqa: ARG001 - the key of the cache
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def spectra_path(target: Path) -> Path:
    """Return where the Dataset of a checkpoint's spectra lies: beside it, named after its content."""
    return target.with_name(f"{target.name}.{sha256_of(target)[:16]}.nc")


def attach_spectra(target: Path) -> Path:
    """Return the file with the Dataset of a checkpoint's spectra, written now where it lacks.

    Raises
    ------
    ValueError
        When there is none to write: the checkpoint has no matrix.
    """
    from specdiag.dataset.netcdf import save_spectra
    from specdiag.dataset.spectra import alpha

    path = spectra_path(target)
    if not path.exists():
        save_spectra(alpha(target), path)
    return path
