"""Commands that read or write a lock, and no checkpoint: list, lock."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from specdiag.cli.options import (
    group_option,
    json_option,
    lock_option,
    names_argument,
    open_lock,
    scale_option,
    select,
)
from specdiag.cli.outputs import target_type

if TYPE_CHECKING:
    from specdiag.lock.entry import Scale


@click.command("list")
@names_argument
@lock_option
@scale_option("Show only entries of this scale.", default=None)
@group_option
@json_option
def list_(
    names: tuple[str, ...],
    lock_path: Path | None,
    scale: "Scale | None",
    group: str | None,
    as_json: bool,
) -> None:
    """Show the state of all entries of the lock, or of the named ones.

    \b
    ok       the recorded file, or, if none is recorded, the one that the recipe built
    rebuilt  bytes differ from the recorded ones, metrics are within tolerance
    drifted  bytes differ from the recorded ones, metrics are out of tolerance
    stale    made before its parent, params, recipe (its code, too), inputs or source changed
    missing  no file
    corrupt  changed or damaged after it was made

    \b
    Examples:
      specdiag list
      specdiag list --scale paper --json
    """  # noqa: D301
    from specdiag.show import entries

    path, lock = open_lock(lock_path)
    selected = select([(path, lock)], names, scale, group)
    rows = [entries.row(path.parent, lock, entry) for entry in selected]
    click.echo(json.dumps({"checkpoints": rows}, indent=2) if as_json else entries.table(rows))


@click.command("lock")
@names_argument
@click.option(
    "--lock",
    "lock_path",
    type=target_type(),
    help="The lock file. By default, it is checkpoints.lock in this folder or in a folder above.",
)
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if the lock would change.")
@click.option(
    "--init", is_flag=True, help="Start a lock, by default here, and a folder for recipes."
)
@click.option(
    "--accept-code",
    is_flag=True,
    help="Keep the checkpoints that earlier code of their recipes built, and run no recipe.",
)
def lock_(
    names: tuple[str, ...], lock_path: Path | None, check: bool, init: bool, accept_code: bool
) -> None:
    """Write the declarations of the recipes into the lock: of all entries, or of the named ones.

    The records of an entry are kept as long as its declaration is the same. With --accept-code
    the lock does not change: checkpoints that are stale only because the code of their recipe
    changed become ok.

    \b
    Examples:
      specdiag lock --init
      specdiag lock
      specdiag lock --check
      specdiag lock base/poyo_mp_converged --accept-code
    """  # noqa: D301
    if accept_code:
        if check or init:
            raise click.UsageError("--accept-code takes no --check and no --init")
        _accept_code(names, lock_path)
        return
    from specdiag.lock import recipe

    if lock_path:
        check_is_no_replicate(lock_path)
        if not init and not lock_path.exists():
            raise click.UsageError(f"--lock {lock_path} does not exist; --init starts a lock")
    if init:
        if names or check:
            raise click.UsageError("--init takes no names and no --check")
        lock_path, folder = recipe.start(lock_path)
        has_recipes = any(folder.glob("[!_]*.py"))
        hint = f"; write recipes into {folder}, then run `specdiag lock`" * (not has_recipes)
        click.echo(f"started {lock_path}{hint}")
    lines = _declare(open_lock(lock_path)[0], names, check)
    for line in lines or ["nothing changed"] * (not init):
        click.echo(line)
    if lines and check:
        raise click.exceptions.Exit(1)


def _declare(path: Path, names: tuple[str, ...], check: bool) -> list[str]:
    """Write declarations into a lock, unless `check`; return a line for each change."""
    from specdiag.files import read_text
    from specdiag.lock import recipe, resolve
    from specdiag.lock.lockfile import MAX_SIZE, dumps, exclusive, load, save

    declarations = recipe.declared(path.parent)
    with nullcontext() if check else exclusive(path):
        lock = load(path)
        new, changes = resolve.resolve(lock, declarations, names)
        if dumps(lock) != read_text(path, MAX_SIZE):
            changes.append("written again: edits and comments made by hand are not kept")
        if changes and not check:
            save(new, path)
    return changes


def _accept_code(names: tuple[str, ...], lock_path: Path | None) -> None:
    from specdiag.obtain.publish import accept

    path, lock = open_lock(lock_path)
    done = [e for e in select([(path, lock)], names) if accept(path, e)]
    for entry in done:
        click.echo(f"accepted {entry.name} ({entry.scale})")
    if not done:
        click.echo("nothing to accept: no checkpoint is stale by its recipe's code alone")


def check_is_no_replicate(path: Path) -> None:
    """Raise UsageError if a lock is one of replicates, which `specdiag train --seed` writes."""
    from specdiag.lock.resolve import origin

    if replicated := origin(path):
        name, seed = replicated
        text = f"{path.name} is written by `specdiag train --seed {seed}`; give {name}"
        raise click.UsageError(text)
