"""Makes the missing appear: fetches or builds the entries of a lock, parents first, each one once.

An entry is worked on under a file lock of its own, checked again inside it, and published whole; so several
processes can share a lock file, and one that is killed loses nothing but time.
"""

import glob
import hashlib
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from specdiag.checkpoint import tensor_digest
from specdiag.fetch import ChecksumError, Fetched, fetch_hub, fetch_url
from specdiag.lockfile import Entry, Input, Key, Metric, amend, declaration_digest, find, load
from specdiag.recipe import Job, explained, load_recipe
from specdiag.store import (
    USABLE,
    Receipt,
    State,
    environment,
    parent_sha256,
    publish,
    read_receipt,
    recorded,
    sha256_of,
    state,
)

_log = logging.getLogger(__name__)

_POLL = 1.0  # seconds between looks at entries that other processes work on

Progress = Callable[[str], Callable[[int, int | None], object]]


class Outcome(NamedTuple):
    """What became of an entry."""

    entry: Entry
    word: str  # kept, fetched, trained, evaluated, failed or skipped
    text: str = ""


class Step(NamedTuple):
    """What is to be done with an entry."""

    entry: Entry
    action: str  # keep, fetch, train or evaluate
    state: State


def plan(path: Path, entries: Sequence[Entry], *, force: set[Key], prefer: str) -> list[Step]:
    """Return what is to be done with each of the entries, which come parents first.

    Parameters
    ----------
    path : Path
        Of the lock.
    force : set of Key
        Entries that are made again although they are ok.
    prefer : {'fetch', 'train'}
        What is done with an entry that has a source.
    """
    lock, root = load(path), path.parent
    steps: list[Step] = []
    for entry in entries:
        found = state(root, lock, entry)
        is_kept = found.word in USABLE and entry.key not in force
        steps.append(Step(entry, "keep" if is_kept else _action(entry, prefer), found))
    return steps


def _action(entry: Entry, prefer: str) -> str:
    if entry.kind == "evaluation":
        return "evaluate"
    return "fetch" if entry.source and prefer == "fetch" else "train"


def without_build(path: Path, steps: Sequence[Step]) -> set[Key]:
    """Return the entries that no recipe can build yet, or whose parents none can."""
    found: set[Key] = set()
    for step in steps:
        entry = step.entry
        parent = entry.parent and (entry.parent.name, entry.scale)
        is_built = step.action in ("train", "evaluate")
        if is_built and (
            parent in found or not hasattr(load_recipe(path.parent, entry.recipe), "build")
        ):
            found.add(entry.key)
    return found


def work(
    path: Path,
    steps: Sequence[Step],
    *,
    force: set[Key],
    prefer: str,
    progress: Progress | None = None,
    debug: bool = False,
) -> list[Outcome]:
    """Do the steps of a plan and return what became of each, in their order.

    A failure stops the children of its entry and nothing else. Entries that another process works on are
    left for later, and kept when that process has made them. Children of what was made anew are made
    anew, unless the file has the same bytes.

    Parameters
    ----------
    force, prefer
        As in `plan`.
    progress : callable, optional
        Given the name of an entry that is fetched, returns what is called with the bytes done and all.
    debug : bool
        Raise the error of an entry that fails.
    """
    outcomes: dict[Key, Outcome] = {}
    pending, busy = list(steps), set[Key]()
    while pending:
        before = len(pending)
        for step in [s for s in pending if not _waits(s.entry, pending)]:
            key = step.entry.key
            parent = step.entry.parent and outcomes.get((step.entry.parent.name, step.entry.scale))
            if parent and parent.word in _PAST:
                text = f"its parent {parent.entry.name} {_PAST[parent.word]}"
                found: Outcome | None = Outcome(step.entry, "skipped", text)
            else:
                found = _attempt(path, key, key in force - busy, prefer, progress, debug)
            if found:
                outcomes[key] = found
                pending.remove(step)
            elif key not in busy:
                busy.add(key)
                _log.info("another process works on %s: waiting for it", step.entry.name)
        if len(pending) == before:
            time.sleep(_POLL)
    return [outcomes[step.entry.key] for step in steps]


