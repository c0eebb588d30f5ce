"""What is to be done so that entries of a lock are there."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from specdiag.lock.entry import Entry, Key, Lock
from specdiag.lock.recipe import load_recipe
from specdiag.obtain.state import USABLE, State, state

BUILT = ("train", "evaluate")


class Step(NamedTuple):
    """What is to be done with an entry."""

    entry: Entry
    action: str  # keep, fetch, train, evaluate; follow: made again if its parent gets other bytes
    state: State


def plan(
    root: Path, lock: Lock, chosen: Iterable[Key], *, force: set[Key], prefer: str
) -> list[Step]:
    """Return what is to be done so that the chosen entries are there, parents first.

    Parameters
    ----------
    root : Path
        The folder of the lock.
    chosen : iterable of Key
        A parent is added where one of these is to be built from it.
    force : set of Key
        Entries that are made again although they are ok.
    prefer : {'fetch', 'train'}
        What is done with an entry that has a source.
    """
    wanted = set(chosen)
    steps: list[Step] = []
    for entry in reversed(lock.entries):  # children before parents
        if entry.key not in wanted:
            continue
        found = state(root, lock, entry)
        is_kept = found.word in USABLE and entry.key not in force
        action = "keep" if is_kept else how_made(entry, prefer)
        if action in BUILT and entry.parent:
            wanted.add(parent_key(entry))
        steps.append(Step(entry, action, found))
    return _followed(reversed(steps))


def _followed(steps: Iterable[Step]) -> list[Step]:
    """Return the steps; what is kept unless its parent changes, when that is to be made, follows it."""
    moving: set[Key] = set()
    result = []
    for step in steps:
        follows = step.action == "keep" and parent_key(step.entry) in moving
        if follows or step.action != "keep":
            moving.add(step.entry.key)
        result.append(step._replace(action="follow") if follows else step)
    return result


def parent_key(entry: Entry) -> Key:
    """Return the key of the parent; one that no entry has for an entry without."""
    return (entry.parent.name if entry.parent else "", entry.scale)


def how_made(entry: Entry, prefer: str) -> str:
    """Return what makes an entry: fetch, train or evaluate."""
    if entry.kind == "evaluation":
        return "evaluate"
    return "fetch" if entry.source and prefer == "fetch" else "train"


def without_build(path: Path, steps: Sequence[Step]) -> set[Key]:
    """Return the entries that no recipe can build yet, or whose parents none can.

    A recipe that cannot be imported is not among them: its entries fail, each with the reason.
    """
    found: set[Key] = set()
    for step in steps:
        if step.action in BUILT and (parent_key(step.entry) in found or not _has_build(path, step)):
            found.add(step.entry.key)
    return found


def _has_build(path: Path, step: Step) -> bool:
    try:
        return hasattr(load_recipe(path.parent, step.entry.recipe), "build")
    except (OSError, RuntimeError):
        return True
