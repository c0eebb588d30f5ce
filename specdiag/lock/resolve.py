"""What recipes declare now -> the entries of the lock, and replicates of another seed."""

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
LOST = "; what was recorded of it is dropped"


def resolve(
    lock: Lock, declarations: Iterable[Entry], names: Iterable[str] = ()
) -> tuple[Lock, list[str]]:
    """Return the lock with what the recipes declare now, and a line for every entry that changed.

    What was recorded of an entry (file, metrics, environment) stays while its declaration has the same
    digest; of another one it says nothing.

    Parameters
    ----------
    names : iterable of str
        Only entries of these names are resolved; all by default.

    Raises
    ------
    ValueError
        When a name is neither declared nor in the lock.
    """
    old = {e.key: e for e in lock.entries}
    new = {e.key: e for e in declarations}
    chosen = set(names)
    if unknown := sorted(chosen - {name for name, _ in [*old, *new]}):
        raise ValueError(
            f"no recipe declares {', '.join(unknown)}; `specdiag list` shows all names"
        )
    result = dict(old)
    for key in old.keys() | new.keys():
        if chosen and key[0] not in chosen:
            continue
        if key not in new:
            del result[key]
        else:
            result[key] = _merged(new[key], old[key]) if key in old else new[key]
    entries = _without_orphaned_records(ordered(result.values()), old)
    keys = sorted(old.keys() | result.keys(), key=lambda key: (key[1], key[0]))
    latest = {e.key: e for e in entries}
    changes = [_change(key, old.get(key), latest.get(key)) for key in keys]
    return replace(lock, entries=entries), [change for change in changes if change]


def replicate(path: Path, scale: Scale, seed: int, *, write: bool) -> tuple[Path, Lock, list[str]]:
    """Return a lock of the same entries trained from another seed, its path, and what changed in it.

    It lies beside the lock, checkpoints.seed-43.lock for seed 43, with files under checkpoints/seed-43, and
    is written or renewed: what was recorded in it stays as with `resolve`. It has the entries of the scale,
    and of any that it had before. Nothing of a replicate can be fetched.
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
    """Return the name of the lock of which this one is the replicate, and its seed; None for another."""
    found = re.fullmatch(r"(.+)\.seed-(\d+)\.lock", path.name)
    return (f"{found[1]}.lock", found[2]) if found else None


def is_seeded(entry: Entry) -> bool:
    """Return whether a replicate of an entry differs from it: by `params.training.seed`."""
    training = entry.params.get("training")
    return isinstance(training, dict) and "seed" in training


def _reseeded(entry: Entry, seed: int) -> Entry:
    """Return the declaration with another `params.training.seed` where it has one."""
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
    """Return a declaration with what was recorded of it."""
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
    """Return a source or input with the recorded commit, hash and size where it declares none."""
    if new is None or old is None:
        return new
    names = [name for name in ("commit", "sha256", "size") if hasattr(new, name)]
    bare = dict.fromkeys(names)
    found = {n: getattr(old, n) if getattr(new, n) is None else getattr(new, n) for n in names}
    declares_another = any(getattr(new, n) not in (None, getattr(old, n)) for n in names)
    if replace(new, **bare) != replace(old, **bare) or declares_another:
        return new
    return replace(new, **found)


def _without_orphaned_records(
    entries: tuple[Entry, ...], old: Mapping[Key, Entry]
) -> tuple[Entry, ...]:
    """Return the entries, those without a record that descend from one whose record was dropped."""
    found: dict[Key, Entry] = {}
    dropped: set[Key] = set()
    for entry in entries:
        parent = entry.parent and (entry.parent.name, entry.scale)
        if parent in dropped and entry.parent:
            bare = FileRecord(path=entry.file.path)
            start = replace(entry.parent, sha256=None)
            entry = replace(entry, parent=start, file=bare, metrics={}, environment={})  # noqa: PLW2901
        if entry.key in old and old[entry.key].metrics and not entry.metrics:
            dropped.add(entry.key)
        found[entry.key] = entry
    return tuple(found.values())


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
    what = ", ".join(fields + params) or "its parent's declaration"
    return f"changed {label}: {what}" + LOST * (had_record and not new.metrics)


def _same(a: Any, b: Any) -> bool:
    """Return whether two plain values are written the same: 1, 1.0 and true are not."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
