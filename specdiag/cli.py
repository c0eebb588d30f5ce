"""The command line: a skin over the library. Results on stdout, progress and errors on stderr.

Nothing heavy is imported before a command runs, so that `specdiag --help` answers at once.
"""

import logging
import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from specdiag.checkpoint import Checkpoint, Tensor
    from specdiag.layers import Layer

# Multiplications of about two seconds of work; a progress bar for less would only flicker.
_LONG = 5e10

# What the library raises, each with one line that says what is wrong and what to do.
_ERRORS = (ValueError, OSError, MemoryError)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="specdiag")
def cli() -> None:
    """Read a neural network's health from the eigenvalue spectra of its weights."""


@cli.command()
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="FILE...",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, NaN as null.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, a row a matrix.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the xarray Dataset, eigenvalues included, as netCDF.",
)
@click.option(
    "--plot",
    type=click.Path(file_okay=False, writable=True, path_type=Path),
    metavar="DIR",
    help="Draw the spectrum of every fitted layer, and alpha by layer, into this folder.",
)
@click.option("--layers", metavar="GLOB", help="Only matrices whose name matches, e.g. '*.query*'.")
@click.option(
    "--min-eigenvalues",
    type=click.IntRange(min=2),
    default=50,
    show_default=True,
    help="Skip matrices with fewer; a matrix with fewer above rounding is degenerate.",
)
@click.option("--include-embeddings", is_flag=True, help="Measure embedding tables too.")
@click.option(
    "--method",
    type=click.Choice(["specdiag", "weightwatcher", "wwj"]),
    default="specdiag",
    show_default=True,
    help="Whose rules give alpha: ours, weightwatcher's, or those of the published POYO card.",
)
@click.option(
    "--null",
    type=click.Choice(["gaussian", "permutation"]),
    default="gaussian",
    show_default=True,
    help="Compare alpha with Gaussian matrices, or with the layer's own entries shuffled (slow).",
)
@click.option("--gof/--no-gof", default=True, help="Test the goodness of fit.  [default: gof]")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the bootstrap and the shuffling.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def alpha(
    files: tuple[Path, ...],
    as_json: bool,
    as_csv: bool,
    output: Path | None,
    plot: Path | None,
    layers: str | None,
    debug: bool,
    **settings: Any,
) -> None:
    """Fit a power law to the spectrum of every weight matrix of each FILE.

    A FILE is a .ckpt, .pt, .pth, .bin or .safetensors file, an index of shards (*.index.json), or
    a folder that holds one of these. No code in it is ever run.

    \b
    Examples:
      specdiag alpha model.safetensors
      specdiag alpha last.ckpt --layers '*.to_qkv.*' --plot figures
      specdiag alpha a.pt b.pt -o both.nc
      specdiag alpha base.ckpt --method wwj
    """  # noqa: D301
    _check_usage(as_json, as_csv, output, plot)
    logging.basicConfig(level=logging.INFO, format="specdiag: %(message)s")
    from specdiag import tables

    checkpoints, measured = _measure_all(files, layers, settings, debug)
    failed = len(checkpoints) < len(files)
    try:  # files first: whoever reads stdout may stop reading
        _write(checkpoints, measured, {"layers": layers, **settings}, output, plot)
    except _ERRORS as error:  # what was measured is still shown
        if debug:
            raise
        _complain(error)
        failed = True
    if as_json:
        click.echo(tables.as_json(checkpoints, measured))
    elif as_csv:
        click.echo(tables.as_csv(checkpoints, measured), nl=False)
    else:
        _print_tables(checkpoints, measured)
    if failed:
        raise click.exceptions.Exit(1)


def _check_usage(as_json: bool, as_csv: bool, output: Path | None, plot: Path | None) -> None:
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    if output and not output.resolve().parent.is_dir():
        raise click.UsageError(f"-o {output}: there is no folder {output.parent}")
    if output and output.exists() and not output.is_file():
        raise click.UsageError(f"-o {output}: not a regular file")
    if plot and not find_spec("matplotlib"):
        raise click.UsageError("--plot needs matplotlib: pip install matplotlib")


