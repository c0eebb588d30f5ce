"""Fetch or build the entries of a plan, each once, parents first.

The state of an entry is checked again under its file lock before it is made, and its file is
published whole. So several processes can share a lock, and a process that is killed loses only
time.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from specdiag.checkpoint.reader import tensor_digest
from specdiag.lock.entry import Entry, Key, Source
from specdiag.lock.lockfile import amend, declaration_digest, find, load, source_digest
from specdiag.lock.place import check_local, file_lock, inside
from specdiag.obtain.beside import arriving_path
from specdiag.obtain.fetch import fetch_hub, fetch_url
from specdiag.obtain.job import build
from specdiag.obtain.plan import Step, how_made, parent_key
from specdiag.obtain.publish import complete, is_complete, keep_tables, publish
from specdiag.obtain.state import USABLE, Receipt, recorded, state
from specdiag.wording import one_line

_log = logging.getLogger(__name__)

_POLL = 1.0  # seconds between looks at entries that other processes make

Progress = Callable[[str], Callable[[int, int | None], object]]


class Outcome(NamedTuple):
    """Outcome of a run for one entry."""

    entry: Entry
    word: str  # kept, fetched, trained, evaluated, failed or skipped
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a run.

    Attributes
    ----------
    force : set of Key
        Entries that are made again although they are ok.
    prefer : {'fetch', 'train'}
        How an entry with a source is made.
    options : mapping
        Fields of `Job` that are not part of the declaration, such as devices.
    progress : callable, optional
        Called with the name of an entry that is fetched; returns a function that is called with
        the number of bytes done and of all bytes.
    debug : bool
        Raise the error of an entry that fails.
    allow_local : bool
        Whether file URLs may name files outside of the lock's folder.
    """

    force: set[Key] = field(default_factory=set)
    prefer: str = "fetch"
    options: Mapping[str, Any] = field(default_factory=dict)
    progress: Progress | None = None
    debug: bool = False
    allow_local: bool = False


def run(path: Path, steps: Sequence[Step], settings: Settings) -> Iterator[Outcome]:
    """Do the steps of a plan; yield the outcome of each as soon as it is done.

    `path` is the lock. A failure stops only the children of its entry. An entry that another
    process makes is left for later, and is kept when that process has made it. The children of a
    new file are made anew, unless the file has the same bytes as before.
    """
    done: dict[Key, Outcome] = {}
    pending, busy = list(steps), set[Key]()
    while pending:
        before = len(pending)
        for step in [s for s in pending if not waits_for_parent(s.entry, pending)]:
            key = step.entry.key
            outcome = skipped_for_parent(step.entry, done) or make(
                path, step.entry, settings, forced=key in settings.force - busy
            )
            if outcome:
                done[key] = outcome
                pending.remove(step)
                yield outcome
            elif key not in busy:
                busy.add(key)
                _log.info("another process works on %s: waiting for it", step.entry.name)
        if len(pending) == before:
            time.sleep(_POLL)


def waits_for_parent(entry: Entry, pending: Iterable[Step]) -> bool:
    """Return whether the parent of an entry is among the steps that are not done yet."""
    return any(step.entry.key == parent_key(entry) for step in pending)


def skipped_for_parent(entry: Entry, done: Mapping[Key, Outcome]) -> Outcome | None:
    """Return the outcome `skipped` if the parent of an entry could not be made, else None."""
    parent = done.get(parent_key(entry))
    if parent is None or parent.word not in _PAST:
        return None
    return Outcome(entry, "skipped", f"its parent {parent.entry.name} {_PAST[parent.word]}")


_PAST = {"failed": "failed", "skipped": "was skipped"}
_DOING = {"fetch": "fetching", "train": "training", "evaluate": "evaluating"}


def make(path: Path, entry: Entry, settings: Settings, *, forced: bool) -> Outcome | None:
    """Make an entry unless it is up to date; return None if another process makes it now."""
    from filelock import Timeout

    try:
        target = inside(path.parent, entry.path)
        # Before the file lock, which cannot be created in a folder that is read-only.
        if not forced and is_complete(target) and (kept := _kept(path, entry.key)):
            return kept
        target.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(target, blocking=False):
            return _made(path, entry.key, settings, forced)
    except Timeout:
        return None
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        if settings.debug:
            raise
        return Outcome(entry, "failed", one_line(error))


def _kept(path: Path, key: Key) -> Outcome | None:
    """Return the outcome `kept` if an entry is up to date, after recording its missing results."""
    lock = load(path)
    entry = find(lock, *key)
    word, _, receipt = state(path.parent, lock, entry)
    if word not in USABLE:
        return None
    if receipt and recorded(entry, receipt, forced=False) != entry:
        amend(path, key, lambda e: recorded(e, receipt, forced=False))
    return Outcome(entry, "kept", "" if word == "ok" else word)


def _made(path: Path, key: Key, settings: Settings, forced: bool) -> Outcome:
    """Make an entry unless it is up to date by now; the caller holds its file lock."""
    entry = find(load(path), *key)
    target = inside(path.parent, entry.path)
    keep_tables(target)  # of a build that was killed after it had published
    if not forced and (kept := _kept(path, key)):
        complete(target)
        return kept
    if target.is_dir():
        raise ValueError(f"{entry.path} is a folder; move it away: the checkpoint is written there")
    action = how_made(entry, settings.prefer)
    _log.info("%s %s", _DOING[action], entry.name)
    if action == "fetch" and entry.source:
        if entry.source.url:
            check_local(path.parent, entry.source.url, allow_local=settings.allow_local)
        receipt, file = _fetched(target, entry, entry.source, settings.progress)
        text = f"{receipt.size / 1e6:.1f} MB"
        text += f", commit {receipt.commit[:12]}" if receipt.commit else ""
    else:
        receipt, file = build(path, entry, settings.options, allow_local=settings.allow_local)
        text = ", ".join(f"{name} {m.value:.4f}" for name, m in receipt.metrics.items())
    publish(path.parent, entry, None if action == "evaluate" else file, receipt)
    amend(path, key, lambda e: recorded(e, receipt, forced=forced))
    complete(target)
    return Outcome(entry, receipt.how, text)


def _fetched(
    target: Path, entry: Entry, source: Source, progress: Progress | None
) -> tuple[Receipt, Path]:
    """Fetch the weights of an entry; return their receipt, and the path of the verified file."""
    arriving = arriving_path(target)
    show = progress(entry.name) if progress else None
    options: dict[str, Any] = {"sha256": source.sha256, "size": source.size, "progress": show}
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
    try:
        tensors = tensor_digest(arriving)
    except ValueError as error:
        arriving.unlink()
        raise ValueError(f"the fetched file is not a checkpoint: {error}") from None
    receipt = Receipt(
        how="fetched",
        sha256=got.sha256,
        size=got.size,
        tensors=tensors,
        declaration=declaration_digest(entry),
        source=source_digest(source),
        commit=got.commit,
    )
    return receipt, arriving
