"""The commands that measure checkpoints: alpha and compare."""

import math
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specdiag.cli.options import (
    ERRORS,
    CheckpointType,
    GroupsCommand,
    address_option,
    check_engine,
    check_installed,
    check_output,
    complain,
    engine_option,
    errors_of,
    json_option,
    lock_option,
    output_option,
    seed_option,
    target_type,
)

if TYPE_CHECKING:
    import xarray as xr

    from specdiag.checkpoint.reader import Checkpoint
    from specdiag.checkpoint.tensor import Tensor
    from specdiag.comparison.dataset import Compared
    from specdiag.htsr.layers import Layer

# Number of multiplications in about two seconds; for less work a progress bar would only flicker.
_LONG = 5e10

_files = click.argument("files", nargs=-1, required=True, type=CheckpointType(), metavar="FILE...")
_output = output_option("Write the xarray Dataset, eigenvalues included, as netCDF.")
_layers = click.option(
    "--layers", metavar="GLOB", help="Measure only matrices whose name matches, such as '*.query*'."
)
_min_eigenvalues = click.option(
    "--min-eigenvalues",
    type=click.IntRange(min=2),
    default=50,
    show_default=True,
    help="Skip matrices with fewer eigenvalues. A matrix with fewer above rounding error is called "
    "degenerate.",
)
_include_embeddings = click.option(
    "--include-embeddings", is_flag=True, help="Measure embedding tables, too."
)


@click.command()
@_files
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with a row for each matrix.")
@click.option(
    "--columns",
    type=click.Choice(["default", "all"]),
    default="default",
    show_default=True,
    help="Columns of the table; all adds alpha_ks, the estimate by Clauset's rule, with its tail.",
)
@_output
@click.option(
    "--plot",
    type=target_type(is_folder=True),
    metavar="DIR",
    help="Draw the spectrum of every measured layer, and alpha by layer, into this folder.",
)
@_layers
@_min_eigenvalues
@_include_embeddings
@click.option(
    "--method",
    type=click.Choice(["specdiag", "weightwatcher", "wwj"]),
    default="specdiag",
    show_default=True,
    help="Use the rules of specdiag, of weightwatcher, or of the published POYO model card (wwj).",
)
@click.option(
    "--gof/--no-gof", default=True, help="Test how well the power law fits.  [default: gof]"
)
@click.option(
    "--repeats",
    is_flag=True,
    help="Estimate how far alpha would scatter if the rows of each matrix were drawn again (slow).",
)
@seed_option("Random seed for bootstrap, sign flips and repeats.")
@engine_option
@address_option
@lock_option
def alpha(
    files: tuple[Path, ...],
    as_json: bool,
    as_csv: bool,
    columns: str,
    output: Path | None,
    plot: Path | None,
    layers: str | None,
    engine: str,
    address: str | None,
    lock_path: Path | None,  # noqa: ARG001 - CheckpointType uses it
    **settings: Any,
) -> None:
    """Measure how heavy-tailed the spectrum of each weight matrix is.

    The command fits a power law to the eigenvalues of every matrix of each FILE, and shows how
    certain its exponent alpha is. A FILE is a .ckpt, .pt, .pth, .bin or .safetensors file, an index
    of shards (*.index.json), a folder with one of these, or a name in checkpoints.lock. No code in
    it is ever run.

    The interval of alpha takes the eigenvalues for independent draws. It is not how far alpha moves
    when rows are drawn again (--repeats), nor when a network is trained again (compare --against).

    \b
    Examples:
      specdiag alpha model.safetensors
      specdiag alpha last.ckpt --layers '*.to_qkv.*' --plot figures
      specdiag alpha a.pt b.pt -o both.nc
      specdiag alpha base.ckpt --method wwj
    """  # noqa: D301
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    check_engine(engine, address)
    _check_usage(files, output, plot)
    from specdiag.dataset.spectra import build
    from specdiag.plot.drawings import draw_all
    from specdiag.show import layers as layer_tables

    checkpoints, measured = _measure_all(files, layers, settings, engine, address)
    failed = len(checkpoints) < len(files)
    if checkpoints and (output or plot):  # first, as stdout may be closed before its end
        dataset = build(checkpoints, measured, {"layers": layers, **settings})
        failed |= not _write(dataset, output, plot, draw_all)
    if as_json:
        click.echo(layer_tables.as_json(checkpoints, measured))
    elif as_csv:
        click.echo(layer_tables.as_csv(checkpoints, measured), nl=False)
    else:
        _print_tables(checkpoints, measured, columns)
    if failed:
        raise click.exceptions.Exit(1)