def _measure_all(
    files: Sequence[Path], pattern: str | None, settings: dict[str, Any], debug: bool
) -> tuple[list["Checkpoint"], list[list["Layer"]]]:
    """Return the files that could be measured, and their layers; complain about the others."""
    from specdiag.checkpoint import open_checkpoint
    from specdiag.layers import matrices, measure
    from specdiag.verdict import judge

    checkpoints, measured = [], []
    for file in files:
        try:
            checkpoint = open_checkpoint(file)
            tensors = matrices(checkpoint, pattern)
            found = _with_progress(measure(tensors, **settings), tensors, checkpoint.name)
            measured.append(judge(found))
            checkpoints.append(checkpoint)
        except _ERRORS as error:
            if debug:
                raise
            _complain(error)
    return checkpoints, measured


def _complain(error: Exception) -> None:
    from specdiag._files import printable

    click.echo(f"specdiag: {printable(str(error) or 'not enough memory')}", err=True)


def _with_progress(
    measured: Iterator["Layer"], tensors: Sequence["Tensor"], label: str
) -> Iterator["Layer"]:
    """Yield the layers, with a progress bar on a terminal's stderr when they will take long."""
    from specdiag._files import printable

    costs = [math.prod(t.shape) * min(t.shape[:2]) for t in tensors]
    if sum(costs) < _LONG or not sys.stderr.isatty():
        yield from measured
        return
    with click.progressbar(length=sum(costs), label=printable(label), file=sys.stderr) as progress:
        for layer, cost in zip(measured, costs, strict=True):
            progress.update(cost)
            yield layer


def _print_tables(
    checkpoints: Sequence["Checkpoint"], measured: Sequence[Sequence["Layer"]]
) -> None:
    from specdiag import tables
    from specdiag._files import printable

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for checkpoint, layers in zip(checkpoints, measured, strict=True):
        click.secho(printable(str(checkpoint.path)), bold=True)
        for line in tables.as_table(layers, width) + tables.summary_lines(checkpoint, layers):
            click.echo(line)
        click.echo()


def _write(
    checkpoints: Sequence["Checkpoint"],
    measured: Sequence[Sequence["Layer"]],
    settings: dict[str, Any],
    output: Path | None,
    plot: Path | None,
) -> None:
    if not checkpoints or not (output or plot):
        return
    from specdiag import spectra

    dataset = spectra.build(checkpoints, measured, settings)
    if output:
        spectra.save(dataset, output)
        click.echo(f"wrote {output}", err=True)
    if plot:
        from specdiag.figures import draw_all

        written = draw_all(dataset, plot)
        click.echo(f"drew {len(written)} figures in {plot}", err=True)


@cli.command()
@click.argument("checkpoint", type=click.Path(exists=True, path_type=Path))
@click.argument("output", type=click.Path(path_type=Path), metavar="OUT.safetensors")
@click.option("--force", is_flag=True, help="Replace the files if they exist.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def export(checkpoint: Path, output: Path, force: bool) -> None:
    """Write CHECKPOINT as OUT.safetensors, and OUT.json with its vocabulary beside it.

    All tensors keep their bits, and their names without the prefixes of wrapper modules such as
    'model.'. The JSON holds vocabularies, hyper-parameters and whatever else is plain; the
    safetensors file holds a copy of it, so that every command reads the export as it read
    CHECKPOINT. A tensor that cannot be exported is an error; what else was left aside is said on
    stderr. No code in CHECKPOINT is ever run.

    \b
    Examples:
      specdiag export base.ckpt base.safetensors
      specdiag export model/ exported.safetensors --force
    """  # noqa: D301
    from specdiag import exports
    from specdiag._files import printable
    from specdiag.checkpoint import open_checkpoint

    if output.suffix != ".safetensors":
        raise click.UsageError(f"{output}: the name of the file to write ends in .safetensors")
    found = open_checkpoint(checkpoint)
    digest = exports.export(found, output, overwrite=force)
    for note in found.notes:
        click.echo(printable(f"note: {note}"), err=True)
    n_tensors, n_bytes = len(found.tensors), output.stat().st_size
    tensors = f"{n_tensors:,} tensor{'s' * (n_tensors != 1)}"
    files = f"{output} ({n_bytes:,} bytes) and {output.with_suffix('.json').name}"
    click.echo(printable(f"exported {tensors} to {files}, tensor digest {digest}"))


def main() -> None:
    """Run the command line; an error of the library is one line and exit status 1."""
    try:
        cli(prog_name="specdiag")
    except _ERRORS as error:
        if "--debug" in sys.argv:
            raise
        _complain(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
