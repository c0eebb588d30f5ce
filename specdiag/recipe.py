"""Recipes: modules in recipes/ beside a lock that declare its entries, and build them.

A recipe is a module with two functions: `entries()` returns what it declares, and `build(job)` makes one of
them and returns its metrics. A module without `build` declares what nobody can make here yet. Recipes are
programs of whoever wrote the lock: they are run by `specdiag train` and `specdiag lock`, and by nothing else.
"""

import importlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from specdiag.lockfile import (
    Entry,
    FileRecord,
    Input,
    Key,
    Lock,
    Scale,
    declaration_digest,
    ordered,
)

FOLDER = "recipes"
_RECORDED = {"params", "file", "metrics", "environment"}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a recipe gets to build one entry.

    Attributes
    ----------
    name, scale : str
    params : mapping
        As in the lock.
    parent : Path or None
        The parent's weights.
    inputs : mapping of str to Path
        Verified files, by the `id` of the input; those that are brainsets are the recipe's to find.
    folder : Path
        A folder of the entry's own, which outlives an interrupted build: save what resumes there.
    output : Path
        Where to leave the checkpoint, in that folder. An evaluation leaves nothing.
    """

    name: str
    scale: Scale
    params: Mapping[str, Any]
    parent: Path | None
    inputs: Mapping[str, Path]
    folder: Path
    output: Path


def load_recipe(root: Path, name: str) -> ModuleType:
    """Return the module of a recipe.

    Parameters
    ----------
    root : Path
        The folder of the lock.

    Raises
    ------
    FileNotFoundError
        When there is no such recipe.
    RuntimeError
        When importing it fails.
    """
    path = root / FOLDER / f"{name}.py"
    if not path.is_file():
        raise FileNotFoundError(f"no recipe {FOLDER}/{name}.py beside the lock; write it, or fetch")
    if sys.path[0] != str(root):
        sys.path.insert(0, str(root))
    try:
        return importlib.import_module(f"{FOLDER}.{name}")
    except Exception as error:  # somebody's program: anything may happen
        raise RuntimeError(explained(error, root)) from error


def explained(error: Exception, root: Path) -> str:
    """Return where in the recipes an error was raised, and its text, in one line."""
    place, trace = "", error.__traceback__
    while trace:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_relative_to(root / FOLDER):
            place = f"{file.relative_to(root)}:{trace.tb_lineno}: "
        trace = trace.tb_next
    text = " ".join(str(error).split())
    named = isinstance(error, ValueError | OSError | RuntimeError) and text
    return place + (text if named else f"{type(error).__name__}: {text}".rstrip(": "))


def declared(root: Path) -> tuple[Entry, ...]:
    """Return what all recipes declare, parents first.

    Raises
    ------
    RuntimeError
        When a recipe cannot be imported or `entries()` fails.
    LockfileError
        When what they declare is no lock.
    """
    found: list[Entry] = []
    for path in sorted((root / FOLDER).glob("*.py")):
        if path.stem.startswith("_"):
            continue
        module = load_recipe(root, path.stem)
        if not hasattr(module, "entries"):
            raise RuntimeError(
                f"{FOLDER}/{path.name}: no function entries(); declare what it builds, or begin its "
                "name with an underscore"
            )
        try:
            found += module.entries()
        except Exception as error:  # somebody's program
            raise RuntimeError(explained(error, root)) from error
    return tuple(found)


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
    result, changes = dict(old), []
    for key in sorted(old.keys() | new.keys(), key=lambda key: (key[1], key[0])):
        if chosen and key[0] not in chosen:
            continue
        if key not in new:
            del result[key]
        else:
            result[key] = _merged(new[key], old[key]) if key in old else new[key]
        if what := _change(key, old.get(key), result.get(key)):
            changes.append(what)
    return replace(lock, entries=ordered(result.values())), changes


def _merged(new: Entry, old: Entry) -> Entry:
    """Return a declaration with what was recorded of it."""
    recorded = {i.id: i for i in old.inputs}
    inputs = tuple(_kept(i, recorded.get(i.id)) for i in new.inputs)
    source = new.source
    if source and old.source:
        bare = replace(old.source, commit=source.commit, sha256=source.sha256, size=source.size)
        source = old.source if bare == source else source
    merged = replace(new, inputs=inputs, source=source)
    if declaration_digest(merged) != declaration_digest(old):
        return merged
    file = replace(old.file, path=new.file.path) if new.path == old.path else FileRecord()
    parent = old.parent if new.parent else None
    return replace(
        merged, parent=parent, file=file, metrics=old.metrics, environment=old.environment
    )


def _kept(new: Input, old: Input | None) -> Input:
    """Return an input with its recorded hash, when it is the same and declares none."""
    same = old and replace(old, sha256=new.sha256, size=new.size) == new
    return old if old and same and new.sha256 is None else new


def _change(key: Key, old: Entry | None, new: Entry | None) -> str:
    label = f"{key[0]} ({key[1]})"
    if old is None:
        return f"added {label}"
    if new is None:
        return f"removed {label}: no recipe declares it"
    if old == new:
        return ""
    fields = [n for n in vars(new) if n not in _RECORDED and getattr(old, n) != getattr(new, n)]
    params = [f"params.{k}" for k in old.params.keys() | new.params.keys() if _differs(old, new, k)]
    what = ", ".join(fields + sorted(params)) or "its record"
    lost = "; what was recorded of it is dropped" if old.metrics and not new.metrics else ""
    return f"changed {label}: {what}{lost}"


def _differs(old: Entry, new: Entry, param: str) -> bool:
    missing = object()
    return bool(old.params.get(param, missing) != new.params.get(param, missing))
