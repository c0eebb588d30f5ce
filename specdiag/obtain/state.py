"""State of each entry: whether its file exists, how it was made, and whether it is up to date.

Beside each checkpoint lies a receipt, named after the checkpoint's SHA-256: how the file was made,
from which declaration and parent, and its metrics. The receipt is written first and the file
renamed into place after it, so a file always has its receipt. `root` is the folder of the lock.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from specdiag.files import OutsideError, confine, read_file
from specdiag.lock.code import code_digest
from specdiag.lock.entry import Entry, Lock, Metric
from specdiag.lock.fields import Commit, Scalar, Sha256, Size, plain, read
from specdiag.lock.lockfile import declaration_digest, find, source_digest
from specdiag.lock.place import inside
from specdiag.obtain.beside import receipt_path, receipts, sha256_of

Word = Literal["ok", "rebuilt", "drifted", "stale", "missing", "corrupt"]
USABLE = ("ok", "rebuilt", "drifted")
_LARGEST = 20_000_000  # bytes of a receipt; a thousand metrics take one hundred thousand
CODE_CHANGED = "recipe's code changed"


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """How a file was made, and from what."""

    how: Literal["fetched", "trained", "evaluated"]
    sha256: Sha256  # of the file; of the parent's file for an evaluation
    size: Size
    tensors: str  # digest; empty for an evaluation
    declaration: Sha256  # digest of the declaration that it was built from
    parent: Sha256 | None = None  # of the parent's file when it was built
    code: Sha256 | None = None  # digest of the recipe's program that built it
    begun_by: Sha256 | None = None  # that of the interrupted build which this one resumed, if other
    accepted: Sha256 | None = None  # that of a later program which the user took to be equivalent
    source: Sha256 | None = None  # digest of the place that it was fetched from
    commit: Commit | None = None
    metrics: dict[str, Metric] = field(default_factory=dict)
    tables: dict[str, Sha256] = field(default_factory=dict)  # of the files that the recipe left
    environment: dict[str, Scalar] = field(default_factory=dict)


class State(NamedTuple):
    """State of an entry, why it is not ok, and the receipt of its file, if it has one."""

    word: Word
    reason: str = ""
    receipt: Receipt | None = None


def state(root: Path, lock: Lock, entry: Entry) -> State:
    """Return the state of an entry.

    - ok: the file that the lock records, or, if it records none, the one that the recipe built;
    - rebuilt: other bytes than recorded, metrics within tolerance of the recorded ones;
    - drifted: other bytes than recorded, metrics out of tolerance;
    - stale: built before its parent, params, inputs, or the program of its recipe changed, or
      fetched before its source changed;
    - missing: no file;
    - corrupt: the file was changed or damaged since it was made, or its receipt was.
    """
    try:
        receipt = _read_receipt(root, lock, entry)
        if isinstance(receipt, State):
            return receipt
        if change := _changed(root, lock, entry, receipt):
            return State("stale", _since(change, receipt), receipt)
    except OSError as error:
        return State("corrupt", f"cannot be read: {error.strerror or error}")
    except OutsideError as error:
        return State("corrupt", str(error))
    is_recorded = (
        receipt.how == "evaluated"
        or entry.file.sha256 in (None, receipt.sha256)
        or entry.file.tensors == receipt.tensors
    )
    if reason := _out_of_tolerance(entry, receipt):
        return State("drifted", reason, receipt)
    if is_recorded:
        return State("ok", receipt=receipt)
    return State("rebuilt", "other bytes than recorded", receipt)


def _since(change: str, receipt: Receipt) -> str:
    return f"its {change} since it was {receipt.how}"


def _changed(root: Path, lock: Lock, entry: Entry, receipt: Receipt) -> str:
    """Return which origin of a file has changed since the file was made, or ''."""
    if receipt.how == "fetched":
        is_same = entry.source and (
            receipt.source == source_digest(entry.source)
            and entry.source.sha256 in (None, receipt.sha256)
        )
        return "" if is_same else "source changed"
    if receipt.declaration != declaration_digest(entry):
        return "recipe or params changed"
    if entry.parent and receipt.parent != parent_sha256(root, lock, entry):
        return f"parent {entry.parent.name} changed"
    for item in entry.inputs:
        path = inside(root, item.path) if item.path else None
        if path and path.is_file() and item.sha256 not in (None, sha256_of(path)):
            return f"input {item.path} changed"
    return CODE_CHANGED if _is_of_other_code(root, entry, receipt) else ""


def _is_of_other_code(root: Path, entry: Entry, receipt: Receipt) -> bool:
    """Return whether another program built a file; False if it or the present one is unknown."""
    try:
        present = receipt.code and code_digest(root, entry.recipe)
    except (OSError, ValueError):  # a module cannot be read, which says nothing about the file
        return False
    return present not in (None, receipt.code, receipt.accepted)


def accepted(root: Path, entry: Entry, now: State) -> Receipt | None:
    """Return a receipt that accepts the present program of the recipe; None if no need for it.

    It is needed if the program is all that has changed since the file was made.
    """
    if now.receipt is None or now.reason != _since(CODE_CHANGED, now.receipt):
        return None
    return replace(now.receipt, accepted=code_digest(root, entry.recipe))


def _out_of_tolerance(entry: Entry, receipt: Receipt) -> str:
    """Return which recorded metric a built file does not meet, or ''."""
    for name, metric in entry.metrics.items() if receipt.how != "fetched" else ():
        ours = receipt.metrics.get(name)
        if ours is None:
            return f"{name} is missing, recorded is {metric.value:.6g}"
        if abs(ours.value - metric.value) > metric.atol:
            return f"{name} is {ours.value:.6g}, recorded is {metric.value:.6g} ± {metric.atol:g}"
    return ""


def parent_sha256(root: Path, lock: Lock, entry: Entry) -> str | None:
    """Return the SHA-256 of the parent's file, or the recorded one if the file is missing."""
    if entry.parent is None:
        return None
    parent = find(lock, entry.parent.name, entry.scale)
    path = inside(root, parent.path)
    return sha256_of(path) if path.is_file() else parent.file.sha256


