"""The command line.

Heavy libraries are imported when a command runs, so that `specdiag --help` answers at once.
"""

import logging
import os
import signal
import sys
import threading
from importlib import import_module
from typing import Any

import click

from specdiag.cli.options import ERRORS, complain, debug_option
from specdiag.wording import printable

# Each command with its module, which is imported when the command runs or is listed.
COMMANDS = {
    "alpha": "measure",
    "compare": "compare",
    "export": "export",
    "features": "features",
    "fetch": "locks.make",
    "figures": "show",
    "link": "locks.findings",
    "list": "locks.declare",
    "lock": "locks.declare",
    "report": "show",
    "simulate": "locks.simulate",
    "spectra": "locks.findings",
    "train": "locks.make",
    "verify": "locks.findings",
    "watch": "watch",
    "weights": "export",
}
INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return the message printable: names in it can come from strangers."""
        return printable(super().format(record))


class Interruptible(click.Group):
    """The commands; an interrupted one ends with one line on stderr."""

    def list_commands(self, _: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        """Return a command, or None if there is none of this name."""
        if name not in COMMANDS:
            return None
        if name not in self.commands:
            module = import_module(f"specdiag.cli.{COMMANDS[name]}")
            attribute = {"list": "list_", "lock": "lock_"}.get(name, name)
            self.commands[name] = debug_option(getattr(module, attribute))
        return self.commands[name]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; raise SystemExit with status 130 (SIGINT) or 143 (SIGTERM).

        The message of a usage error is printable: names of files in it can come from strangers.
        """
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise click.UsageError(printable(error.format_message()), error.ctx) from error
        except (KeyboardInterrupt, SystemExit) as error:
            status = error.code if isinstance(error, SystemExit) else 128 + signal.SIGINT
            if status in INTERRUPTED:
                click.echo(_interrupted(ctx.invoked_subcommand), err=True)
            raise SystemExit(status) from None


def _interrupted(command: str | None) -> str:
    if command in ("alpha", "watch") and not any(
        x.startswith(("-o", "--output")) for x in sys.argv
    ):
        return "interrupted; with -o FILE, finished layers are kept for the next run"
    keeps = command in ("alpha", "fetch", "spectra", "train", "watch")
    return "interrupted: run it again to go on" if keeps else "interrupted"


@click.group(cls=Interruptible, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="specdiag")
def cli() -> None:
    """Measure how heavy-tailed the spectrum of each weight matrix is, and how certain that is."""
    # Print the log of specdiag, and warnings of other libraries.
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("specdiag: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("specdiag").setLevel(logging.INFO)


def main() -> None:
    """Run the command line. An error of the library prints one line and gives exit status 1."""
    try:
        cli(prog_name="specdiag")
    except ERRORS as error:
        complain(error)
        sys.exit(1)
    except SystemExit as error:
        if error.code in INTERRUPTED and any(map(_measures, threading.enumerate())):
            sys.stdout.flush()
            os._exit(int(error.code))  # Python would wait for the matrices that are being measured
        raise


def _measures(thread: threading.Thread) -> bool:
    from specdiag.compute.parallel import THREADS

    return thread.name.startswith(THREADS)
