"""What is there of the entries of a lock: their files, where these came from, and whether they still hold.

Beside each checkpoint lies a receipt, NAME.DIGEST.json, named after the sha256 of the file that it is about:
how it was made, of which declaration and parent, and its metrics. The receipt is written first and the file
renamed into place after it, so at any moment the file that is there has its receipt.
"""

import functools
import glob
import hashlib
import json
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from specdiag._files import usual_mode, write_whole
from specdiag.lockfile import (
    Entry,
    FileRecord,
    Key,
    Lock,
    Metric,
    declaration_digest,
    find,
)

Word = Literal["ok", "rebuilt", "drifted", "stale", "missing", "corrupt"]
USABLE = ("ok", "rebuilt", "drifted")


class State(NamedTuple):
    """What is there of an entry, and why it is not ok."""

    word: Word
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """How a file came about."""

    how: Literal["fetched", "trained", "evaluated"]
    sha256: str  # of the file; of the parent's file for an evaluation
    size: int
    tensors: str
    declaration: str  # its digest, when it was built
    parent: str | None  # sha256 of the parent's file, when it was built
    metrics: dict[str, Metric]
    environment: dict[str, str | int | float]


def state(root: Path, lock: Lock, entry: Entry) -> State:
    """Return what is there of an entry.

    - ok: what the lock records, or, where it records nothing, what the recipe built;
    - rebuilt: other bytes, whose metrics are within tolerance of the recorded ones;
    - drifted: other bytes, whose metrics are not;
    - stale: built before its parent, params or recipe changed;
    - missing: never made;
    - corrupt: not the file that was made.

    Parameters
    ----------
    root : Path
        The folder of the lock.
    """
    receipt = read_receipt(root, lock, entry)
    if isinstance(receipt, State):
        return receipt
    if receipt.how != "fetched":
        if receipt.declaration != declaration_digest(entry):
            return State("stale", "its recipe or params changed since it was built")
        if entry.parent and receipt.parent != parent_sha256(root, lock, entry):
            return State("stale", f"its parent {entry.parent.name} changed since it was built")
    elif entry.source and entry.source.sha256 not in (None, receipt.sha256):
        return State("stale", "its source changed since it was fetched")
    is_recorded = (
        receipt.how == "evaluated"
        or entry.file.sha256 in (None, receipt.sha256)
        or entry.file.tensors == receipt.tensors
    )
    return _met(entry, receipt, "ok" if is_recorded else "rebuilt")


def _met(entry: Entry, receipt: Receipt, word: Word) -> State:
    """Return the word, with `drifted` in its place when a metric is out of tolerance."""
    for name, metric in entry.metrics.items():
        found = receipt.metrics.get(name)
        if found and abs(found.value - metric.value) > metric.atol:
            text = f"{name} is {found.value:.4f}, recorded is {metric.value:.4f} ± {metric.atol:g}"
            return State("drifted", text)
    return State(word, "other bytes than recorded" if word == "rebuilt" else "")


def parent_sha256(root: Path, lock: Lock, entry: Entry) -> str | None:
    """Return the sha256 of the parent's file: the one that is there, else the recorded one."""
    if entry.parent is None:
        return None
    parent = find(lock, entry.parent.name, entry.scale)
    path = root / parent.path
    return sha256_of(path) if path.is_file() else parent.file.sha256


def read_receipt(root: Path, lock: Lock, entry: Entry) -> Receipt | State:
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
    receipt = _receipt_path(path, sha256)
    try:
        return _parsed(json.loads(receipt.read_bytes()))
    except FileNotFoundError:
        pass
    except (ValueError, TypeError, KeyError, OSError) as error:
        return State("corrupt", f"{receipt.name} cannot be read: {' '.join(str(error).split())}")
    if entry.kind == "evaluation":
        others = any(_receipts(path))
        return State("stale", "its parent changed since") if others else State("missing")
    if sha256 == entry.file.sha256:
        return State("ok", "put there by hand")
    return State("corrupt", f"{path.name} is not the file that was made: it has no receipt")


def _parsed(found: dict[str, Any]) -> Receipt:
    metrics = {name: Metric(**metric) for name, metric in found.pop("metrics").items()}
    return Receipt(metrics=metrics, **found)


def _receipt_path(path: Path, sha256: str) -> Path:
    return path.with_name(f"{path.name}.{sha256[:16]}.json")


def _receipts(path: Path) -> Iterator[Path]:
    return path.parent.glob(f"{glob.escape(path.name)}.{'[0-9a-f]' * 16}.json")


def publish(root: Path, entry: Entry, file: Path | None, receipt: Receipt) -> None:
    """Put a finished file under its name, with its receipt: at any moment the old pair or the new one.

    Parameters
    ----------
    file : Path or None
        On the same file system; synced already. None for an evaluation, or when it is in place.
    """
    path = root / entry.path
    path.parent.mkdir(parents=True, exist_ok=True)
    target = _receipt_path(path, receipt.sha256)
    write_whole(target, json.dumps(asdict(receipt), indent=1, sort_keys=True).encode())
    if file:
        file.chmod(usual_mode())  # whoever wrote it may have kept it to himself
        file.replace(path)
    for old in _receipts(path):
        if old != target:
            old.unlink(missing_ok=True)


def recorded(entry: Entry, receipt: Receipt) -> Entry:
    """Return the entry with what came out as its record."""
    file = entry.file
    if receipt.how != "evaluated":
        file = FileRecord(
            path=file.path, sha256=receipt.sha256, size=receipt.size, tensors=receipt.tensors
        )
    return replace(
        entry,
        parent=replace(entry.parent, sha256=receipt.parent) if entry.parent else None,
        file=file,
        metrics=receipt.metrics,
        environment=receipt.environment,
    )


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal digits; read again only when it has changed."""
    status = path.stat()
    return _sha256_of(path, (status.st_size, status.st_mtime_ns, status.st_ino))


@functools.lru_cache(maxsize=4096)
def _sha256_of(path: Path, stamp: tuple[int, int, int]) -> str:  # noqa: ARG001 - the key of the cache
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def with_ancestors(lock: Lock, keys: Mapping[Key, object] | list[Key]) -> list[Entry]:
    """Return the entries of these keys and all that they descend from, parents first."""
    wanted = set(keys)
    for entry in reversed(lock.entries):  # children before parents
        if entry.key in wanted and entry.parent:
            wanted.add((entry.parent.name, entry.scale))
    return [entry for entry in lock.entries if entry.key in wanted]
