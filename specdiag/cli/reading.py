"""Options that say which networks to read, how, and which of their matrices to measure."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specdiag.cli.options import Command, open_lock

if TYPE_CHECKING:
    from specdiag.checkpoint.reader import Checkpoint


class CheckpointType(click.ParamType[Path]):
    """A path, the name of an entry of the lock whose file exists, or an address of hub or web."""

    name = "checkpoint"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; raise a usage error if the name has no file, or several."""
        from specdiag.checkpoint.remote.places import place
        from specdiag.files import DistantPath

        if not str(value):
            self.fail("the name is empty", param, ctx)
        path = Path(value)
        if path.exists():
            return path
        lock_path = ctx.params.get("lock_path") if ctx else None
        files, reasons = _files_of(value, lock_path if isinstance(lock_path, Path) else None)
        if len(files) > 1:
            reasons = [f"it exists at several scales: name {' or '.join(map(str, files))}"]
        if not files and not reasons:
            try:
                path = place(value)
            except ValueError as error:
                self.fail(str(error), param, ctx)
            if isinstance(path, DistantPath):
                return path
        if len(files) != 1:
            self.fail("; ".join(reasons) or f"Path '{value}' does not exist.", param, ctx)
        return files[0]


class ManyFilesCommand(click.Command):
    """A command whose option `--against` or `--initialisation` takes all words up to the next."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write the option anew before each of its words."""
        many = ("--against", "--initialisation")
        written, option = [], ""
        for arg in args:
            if arg.startswith("-"):
                option = arg if arg in many else ""
                written += [arg] * (not option)
            else:
                written += [option, arg] if option else [arg]
        for option in many:
            if option in args and option not in written:
                raise click.UsageError(f"{option} needs at least one file")
        return super().parse_args(ctx, written)


def _files_of(name: str, lock_path: Path | None) -> tuple[list[Path], list[str]]:
    """Return the files of the entries with this name, and why the others have no file."""
    from specdiag.lock.place import inside
    from specdiag.obtain.state import state

    try:
        path, lock = open_lock(lock_path)
    except FileNotFoundError:
        return [], []
    files, reasons = [], []
    for entry in (e for e in lock.entries if e.name == name):
        if entry.kind == "evaluation" and entry.parent:
            reasons.append(f"an evaluation, whose weights are those of {entry.parent.name}")
            continue
        word, reason, _ = state(path.parent, lock, entry)
        if word in ("missing", "corrupt"):
            where = f" --lock {lock_path}" if lock_path else ""
            again = f"`specdiag train {name} --scale {entry.scale}{where}` makes it"
            why = f" ({reason})" if reason else ""
            reasons.append(f"{word} at {entry.scale} scale{why}; {again}")
        else:
            files.append(inside(path.parent, entry.path))
    return files, reasons


files_argument = click.argument(
    "files", nargs=-1, required=True, type=CheckpointType(), metavar="FILE..."
)
layers_option = click.option(
    "--layers", metavar="GLOB", help="Measure only matrices whose name matches, such as '*.query*'."
)
min_eigenvalues_option = click.option(
    "--min-eigenvalues",
    type=click.IntRange(min=2),
    default=50,
    show_default=True,
    help="Skip matrices with fewer eigenvalues. A matrix with fewer above rounding error is called "
    "degenerate.",
)
include_embeddings_option = click.option(
    "--include-embeddings", is_flag=True, help="Measure embedding tables, too."
)

READING = ("which", "base", "splits")  # names of the settings that `reading_options` adds


which_option = click.option(
    "--which",
    metavar="NAME",
    help="Read the network under this entry of the file, such as ema, where it holds several.",
)


_base_option = click.option(
    "--base",
    type=CheckpointType(),
    metavar="FILE",
    help="Merge each FILE that is an adapter, such as a LoRA, with this base. Without the option, "
    "a base that lies beside the adapter is used; without a base, the updates are measured alone.",
)


def _checked(ctx: click.Context, _: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    from specdiag.checkpoint.weights.split import SplitError, parse

    for text in texts:
        try:
            parse(text)
        except SplitError as error:
            raise click.UsageError(f"--{error}", ctx) from error
    return texts


_split_option = click.option(
    "--split",
    "splits",
    multiple=True,
    metavar="PATTERN=SPEC",
    callback=_checked,
    help="Cut the weights whose names match: '*.c_attn.weight=q,k,v' into blocks, "
    "'*.q_proj.weight=12' into heads, 'W_Q=stack' into matrices; see docs/weights.md. Repeatable.",
)


def reading_options(command: Command) -> Command:
    """Add the options that say how a checkpoint is read; `open_with` takes their values."""
    for option in (_split_option, _base_option, which_option):
        command = option(command)
    return command


class _Bytes(click.ParamType[int]):
    """A number of bytes, such as 8G, 500M or 1.5T: K, M, G and T are powers of 1,024."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes; raise a usage error for anything else, or for less than one."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)([KMGT]?)(?:i?B)?", value, re.IGNORECASE)
        n = int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " ")) if match else 0
        if n < 1:
            self.fail(f"{value!r} is no amount of memory; expected one such as 8G", param, ctx)
        return n


def _used(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    from specdiag.compute.machine import using

    try:
        ctx.with_resource(using(**{str(option.name): value}))
    except ValueError as error:
        raise click.UsageError(f"--{error}", ctx) from error


_jobs_option = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    expose_value=False,
    callback=_used,
    help="Measure at most N matrices at once; by default, one for each core. Changes no result.",
)
_memory_option = click.option(
    "--memory",
    type=_Bytes(),
    metavar="SIZE",
    expose_value=False,
    callback=_used,
    help="Use at most this much memory for them, such as 8G; by default, 75 % of what is free. A "
    "matrix that needs more is measured alone.",
)
_device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cuda", "mps", "cpu"]),
    default="auto",
    show_default=True,
    expose_value=False,
    callback=_used,
    help="Compute eigenvalues on a GPU, through torch: all of them (cuda), or those of matrices "
    "with at least 4,096 rows and columns, if there is a GPU (auto). Moves alpha by rounding only.",
)


def machine_options(command: Command) -> Command:
    """Add the options that say what may be used of this machine, in effect while it runs."""
    return _jobs_option(_memory_option(_device_option(command)))


def open_with(path: Path, settings: Mapping[str, Any]) -> "Checkpoint":
    """Return a checkpoint whose tensors are its weights, read as the options say."""
    from specdiag.checkpoint.weights.find import open_weights

    return open_weights(path, **{name: settings[name] for name in READING})
