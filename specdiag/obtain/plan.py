"""Plan: which entries to fetch, train or evaluate."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from specdiag.lock.entry import Entry, Key, Lock
from specdiag.lock.recipe import load_recipe
from specdiag.obtain.state import USABLE, State, state

BUILT = ("train", "evaluate")


class Step(NamedTuple):
    """One entry of a plan."""

    entry: Entry
    action: str  # keep, fetch, train, evaluate, or follow: made again if its parent changes
    state: State


def plan(
    root: Path, lock: Lock, chosen: Iterable[Key], *, force: set[Key], prefer: str
) -> list[Step]:
    """Return the steps that make the chosen entries, parents first.

    A parent is added if a chosen entry is to be built from it. `root` is the folder of the lock;
    `force` and `prefer` are those of `specdiag.obtain.build.Settings`.
    """
    wanted = set(chosen)
    steps: list[Step] = []
    for entry in reversed(lock.entries):  # children before parents
        if entry.key not in wanted:
            continue
        now = state(root, lock, entry)
        is_kept = now.word in USABLE and entry.key not in force
        action = "keep" if is_kept else how_made(entry, prefer)
        if action in BUILT and entry.parent:
            wanted.add(parent_key(entry))
        steps.append(Step(entry, action, now))
    return _followed(reversed(steps))


def _followed(steps: Iterable[Step]) -> list[Step]:
    """Return the steps with `follow` in place of `keep` where the parent is to be made."""
    remade: set[Key] = set()
    result = []
    for step in steps:
        follows = step.action == "keep" and parent_key(step.entry) in remade
        if follows or step.action != "keep":
            remade.add(step.entry.key)
        result.append(step._replace(action="follow") if follows else step)
    return result


def parent_key(entry: Entry) -> Key:
    """Return the key of the parent; without a parent a key that no entry has."""
    return (entry.parent.name if entry.parent else "", entry.scale)


def how_made(entry: Entry, prefer: str) -> str:
    """Return how an entry is made: fetch, train or evaluate."""
    if entry.kind == "evaluation":
        return "evaluate"
    return "fetch" if entry.source and prefer == "fetch" else "train"


def without_build(path: Path, steps: Sequence[Step]) -> set[Key]:
    """Return the entries whose recipes, or those of their parents, have no function `build` yet.

    Entries of a recipe that cannot be imported are not among them: they fail with the reason.
    """
    left_out: set[Key] = set()
    for step in steps:
        if step.action in BUILT and (
            parent_key(step.entry) in left_out or not _has_build(path, step)
        ):
            left_out.add(step.entry.key)
    return left_out


def _has_build(path: Path, step: Step) -> bool:
    try:
        return hasattr(load_recipe(path.parent, step.entry.recipe), "build")
    except (OSError, RuntimeError):
        return True
