"""Makes the missing appear: fetches or builds the entries of a plan, parents first, each one once.

An entry is worked on under a file lock of its own, checked again inside it, and published whole; so several
processes can share a lock file, and one that is killed loses nothing but time.
"""

import contextlib
import copy
import glob
import hashlib
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

from specdiag.checkpoint.reader import tensor_digest
from specdiag.files import write_whole
from specdiag.lock.entry import Entry, Input, Key, Metric
from specdiag.lock.lockfile import amend, declaration_digest, find, load, source_digest
from specdiag.lock.recipe import FOLDER, Job, explained, load_recipe
from specdiag.obtain.beside import attach_spectra, receipts, sha256_of, spectra_path
from specdiag.obtain.fetch import ChecksumError, fetch_hub, fetch_url
from specdiag.obtain.plan import Step, how_made, parent_key
from specdiag.obtain.state import (
    USABLE,
    Receipt,
    as_bytes,
    environment,
    parent_sha256,
    publish,
    recorded,
    state,
)
from specdiag.wording import one_line

_log = logging.getLogger(__name__)

TERMINATED = 143  # exit status of a build that saved and stopped at SIGTERM: 128 + 15

_MADE = "receipt"  # in the folder of a build that is finished: of what it is about to publish
_POLL = 1.0  # seconds between looks at entries that other processes work on

Progress = Callable[[str], Callable[[int, int | None], object]]


class Outcome(NamedTuple):
    """What became of an entry."""

    entry: Entry
    word: str  # kept, fetched, trained, evaluated, failed or skipped
    text: str = ""


def work(
    path: Path,
    steps: Sequence[Step],
    *,
    force: set[Key],
    prefer: str,
    options: Mapping[str, Any] = MappingProxyType({}),
    progress: Progress | None = None,
    debug: bool = False,
) -> Iterator[Outcome]:
    """Do the steps of a plan; yield what became of each, when it is done.

    A failure stops the children of its entry and nothing else. Entries that another process works on are
    left for later, and kept when that process has made them. Children of what was made anew are made
    anew, unless the file has the same bytes.

    Parameters
    ----------
    force, prefer
        As in `plan`.
    options : mapping
        Of a `Job` that are no part of its declaration, such as devices.
    progress : callable, optional
        Given the name of an entry that is fetched, returns what is called with the bytes done and all.
    debug : bool
        Raise the error of an entry that fails.
    """
    done: dict[Key, Outcome] = {}
    pending, busy = list(steps), set[Key]()
    while pending:
        before = len(pending)
        for step in [s for s in pending if not waits(s.entry, pending)]:
            key = step.entry.key
            found = skipped(step.entry, done) or attempt(
                path, step.entry, key in force - busy, prefer, options, progress, debug
            )
            if found:
                done[key] = found
                pending.remove(step)
                yield found
            elif key not in busy:
                busy.add(key)
                _log.info("another process works on %s: waiting for it", step.entry.name)
        if len(pending) == before:
            time.sleep(_POLL)


def waits(entry: Entry, pending: Iterable[Step]) -> bool:
    """Return whether the parent of an entry is among the steps that are still to be done."""
    return any(step.entry.key == parent_key(entry) for step in pending)


def skipped(entry: Entry, done: Mapping[Key, Outcome]) -> Outcome | None:
    """Return that an entry is skipped, where its parent could not be made."""
    parent = done.get(parent_key(entry))
    if parent is None or parent.word not in _PAST:
        return None
    return Outcome(entry, "skipped", f"its parent {parent.entry.name} {_PAST[parent.word]}")


_PAST = {"failed": "failed", "skipped": "was skipped"}
_DOING = {"fetch": "fetching", "train": "training", "evaluate": "evaluating"}


def attempt(
    path: Path,
    entry: Entry,
    forced: bool,
    prefer: str,
    options: Mapping[str, Any],
    progress: Progress | None = None,
    debug: bool = False,
) -> Outcome | None:
    """Make an entry unless it is there; return what became of it, None while another process works on it."""
    from filelock import FileLock, Timeout

    target = path.parent / entry.path
    try:
        # Before the file lock, which cannot be made in a folder that is read-only.
        if not forced and _is_finished(target) and (kept := _kept(path, entry.key)):
            return kept
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock"), blocking=False):
            return _make(path, entry.key, forced, prefer, options, progress)
    except Timeout:
        return None
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        if debug:
            raise
        return Outcome(entry, "failed", one_line(error))


