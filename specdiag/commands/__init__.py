"""The commands, and what several of them share. Results on stdout, progress and errors on stderr."""

import logging
import sys

import click

# What the library raises, each with one line that says what is wrong and what to do.
ERRORS = (ValueError, OSError, MemoryError, RuntimeError)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, NaN as null.")
debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."
)


def is_debug() -> bool:
    """Return whether errors are to be shown with their traceback: before any option is parsed, too."""
    return "--debug" in sys.argv


def start_log() -> None:
    """Show what the library logs, and what goes wrong in others."""
    logging.basicConfig(level=logging.WARNING, format="specdiag: %(message)s")
    logging.getLogger("specdiag").setLevel(logging.INFO)


def complain(error: Exception) -> None:
    """Say on stderr, in one line, what is wrong."""
    from specdiag._files import printable

    click.echo(f"specdiag: {printable(str(error) or 'not enough memory')}", err=True)
