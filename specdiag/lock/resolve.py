"""Declarations of the recipes -> entries of the lock, and replicates of another seed."""

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from specdiag.lock.entry import Entry, FileRecord, Key, Lock, Scale
from specdiag.lock.fields import plain
from specdiag.lock.lockfile import declaration_digest, exclusive, load, save
from specdiag.lock.relations import ordered

_RECORDED = {"params", "file", "metrics", "environment"}
LOST = "; its record is dropped"


def resolve(
    lock: Lock, declarations: Iterable[Entry], names: Iterable[str] = ()
) -> tuple[Lock, list[str]]:
    """Return the lock with the current declarations, and a line for every entry that changed.

    The record of an entry (file, metrics, environment) is kept if its declaration has the same
    digest as before, and dropped otherwise. With `names` only entries of these names change; a
    name that is neither declared nor in the lock raises ValueError.
    """
    old = {e.key: e for e in lock.entries}
    new = {e.key: e for e in declarations}
    chosen = set(names)
    if unknown := sorted(chosen - {name for name, _ in [*old, *new]}):
        text = f"no recipe declares {', '.join(unknown)}"
        raise ValueError(f"{text}; `specdiag list` shows all names")
    result = {key: entry for key, entry in old.items() if chosen and key[0] not in chosen}
    for key, entry in new.items():
        if not chosen or key[0] in chosen:
            result[key] = _merged(entry, old[key]) if key in old else entry
    entries = _without_orphaned_records(ordered(result.values()), old)
    keys = sorted(old.keys() | result.keys(), key=lambda key: (key[1], key[0]))
    latest = {e.key: e for e in entries}
    changes = [_change(key, old.get(key), latest.get(key)) for key in keys]
    return replace(lock, entries=entries), [change for change in changes if change]


def replicate(path: Path, scale: Scale, seed: int, *, write: bool) -> tuple[Path, Lock, list[str]]:
    """Return the path of the lock of another seed, that lock, and a line for every change of it.

    For seed 43 it is checkpoints.seed-43.lock, beside the lock, with files under
    checkpoints/seed-43. It has replicates of all entries of this scale, and of the other scales
    that it had before; `resolve` keeps or drops their records. Replicates have no source. Without
    `write` no file changes.
    """
    target = path.with_name(f"{path.stem}.seed-{seed}.lock")
    with exclusive(target) if write else nullcontext():
        old = load(target) if target.exists() else Lock()
        scales = {scale, *(e.scale for e in old.entries)}
        same = [_reseeded(e, seed) for e in load(path).entries if e.scale in scales]
        new, changes = resolve(old, same)
        if write and (changes or not target.exists()):
            save(new, target)
    return target, new, changes


def origin(path: Path) -> tuple[str, str] | None:
    """Return the name of the lock whose replicates a lock holds, and their seed; else None."""
    match = re.fullmatch(r"(.+)\.seed-(\d+)\.lock", path.name)
    return (f"{match[1]}.lock", match[2]) if match else None


def is_seeded(entry: Entry) -> bool:
    """Return whether an entry has `params.training.seed`, which differs in its replicates."""
    training = entry.params.get("training")
    return isinstance(training, dict) and "seed" in training


def _reseeded(entry: Entry, seed: int) -> Entry:
    """Return the declaration with another `params.training.seed` if it has one."""
    params = entry.params
    if is_seeded(entry):
        params = {**params, "training": {**params["training"], "seed": seed}}
    return replace(
        entry,
        params=params,
        parent=entry.parent and replace(entry.parent, sha256=None),
        source=None,
        file=FileRecord(path=f"checkpoints/seed-{seed}/{entry.scale}/{entry.name}.ckpt"),
        metrics={},
        environment={},
    )


def _merged(new: Entry, old: Entry) -> Entry:
    """Return a declaration, with the old record if the declaration is the same as before."""
    recorded = {i.id: i for i in old.inputs}
    inputs = tuple(_or_recorded(i, recorded.get(i.id)) for i in new.inputs)
    merged = replace(new, inputs=inputs, source=_or_recorded(new.source, old.source))
    if declaration_digest(merged) != declaration_digest(old) or new.path != old.path:
        return merged
    parent = old.parent if new.parent else None
    return replace(
        merged, parent=parent, file=old.file, metrics=old.metrics, environment=old.environment
    )


def _or_recorded(new: Any, old: Any) -> Any:
    """Return a source or input with the recorded commit, hash and size that it does not declare."""
    if new is None or old is None:
        return new
    undeclared = [n for n in ("commit", "sha256", "size") if getattr(new, n, "") is None]
    merged = replace(new, **{n: getattr(old, n) for n in undeclared})
    return merged if merged == old else new


def _without_orphaned_records(
    entries: tuple[Entry, ...], old: Mapping[Key, Entry]
) -> tuple[Entry, ...]:
    """Return the entries without the records of descendants of one whose record was dropped."""
    result: list[Entry] = []
    dropped: set[Key] = set()
    for entry in entries:
        if entry.parent and (entry.parent.name, entry.scale) in dropped:
            bare = FileRecord(path=entry.file.path)
            start = replace(entry.parent, sha256=None)
            entry = replace(entry, parent=start, file=bare, metrics={}, environment={})  # noqa: PLW2901
        if entry.key in old and old[entry.key].metrics and not entry.metrics:
            dropped.add(entry.key)
        result.append(entry)
    return tuple(result)


def _change(key: Key, old: Entry | None, new: Entry | None) -> str:
    label = f"{key[0]} ({key[1]})"
    if old is None:
        return f"added {label}"
    had_record = bool(old.metrics or old.file.sha256)
    if new is None:
        return f"removed {label}: no recipe declares it" + LOST * had_record
    before, after = plain(old), plain(new)
    if _same(before, after):
        return ""
    fields = [n for n in vars(new) if n not in _RECORDED and not _same(before.get(n), after.get(n))]
    params = [
        f"params.{k}"
        for k in sorted(old.params.keys() | new.params.keys())
        if not _same(old.params.get(k), new.params.get(k))
    ]
    changes = ", ".join(fields + params) or "its parent's declaration"
    return f"changed {label}: {changes}" + LOST * (had_record and not new.metrics)


def _same(a: Any, b: Any) -> bool:
    """Return whether two plain values are written in the same way; 1, 1.0 and true are not."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