def _kept(path: Path, key: Key) -> Outcome | None:
    """Return that an entry is kept, when it is there, after recording it where it is not yet."""
    root, lock = path.parent, load(path)
    entry = find(lock, *key)
    found = state(root, lock, entry)
    if found.word not in USABLE:
        return None
    receipt = found.receipt
    if receipt and recorded(entry, receipt, forced=False) != entry:
        amend(path, key, lambda e: recorded(e, receipt, forced=False))
    return Outcome(entry, "kept", "" if found.word == "ok" else found.word)


def _make(
    path: Path,
    key: Key,
    forced: bool,
    prefer: str,
    options: Mapping[str, Any],
    progress: Progress | None,
) -> Outcome:
    """Make an entry unless it is there by now; whoever calls holds its file lock."""
    entry = find(load(path), *key)
    target = path.parent / entry.path
    _keep_tables(target)  # of a build that was killed after it had published
    if not forced and (kept := _kept(path, key)):
        _finish(target)
        return kept
    if target.is_dir():
        raise ValueError(f"{entry.path} is a folder; expected a file or nothing: move it away")
    action = how_made(entry, prefer)
    _log.info("%s %s", _DOING[action], entry.name)
    if action == "fetch":
        return Outcome(entry, "fetched", _fetch(path, entry, forced, progress))
    word = "evaluated" if action == "evaluate" else "trained"
    return Outcome(entry, word, _build(path, entry, forced, options))


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
    try:
        tensors = tensor_digest(arriving)
    except ValueError as error:
        arriving.unlink()
        raise ValueError(f"what was fetched is no checkpoint: {error}") from None
    receipt = Receipt(
        how="fetched",
        sha256=got.sha256,
        size=got.size,
        tensors=tensors,
        declaration=declaration_digest(entry),
        source=source_digest(source),
        commit=got.commit,
    )
    publish(root, entry, arriving, receipt)
    amend(path, entry.key, lambda e: recorded(e, receipt, forced=forced))
    _finish(target)
    return f"{got.size / 1e6:.1f} MB" + (f", commit {got.commit[:12]}" if got.commit else "")


def _build(path: Path, entry: Entry, forced: bool, options: Mapping[str, Any]) -> str:
    """Run the recipe of an entry, publish and record what it made, and return its metrics."""
    root, target = path.parent, path.parent / entry.path
    recipe = _recipe(root, entry)
    entry, job, parent = _prepared(path, entry, options)
    (job.folder / _MADE).unlink(missing_ok=True)
    start = time.perf_counter()
    found = _called(recipe, root, entry, job)
    try:
        metrics, made = _metrics(entry, found), _made(entry, job.output, str(parent))
    except (ValueError, RuntimeError):
        _discard(job)
        raise
    used = {k: v for k, v in options.items() if k in ("devices", "nodes", "precision")}
    receipt = Receipt(
        how="evaluated" if entry.kind == "evaluation" else "trained",
        declaration=declaration_digest(entry),
        parent=parent,
        metrics=metrics,
        environment={**environment(time.perf_counter() - start), **used},
        **made,
    )
    write_whole(job.folder / _MADE, as_bytes(receipt))
    publish(root, entry, None if entry.kind == "evaluation" else job.output, receipt)
    amend(path, entry.key, lambda e: recorded(e, receipt, forced=forced))
    _finish(target)
    return ", ".join(f"{name} {metric.value:.4f}" for name, metric in metrics.items())


def join(path: Path, entry: Entry, options: Mapping[str, Any]) -> None:
    """Take part in the training of an entry that another node leads, publishes and records."""
    recipe = _recipe(path.parent, entry)
    entry, job, _ = _prepared(path, entry, options)
    _called(recipe, path.parent, entry, job)


def _recipe(root: Path, entry: Entry) -> ModuleType:
    recipe = load_recipe(root, entry.recipe)
    if not hasattr(recipe, "build"):
        raise RuntimeError(
            f"recipes/{entry.recipe}.py declares it and has no function build() yet"
            + ("; --prefer fetch gets the published weights" if entry.source else "")
        )
    return recipe


