"""Options that name outputs, and the one check of what a command may write."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from specdiag.cli.options import Command


def output_option(
    text: str, *, is_folder: bool = False, **settings: Any
) -> Callable[[Command], Command]:
    """Return the option `-o`, a file or a folder to write to. `check_output` checks its value."""
    return click.option("-o", "--output", type=target_type(is_folder), help=text, **settings)


force_option = click.option(
    "--force", is_flag=True, help="Also replace a file that specdiag did not write."
)


def target_type(is_folder: bool = False) -> click.Path:
    """Return the type of an option that names a file or a folder to write to."""
    return _Target(file_okay=not is_folder, dir_okay=is_folder, writable=True, path_type=Path)


class _Target(click.Path):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value):  # Path("") is the current folder
            self.fail("the name is empty", param, ctx)
        return super().convert(value, param, ctx)


def check_output(
    output: Path,
    inputs: Iterable[Path] = (),
    locks: Iterable[Path] = (),
    *,
    suffixes: Sequence[str],
    option: str = "-o",
    force: bool = False,
) -> None:
    """Raise a usage error if a file cannot be written, or would replace a file that must stay.

    Its name must end in one of `suffixes`. Files that must always stay are the inputs (every file
    of a folder, and every shard beside an index), the locks, and each checkpoint of a lock with the
    files beside it that begin with its name. The locks are those given, and those in the nearest
    folder above the output with a checkpoints.lock. Without `force`, every file that is not an
    output of specdiag stays.
    """
    from specdiag.outputs import check_output_path, is_input

    name, target, locks = f"{option} {output}".strip(), output.resolve(), tuple(locks)
    check_folder(output.parent, name)
    if target in {path.resolve() for path in locks}:
        raise click.UsageError(f"{name}: it is the lock to read")
    if target.is_file() and any(is_input(target, path) for path in inputs):
        raise click.UsageError(f"{name}: it is one of the files to read")
    if entry := _kept_for(output, locks):
        raise click.UsageError(
            f"{name}: files of that name belong to the checkpoint of {entry}; give another name"
        )
    if output.suffix.lower() not in suffixes:
        ending = " or ".join(suffixes)
        raise click.UsageError(f"{name}: expected a name that ends in {ending}")
    try:
        check_output_path(output, overwrite=force)
    except (ValueError, FileExistsError) as error:
        text = str(error).replace("(--force, overwrite=True)", "(--force)")
        raise click.UsageError(f"{option} {text}".strip()) from error


def check_folder(folder: Path, name: str) -> None:
    """Raise a usage error if no file can be written in a folder; `name` names the option."""
    if not folder.is_dir():
        raise click.UsageError(f"{name}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise click.UsageError(f"{name}: no permission to write in the folder {folder}")


def _kept_for(output: Path, locks: Iterable[Path]) -> str:
    """Return the name of the entry whose checkpoint, or a file beside it, has this path, or ''."""
    from specdiag.lock.lockfile import find_lock, load

    places = {output.resolve(), output.parent.resolve() / output.name}  # a link and its target
    paths = {path.resolve() for path in locks}
    for place in places:
        with suppress(FileNotFoundError):  # with the locks of other seeds
            paths |= {*find_lock(place.parent).parent.glob("checkpoints*.lock")}
    for lock in sorted(paths):
        for entry in load(lock).entries:
            path = lock.parent / entry.path
            folder = path.parent.resolve()
            if path.resolve() in places or any(
                place.parent == folder and place.name.startswith(path.name) for place in places
            ):
                return entry.name
    return ""
