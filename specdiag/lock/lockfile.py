"""checkpoints.lock -> Lock -> checkpoints.lock.

A lock is TOML that specdiag writes, parents before children and without timestamps: equal locks
are equal bytes, and a change of one entry changes only its lines. An invalid lock is refused; every
message gives the file and the place in it, the invalid value, the expected one and the repair. The
checkpoints themselves are not read here.
"""

import functools
import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w

from specdiag.files import find_file, open_file
from specdiag.lock.entry import LOCK_NAME, LOCK_VERSION, Entry, Key, Lock, Scale, Source
from specdiag.lock.fields import keys, plain, read, refuse
from specdiag.lock.place import file_lock, inside
from specdiag.lock.relations import check_entries, ordered
from specdiag.outputs import write_whole
from specdiag.wording import printable, shown

MAX_SIZE = 4_000_000  # bytes; a thousand entries take about one million
MAX_DOTS = 400_000  # each part of a key of TOML takes about a kilobyte while it is read

_HEADER = "# Written by specdiag from what the recipes declare.\n"
# tomllib takes time and memory that grow with the square of the parts of a key.
_LONG_KEY = re.compile(r"""(?<![\w-])(?:(?:"[^"\n]*+"|'[^'\n]*+'|[\w-]++)[ \t]*+\.[ \t]*+){50}""")
_CONFLICT = re.compile(r"^(<{7}|={7}|>{7})(?!\S)", re.MULTILINE)


def find_lock(start: Path) -> Path:
    """Return the checkpoints.lock of the folder `start`, or of the nearest folder above it.

    If none of these folders has a lock, FileNotFoundError is raised.
    """
    start = start.absolute()
    for folder in (start, *start.parents):
        if (folder / LOCK_NAME).is_file():
            return folder / LOCK_NAME
    place = printable(str(start))
    raise FileNotFoundError(
        f"no {LOCK_NAME} in {place} or above it; start one with `specdiag lock --init`"
    )


def load(path: Path) -> Lock:
    """Return the lock in a file, checked, its entries ordered.

    Raises
    ------
    LockfileError
        If the file is not a valid lock: one line that begins with the path of the file.
    OutsideError
        If it is a link that leads out of its folder, where other files than its own would be.
    OSError
        If the file cannot be read.
    """
    where = printable(str(path))
    inside(path.parent, path.name)
    try:
        file = find_file(path)
    except ValueError:
        refuse(where, "not a regular file", f"a {LOCK_NAME}", "name the file")
    with open_file(file) as stream:
        content = stream.read(MAX_SIZE + 1)
    _check_size(where, content)
    try:
        return _loads(content.decode(), where)
    except UnicodeDecodeError as error:
        refuse(where, f"byte {error.start:,} is not UTF-8", "TOML text", "restore the file")


def loads(text: str, where: str = LOCK_NAME) -> Lock:
    """Return the lock in a text, checked, its entries ordered.

    If the text is invalid, LockfileError is raised; the message begins with `where`, the path of
    the file.
    """
    if text.count(".") > MAX_DOTS or _LONG_KEY.search(text):
        problem = f"a key of more than 50 parts, or more than {MAX_DOTS:,} dots"
        refuse(where, problem, "tables of a few levels", "restore the file")
    try:
        document = tomllib.loads(text)
    except RecursionError:
        refuse(where, "nested too deeply", "tables of a few levels", "restore the file")
    except ValueError as error:  # not only TOMLDecodeError: a number may have too many digits
        if conflict := _CONFLICT.search(text):
            line = text.count("\n", 0, conflict.start()) + 1
            problem = f"line {line} is a conflict marker of git ({conflict[1]})"
            repair = "keep one side as it is, then run `specdiag lock`"
            refuse(where, problem, "a merged file", repair)
        refuse(where, f"not TOML: {error}", "a lock as specdiag wrote it", "restore the file")
    return _checked(where, document)


# One command reads its lock many times, and a hundred entries take 0.1 s.
_loads = functools.lru_cache(maxsize=2)(loads)


def dumps(lock: Lock, where: str = LOCK_NAME) -> str:
    """Return a lock as text; equal locks give the same text in any order of their entries.

    A lock that `loads` would refuse raises the same LockfileError here.
    """
    document = {"lock-version": LOCK_VERSION, "checkpoint": [plain(e) for e in lock.entries]}
    # One call per entry: tomli_w chooses one style for all tables of an array.
    tables = [tomli_w.dumps({"checkpoint": plain(e)}) for e in _checked(where, document).entries]
    texts = [f"\n[[checkpoint]]{table.removeprefix('[checkpoint]')}" for table in tables]
    return f"{_HEADER}lock-version = {LOCK_VERSION}\n{''.join(texts)}"


