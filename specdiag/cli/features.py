"""The command that measures the features of networks."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from specdiag.cli.measure import print_lines, terminal_width
from specdiag.cli.options import (
    ERRORS,
    check_installed,
    complain,
    errors_of,
    json_option,
    lock_option,
    say,
    scale_option,
)
from specdiag.cli.outputs import check_output, force_option, target_type

if TYPE_CHECKING:
    from specdiag.features.comparison.compare import Measured
    from specdiag.lock.entry import Scale

KINDS = (".png", ".pdf", ".svg")


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="FILE|NAME...")
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="GLOB",
    help="The array of each FILE that holds the features; repeatable. By default the only array of "
    "numbers with two axes or more.",
)
@click.option(
    "--groups",
    default="",
    metavar="ARRAY|FILE",
    help="The trial or session of each sample: an array of each FILE, another file, or a column "
    "FILE:COLUMN of a table; row: samples are independent of each other. By default 64 runs of "
    "consecutive samples, or each entry of the first of three axes.",
)
@click.option(
    "--precision",
    type=click.Choice(["float64", "float32", "tf32", "bfloat16", "float16"]),
    help="Of the arithmetic that made the features of each FILE. By default that of their dtype.",
)
@click.option(
    "--layer",
    "--layers",
    "layers",
    multiple=True,
    metavar="GLOB",
    help="Run the model of each NAME, and measure the input of the modules with this name, such as "
    "readout or '*'; repeatable. Runs a program of the lock.",
)
@click.option(
    "--sessions",
    multiple=True,
    metavar="GLOB",
    help="Run the model of each NAME on these of its sessions only; repeatable. Runs a program of "
    "the lock.",
)
@click.option(
    "--plot",
    type=target_type(),
    metavar="FILE",
    help="Draw effective rank and condition number by depth, of several layers, as PNG, PDF or "
    "SVG.",
)
@force_option
@scale_option("The scale of a NAME that the lock has twice.", default=None)
@json_option
@lock_option
def features(
    sources: tuple[str, ...],
    names: tuple[str, ...],
    groups: str,
    precision: str | None,
    layers: tuple[str, ...],
    sessions: tuple[str, ...],
    plot: Path | None,
    force: bool,
    scale: "Scale | None",
    as_json: bool,
    lock_path: Path | None,
) -> None:
    """Measure how many directions the features of a network use.

    Features are the input of a layer, one row for each token or sample. The command shows the
    effective rank of their covariance, its condition number and more, with 95 % intervals.

    FILE holds features of shape (samples, d) or (trials, tokens, d): .npy, .npz, .safetensors, .nc,
    .h5 or a folder .zarr, of any size. NAME is a trained entry of the lock. Without --layer and
    --sessions the command reads what training measured, the input of the readout. With them it runs
    the recipe of the entry, a program that comes with the lock: do so only if you trust it.

    Several layers, such as --layers '*', give a row each, in the order of the forward pass.

    \b
    Examples:
      specdiag features features.npy
      specdiag features run.npz --name hidden --groups session
      specdiag features features.npy --groups trials.csv:trial --precision tf32
      specdiag features base/poyo_mp_converged
      specdiag features base/poyo_mp_converged --layers '*' --plot depth.pdf
      specdiag features base/poyo_mp_converged --layer proc_layers.0 --sessions 'c_2013*'
    """  # noqa: D301
    if plot:
        check_installed("--plot", "matplotlib")
        if len(sources) > 1:
            raise click.UsageError("--plot draws the layers of one NAME")
        check_output(plot, suffixes=KINDS, option="--plot", force=force)
    from specdiag.show.features import as_json as json_of
    from specdiag.show.features import as_text

    measured: list[Measured] = []
    for source in sources:
        if _is_file(source):
            _check_file_options(source, layers, sessions)
            measured += _of_file(source, names, groups, precision)
        else:
            _check_entry_options(source, names, groups, precision)
            measured += _of_entry(source, layers, sessions, scale, lock_path)
    failed = plot is not None and not _drawn(measured, plot, force=force)
    if as_json:
        click.echo(json_of(measured))
    else:
        for title, lines in as_text(measured, terminal_width()):
            print_lines(title, lines)
    if failed:
        raise click.exceptions.Exit(1)


def _drawn(measured: Sequence["Measured"], path: Path, *, force: bool) -> bool:
    """Return whether the layers could be drawn; print the error if not, and go on."""
    from specdiag.drawing.features import depth
    from specdiag.drawing.style import save_figure, style

    try:
        with style():
            figure = depth({one.layer: one.spectrum for one in measured}, measured[0].source)
        save_figure(figure, path, overwrite=force)
        say(f"drew {path}")
    except ERRORS as error:
        complain(error)
        return False
    return True


def _is_file(source: str) -> bool:
    """Return whether a source is a file of features, and not the name of an entry."""
    from specdiag.features.files.open import SUFFIXES

    path = Path(source)
    return bool(source) and (path.exists() or path.suffix.lower() in SUFFIXES)


def _check_file_options(source: str, layers: Sequence[str], sessions: Sequence[str]) -> None:
    for option, given in (("--layer", layers), ("--sessions", sessions)):
        if given:
            raise click.UsageError(f"{option} is for entries of a lock; {source} is a file: --name")


def _check_entry_options(
    source: str, names: Sequence[str], groups: str, precision: str | None
) -> None:
    for option, given in (("--name", names), ("--groups", groups), ("--precision", precision)):
        if given:
            raise click.UsageError(f"{option} is for files; there is no file {source}")


def _of_file(
    source: str, names: Sequence[str], groups: str, precision: str | None
) -> list["Measured"]:
    """Return the spectra of the features in a file."""
    from specdiag.features.comparison.compare import Measured
    from specdiag.features.files.measure import accumulated, open_features
    from specdiag.features.profile import spectra_of

    opened = {one.array.name: one for one in open_features(Path(source), names, groups)}
    found = {name: accumulated(one, precision) for name, one in opened.items()}
    for name, covariance in found.items():
        if covariance.n_samples < 2:
            raise ValueError(f"{source}: {name}: 1 sample: a covariance needs at least 2")
    with errors_of(Path(source)):
        return [
            Measured(source, name, spectrum, found[name], opened[name])
            for name, spectrum in spectra_of(found).items()
        ]


def _of_entry(
    name: str,
    layers: Sequence[str],
    sessions: Sequence[str],
    scale: "Scale | None",
    lock_path: Path | None,
) -> list["Measured"]:
    """Return the spectra of the layers of an entry, in the order of the forward pass."""
    from specdiag.cli.locks.features import READ, entry_features
    from specdiag.features.comparison.compare import Measured
    from specdiag.features.conditioning import FeatureSpectrum
    from specdiag.features.profile import spectra_of
    from specdiag.lock.lockfile import find_lock
    from specdiag.wording import some

    if lock_path is None:
        try:
            find_lock(Path.cwd())
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{name} is no file, and there is {error}") from None
    found = entry_features(name, lock_path=lock_path, scale=scale, layers=layers, sessions=sessions)
    if isinstance(found, FeatureSpectrum):
        return [Measured(name, READ, found)]
    few = [layer for layer, one in found.items() if one.n_samples < 2]
    if len(few) == len(found):
        raise ValueError(f"{name}: no samples of {some(few)}: not called, or all was masked")
    if few:
        say(f"{name}: without samples, and left out: {some(few)}")
    measured = {layer: one for layer, one in found.items() if layer not in few}
    return [
        Measured(name, layer, spectrum, measured[layer])
        for layer, spectrum in spectra_of(measured).items()
    ]
