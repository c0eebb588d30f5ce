"""Commands that make the checkpoints of a lock: fetch, train."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specdiag.cli.locks.declare import check_is_no_replicate
from specdiag.cli.options import (
    address_option,
    check_engine,
    engine_option,
    group_option,
    is_debug,
    json_option,
    lock_option,
    names_argument,
    open_lock,
    scale_option,
    select,
    show_bytes,
    stdout_to_stderr,
)

if TYPE_CHECKING:
    from specdiag.lock.entry import Entry, Lock, Scale
    from specdiag.obtain.build import Outcome
    from specdiag.obtain.plan import Step

_local_option = click.option(
    "--allow-local",
    is_flag=True,
    help="Also read files on this machine outside of the lock's folder that file:// URLs name.",
)


def _one_logger(
    ctx: click.Context,  # noqa: ARG001 - of click
    param: click.Parameter,  # noqa: ARG001
    kinds: tuple[str, ...],
) -> str | None:
    if len(kinds) > 1:
        raise click.UsageError(f"--log {kinds[0]} and --log {kinds[1]}: a run has one logger")
    return next(iter(kinds), None)


@click.command()
@names_argument
@lock_option
@click.option("--force", is_flag=True, help="Also download files that are up to date.")
@_local_option
def fetch(names: tuple[str, ...], lock_path: Path | None, force: bool, allow_local: bool) -> None:
    """Download published weights: of all entries that have a source, or of the named ones.

    The first download records commit, size and sha256 in the lock; later downloads must match
    them.

    \b
    Examples:
      specdiag fetch
      specdiag fetch base/poyo_mp_converged
    """  # noqa: D301
    path, lock = open_lock(lock_path)
    entries = [e for e in select([(path, lock)], names) if e.source]
    rest = set(names) - {e.name for e in entries}
    if rest:
        text = f"{', '.join(sorted(rest))} has no source; `specdiag list` shows which entries have"
        raise click.UsageError(text)
    if not entries:
        raise click.UsageError("no entry has a place to download from")
    from specdiag.obtain.plan import plan

    keys = {e.key for e in entries}
    forced = keys if force else set()
    steps = plan(path.parent, lock, keys, force=forced, prefer="fetch")
    settings = {"force": forced, "prefer": "fetch", "allow_local": allow_local}
    _report(steps, _outcomes(path, steps, "process", None, settings), as_json=False)


@click.command()
@names_argument
@lock_option
@scale_option("desk: small networks on simulated recordings; paper: the published settings.")
@click.option(
    "--all", "all_", is_flag=True, help="All entries of the scale, stale and missing ones included."
)
@click.option(
    "--missing", is_flag=True, help="All missing, stale and corrupt entries that recipes can build."
)
@group_option
@click.option(
    "--force", is_flag=True, help="Rebuild entries even if they are ok, and replace their records."
)
@click.option(
    "--prefer",
    type=click.Choice(["fetch", "train"]),
    default="fetch",
    show_default=True,
    help="How to make an entry that can be downloaded.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    help="Train with this random seed, as entries of another lock.",
)
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    help="Number of GPUs, or of processes on a machine without GPUs; by default as declared.",
)
@click.option(
    "--nodes",
    type=click.IntRange(min=1),
    help="Number of machines that train one entry together; see docs/clusters.md.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Number format of the training, if not as declared; results may differ from the record.",
)
@click.option(
    "--log",
    type=click.Choice(["csv", "tensorboard", "wandb"]),
    multiple=True,
    callback=_one_logger,
    help="Also write loss, R² and spectra with this logger while it trains, into the folder "
    "CHECKPOINT.logs; a training that is resumed goes on there.",
)
@click.option("--yes", is_flag=True, help="Also start trainings that take very long here.")
@_local_option
@engine_option
@address_option
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@json_option
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
    allow_local: bool,
    engine: str,
    address: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Download or train checkpoints, parents first.

    Entries that are ok are kept. To resume an interrupted run, start it again; several processes
    can share the work. Recipes are programs that come with the lock: run only those you trust.
    With --seed 43 the entries are trained with that seed, as entries of checkpoints.seed-43.lock,
    which is written beside the lock.

    \b
    Examples:
      specdiag train --missing
      specdiag train transfer/area2_ft_pretrained --scale desk
      specdiag train --missing --scale paper --dry-run
      specdiag train base/poyo_mp_converged --log tensorboard
      specdiag train --all --group published --seed 43
    """  # noqa: D301
    if names and group:
        raise click.UsageError("give names or --group, not both")
    if bool(names) == bool(all_ or missing or group):
        raise click.UsageError("name entries, or give --missing, --all or --group")
    if missing and (force or all_):
        raise click.UsageError("--missing leaves out entries that are ok: give no --force or --all")
    if dry_run and as_json:
        raise click.UsageError("--json prints outcomes, and --dry-run has none: leave one out")
    check_engine(engine, address)
    _check_logger(options["log"])
    options = {k: v for k, v in options.items() if v}
    if engine == "ray" and "nodes" in options:
        raise click.UsageError("--nodes and --engine ray exclude each other")
    from specdiag.obtain.plan import plan
    from specdiag.show.entries import plan_text

    path, lock = open_lock(lock_path)
    if seed is not None:
        path, lock = _replicate(path, scale, seed, write=not dry_run)
    entries = select([(path, lock)], names, scale, group)
    if seed is not None:
        _say_unseeded(entries)
    keys = {e.key for e in entries}
    forced = keys if force else set()
    steps = plan(path.parent, lock, keys, force=forced, prefer=prefer)
    if missing:
        steps = _with_build(path, steps)
    click.echo(plan_text(steps), err=not dry_run)
    if dry_run or (options.get("nodes", 1) > 1 and _joined(path, steps, options, allow_local)):
        return
    settings = {"force": forced, "prefer": prefer, "options": options, "allow_local": allow_local}
    _report(steps, _outcomes(path, steps, engine, address, settings), as_json)


