"""Options that say which networks to read, how, and which of their matrices to measure."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specdiag.cli.options import CheckpointType, Command

if TYPE_CHECKING:
    from specdiag.checkpoint.reader import Checkpoint

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


def open_with(path: Path, settings: Mapping[str, Any]) -> "Checkpoint":
    """Return a checkpoint whose tensors are its weights, read as the options say."""
    from specdiag.checkpoint.weights.find import open_weights

    return open_weights(path, **{name: settings[name] for name in READING})
