"""Commands about a lock of checkpoints: list, fetch, train, lock."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specdiag.cli.options import (
    MAX_PORT,
    address_option,
    check_engine,
    debug_option,
    engine_option,
    is_debug,
    json_option,
    lock_option,
    open_lock,
    scale_option,
)

if TYPE_CHECKING:
    from specdiag.lock.entry import Entry, Lock, Scale
    from specdiag.obtain.build import Outcome
    from specdiag.obtain.plan import Step

_names = click.argument("names", nargs=-1, metavar="[NAME]...")
_group = click.option("--group", metavar="GROUP", help="Only entries of this group.")


@click.command("list")
@_names
@lock_option
@scale_option("Only entries of this scale.", default=None)
@_group
@json_option
@debug_option
def list_(
    names: tuple[str, ...],
    lock_path: Path | None,
    scale: "Scale | None",
    group: str | None,
    as_json: bool,
) -> None:
    """Show the state of every entry of the lock, or of some.

    \b
    ok       what the lock records, or what its recipe made where nothing is recorded yet
    rebuilt  other bytes than recorded, metrics within tolerance
    drifted  other bytes than recorded, metrics out of tolerance
    stale    made before its parent, params or recipe changed
    missing  not there
    corrupt  not the file that was made

    \b
    Examples:
      specdiag list
      specdiag list --scale paper --json
    """  # noqa: D301
    from specdiag.show import entries as listing

    path, lock = open_lock(lock_path)
    rows = listing.rows(path.parent, lock, _selected(path, lock, names, scale, group))
    click.echo(json.dumps({"checkpoints": rows}, indent=2) if as_json else listing.table(rows))


@click.command()
@_names
@lock_option
@click.option("--force", is_flag=True, help="Fetch again what is there.")
@debug_option
def fetch(names: tuple[str, ...], lock_path: Path | None, force: bool) -> None:
    """Fetch published weights: all that the lock names a source of, or some.

    The first time, commit, size and sha256 are recorded in the lock; from then on they bind.

    \b
    Examples:
      specdiag fetch
      specdiag fetch base/poyo_mp_converged
    """  # noqa: D301
    path, lock = open_lock(lock_path)
    entries = [e for e in _selected(path, lock, names) if e.source]
    lost = set(names) - {e.name for e in entries}
    if lost or not entries:
        what = ", ".join(sorted(lost)) or "the lock"
        raise click.UsageError(f"{what} has no source; `specdiag list` shows what can be fetched")
    from specdiag.obtain import build as work
    from specdiag.obtain import plan

    keys = [e.key for e in entries]
    forced = set(keys) if force else set()
    steps = plan.plan(path.parent, lock, keys, force=forced, prefer="fetch")
    how: dict[str, Any] = {"force": forced, "prefer": "fetch", "debug": is_debug()}
    _finish(steps, work.work(path, steps, progress=_progress, **how))


@click.command()
@_names
@lock_option
@scale_option("desk: small networks on simulated recordings; paper: the published settings.")
@click.option("--all", "all_", is_flag=True, help="Everything, as if all were named.")
@click.option("--missing", is_flag=True, help="All that is missing and that a recipe can build.")
@_group
@click.option("--force", is_flag=True, help="Make again what is ok, and record the result.")
@click.option(
    "--prefer",
    type=click.Choice(["fetch", "train"]),
    default="fetch",
    show_default=True,
    help="What to do with entries that can be fetched.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    help="Train replicates from this seed, in a lock of their own.",
)
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    help="GPUs to train on, or processes without any; by default as declared, or as many as there are.",
)
@click.option(
    "--nodes",
    type=click.IntRange(min=1),
    help="Machines that train one entry together; see docs/clusters.md.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="What to train in, if not as declared: the numbers may differ from the record.",
)
@click.option("--yes", is_flag=True, help="Start also what will take very long on this machine.")
@engine_option
@address_option
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@debug_option
def train(
    names: tuple[str, ...],
    lock_path: Path | None,
    scale: "Scale",
    all_: bool,
    missing: bool,
    group: str | None,
    force: bool,
    prefer: str,
    seed: int | None,
    engine: str,
    address: str | None,
    dry_run: bool,
    **options: Any,
) -> None:
    """Make checkpoints appear: fetch them, or run their recipes, parents first.

    What is there and ok is kept. An interrupted run goes on when it is started again, and several
    processes can share the work. Recipes are programs that come with the lock: run only those you trust.
    With --seed 43 all of this happens in checkpoints.seed-43.lock, which is written beside the lock.

    \b
    Examples:
      specdiag train --missing
      specdiag train transfer/area2_ft_pretrained --scale desk
      specdiag train --missing --scale paper --dry-run
      specdiag train --all --group published --seed 43
    """  # noqa: D301
    if bool(names) == bool(all_ or missing or group):
        raise click.UsageError("name entries, or give --missing, --all or --group")
    if missing and (force or all_):
        raise click.UsageError("--missing leaves out what is there: no --force or --all with it")
    options = {k: v for k, v in options.items() if v}
    check_engine(engine, address)
    if engine == "ray" and "nodes" in options:
        raise click.UsageError("--nodes and --engine ray exclude each other")
    from specdiag.obtain import build as work
    from specdiag.obtain import plan
    from specdiag.show import entries as listing

    path, lock = open_lock(lock_path)
    if seed is not None:
        path, lock = _replicate(path, scale, seed, write=not dry_run)
    entries = _selected(path, lock, names, scale, group)
    if seed is not None:
        _say_unseeded(entries)
    chosen = [e.key for e in entries]
    forced = set(chosen) if force else set()
    steps = plan.plan(path.parent, lock, chosen, force=forced, prefer=prefer)
    if missing and (undone := plan.without_build(path, steps)):
        steps = [step for step in steps if step.entry.key not in undone]
        text = f"{len(undone)} entries are left out: no recipe can build them or their parents yet"
        click.echo(text, err=True)
    click.echo(listing.plan_text(steps), err=not dry_run)
    if dry_run:
        return
    if options.get("nodes", 1) > 1 and _joined(path, steps, options):
        return
    how: dict[str, Any] = {"force": forced, "prefer": prefer, "options": options}
    how["debug"] = is_debug()
    if engine == "ray" and any(step.action != "keep" for step in steps):
        from specdiag.obtain import cluster as on_cluster

        made = on_cluster.work(path, steps, address=address, **how)
    else:
        made = work.work(path, steps, progress=_progress, **how)
    _finish(steps, made)


def _check_is_no_replicate(path: Path) -> None:
    from specdiag.lock.resolve import origin

    if found := origin(path):
        name, seed = found
        text = f"{path.name} is written by `specdiag train --seed {seed}`; give {name}"
        raise click.UsageError(text)


def _replicate(path: Path, scale: "Scale", seed: int, *, write: bool) -> tuple[Path, "Lock"]:
    """Return the lock of another seed and its path, having said what is dropped of it."""
    from specdiag.lock import resolve

    _check_is_no_replicate(path)
    path, lock, changes = resolve.replicate(path, scale, seed, write=write)
    for line in changes:
        if line.endswith(resolve.LOST):
            click.echo(line, err=True)
    return path, lock


def _say_unseeded(entries: Sequence["Entry"]) -> None:
    from specdiag.lock.resolve import is_seeded

    names = [e.name for e in entries if e.kind == "checkpoint" and not is_seeded(e)]
    has, again = "has", "it is built again as it is"
    if len(names) > 1:
        has, again = "have", "they are built again as they are"
    if names:
        click.echo(f"{', '.join(names)} {has} no params.training.seed: {again}", err=True)


def _joined(path: Path, steps: Sequence["Step"], options: dict[str, Any]) -> bool:
    """Take part in a training of several nodes, if this is not the first, which leads."""
    from specdiag.obtain import build as work
    from specdiag.obtain.plan import BUILT

    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        if name not in os.environ:
            text = f"--nodes needs {name} in the environment of each node; see docs/clusters.md"
            raise click.UsageError(text)
    built = [step for step in steps if step.action in BUILT]
    if len(built) > 1 or any(step.action == "evaluate" for step in built):
        raise click.UsageError("--nodes trains one entry, whose parents are there; name that one")
    nodes = options["nodes"]
    node = _from_environment("NODE_RANK", 0, nodes - 1, f"of --nodes {nodes}")
    _from_environment("MASTER_PORT", 1, MAX_PORT, "the same on each node")
    if node and built:
        work.join(path, built[0].entry, {**options, "node": node})
    return node > 0


def _from_environment(name: str, least: int, most: int, what: str) -> int:
    text = os.environ[name]
    if not text.isdecimal() or not least <= int(text) <= most:
        expected = f"expected a number from {least} to {most}, {what}"
        raise click.UsageError(f"{name} is '{text}'; {expected}; see docs/clusters.md")
    return int(text)


@click.command("lock")
@_names
@lock_option
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if the lock would change.")
@click.option("--init", is_flag=True, help="Start a lock here, and a folder for recipes.")
@debug_option
def lock_(names: tuple[str, ...], lock_path: Path | None, check: bool, init: bool) -> None:
    """Write into the lock what the recipes declare now, all or some.

    What was recorded of an entry stays while its declaration is the same.

    \b
    Examples:
      specdiag lock --init
      specdiag lock
      specdiag lock --check
    """  # noqa: D301
    from specdiag.lock import recipe, resolve
    from specdiag.lock.lockfile import dumps, exclusive, load, save

    if lock_path:
        _check_is_no_replicate(lock_path)
    if init:
        lock_path = _start(lock_path, names, check)
    path, _ = open_lock(lock_path)
    declarations = recipe.declared(path.parent)
    with nullcontext() if check else exclusive(path):
        lock = load(path)
        new, changes = resolve.resolve(lock, declarations, names)
        if dumps(lock) != path.read_text(encoding="utf-8"):
            changes.append("written anew: the file was edited by hand, and comments are not kept")
        if changes and not check:
            save(new, path)
    for line in changes or ["nothing changed"] * (not init):
        click.echo(line)
    if changes and check:
        raise click.exceptions.Exit(1)


def _start(lock_path: Path | None, names: Sequence[str], check: bool) -> Path:
    if names or check:
        raise click.UsageError("--init takes no names and no --check")
    from specdiag.lock.entry import LOCK_NAME, Lock
    from specdiag.lock.lockfile import save
    from specdiag.lock.recipe import FOLDER

    path = lock_path or Path(LOCK_NAME)
    if path.exists():
        raise FileExistsError(f"{path} is there already; `specdiag lock` renews it")
    folder = path.parent / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    package = folder / "__init__.py"
    if not package.exists():
        package.write_text(
            '"""Recipes: each declares entries of checkpoints.lock, and builds them."""\n'
        )
    save(Lock(), path)
    click.echo(f"started {path}; recipes go into {folder}, and `specdiag lock` reads them")
    return path


def _selected(
    path: Path,
    lock: "Lock",
    names: Sequence[str],
    scale: "Scale | None" = None,
    group: str | None = None,
) -> list["Entry"]:
    """Return the selected entries in the order of the lock; an invalid name is a usage error."""
    from specdiag.lock.lockfile import select

    try:
        return [entry for *_, entry in select([(path, lock)], names, scale, group)]
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _finish(steps: Sequence["Step"], made: Iterator["Outcome"]) -> None:
    """Do the work, say what became of each entry, also when interrupted, and exit 1 if one failed."""
    from specdiag.show import entries as listing

    done = {}
    try:
        for outcome in made:
            done[outcome.entry.key] = outcome
    finally:
        outcomes = [done[step.entry.key] for step in steps if step.entry.key in done]
        click.echo(listing.outcome_text(outcomes))
    if any(outcome.word in ("failed", "skipped") for outcome in outcomes):
        raise click.exceptions.Exit(1)


def _progress(name: str) -> Callable[[int, int | None], None]:
    """Return what draws a progress bar on a terminal's stderr, given the bytes done and all."""
    bars: list[Any] = []

    def show(done: int, total: int | None) -> None:
        if total and not bars and sys.stderr.isatty():
            bars.append(click.progressbar(length=total, label=name, file=sys.stderr))
        for bar in bars:
            bar.update(done - bar.pos)
            if done == total:
                bar.render_finish()

    return show