def _waits(entry: Entry, pending: Sequence[Step]) -> bool:
    parent = entry.parent and (entry.parent.name, entry.scale)
    return any(step.entry.key == parent for step in pending)


_PAST = {"failed": "failed", "skipped": "was skipped"}
_DOING = {"fetch": "fetching", "train": "training", "evaluate": "evaluating"}


def _attempt(
    path: Path, key: Key, forced: bool, prefer: str, progress: Progress | None, debug: bool
) -> Outcome | None:
    """Return what became of an entry; None while another process works on it."""
    from filelock import FileLock, Timeout

    entry = find(load(path), *key)
    target = path.parent / entry.path
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(target.with_name(f".{target.name}.lock"), blocking=False):
            return _make(path, key, forced, prefer, progress)
    except Timeout:
        return None
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        if debug:
            raise
        return Outcome(entry, "failed", str(error) or "not enough memory")


def _make(path: Path, key: Key, forced: bool, prefer: str, progress: Progress | None) -> Outcome:
    """Make an entry unless it is there; whoever calls holds its file lock."""
    root, lock = path.parent, load(path)
    entry = find(lock, *key)
    found = state(root, lock, entry)
    if found.word in USABLE and not forced:
        receipt = read_receipt(root, lock, entry)
        if isinstance(receipt, Receipt):
            _record(path, entry, receipt, forced=False)
        _sweep(root / entry.path)
        return Outcome(entry, "kept", "" if found.word == "ok" else found.word)
    action = _action(entry, prefer)
    _log.info("%s %s", _DOING[action], entry.name)
    if action == "fetch":
        return Outcome(entry, "fetched", _fetch(path, entry, forced, progress))
    return Outcome(
        entry, "evaluated" if action == "evaluate" else "trained", _build(path, entry, forced)
    )


def _fetch(path: Path, entry: Entry, forced: bool, progress: Progress | None) -> str:
    """Fetch the weights of an entry, publish and record them, and return what came."""
    root, source = path.parent, entry.source
    if source is None:
        raise ValueError(f"{entry.name} has no source to fetch; train it")
    target = root / entry.path
    arriving = target.with_name(f".{target.name}.fetched")
    options: dict[str, Any] = {"sha256": source.sha256, "size": source.size}
    options["progress"] = progress(entry.name) if progress else None
    if source.url:
        got = fetch_url(arriving, url=source.url, **options)
    else:
        got = fetch_hub(
            arriving,
            repo=str(source.repo),
            revision=str(source.revision),
            file=str(source.file),
            commit=source.commit,
            **options,
        )
    receipt = Receipt(
        how="fetched",
        sha256=got.sha256,
        size=got.size,
        tensors=tensor_digest(arriving),
        declaration=declaration_digest(entry),
        parent=None,
        metrics={},
        environment={},
    )
    publish(root, entry, arriving, receipt)
    amend(path, entry.key, lambda e: _with_source(e, got))
    _record(path, entry, receipt, forced=forced)
    return f"{got.size / 1e6:.1f} MB" + (f", commit {got.commit[:12]}" if got.commit else "")


def _with_source(entry: Entry, got: Fetched) -> Entry:
    if entry.source is None:
        return entry
    source = replace(entry.source, commit=got.commit, sha256=got.sha256, size=got.size)
    return replace(entry, source=source)


