"""Give a made checkpoint, its receipt and its tables their names; tidy up beside it.

What has such a name and is not ours is moved aside, and a warning names it.
"""

import logging
import os
import shutil
from pathlib import Path

from specdiag.lock.entry import Entry
from specdiag.lock.lockfile import load
from specdiag.lock.place import file_lock, inside
from specdiag.obtain.beside import (
    attach_spectra,
    finished_path,
    move_aside,
    other_spectra,
    receipt_path,
    receipts,
    sha256_of,
    spectra_path,
    table_path,
    unfinished,
)
from specdiag.obtain.state import Receipt, accepted, as_bytes, read_receipt, state
from specdiag.outputs import sweep, write_whole

_log = logging.getLogger(__name__)


def publish(root: Path, entry: Entry, file: Path | None, receipt: Receipt) -> None:
    """Move a finished file to its name, after its receipt; `file` is None for an evaluation.

    The file is synced and on the same file system. A reader sees the old pair or the new one at
    any moment.
    """
    path = inside(root, entry.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    target = receipt_path(path, receipt.sha256)
    is_ours = _is_ours(path)
    if not read_receipt(target):
        move_aside(target)
    write_whole(target, as_bytes(receipt))
    if file:
        if not is_ours:
            move_aside(path)
        file.chmod(_usual_mode())  # some writers let only their own user read it
        file.replace(path)
    keep_tables(path)
    _remove_receipts(path, target)


def _is_ours(path: Path) -> bool:
    """Return whether a file at the path of an entry was made by specdiag: it has a receipt."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        receipt = read_receipt(receipt_path(path, sha256_of(path)))
    except OSError:
        return False
    return receipt is not None and receipt.sha256 == sha256_of(path)


def _remove_receipts(path: Path, kept: Path) -> None:
    for old in receipts(path):
        if old != kept and read_receipt(old):
            old.unlink(missing_ok=True)


def _usual_mode() -> int:
    """Return the permissions of a new file under the umask of this process."""
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def is_complete(target: Path) -> bool:
    """Return whether `complete` has nothing to do; a build in progress counts as unfinished."""
    return not unfinished(target) and (not target.is_file() or spectra_path(target).exists())


def complete(target: Path) -> None:
    """Keep the tables and spectra of a published checkpoint; remove what is left of making it.

    The caller holds the file lock of the entry.
    """
    keep_tables(target)
    sweep(target.parent)
    for left in unfinished(target):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()
    if target.is_file():
        receipt = receipt_path(target, sha256_of(target))
        if read_receipt(receipt):
            _remove_receipts(target, receipt)
        try:
            attach_spectra(target)
        except ValueError as error:
            _log.warning("%s: no spectra: %s", target.name, error)
        for old in list(other_spectra(target)):
            old.unlink()


def keep_tables(target: Path) -> None:
    """Move the tables of a published build beside its checkpoint, and remove the build's folder.

    The caller holds the file lock of the entry.
    """
    for folder in filter(Path.is_dir, unfinished(target)):
        if _is_published(target, folder):
            known = {d for r in map(read_receipt, receipts(target)) if r for d in r.tables.values()}
            for file in tables(folder):
                path = table_path(target, file.name)
                if path.is_symlink() or not path.is_file() or sha256_of(path) not in known:
                    move_aside(path)
                file.replace(path)
            shutil.rmtree(folder)


def tables(folder: Path) -> list[Path]:
    """Return the tables that a recipe left in the folder of its build."""
    found = sorted([*folder.glob("*.csv"), *folder.glob("*.json")])
    return [path for path in found if path.is_file() and not path.is_symlink()]


def _is_published(target: Path, folder: Path) -> bool:
    """Return whether a build was published: its file moved away, its receipt beside the target."""
    receipt = finished_path(folder)
    return (
        receipt.is_file()
        and not receipt.is_symlink()
        and not (folder / target.name).exists()
        and any(receipt.read_bytes() == other.read_bytes() for other in receipts(target))
    )


def accept(path: Path, entry: Entry) -> bool:
    """Write into the receipt of an entry that it is up to date, if only the program has changed.

    Return whether it was written. `path` is the lock. The digest of the program that built the file
    stays in the receipt.
    """
    root = path.parent
    target = inside(root, entry.path)
    if accepted(root, entry, state(root, load(path), entry)) is None:
        return False
    with file_lock(target):  # after a build in progress
        receipt = accepted(root, entry, state(root, load(path), entry))
        if receipt is None:
            return False
        keep_tables(target)  # which are known by the bytes of the receipt
        write_whole(receipt_path(target, receipt.sha256), as_bytes(receipt))
    return True
