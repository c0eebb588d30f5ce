"""Accept the present program of a recipe for the checkpoints that an earlier one built."""

from pathlib import Path

from specdiag.lock.entry import Entry
from specdiag.lock.lockfile import load
from specdiag.lock.place import inside
from specdiag.obtain.beside import keep_tables, receipt_path
from specdiag.obtain.state import accepted, as_bytes, state
from specdiag.outputs import write_whole


def accept(path: Path, entry: Entry) -> bool:
    """Write into the receipt of an entry that it is up to date, if only the program has changed.

    Return whether it was written. `path` is the lock. The digest of the program that built the file
    stays in the receipt.
    """
    from filelock import FileLock

    root = path.parent
    target = inside(root, entry.path)
    if accepted(root, entry, state(root, load(path), entry)) is None:
        return False
    with FileLock(target.with_name(f".{target.name}.lock")):  # after a build in progress
        receipt = accepted(root, entry, state(root, load(path), entry))
        if receipt is None:
            return False
        keep_tables(target)  # which are known by the bytes of the receipt
        write_whole(receipt_path(target, receipt.sha256), as_bytes(receipt))
    return True
