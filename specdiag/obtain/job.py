"""An entry -> the job of its recipe -> the checkpoint that the recipe made, and its receipt."""

import copy
import hashlib
import logging
import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from specdiag.checkpoint.reader import tensor_digest
from specdiag.checkpoint.remote.requests import ChecksumError
from specdiag.files import OutsideError
from specdiag.lock.entry import Entry, Input, Metric
from specdiag.lock.lockfile import amend, declaration_digest, find, load
from specdiag.lock.place import check_local, file_lock, inside
from specdiag.lock.recipe import FOLDER, Job, explained, load_recipe
from specdiag.obtain.beside import (
    arriving_path,
    build_folder,
    finished_path,
    logs_path,
    move_aside,
    sha256_of,
)
from specdiag.obtain.fetch import fetch_url
from specdiag.obtain.provenance import environment, provenance
from specdiag.obtain.publish import tables
from specdiag.obtain.state import Receipt, as_bytes, parent_sha256
from specdiag.outputs import write_whole

_log = logging.getLogger(__name__)

_BEGUN_BY = "code"  # in the folder of a build: the digest of the program that began it
TERMINATED = 143  # exit status of a build that saved and stopped at SIGTERM: 128 + 15


def build(
    path: Path, entry: Entry, options: Mapping[str, Any], *, allow_local: bool = False
) -> tuple[Receipt, Path]:
    """Run the recipe of an entry; return the receipt of the checkpoint that it made, and its path.

    The checkpoint is in the folder of the build: `specdiag.obtain.state.publish` moves it.

    Parameters
    ----------
    path : Path
        The lock. Hashes of inputs that are not recorded yet are recorded in it.
    options : mapping
        Fields of `Job` that are not part of the declaration, such as devices.
    allow_local : bool
        Whether file URLs of inputs may name files outside of the lock's folder.

    Raises
    ------
    RuntimeError
        If the recipe fails, or leaves no checkpoint or no valid metrics; the message gives the
        place in the recipe.
    ValueError, OSError
        If an input is missing or not the recorded one, or the checkpoint cannot be read.
    """
    root = path.parent
    recipe = _recipe(root, entry)
    origin = provenance(root.resolve(), entry.recipe)
    entry, job, parent = _prepared(path, entry, options, allow_local)
    finished = finished_path(job.folder)
    finished.unlink(missing_ok=True)
    begun_by = _begun_by(job, origin.code)
    start = time.perf_counter()
    result = _called(recipe, root, entry, job)
    try:
        metrics, made = _metrics(entry, result), _made(entry, job.output, str(parent))
    except (ValueError, RuntimeError):
        _discard(job)
        raise
    if job.logs and entry.kind == "checkpoint" and not job.logs.is_dir():
        _log.warning("%s: its recipe has no logger: --log has no effect", entry.name)
    used = {k: v for k, v in options.items() if k in ("devices", "nodes", "precision")}
    receipt = Receipt(
        how="evaluated" if entry.kind == "evaluation" else "trained",
        declaration=declaration_digest(entry),
        parent=parent,
        code=origin.code,
        begun_by=begun_by,
        metrics=metrics,
        tables={path.name: sha256_of(path) for path in tables(job.folder)},
        environment={**environment(time.perf_counter() - start, origin), **used},
        **made,
    )
    write_whole(finished, as_bytes(receipt))
    return receipt, job.output


def join(
    path: Path, entry: Entry, options: Mapping[str, Any], *, allow_local: bool = False
) -> None:
    """Take part in the training of an entry that another node leads, publishes and records."""
    recipe = _recipe(path.parent, entry)
    entry, job, _ = _prepared(path, entry, options, allow_local)
    _called(recipe, path.parent, entry, job)


def rank_of_node(nodes: int, variables: Mapping[str, str]) -> int:
    """Return the number of this node, from its environment variables; node 0 leads.

    If MASTER_ADDR, MASTER_PORT or NODE_RANK is missing or invalid, ValueError is raised.
    """
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        if name not in variables:
            raise ValueError(f"--nodes needs {name} in the environment of each node")
    _number(variables, "MASTER_PORT", 1, 65535, "the same on each node")
    return _number(variables, "NODE_RANK", 0, nodes - 1, f"below --nodes {nodes}")


def _number(variables: Mapping[str, str], name: str, least: int, most: int, remark: str) -> int:
    text = variables[name]
    if not text.isdecimal() or not least <= int(text) <= most:
        raise ValueError(f"{name} is '{text}'; expected a number from {least} to {most}, {remark}")
    return int(text)


def _recipe(root: Path, entry: Entry) -> ModuleType:
    recipe = load_recipe(root, entry.recipe)
    if not hasattr(recipe, "build"):
        raise RuntimeError(
            f"recipes/{entry.recipe}.py has no function build() yet"
            + ("; --prefer fetch downloads the published weights" if entry.source else "")
        )
    return recipe


def _prepared(
    path: Path, entry: Entry, options: Mapping[str, Any], allow_local: bool
) -> tuple[Entry, Job, str | None]:
    """Return the entry with its inputs verified, the job of its recipe, and the parent's sha256."""
    root = path.parent
    inputs, verified = verified_inputs(root, entry, allow_local=allow_local)
    if verified != entry.inputs:
        old = entry.inputs
        entry = amend(
            path, entry.key, lambda e: replace(e, inputs=verified) if e.inputs == old else e
        )
    lock = load(path)
    parent = parent_sha256(root, lock, entry)
    target = inside(root, entry.path)
    folder = build_folder(target, declaration_digest(entry), parent)
    if folder.is_symlink() or not folder.is_dir() or _leads_out(root, folder):
        move_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(
        name=entry.name,
        scale=entry.scale,
        params=copy.deepcopy(entry.params),  # the recipe may change them
        parent=inside(root, find(lock, entry.parent.name, entry.scale).path)
        if entry.parent
        else None,
        inputs=inputs,
        folder=folder,
        output=folder / target.name,
        cost=entry.cost,
        logs=logs_path(target) if options.get("log") else None,
        **options,
    )
    return entry, job, parent