def _prepared(
    path: Path, entry: Entry, options: Mapping[str, Any]
) -> tuple[Entry, Job, str | None]:
    """Return the entry with its inputs verified, the job of its recipe, and the parent's sha256."""
    root = path.parent
    inputs, entry = _inputs(path, entry)
    lock = load(path)
    parent = parent_sha256(root, lock, entry)
    target = root / entry.path
    begun = f"{declaration_digest(entry)} {parent}"  # what a resumed build is of
    folder = target.with_name(
        f"{target.name}.{hashlib.sha256(begun.encode()).hexdigest()[:16]}.run"
    )
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(
        name=entry.name,
        scale=entry.scale,
        params=copy.deepcopy(entry.params),  # the recipe may do with them what it likes
        parent=root / find(lock, entry.parent.name, entry.scale).path if entry.parent else None,
        inputs=inputs,
        folder=folder,
        output=folder / target.name,
        cost=entry.cost,
        **options,
    )
    return entry, job, parent


def _called(recipe: ModuleType, root: Path, entry: Entry, job: Job) -> Any:
    """Return what a recipe's `build` returns; an error says where in the recipe it was raised."""
    try:
        return recipe.build(job)
    except (Exception, SystemExit) as error:  # somebody's program: anything may happen
        if isinstance(error, SystemExit) and error.code == TERMINATED:
            raise
        with contextlib.suppress(OSError):
            job.folder.rmdir()  # unless there is something to resume from
        raise RuntimeError(explained(error, root / FOLDER, entry.recipe)) from error


def _discard(job: Job) -> None:
    """Remove what was refused at `job.output`, and the folder unless there is something to resume from."""
    if job.output.is_dir() and not job.output.is_symlink():
        shutil.rmtree(job.output)
    else:
        job.output.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        job.folder.rmdir()


def _runs(target: Path) -> list[Path]:
    return list(target.parent.glob(f"{glob.escape(target.name)}.*.run"))


def _is_finished(target: Path) -> bool:
    """Return whether `_finish` has nothing to do; a folder may be that of a build in progress."""
    return not _runs(target) and (not target.is_file() or spectra_path(target).exists())


def _keep_tables(target: Path) -> None:
    """Keep the tables of what was published beside it, and remove the folder of its build.

    Whoever calls holds the file lock of the entry.
    """
    for folder in _runs(target):
        if _is_published(target, folder):
            for file in (*folder.glob("*.csv"), *folder.glob("*.json")):
                file.replace(target.with_name(f"{target.name}.{file.name}"))
            shutil.rmtree(folder)


def _is_published(target: Path, folder: Path) -> bool:
    """Return whether what a folder's build made is what is there: its receipt is, and its file has left."""
    made = folder / _MADE
    return (
        made.is_file()
        and not (folder / target.name).exists()
        and any(made.read_bytes() == other.read_bytes() for other in receipts(target))
    )


def _finish(target: Path) -> None:
    """Keep tables and spectra beside what was published, and remove folders of all other builds.

    Whoever calls holds the file lock of the entry.
    """
    _keep_tables(target)
    for folder in _runs(target):
        shutil.rmtree(folder)
    if target.is_file():
        try:
            attach_spectra(target)
        except ValueError as error:
            _log.warning("%s: no spectra: %s", target.name, error)
        for old in target.parent.glob(f"{glob.escape(target.name)}.*.nc"):
            if old != spectra_path(target):
                old.unlink()


def _metrics(entry: Entry, found: Any) -> dict[str, Metric]:
    """Return what `build` returned, a mapping of names to (value, tolerance), as Metrics."""
    try:
        metrics = {str(k): Metric(value=float(v), atol=float(a)) for k, (v, a) in found.items()}
    except (AttributeError, TypeError, ValueError):
        metrics = {}
    if not metrics or not all(
        math.isfinite(m.value) and 0 <= m.atol < math.inf for m in metrics.values()
    ):
        raise RuntimeError(
            f"build() of recipes/{entry.recipe}.py returned {found!r}; expected finite metrics with their "
            "tolerances, such as {'r2': (0.85, 0.01)}"
        )
    return metrics


def _made(entry: Entry, output: Path, parent: str) -> dict[str, Any]:
    """Return sha256, size and tensor digest of what a recipe left, synced to the disk."""
    if entry.kind == "evaluation":
        return {"sha256": parent, "size": 0, "tensors": ""}
    if not output.is_file() or output.is_symlink():
        raise RuntimeError(
            f"build() of recipes/{entry.recipe}.py left no file of its own at job.output"
        )
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
        old = entry.inputs
        entry = amend(
            path, entry.key, lambda e: replace(e, inputs=tuple(known)) if e.inputs == old else e
        )
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
