"""The data model of checkpoints.lock: what each checkpoint is made of, and what came out.

A lock is TOML, written by machine, parents before children and without timestamps: equal locks are
equal bytes, and a change of one entry changes its lines only. This module turns text into frozen
dataclasses and back, and refuses what is no lock; every message says where in which file, what was
found, what was expected and what to do. Whether the files are there is not its business.
"""

import functools
import hashlib
import heapq
import json
import re
import stat
import tomllib
import unicodedata
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import tomli_w

from specdiag.files import write_whole
from specdiag.lock.entry import (
    Cost,
    Entry,
    FileRecord,
    Input,
    Key,
    Metric,
    Parent,
    Reported,
    Scale,
    Source,
)
from specdiag.lock.fields import LockfileError, keys, plain, read, refuse
from specdiag.wording import printable, shown

__all__ = [
    "Cost",
    "Entry",
    "FileRecord",
    "Input",
    "Key",
    "Lock",
    "LockfileError",
    "Metric",
    "Parent",
    "Reported",
    "Scale",
    "Source",
    "amend",
    "declaration_digest",
    "dumps",
    "exclusive",
    "find",
    "find_lock",
    "load",
    "loads",
    "ordered",
    "save",
    "select",
    "source_digest",
]

LOCK_NAME = "checkpoints.lock"
LOCK_VERSION = 1
MAX_SIZE = 20_000_000  # bytes; a thousand entries take about one million

