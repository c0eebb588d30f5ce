"""Options that name outputs, and the one check of what a command may write."""

import glob
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from specdiag.cli.options import Command

FIGURES = (".png", ".pdf", ".svg")  # kinds of figures that one is written as


def output_option(
    text: str, *, is_folder: bool = False, **settings: Any
) -> Callable[[Command], Command]:
    """Return the option `-o`, a file or a folder to write to. `check_output` checks its value."""
    return click.option("-o", "--output", type=target_type(is_folder), help=text, **settings)


force_option = click.option(
    "--force",
    is_flag=True,
    help="Also replace a file that specdiag did not write; never an input, or a file of a lock.",
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

    Its name must end in one of `suffixes`. These files always stay, also where the name is a link
    to them: the inputs (every file of a folder, and every shard beside an index), the locks, and
    their recipes, figures, inputs and checkpoints, with the files beside a checkpoint that begin
    with its name. The locks are those given, and those in the nearest folder above the output with
    a checkpoints.lock. Without `force`, every file that is not an output of specdiag stays.
    """
    from specdiag.outputs import check_output_path, is_input

    locks = tuple(locks)
    name, target = f"{option} {output}".strip(), output.resolve()
    check_folder(output.parent, name)
    check_folder(target.parent, name)
    if target in {path.resolve() for path in locks}:
        raise click.UsageError(f"{name}: it is the lock to read")
    if target.is_file() and any(is_input(target, path) for path in inputs):
        raise click.UsageError(f"{name}: it is one of the files to read")
    if owner := _owner(output, {path.resolve() for path in locks}):
        raise click.UsageError(f"{name}: {owner}; give another name")
    if output.suffix.lower() not in suffixes:
        ending = " or ".join(suffixes)
        raise click.UsageError(f"{name}: expected a name that ends in {ending}")
    try:
        check_output_path(output, overwrite=force)
    except (ValueError, FileExistsError) as error:
        text = str(error).replace("(--force, overwrite=True)", "(--force)")
        raise click.UsageError(f"{option} {text}".strip()) from error


def check_figures(
    folder: Path,
    inputs: Iterable[Path] = (),
    *,
    names: Iterable[str],
    suffixes: Sequence[str],
    option: str = "-o",
    force: bool = False,
) -> None:
    """Raise a usage error if figures cannot be written to a folder, or a file there must stay.

    Figures can have every name that begins with one of `names` and ends in one of `suffixes`, in
    the folder or in one of its folders of a checkpoint. `check_output` tells which files must stay.
    """
    check_folder(folder if folder.exists() else folder.parent, f"{option} {folder}")
    for path in sorted((*folder.glob("*"), *folder.glob("[0-9][0-9]_*/*"))):
        if path.suffix in suffixes and path.name.startswith(tuple(names)):
            check_output(path, inputs, suffixes=suffixes, option=option, force=force)


def check_folder(folder: Path, name: str) -> None:
    """Raise a usage error if no file can be written in a folder; `name` names the option."""
    if not folder.is_dir():
        raise click.UsageError(f"{name}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise click.UsageError(f"{name}: no permission to write in the folder {folder}")


def _owner(output: Path, locks: set[Path]) -> str:
    """Return what a file is to one of the locks or to those above it, or ''."""
    from specdiag.files import OutsideError
    from specdiag.lock.lockfile import find_lock, load

    places = {output.resolve(), output.parent.resolve() / output.name}  # a link and its target
    for place in places:
        with suppress(FileNotFoundError):  # with the locks of other seeds
            locks |= {*find_lock(place.parent).parent.glob("checkpoints*.lock")}
    for lock in sorted(locks):
        root = lock.parent
        programs = [p for name in ("recipes", "figures") for p in _found(root, name, "**/*.py")]
        if _is_any(places, (lock, *programs)):
            return f"it is {lock.name} or a program beside it"
        try:
            entries = load(lock).entries
        except OutsideError:  # a link to a lock elsewhere, which has no files here
            continue
        for entry in entries:
            checkpoint = root / entry.path
            named = f"{glob.escape(checkpoint.name)}.*"
            beside = _found(root, Path(entry.path).parent, named)
            folder = checkpoint.parent.resolve()
            if _is_any(places, (checkpoint, *beside)) or any(
                p.parent == folder and p.name.startswith(f"{checkpoint.name}.") for p in places
            ):
                return f"files of that name belong to the checkpoint of {entry.name}"
            if _is_any(places, (root / item.path for item in entry.inputs if item.path)):
                return f"it is an input of {entry.name}"
    return ""


def _found(root: Path, folder: str | Path, pattern: str) -> list[Path]:
    """Return the files of a folder of a lock; none if a link leads out of the lock's folder."""
    from specdiag.files import OutsideError
    from specdiag.lock.place import inside

    try:
        return [*inside(root, folder).glob(pattern)]
    except OutsideError:
        return []


def _is_any(places: Iterable[Path], kept: Iterable[Path]) -> bool:
    """Return whether one of the kept files is at one of the places, also by a hard link."""
    linked = [place for place in places if place.is_file() and place.stat().st_nlink > 1]
    return any(
        path.resolve() in places
        or (linked and path.is_file() and any(path.samefile(place) for place in linked))
        for path in kept
    )
