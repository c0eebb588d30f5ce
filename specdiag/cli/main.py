"""The command line.

Heavy libraries are imported when a command runs, so that `specdiag --help` answers at once.
"""

import logging
import signal
import sys
from typing import Any

import click

from specdiag.cli.compare import compare
from specdiag.cli.export import export, weights
from specdiag.cli.findings import link, spectra, verify
from specdiag.cli.locks.declare import list_, lock_
from specdiag.cli.locks.make import fetch, train
from specdiag.cli.measure import alpha
from specdiag.cli.options import ERRORS, complain, debug_option
from specdiag.cli.show import figures, report
from specdiag.cli.simulate import simulate
from specdiag.wording import printable

INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return the message printable: names in it can come from strangers."""
        return printable(super().format(record))


class Interruptible(click.Group):
    """A group of commands; an interrupted command ends with one line on stderr."""

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
                click.echo("interrupted: run it again to go on", err=True)
            raise SystemExit(status) from None


@click.group(cls=Interruptible, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="specdiag")
def cli() -> None:
    """Measure how heavy-tailed the spectrum of each weight matrix is, and how certain that is."""
    # Print the log of specdiag, and warnings of other libraries.
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("specdiag: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("specdiag").setLevel(logging.INFO)


for command in (
    *(alpha, compare, export, fetch, figures, link, list_, lock_, report, simulate, spectra),
    *(train, verify, weights),
):
    cli.add_command(debug_option(command))


def main() -> None:
    """Run the command line. An error of the library prints one line and gives exit status 1."""
    try:
        cli(prog_name="specdiag")
    except ERRORS as error:
        complain(error)
        sys.exit(1)