@click.command(cls=GroupsCommand)
@_files
@click.option(
    "--against",
    multiple=True,
    type=CheckpointType(),
    metavar="FILE...",
    help="Compare all FILEs before with all of these, as seeds of two recipes.",
)
@json_option
@_output
@click.option(
    "--plot",
    type=target_type(),
    metavar="FILE",
    help="Draw alpha of both and its difference, by layer (.png, .pdf or .svg).",
)
@_layers
@_min_eigenvalues
@_include_embeddings
@lock_option
def compare(
    files: tuple[Path, ...],
    against: tuple[Path, ...],
    as_json: bool,
    output: Path | None,
    plot: Path | None,
    layers: str | None,
    lock_path: Path | None,  # noqa: ARG001 - CheckpointType uses it
    **settings: Any,
) -> None:
    """Compare the first FILE with each of the others, or two groups of seeds.

    The command compares layer by layer and as a whole. It shows which tensors are bit-identical,
    how alpha and the spectra of the other tensors differ, and a conclusion in one sentence. Each
    difference is the other file minus the first.

    Two networks cannot show how far two seeds of one recipe differ, so that is assumed. Give
    several seeds of both recipes to measure it: with --against, the FILEs before it are one group,
    those after it the other.

    \b
    Examples:
      specdiag compare pretrained.ckpt scratch.ckpt
      specdiag compare base.ckpt finetuned.ckpt --plot difference.pdf
      specdiag compare base.ckpt a.ckpt b.ckpt c.ckpt -o all.nc
      specdiag compare a1.pt a2.pt a3.pt --against b1.pt b2.pt b3.pt
    """  # noqa: D301
    if len(files) + len(against) < 2:
        text = "compare needs at least two files; the first is compared with the others"
        raise click.UsageError(text)
    if plot and plot.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise click.UsageError(f"--plot {plot}: name a .png, .pdf or .svg file")
    _check_usage([*files, *against], output, plot)
    from specdiag.comparison.dataset import build_comparison, measure_and_compare
    from specdiag.plot import difference
    from specdiag.show import comparison as comparison_tables

    groups = [files, against] if against else [[file] for file in files]
    compared = measure_and_compare(groups, layers, _with_progress, errors_of, **settings)
    failed = False
    if output or plot:
        failed = not _write(build_comparison(compared), output, plot, difference.draw)
    if as_json:
        click.echo(comparison_tables.as_json(compared))
    else:
        _print_comparisons(compared)
    if failed:
        raise click.exceptions.Exit(1)


def _check_usage(files: Sequence[Path], output: Path | None, plot: Path | None) -> None:
    if output and plot and output.resolve() == plot.resolve():
        raise click.UsageError(f"-o and --plot both name {output}")
    for option, path in (("-o", output), ("--plot", plot)):
        if path:
            check_output(path, files, option=option)
    if plot:
        check_installed("--plot", "matplotlib")


