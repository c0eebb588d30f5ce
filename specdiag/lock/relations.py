"""Entries of a lock -> checked against each other, parents before children."""

import heapq
import re
import unicodedata
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

from specdiag.lock.entry import LOCK_NAME, Entry, Scale
from specdiag.lock.fields import refuse
from specdiag.wording import shown

_PUBLISHABLE = re.compile(r"([^./][^/]*/)*[^./][^/]*\.(ckpt|pt|pth|bin|safetensors)")


def ordered(entries: Iterable[Entry], where: str = LOCK_NAME) -> tuple[Entry, ...]:
    """Return entries of distinct keys, parents before children, otherwise by scale and name.

    Raises
    ------
    LockfileError
        If a parent is missing or is an evaluation, or if an entry descends from itself.
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
        problem = f"a cycle, parent -> child: {cycle}"
        refuse(paths[error.args[1][0]], problem, "parents that end at an entry without one")
    heap, result = sorted(sorter.get_ready()), []
    while heap:
        key = heapq.heappop(heap)
        result.append(by_key[key])
        sorter.done(key)
        for ready in sorter.get_ready():
            heapq.heappush(heap, ready)
    return tuple(result)


def check_entries(where: str, entries: Iterable[Entry]) -> None:
    """Raise LockfileError if an entry contradicts itself, or has the name or file of another.

    Two names are the same also if only case or the encoding of accents differs: some file systems
    do not distinguish them.
    """
    seen: dict[tuple[str, ...], tuple[int, str]] = {}
    for i, entry in enumerate(entries):
        _check_entry(f"{where}: checkpoint[{i}]", entry)
        for key, scale, text in (("name", entry.scale, entry.name), ("file.path", "", entry.path)):
            folded = unicodedata.normalize("NFD", text).casefold()
            first, other = seen.setdefault((key, scale, folded), (i, text))
            if first != i:
                twin = "also that" if other == text else f"on some file systems {shown(other)}"
                problem = f"{shown(text)} is {twin} of checkpoint[{first}]"
                refuse(f"{where}: checkpoint[{i}].{key}", problem, "a different one for each entry")


def _check_entry(where: str, entry: Entry) -> None:
    if entry.kind == "evaluation":
        if not entry.parent:
            refuse(f"{where}.parent", "missing", "the checkpoint that is evaluated")
        for key, value in (("source", entry.source), ("file.sha256", entry.file.sha256)):
            if value:
                refuse(f"{where}.{key}", "given", "no value: an evaluation has no weights")
    if entry.file.path and not _PUBLISHABLE.fullmatch(entry.file.path):
        expected = "a path that ends in .ckpt, .pt, .pth, .bin or .safetensors, in no hidden folder"
        refuse(f"{where}.file.path", shown(entry.file.path), expected)
    if entry.source and entry.source.commit and not entry.source.repo:
        refuse(f"{where}.source.commit", "a commit beside url", "a commit beside repo only")
    ids = [item.id for item in entry.inputs]
    for i, name in enumerate(ids):
        if name in ids[:i]:
            refuse(f"{where}.inputs[{i}].id", f"{shown(name)} again", "a different id per input")


def _check_parent(where: str, key: tuple[Scale, str], parent: Entry | None) -> None:
    if parent is None:
        refuse(where, f"no entry {shown(key[1])} at {key[0]} scale", "an entry of the same scale")
    if parent.kind == "evaluation":
        expected = "a checkpoint: an evaluation has no weights"
        refuse(where, f"{shown(key[1])} is an evaluation", expected)