_HEADER = "# Written by specdiag from what the recipes declare.\n"
_PUBLISHABLE = re.compile(r"([^./][^/]*/)*[^./][^/]*\.(ckpt|pt|pth|bin|safetensors)")
_CONFLICT = re.compile(r"^(<{7}|={7}|>{7})(?!\S)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Lock:
    """All entries; those that were read come parents first."""

    version: int = LOCK_VERSION
    entries: tuple[Entry, ...] = ()


def find_lock(start: Path) -> Path:
    """Return the checkpoints.lock of the folder `start`, or of the nearest folder above it.

    Raises
    ------
    FileNotFoundError
        When there is none.
    """
    start = start.absolute()
    for folder in (start, *start.parents):
        if (folder / LOCK_NAME).is_file():
            return folder / LOCK_NAME
    raise FileNotFoundError(
        f"no {LOCK_NAME} in {printable(str(start))} or above it; start one with `specdiag lock --init`"
    )


def load(path: Path) -> Lock:
    """Return the lock in a file, checked, its entries ordered.

    Raises
    ------
    LockfileError
        When the file is no lock: one line that begins with the path of the file.
    OSError
        When it cannot be read.
    """
    where = printable(str(path))
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block for ever
        raise LockfileError(f"{where}: not a regular file; expected a {LOCK_NAME}; name the file")
    with path.open("rb") as stream:
        content = stream.read(MAX_SIZE + 1)
    _check_size(where, content)
    try:
        return _loads(content.decode(), where)
    except UnicodeDecodeError as error:
        raise LockfileError(
            f"{where}: byte {error.start:,} is not UTF-8; expected TOML text; restore the file"
        ) from None


def loads(text: str, where: str = LOCK_NAME) -> Lock:
    """Return the lock that `text` is, checked, its entries ordered.

    Parameters
    ----------
    text : str
    where : str
        How messages begin: the path of the file.

    Raises
    ------
    LockfileError
        When the text is no lock.
    """
    try:
        document = tomllib.loads(text)
    except RecursionError:
        refuse(where, "nested too deeply", "tables of a few levels", "restore the file")
    except ValueError as error:  # not only TOMLDecodeError: a number may have too many digits
        if conflict := _CONFLICT.search(text):
            line = text.count("\n", 0, conflict.start()) + 1
            found = f"line {line} is a conflict marker of git ({conflict[1]})"
            repair = "take one side whole, then run `specdiag lock`"
            refuse(where, found, "a merged file", repair)
        refuse(where, f"not TOML: {error}", "a lock as it was written", "restore the file")
    return _checked(where, document)


# A run looks at its lock many times, and a hundred entries take 0.1 s.
_loads = functools.lru_cache(maxsize=2)(loads)


def dumps(lock: Lock, where: str = LOCK_NAME) -> str:
    """Return a lock as text; equal locks give the same text, whatever the order of their entries.

    Raises
    ------
    LockfileError
        When the lock holds what `loads` would refuse; the message begins with `where`.
    """
    document = {"lock-version": lock.version, "checkpoint": [plain(e) for e in lock.entries]}
    # Each entry on its own: tomli_w decides by all tables of an array how it writes each of them.
    tables = [tomli_w.dumps({"checkpoint": plain(e)}) for e in _checked(where, document).entries]
    texts = [f"\n[[checkpoint]]{table.removeprefix('[checkpoint]')}" for table in tables]
    return f"{_HEADER}lock-version = {LOCK_VERSION}\n{''.join(texts)}"


def save(lock: Lock, path: Path) -> None:
    """Write a lock whole or not at all: checked, read back, written beside, synced, renamed.

    Whoever saves what was read from the same file holds `exclusive(path)` from before the reading.

    Raises
    ------
    LockfileError
        When the lock holds what `load` would refuse; the file is as it was.
    """
    where = printable(str(path))
    text = dumps(lock, where)
    _loads(text, where)
    content = text.encode()
    _check_size(where, content)
    write_whole(path, content)


def exclusive(path: Path) -> AbstractContextManager[object]:
    """Return what to hold while a lock is read, changed and saved: others wait.

    The file .checkpoints.lock.lock beside it stays there, empty. Not re-entrant.
    """
    from filelock import FileLock

    return FileLock(path.with_name(f".{path.name}.lock"))


def amend(path: Path, key: Key, change: Callable[[Entry], Entry]) -> Entry:
    """Replace one entry of a lock by `change(entry)` and return it.

    Read and saved under `exclusive`: processes that amend different entries lose nothing, and
    `change` sees the entry as the last of them left it.

    Raises
    ------
    ValueError
        When there is no such entry, or `change` returns one of another name or scale.
    """
    with exclusive(path):
        lock = load(path)
        entry = find(lock, *key)
        changed = change(entry)
        if changed.key != key:
            raise ValueError(f"the change of {key} gave {changed.key}; expected the same key")
        entries = tuple(changed if e is entry else e for e in lock.entries)
        save(replace(lock, entries=entries), path)
    return changed


def find(lock: Lock, name: str, scale: Scale) -> Entry:
    """Return the entry of this name and scale.

    Raises
    ------
    ValueError
        When there is none; the message gives the names that are near.
    """
    for entry in lock.entries:
        if entry.key == (name, scale):
            return entry
    from difflib import get_close_matches

    near = get_close_matches(name, sorted({e.name for e in lock.entries}), cutoff=0.5)
    found = [f"{shown(e.name)} ({e.scale})" for e in lock.entries if e.name in near]
    hint = f"did you mean {' or '.join(found)}?" if near else "`specdiag list` shows all names"
    raise ValueError(f"no entry {shown(name)} at {scale} scale; {hint}")


def select(
    locks: Iterable[tuple[Path, Lock]],
    names: Iterable[str] = (),
    scale: Scale | None = None,
    group: str | None = None,
) -> list[tuple[Path, Lock, Entry]]:
    """Return the entries of these names, this scale and this group, each with its lock.

    Parameters
    ----------
    locks : iterable of (Path, Lock)
        The locks, each with its path.
    names : iterable of str
        Each must be in one of the locks; without names, all entries are selected.
    scale, group : str, optional
        None selects all.

    Raises
    ------
    ValueError
        If no entry has the group, or one of the names; the message gives similar names.
    """
    from difflib import get_close_matches

    entries = [(path, lock, entry) for path, lock in locks for entry in lock.entries]
    groups = {entry.group for *_, entry in entries}
    if group and group not in groups:
        raise ValueError(f"no group {group}; the lock has {', '.join(sorted(groups))}")
    entries = [
        item
        for item in entries
        if scale in (None, item[2].scale) and group in (None, item[2].group)
    ]
    wanted, known = set(names), {entry.name for *_, entry in entries}
    at = f" at {scale} scale" * bool(scale) + f" in group {group}" * bool(group)
    for name in sorted(wanted - known):
        near = " or ".join(get_close_matches(name, sorted(known), cutoff=0.5))
        hint = f"did you mean {near}?" if near else "`specdiag list` shows all names"
        raise ValueError(f"no entry {name}{at}; {hint}")
    return [item for item in entries if not wanted or item[2].name in wanted]


def ordered(entries: Iterable[Entry], where: str = LOCK_NAME) -> tuple[Entry, ...]:
    """Return entries, of distinct keys, with parents before children, otherwise by scale and name.

    Raises
    ------
    LockfileError
        When a parent is missing or has no weights, or when an entry descends from itself.
    """
    by_key = {(e.scale, e.name): e for e in entries}
    paths = {key: f"{where}: checkpoint[{i}].parent.name" for i, key in enumerate(by_key)}
    parents = {k: (k[0], e.parent.name) for k, e in by_key.items() if e.parent}
    for key, parent in parents.items():
        _check_parent(paths[key], parent, by_key.get(parent))
    sorter = TopologicalSorter({k: [parents[k]] if k in parents else [] for k in by_key})
    try:
        sorter.prepare()
    except CycleError as error:
        cycle = " -> ".join(shown(name) for _, name in error.args[1])
        found = f"a cycle, parent -> child: {cycle}"
        refuse(paths[error.args[1][0]], found, "parents that end at an entry without one")
    heap, result = sorted(sorter.get_ready()), []
    while heap:
        key = heapq.heappop(heap)
        result.append(by_key[key])
        sorter.done(key)
        for ready in sorter.get_ready():
            heapq.heappush(heap, ready)
    return tuple(result)


def declaration_digest(entry: Entry) -> str:
    """Return the sha256 digest of what the recipe of an entry declares, as canonical JSON.

    Recipe, params, the name of the parent, and the identity of each input: its id, where it comes
    from, and its sha256 once known (the size follows from it). A file that was built under another
    digest is stale. What came out (file, metrics, environment) is not part of it.
    """
    return _digest(
        recipe=entry.recipe,
        params=entry.params,
        parent=entry.parent and entry.parent.name,
        inputs=[plain(replace(item, size=None)) for item in entry.inputs],
    )


def source_digest(source: Source) -> str:
    """Return the digest of where weights are fetched: not of what was found there."""
    return _digest(source=plain(replace(source, commit=None, sha256=None, size=None)))


def _digest(**declared: Any) -> str:
    text = json.dumps(declared, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_size(where: str, content: bytes) -> None:
    if len(content) > MAX_SIZE:
        raise LockfileError(
            f"{where}: more than {MAX_SIZE:,} bytes; expected a {LOCK_NAME}; name the file"
        )


def _checked(where: str, document: dict[str, Any]) -> Lock:
    path = f"{where}: lock-version"
    if "lock-version" not in document:
        refuse(path, "missing", str(LOCK_VERSION))
    version = read(path, int, document["lock-version"])
    if version > LOCK_VERSION:
        raise LockfileError(
            f"{path}: {version}; expected {LOCK_VERSION}; written by a newer specdiag: upgrade"
        )
    if version < LOCK_VERSION:
        refuse(path, str(version), str(LOCK_VERSION))
    for key, path in keys(where, document):
        if key not in {"lock-version", "checkpoint"}:
            refuse(f"{where}: {path}", "unknown key", "lock-version or checkpoint")
    entries = read(f"{where}: checkpoint", tuple[Entry, ...], document.get("checkpoint", []))
    for i, entry in enumerate(entries):
        _check_entry(f"{where}: checkpoint[{i}]", entry)
    _check_distinct(where, entries)
    return Lock(entries=ordered(entries, where))


def _check_entry(where: str, entry: Entry) -> None:
    if entry.kind == "evaluation":
        if not entry.parent:
            refuse(f"{where}.parent", "missing", "the checkpoint that is evaluated")
        for key, found in (("source", entry.source), ("file.sha256", entry.file.sha256)):
            if found:
                refuse(f"{where}.{key}", "given", "none: an evaluation has no weights")
    if entry.file.path and not _PUBLISHABLE.fullmatch(entry.file.path):
        expected = "one that ends in .ckpt, .pt, .pth, .bin or .safetensors, in no hidden folder"
        refuse(f"{where}.file.path", shown(entry.file.path), expected)
    if entry.source and entry.source.commit and not entry.source.repo:
        refuse(f"{where}.source.commit", "a commit beside url", "it beside repo only")
    ids = [item.id for item in entry.inputs]
    for i, name in enumerate(ids):
        if name in ids[:i]:
            refuse(f"{where}.inputs[{i}].id", f"{shown(name)} again", "an id for each input")


def _check_distinct(where: str, entries: Iterable[Entry]) -> None:
    """Refuse what is one name or one file, also where file systems fold case and accents."""
    seen: dict[tuple[str, ...], tuple[int, str]] = {}
    for i, e in enumerate(entries):
        for key, scale, text in (("name", e.scale, e.name), ("file.path", "", e.path)):
            folded = unicodedata.normalize("NFD", text).casefold()
            first, other = seen.setdefault((key, scale, folded), (i, text))
            if first != i:
                twin = "that" if other == text else f"to some file systems {shown(other)}"
                found = f"{shown(text)} is {twin} of checkpoint[{first}]"
                refuse(f"{where}: checkpoint[{i}].{key}", found, "one of its own")


def _check_parent(where: str, key: tuple[Scale, str], parent: Entry | None) -> None:
    if parent is None:
        refuse(where, f"no entry {shown(key[1])} at {key[0]} scale", "an entry of the same scale")
    if parent.kind == "evaluation":
        refuse(where, f"{shown(key[1])} is an evaluation", "a checkpoint: only they have weights")