def _check_logger(kind: str | None) -> None:
    """Raise a usage error if the package of a logger is not installed."""
    from importlib.util import find_spec

    packages = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}.get(kind or "")
    if packages and not any(map(find_spec, packages)):
        raise click.UsageError(f"--log {kind} needs {packages[0]}: pip install {packages[0]}")


def _with_build(path: Path, steps: list["Step"]) -> list["Step"]:
    """Return the steps that recipes can do, after printing how many others are left out."""
    from specdiag.obtain.plan import without_build

    if undone := without_build(path, steps):
        text = f"{len(undone)} entries are left out: no recipe can build them or their parents yet"
        click.echo(text, err=True)
    return [step for step in steps if step.entry.key not in undone]


def _replicate(path: Path, scale: "Scale", seed: int, *, write: bool) -> tuple[Path, "Lock"]:
    """Return the lock of another seed and its path, after printing which records it drops."""
    from specdiag.lock import resolve

    check_is_no_replicate(path)
    path, lock, changes = resolve.replicate(path, scale, seed, write=write)
    for line in changes:
        if line.endswith(resolve.LOST):
            click.echo(line, err=True)
    return path, lock


def _say_unseeded(entries: Sequence["Entry"]) -> None:
    from specdiag.lock.resolve import is_seeded

    names = [e.name for e in entries if e.kind == "checkpoint" and not is_seeded(e)]
    has, it_is = ("has", "it is") if len(names) == 1 else ("have", "they are")
    if names:
        text = f"{has} no params.training.seed: {it_is} built again with the same params"
        click.echo(f"{', '.join(names)} {text}", err=True)


def _joined(
    path: Path, steps: Sequence["Step"], options: dict[str, Any], allow_local: bool
) -> bool:
    """Take part in a training of several nodes and return True, unless this node leads it."""
    from specdiag.obtain.job import join, rank_of_node
    from specdiag.obtain.plan import BUILT

    try:
        node = rank_of_node(options["nodes"], os.environ)
    except ValueError as error:
        raise click.UsageError(f"{error}; see docs/clusters.md") from error
    built = [step for step in steps if step.action in BUILT]
    if len(built) > 1 or any(step.action == "evaluate" for step in built):
        raise click.UsageError("--nodes trains one entry whose parents exist: name one such entry")
    if node and built:
        join(path, built[0].entry, {**options, "node": node}, allow_local=allow_local)
    return node > 0


def _outcomes(
    path: Path,
    steps: Sequence["Step"],
    engine: str,
    address: str | None,
    settings: Mapping[str, Any],
) -> Iterator["Outcome"]:
    """Yield the outcomes of the steps, done in this process or, if there are any, on Ray."""
    from specdiag.obtain import build, cluster

    settings = {**settings, "debug": is_debug()}
    if engine == "ray" and any(step.action != "keep" for step in steps):
        return cluster.run(path, steps, build.Settings(**settings), address=address)
    return build.run(path, steps, build.Settings(**settings, progress=show_bytes))


def _report(steps: Sequence["Step"], outcomes: Iterator["Outcome"], as_json: bool) -> None:
    """Do the steps, print all outcomes, also after an interrupt, and exit 1 if one failed."""
    from specdiag.show.entries import outcome_json, outcome_text

    done = {}
    try:
        with stdout_to_stderr():
            for outcome in outcomes:
                done[outcome.entry.key] = outcome
    finally:
        ordered = [done[step.entry.key] for step in steps if step.entry.key in done]
        click.echo(outcome_json(ordered) if as_json else outcome_text(ordered))
    if any(outcome.word in ("failed", "skipped") for outcome in ordered):
        raise click.exceptions.Exit(1)