def _leads_out(root: Path, folder: Path) -> bool:
    """Return whether a link in a folder leads out of the lock's: a recipe would write there."""
    try:
        for path in folder.rglob("*"):
            inside(root, path.relative_to(root.resolve()))
    except OutsideError:
        return True
    return False


def _begun_by(job: Job, code: str | None) -> str | None:
    """Return the digest of the program that began a build, if it is not `code`."""
    if code is None:
        return None
    file = job.folder / _BEGUN_BY
    if not file.exists():
        write_whole(file, f"{code}\n".encode())
    first = file.read_text(encoding="utf-8").strip()
    if first == code:
        return None
    text = "%s: resumes what other code of its recipe began; without %s it starts anew"
    _log.warning(text, job.name, job.folder.name)
    return first


def _called(recipe: ModuleType, root: Path, entry: Entry, job: Job) -> Any:
    """Return the result of a recipe's `build`; an error gives the place in the recipe."""
    try:
        return recipe.build(job)
    except (Exception, SystemExit) as error:  # a recipe is a user's program: it may raise anything
        if isinstance(error, SystemExit) and error.code == TERMINATED:
            raise
        _remove_stateless(job.folder)
        raise RuntimeError(explained(error, root / FOLDER, entry.recipe)) from error


def _discard(job: Job) -> None:
    """Remove an invalid output, and the folder unless it holds a state to resume from."""
    if job.output.is_dir() and not job.output.is_symlink():
        shutil.rmtree(job.output)
    else:
        job.output.unlink(missing_ok=True)
    _remove_stateless(job.folder)


def _remove_stateless(folder: Path) -> None:
    """Remove the folder of a build that left no state to resume from."""
    if [file.name for file in folder.iterdir()] in ([], [_BEGUN_BY]):
        shutil.rmtree(folder)


def _metrics(entry: Entry, result: Any) -> dict[str, Metric]:
    """Return the result of `build`, a mapping of names to (value, tolerance), as Metrics."""
    try:
        metrics = {str(k): Metric(value=float(v), atol=float(a)) for k, (v, a) in result.items()}
    except (AttributeError, OverflowError, TypeError, ValueError):
        metrics = {}
    if not metrics or not all(
        math.isfinite(m.value) and 0 <= m.atol < math.inf for m in metrics.values()
    ):
        raise RuntimeError(
            f"build() of recipes/{entry.recipe}.py returned {result!r}; expected finite metrics "
            "with their tolerances, such as {'r2': (0.85, 0.01)}"
        )
    return metrics


def _made(entry: Entry, output: Path, parent: str) -> dict[str, Any]:
    """Return sha256, size and tensor digest of the file that a recipe left, synced to the disk."""
    if entry.kind == "evaluation":
        return {"sha256": parent, "size": 0, "tensors": ""}
    if not output.is_file() or output.is_symlink():
        raise RuntimeError(f"build() of recipes/{entry.recipe}.py wrote no file to job.output")
    with output.open("rb+") as file:
        os.fsync(file.fileno())
    size, tensors = output.stat().st_size, tensor_digest(output)
    return {"sha256": sha256_of(output), "size": size, "tensors": tensors}


def verified_inputs(
    root: Path, entry: Entry, *, allow_local: bool = False
) -> tuple[dict[str, Path], tuple[Input, ...]]:
    """Return the files of the inputs of an entry by their `id`, and the inputs with their hashes.

    Missing files are downloaded. A file that is not the recorded one raises ValueError.
    """
    files: dict[str, Path] = {}
    verified = []
    for item in entry.inputs:
        if item.url:
            check_local(root, item.url, allow_local=allow_local)
            digest = hashlib.sha256(item.url.encode()).hexdigest()[:12]
            name = f"inputs/{digest}-{item.url.rpartition('/')[2]}"
            files[item.id] = inside(root, name)
            verified.append(_fetched(files[item.id], item.url, item))
        elif item.path:
            files[item.id] = inside(root, item.path)
            verified.append(_verified(files[item.id], item))
        else:
            verified.append(item)  # a brainset: the recipe looks for it
    return files, tuple(verified)


def _fetched(path: Path, url: str, item: Input) -> Input:
    """Fetch an input unless it is there; another file of its name is moved aside."""
    if item.sha256 and path.is_file() and sha256_of(path) == item.sha256:
        return replace(item, size=path.stat().st_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    arriving = arriving_path(path)
    with file_lock(path):  # other entries may have the same input
        got = fetch_url(arriving, url=url, sha256=item.sha256, size=item.size)
        if path.is_symlink() or not path.is_file() or sha256_of(path) != got.sha256:
            move_aside(path)
        arriving.replace(path)
    return replace(item, sha256=got.sha256, size=got.size)


def _verified(path: Path, item: Input) -> Input:
    if not path.is_file():
        raise FileNotFoundError(f"input {item.id}: no file {item.path} beside the lock")
    sha256, size = sha256_of(path), path.stat().st_size
    if item.sha256 not in (None, sha256):
        raise ChecksumError(
            f"input {item.id}: sha256 of {item.path} is {sha256}, recorded is {item.sha256}; "
            "restore the file, or declare the new one"
        )
    return replace(item, sha256=sha256, size=size)