def _build(path: Path, entry: Entry, forced: bool) -> str:
    """Run the recipe of an entry, publish and record what it made, and return its metrics."""
    root = path.parent
    recipe = load_recipe(root, entry.recipe)
    if not hasattr(recipe, "build"):
        raise RuntimeError(
            f"recipes/{entry.recipe}.py declares it and has no function build() yet"
            + ("; --prefer fetch gets the published weights" if entry.source else "")
        )
    inputs, entry = _inputs(path, entry)
    lock = load(path)
    parent = parent_sha256(root, lock, entry)
    target = root / entry.path
    digest = declaration_digest(entry)
    folder = target.with_name(f"{target.name}.{digest[:16]}.run")
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(
        name=entry.name,
        scale=entry.scale,
        params=entry.params,
        parent=root / find(lock, entry.parent.name, entry.scale).path if entry.parent else None,
        inputs=inputs,
        folder=folder,
        output=folder / target.name,
    )
    start = time.perf_counter()
    try:
        metrics = _metrics(entry, recipe.build(job))
    except Exception as error:  # somebody's program: anything may happen
        raise RuntimeError(explained(error, root)) from error
    receipt = Receipt(
        how="evaluated" if entry.kind == "evaluation" else "trained",
        declaration=digest,
        parent=parent,
        metrics=metrics,
        environment=environment(time.perf_counter() - start),
        **_made(entry, job.output, str(parent)),
    )
    publish(root, entry, None if entry.kind == "evaluation" else job.output, receipt)
    _record(path, entry, receipt, forced=forced)
    _sweep(target)
    return ", ".join(f"{name} {metric.value:.4f}" for name, metric in metrics.items())


def _sweep(target: Path) -> None:
    """Remove the folders of builds that are finished."""
    for folder in target.parent.glob(f"{glob.escape(target.name)}.*.run"):
        shutil.rmtree(folder)


def _metrics(entry: Entry, found: Any) -> dict[str, Metric]:
    """Return what `build` returned, a mapping of names to (value, tolerance), as Metrics."""
    try:
        metrics = {str(k): Metric(value=float(v), atol=float(a)) for k, (v, a) in found.items()}
    except (AttributeError, TypeError, ValueError):
        metrics = {}
    if not metrics or not all(math.isfinite(m.value) and m.atol >= 0 for m in metrics.values()):
        raise RuntimeError(
            f"build() of recipes/{entry.recipe}.py returned {found!r}; expected finite metrics with their "
            "tolerances, such as {'r2': (0.85, 0.01)}"
        )
    return metrics


def _made(entry: Entry, output: Path, parent: str) -> dict[str, Any]:
    """Return sha256, size and tensor digest of what a recipe left, synced to the disk."""
    if entry.kind == "evaluation":
        return {"sha256": parent, "size": 0, "tensors": ""}
    if not output.is_file():
        raise RuntimeError(f"build() of recipes/{entry.recipe}.py left no checkpoint at job.output")
    with output.open("rb+") as file:
        os.fsync(file.fileno())
    return {
        "sha256": sha256_of(output),
        "size": output.stat().st_size,
        "tensors": tensor_digest(output),
    }


def _inputs(path: Path, entry: Entry) -> tuple[dict[str, Path], Entry]:
    """Return the verified inputs of an entry, and the entry with their hashes recorded."""
    root = path.parent
    files: dict[str, Path] = {}
    known = []
    for item in entry.inputs:
        if item.url:
            name = f"{hashlib.sha256(item.url.encode()).hexdigest()[:12]}-{item.url.rpartition('/')[2]}"
            files[item.id] = root / "inputs" / name
            got = fetch_url(files[item.id], url=item.url, sha256=item.sha256, size=item.size)
            known.append(replace(item, sha256=got.sha256, size=got.size))
        elif item.path:
            files[item.id] = root / item.path
            known.append(_verified(files[item.id], item))
        else:
            known.append(item)  # a brainset: the recipe finds it
    if tuple(known) != entry.inputs:
        entry = amend(path, entry.key, lambda e: replace(e, inputs=tuple(known)))
    return files, entry


def _verified(path: Path, item: Input) -> Input:
    if not path.is_file():
        raise FileNotFoundError(f"input {item.id}: no file {item.path} beside the lock")
    sha256, size = sha256_of(path), path.stat().st_size
    if item.sha256 not in (None, sha256):
        raise ChecksumError(
            f"input {item.id}: sha256 of {item.path} is {sha256}, recorded is {item.sha256}; restore the "
            "file, or declare the new one"
        )
    return replace(item, sha256=sha256, size=size)


def _record(path: Path, entry: Entry, receipt: Receipt, *, forced: bool) -> None:
    """Record a result in the lock where none is recorded yet, or where it was asked for."""
    is_new = not entry.metrics if receipt.how == "evaluated" else entry.file.sha256 is None
    if forced or is_new:
        amend(path, entry.key, lambda e: recorded(e, receipt))