def save(lock: Lock, path: Path) -> None:
    """Write a lock whole or not at all: check it, read it back, write a copy, sync, rename.

    To read, change and save a lock, hold `exclusive(path)` from before the reading.

    Raises
    ------
    LockfileError
        If `load` would refuse the lock; the file stays as it was.
    OutsideError
        If it is a link that leads out of its folder.
    """
    where = printable(str(path))
    inside(path.parent, path.name)
    text = dumps(lock, where)
    _loads(text, where)
    content = text.encode()
    _check_size(where, content)
    write_whole(path, content)


def exclusive(path: Path) -> AbstractContextManager[object]:
    """Return the file lock to hold while a lock is read, changed and saved; others wait.

    The file .checkpoints.lock.lock stays beside the lock, empty. Not re-entrant.
    """
    return file_lock(path)


def amend(path: Path, key: Key, change: Callable[[Entry], Entry]) -> Entry:
    """Replace one entry of a lock by `change(entry)` and return it.

    The lock is read and saved under `exclusive`: processes that amend different entries lose
    nothing, and `change` gets the entry as the last of them left it.

    Raises
    ------
    ValueError
        If the entry is missing, or if `change` returns one of another name or scale.
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

    If it is missing, ValueError is raised; the message gives similar names.
    """
    for entry in lock.entries:
        if entry.key == (name, scale):
            return entry
    near = _similar(name, {e.name for e in lock.entries})
    twins = [f"{shown(e.name)} ({e.scale})" for e in lock.entries if e.name in near]
    raise ValueError(f"no entry {shown(name)} at {scale} scale; {_hint(twins)}")


def select(
    locks: Iterable[tuple[Path, Lock]],
    names: Iterable[str] = (),
    scale: Scale | None = None,
    group: str | None = None,
) -> list[tuple[Path, Lock, Entry]]:
    """Return the entries of these names, this scale and this group, each with its lock and path.

    Without names, scale and group all entries are selected.

    Raises
    ------
    ValueError
        If no entry has the group or one of the names; the message gives similar names. Also if
        nothing is selected from locks that have entries.
    """
    entries = [(path, lock, entry) for path, lock in locks for entry in lock.entries]
    groups = {entry.group for *_, entry in entries}
    if group is not None and group not in groups:
        text = f"no group {shown(group)}; the lock has {', '.join(sorted(groups))}"
        raise ValueError(text if groups else "the lock has no entries")
    selected = [
        item
        for item in entries
        if scale in (None, item[2].scale) and group in (None, item[2].group)
    ]
    wanted, known = set(names), {entry.name for *_, entry in selected}
    at = f" at {scale} scale" * bool(scale) + f" in group {group}" * bool(group)
    for name in sorted(wanted - known):
        raise ValueError(f"no entry {name}{at}; {_hint(_similar(name, known))}")
    if entries and not selected:
        raise ValueError(f"no entries{at}; {_hint([])}")
    return [item for item in selected if not wanted or item[2].name in wanted]


def _similar(name: str, known: Iterable[str]) -> list[str]:
    from difflib import get_close_matches

    return get_close_matches(name, sorted(known), cutoff=0.5)


def _hint(near: list[str]) -> str:
    return f"did you mean {' or '.join(near)}?" if near else "`specdiag list` shows all names"


def declaration_digest(entry: Entry) -> str:
    """Return the SHA-256 digest of the declaration of an entry, written as canonical JSON.

    It covers the recipe, the params, the name of the parent, and for each input its id, its
    origin and, once known, its sha256 (which determines its size). A file that was built under
    another digest is stale. The results (file, metrics, environment) are not part of the digest.
    """
    return _digest(
        recipe=entry.recipe,
        params=entry.params,
        parent=entry.parent and entry.parent.name,
        inputs=[plain(replace(item, size=None)) for item in entry.inputs],
    )


def source_digest(source: Source) -> str:
    """Return the digest of the place of a download, without the recorded commit, hash and size."""
    return _digest(source=plain(replace(source, commit=None, sha256=None, size=None)))


def _digest(**declared: Any) -> str:
    text = json.dumps(declared, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_size(where: str, content: bytes) -> None:
    if len(content) > MAX_SIZE:
        refuse(where, f"more than {MAX_SIZE:,} bytes", f"a {LOCK_NAME}", "name the file")


def _checked(where: str, document: dict[str, Any]) -> Lock:
    path = f"{where}: lock-version"
    if "lock-version" not in document:
        refuse(path, "missing", str(LOCK_VERSION))
    version = read(path, int, document["lock-version"])
    if version > LOCK_VERSION:
        newer = "written by a newer specdiag: upgrade"
        refuse(path, str(version), str(LOCK_VERSION), newer)
    if version < LOCK_VERSION:
        refuse(path, str(version), str(LOCK_VERSION))
    for key, path in keys(where, document):
        if key not in {"lock-version", "checkpoint"}:
            refuse(f"{where}: {path}", "unknown key", "lock-version or checkpoint")
    entries = read(f"{where}: checkpoint", tuple[Entry, ...], document.get("checkpoint", []))
    check_entries(where, entries)
    return Lock(entries=ordered(entries, where))
