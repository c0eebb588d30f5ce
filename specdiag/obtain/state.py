"""What is there of the entries of a lock: their files, where these came from, and whether they still hold.

Beside each checkpoint lies a receipt, NAME.DIGEST.json, named after the sha256 of the file that it is about:
how it was made, of which declaration and parent, and its metrics. The receipt is written first and the file
renamed into place after it, so at any moment the file that is there has its receipt.
"""

import json
import platform
import sys
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NamedTuple

from specdiag.files import usual_mode, write_whole
from specdiag.lock.entry import Entry, Lock, Metric
from specdiag.lock.fields import Commit, Scalar, Sha256, Size, plain, read
from specdiag.lock.lockfile import declaration_digest, find, source_digest
from specdiag.obtain.beside import receipt_path, receipts, sha256_of

Word = Literal["ok", "rebuilt", "drifted", "stale", "missing", "corrupt"]
USABLE = ("ok", "rebuilt", "drifted")


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """How a file came about."""

    how: Literal["fetched", "trained", "evaluated"]
    sha256: Sha256  # of the file; of the parent's file for an evaluation
    size: Size
    tensors: str  # digest; empty for an evaluation
    declaration: Sha256  # digest of what the recipe declared when it was built
    parent: Sha256 | None = None  # of the parent's file when it was built
    source: Sha256 | None = None  # digest of where it was fetched
    commit: Commit | None = None
    metrics: dict[str, Metric] = field(default_factory=dict)
    environment: dict[str, Scalar] = field(default_factory=dict)


class State(NamedTuple):
    """State of an entry, why it is not ok, and the receipt of its file, if it has one."""

    word: Word
    reason: str = ""
    receipt: Receipt | None = None


def state(root: Path, lock: Lock, entry: Entry) -> State:
    """Return what is there of an entry.

    - ok: what the lock records, or, where it records nothing, what the recipe built;
    - rebuilt: other bytes, whose metrics are within tolerance of the recorded ones;
    - drifted: other bytes, whose metrics are not;
    - stale: built before its parent, params, recipe or inputs changed, fetched before its source did;
    - missing: never made;
    - corrupt: not the file that was made.

    Parameters
    ----------
    root : Path
        The folder of the lock.
    """
    try:
        receipt = _read_receipt(root, lock, entry)
        if isinstance(receipt, State):
            return receipt
        if change := _changed(root, lock, entry, receipt):
            return State("stale", f"its {change} since it was {receipt.how}", receipt)
    except OSError as error:
        return State("corrupt", f"cannot be read: {error.strerror or error}")
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


def _changed(root: Path, lock: Lock, entry: Entry, receipt: Receipt) -> str:
    """Return what a file was made of that is no longer so."""
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
        path = root / item.path if item.path else None
        if path and path.is_file() and item.sha256 not in (None, sha256_of(path)):
            return f"input {item.path} changed"
    return ""


def _out_of_tolerance(entry: Entry, receipt: Receipt) -> str:
    """Return which recorded metric a file that was built does not meet."""
    for name, metric in entry.metrics.items() if receipt.how != "fetched" else ():
        found = receipt.metrics.get(name)
        if found is None:
            return f"it has no {name}, recorded is {metric.value:.6g}"
        if abs(found.value - metric.value) > metric.atol:
            return f"{name} is {found.value:.6g}, recorded is {metric.value:.6g} ± {metric.atol:g}"
    return ""


def parent_sha256(root: Path, lock: Lock, entry: Entry) -> str | None:
    """Return the sha256 of the parent's file: the one that is there, else the recorded one."""
    if entry.parent is None:
        return None
    parent = find(lock, entry.parent.name, entry.scale)
    path = root / parent.path
    return sha256_of(path) if path.is_file() else parent.file.sha256


def _read_receipt(root: Path, lock: Lock, entry: Entry) -> Receipt | State:
    """Return the receipt of the file that is there, or the state that says why there is none."""
    path = root / entry.path
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
        others = any(receipts(path))
        return State("stale", "its parent changed since") if others else State("missing")
    if sha256 == entry.file.sha256:
        return _recorded_receipt(entry)
    return State("corrupt", f"{path.name} is not the file that was made: it has no receipt")


def _parsed(path: Path, sha256: str) -> Receipt | State:
    try:
        found: Receipt = read(path.name, Receipt, json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        return State("corrupt", f"{path.name} cannot be read: {' '.join(str(error).split())}")
    if found.sha256 != sha256:
        return State("corrupt", f"{path.name} is about another file")
    return found


def _recorded_receipt(entry: Entry) -> Receipt:
    """Return the receipt of a file that was put there by hand and is the recorded one."""
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
    """Return a receipt as it is written."""
    return json.dumps(plain(receipt), indent=1, sort_keys=True).encode()


def publish(root: Path, entry: Entry, file: Path | None, receipt: Receipt) -> None:
    """Put a finished file under its name, with its receipt: at any moment the old pair or the new one.

    Parameters
    ----------
    file : Path or None
        On the same file system; synced already. None for an evaluation, or when it is in place.
    """
    path = root / entry.path
    path.parent.mkdir(parents=True, exist_ok=True)
    target = receipt_path(path, receipt.sha256)
    write_whole(target, as_bytes(receipt))
    if file:
        file.chmod(usual_mode())  # whoever wrote it may have kept it to himself
        file.replace(path)
    for old in receipts(path):
        if old != target:
            old.unlink(missing_ok=True)


def recorded(entry: Entry, receipt: Receipt, *, forced: bool) -> Entry:
    """Return the entry with what came out as its record, where there is none yet or it was asked for.

    An entry that declares something else by now is returned as it is.
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


def environment(seconds: float) -> dict[str, str | int | float]:
    """Return what a build ran on: versions of what it imported, machine, threads, seconds."""
    found: dict[str, str | int | float] = {
        "specdiag": version("specdiag"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "seconds": round(seconds, 1),
    }
    for name in ("numpy", "torch", "lightning", "torch_brain"):
        if name in sys.modules:
            found[name] = version(name)
    if torch := sys.modules.get("torch"):
        found["threads"] = torch.get_num_threads()
        found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return found