def _measure_all(
    files: Sequence[Path],
    pattern: str | None,
    settings: dict[str, Any],
    engine: str,
    address: str | None,
) -> tuple[list["Checkpoint"], list[list["Layer"]]]:
    """Return the files that can be measured, and their layers; print the errors of the others."""
    function = partial(_open_and_measure, pattern=pattern, settings=settings)
    results: Iterable[Callable[[], Any]] = (partial(function, file) for file in files)
    if engine == "ray":
        from specdiag.obtain import cluster

        results = cluster.map(function, [file.absolute() for file in files], address=address)
    checkpoints, measured = [], []
    for file, result in zip(files, results, strict=True):
        try:
            with errors_of(file):
                checkpoint, layers = result()
        except ERRORS as error:
            complain(error)
        else:
            checkpoints.append(replace(checkpoint, path=file))  # a cluster is given absolute paths
            measured.append(layers)
    return checkpoints, measured


def _open_and_measure(
    file: Path, pattern: str | None, settings: dict[str, Any]
) -> tuple["Checkpoint", list["Layer"]]:
    from specdiag.checkpoint.reader import open_checkpoint
    from specdiag.dataset.spectra import measure_checkpoint

    checkpoint = open_checkpoint(file)
    return checkpoint, measure_checkpoint(checkpoint, pattern, _with_progress, **settings)


def _with_progress(
    measured: Iterator["Layer"], tensors: Sequence["Tensor"], label: str
) -> Iterator["Layer"]:
    """Yield the layers; show a progress bar on a terminal's stderr if they take long."""
    from specdiag.wording import printable

    costs = [math.prod(t.shape) * min(t.shape[:2]) for t in tensors]
    if sum(costs) < _LONG or not sys.stderr.isatty():
        yield from measured
        return
    with click.progressbar(length=sum(costs), label=printable(label), file=sys.stderr) as progress:
        for layer, cost in zip(measured, costs, strict=True):
            progress.update(cost)
            yield layer


def _print_tables(
    checkpoints: Sequence["Checkpoint"], measured: Sequence[Sequence["Layer"]], columns: str
) -> None:
    from specdiag.show.layers import as_table, summary_lines

    for checkpoint, layers in zip(checkpoints, measured, strict=True):
        lines = as_table(layers, _width(), columns) + summary_lines(checkpoint, layers)
        _print(str(checkpoint.path), lines)


def _print(title: str, lines: Sequence[str]) -> None:
    from specdiag.wording import printable

    click.secho(printable(title), bold=True)
    click.echo("\n".join([*lines, ""]))


def _width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _print_comparisons(compared: "Compared") -> None:
    from specdiag.dataset.spectra import unique_names
    from specdiag.show.comparison import as_table, summary_lines
    from specdiag.show.table import aligned
    from specdiag.wording import printable

    first, *others = compared.names
    for name, comparison in zip(others, compared.comparisons, strict=True):
        table = as_table(comparison.pairs, _width())
        _print(f"1: {first}   2: {name}", table + summary_lines(comparison, (first, name)))
    checkpoints = compared.checkpoints
    for name, checkpoint in zip(unique_names(checkpoints), checkpoints, strict=True):
        for note in checkpoint.notes:
            click.echo(printable(f"note: {name}: {note}"))
    if len(others) > 1:
        conclusions = [comparison.summary["conclusion"] for comparison in compared.comparisons]
        click.echo("\n".join(aligned(list(zip(others, conclusions, strict=True)))))


def _write(
    dataset: "xr.Dataset",
    output: Path | None,
    plot: Path | None,
    draw: Callable[["xr.Dataset", Path], Sequence[Path]],
) -> bool:
    """Return whether all files could be written; print the error if not, and go on."""
    from specdiag.dataset.netcdf import save_spectra
    from specdiag.wording import counted

    try:
        if output:
            save_spectra(dataset, output)
            click.echo(f"wrote {output}", err=True)
        if plot:
            drawn = counted(len(draw(dataset, plot)), "figure")
            click.echo(f"drew {drawn} in {plot}", err=True)
    except ERRORS as error:
        complain(error)
        return False
    return True