def _read_receipt(root: Path, lock: Lock, entry: Entry) -> Receipt | State:
    """Return the receipt of an entry's file, or the state of an entry without a valid receipt."""
    path = inside(root, entry.path)
    confine(path.parent, root.resolve())  # also the other files of the checkpoint
    if entry.kind == "evaluation":
        sha256 = parent_sha256(root, lock, entry)
        if sha256 is None:
            return State("missing", "its parent is missing")
    elif not path.is_file():
        return State("missing")
    else:
        sha256 = sha256_of(path)
    receipt = receipt_path(path, sha256)
    if receipt.is_file():
        return _parsed(receipt, sha256)
    if entry.kind == "evaluation":
        if any(receipts(path)):
            return State("stale", "its parent changed since it was evaluated")
        return State("missing")
    if sha256 == entry.file.sha256:
        return _recorded_receipt(entry)
    reason = "has no receipt: it was not made here, or changed since; `train` moves it aside"
    return State("corrupt", f"{path.name} {reason}")


def read_receipt(path: Path) -> Receipt | None:
    """Return the receipt in a file that is named after it; None if there is no such file."""
    try:
        receipt = None if path.is_symlink() else _read(path)
    except (ValueError, RecursionError, OSError):
        return None
    return receipt if receipt and path.name.endswith(f".{receipt.sha256[:16]}.json") else None


def _read(path: Path) -> Receipt:
    receipt: Receipt = read(path.name, Receipt, json.loads(read_file(path, _LARGEST)))
    return receipt


def _parsed(path: Path, sha256: str) -> Receipt | State:
    try:
        receipt = _read(path)
    except (ValueError, RecursionError) as error:
        return State("corrupt", f"{path.name} cannot be read: {' '.join(str(error).split())}")
    if receipt.sha256 != sha256:
        return State("corrupt", f"{path.name} is the receipt of another file")
    return receipt


def _recorded_receipt(entry: Entry) -> Receipt:
    """Return a receipt for the recorded file that was copied to its path without a receipt."""
    source = entry.source
    is_fetched = bool(source and source.sha256 == entry.file.sha256)
    return Receipt(
        how="fetched" if is_fetched else "trained",
        sha256=entry.file.sha256 or "",
        size=entry.file.size or 0,
        tensors=entry.file.tensors or "",
        declaration=declaration_digest(entry),
        parent=entry.parent.sha256 if entry.parent else None,
        source=source_digest(source) if source else None,
        metrics=entry.metrics,
    )


def as_bytes(receipt: Receipt) -> bytes:
    """Return the content of the file of a receipt."""
    return json.dumps(plain(receipt), indent=1, sort_keys=True).encode()


def recorded(entry: Entry, receipt: Receipt, *, forced: bool) -> Entry:
    """Return the entry with the results of a receipt recorded: missing ones, or all if `forced`.

    An entry whose declaration or source has changed since is returned unchanged.
    """
    if receipt.how == "fetched":
        if not entry.source or source_digest(entry.source) != receipt.source:
            return entry
        source = replace(
            entry.source, commit=receipt.commit, sha256=receipt.sha256, size=receipt.size
        )
        entry = replace(entry, source=source)
    elif receipt.declaration != declaration_digest(entry):
        return entry
    if receipt.how != "evaluated" and (forced or entry.file.sha256 is None):
        file = replace(
            entry.file, sha256=receipt.sha256, size=receipt.size, tensors=receipt.tensors
        )
        parent = entry.parent and replace(entry.parent, sha256=receipt.parent)
        entry = replace(entry, file=file, parent=parent)
    if receipt.how != "fetched" and (forced or not entry.metrics):
        entry = replace(entry, metrics=receipt.metrics, environment=receipt.environment)
    return entry
