"""Options, checks and messages of several commands. Results go to stdout, the rest to stderr."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from specdiag.lock.entry import Entry, Lock, Scale

# The errors of the library; their messages say in one line what is wrong and what to do.
ERRORS = (ValueError, OSError, MemoryError, RuntimeError)

Command = TypeVar("Command", bound=Callable[..., Any] | click.Command)

names_argument = click.argument("names", nargs=-1, metavar="[NAME]...")
group_option = click.option("--group", metavar="GROUP", help="Use only entries of this group.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, with null for NaN.")


class _RegularFile(click.Path):
    """The path of a file to read; a folder, pipe or device is a usage error, and is not opened."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from specdiag.files import find_file

        path: Any = super().convert(value, param, ctx)
        try:
            find_file(path)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return path


existing_file = _RegularFile(exists=True, dir_okay=False, path_type=Path)


def scale_option(
    text: str, *more: str, default: str | None = "desk"
) -> Callable[[Command], Command]:
    """Return the option `--scale`: desk, paper, or one of `more`."""
    return click.option(
        "--scale",
        type=click.Choice(["desk", "paper", *more]),
        default=default,
        show_default=default is not None,
        help=text,
    )


def seed_option(text: str) -> Callable[[Command], Command]:
    """Return the option `--seed`, the seed of random numbers."""
    return click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, help=text
    )


engine_option = click.option(
    "--engine",
    type=click.Choice(["process", "ray"]),
    default="process",
    show_default=True,
    help="With process, one checkpoint is done after another; with ray, many at a time by Ray, and "
    "by alpha the layers of each.",
)
address_option = click.option(
    "--address",
    metavar="HOST:PORT",
    help="The Ray cluster to use; auto is a running one. By default, Ray starts on this machine.",
)


def check_engine(engine: str, address: str | None) -> None:
    """Raise a usage error if an address is invalid, or is given without `--engine ray`.

    Ray's workers have no GPU, so with it `--device auto` is the processor, and cuda an error.
    """
    if address and address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise click.UsageError(
                f"--address {address} is invalid; expected HOST:PORT, such as node1:6379, or auto"
            )
    if address and engine != "ray":
        raise click.UsageError("--address needs --engine ray")
    from specdiag.compute.machine import current

    if engine == "ray" and (current().jobs or current().memory):
        raise click.UsageError("--jobs and --memory limit this machine; --engine ray has its own")
    if engine == "ray":
        from specdiag.compute.machine import current, using

        if current().device == "cuda":
            raise click.UsageError("--device cuda excludes --engine ray: its workers have no GPU")
        click.get_current_context().with_resource(using(device="cpu"))


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."
)


def is_debug() -> bool:
    """Return whether to show tracebacks, also of errors before the options are parsed."""
    return "--debug" in sys.argv


def lock_option_with(text: str) -> Callable[[Command], Command]:
    """Return the option `--lock` with this help."""
    return click.option(
        "--lock",
        "lock_path",
        type=existing_file,
        is_eager=True,  # parsed before the names, which CheckpointType looks up in it
        help=text,
    )


lock_option = lock_option_with(
    "The lock file. By default, it is checkpoints.lock in this folder or in a folder above."
)


def check_installed(user: str, *packages: str) -> None:
    """Raise a usage error if one of the packages that draw and write pages is not installed."""
    for name in packages:
        if not find_spec(name):
            raise click.UsageError(f"{user} needs {name}: pip install 'specdiag[figures]'")


def say(text: str) -> None:
    """Print a line on stderr; names in it can come from strangers, so it is made printable."""
    from specdiag.wording import printable

    click.echo(printable(text), err=True)


def show_count(done: int, total: int) -> None:
    """Print a count of entries on a terminal's stderr, in one line."""
    if sys.stderr.isatty():
        click.echo(f"\r{done} of {total} entries" + "\n" * (done == total), nl=False, err=True)


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send to stderr all text that recipes, their libraries and their processes print."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def show_bytes(name: str) -> Callable[[int, int | None], None]:
    """Return a function that draws a progress bar on a terminal's stderr."""
    bars: list[Any] = []

    def show(done: int, total: int | None) -> None:
        if total and not bars and sys.stderr.isatty():
            bars.append(click.progressbar(length=total, label=name, file=sys.stderr))
        for bar in bars:
            bar.update(done - bar.pos)
            if done == total:
                bar.render_finish()

    return show


def complain(error: Exception) -> None:
    """Print the message of an error on stderr, in one line; with `--debug`, raise the error."""
    from specdiag.wording import one_line

    if is_debug():
        raise error
    say(f"specdiag: {one_line(error)}")


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Raise each error of the library as a ValueError whose message begins with the path.

    A declared split that does not fit is a usage error.
    """
    from specdiag.checkpoint.weights.split import SplitError
    from specdiag.wording import one_line, shown

    try:
        yield
    except ERRORS as error:
        text = one_line(error)
        for name in (str(path), str(path.absolute()), shown(path.name, quote=False)):
            text = text.removeprefix(f"{name}: ")
        if isinstance(error, SplitError):
            raise click.UsageError(f"{path}: --{text}") from error
        raise ValueError(f"{path}: {text}") from error


def select(
    locks: Sequence[tuple[Path, "Lock"]],
    names: Sequence[str],
    scale: "Scale | None" = None,
    group: str | None = None,
) -> list["Entry"]:
    """Return the selected entries in the order of the locks; an invalid name is a usage error."""
    from specdiag.lock import lockfile

    try:
        return [entry for *_, entry in lockfile.select(locks, names, scale, group)]
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def open_lock(lock_path: Path | None) -> tuple[Path, "Lock"]:
    """Return the path and the content of the given lock, or else of the nearest one."""
    from specdiag.lock.lockfile import find_lock, load

    path = lock_path or find_lock(Path.cwd())
    return path.parent.resolve() / path.name, load(path)
