"""The command that measures the features of networks."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from specdiag.cli.measure import netcdf_option, print_lines, terminal_width
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
from specdiag.cli.outputs import FIGURES, check_output, force_option, target_type

if TYPE_CHECKING:
    import xarray as xr

    from specdiag.features.comparison.compare import FeatureComparison
    from specdiag.features.comparison.measured import Measured
    from specdiag.lock.entry import Scale


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
    help="Draw the eigenvalues and the cumulative variance of one layer of each source, or the "
    "effective rank and the condition number of several layers by depth (.png, .pdf or .svg).",
)
@netcdf_option
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
    output: Path | None,
    force: bool,
    scale: "Scale | None",
    as_json: bool,
    lock_path: Path | None,
) -> None:
    """Measure how many directions the features of a network use.

    Features are the input of a layer, one row for each token or sample. The command shows the
    effective rank of their covariance, its condition number and more, with 95 % intervals.

    FILE holds features of shape (samples, d) or (trials, tokens, d), with any number of samples:
    .npy, .npz, .safetensors, .nc, .h5, .pt or a folder .zarr. NAME is a trained entry of the lock.
    Without --layer and --sessions the command reads what training measured, the input of the
    readout. With them it runs the recipe of the entry, a program that comes with the lock: do so
    only if you trust it.

    Several layers, such as --layers '*', give a row each, in the order of the forward pass. The
    first of several sources is compared with each of the others: how far their numbers differ, and
    how alike their leading directions are. FILE:ARRAY names an array of a file.

    \b
    Examples:
      specdiag features features.npy
      specdiag features run.npz --name hidden --groups session
      specdiag features features.npy --groups trials.csv:trial --precision tf32
      specdiag features before.npy after.npy -o both.nc --plot spectra.pdf
      specdiag features base/poyo_mp_converged
      specdiag features base/poyo_mp_converged --layers '*' --plot depth.pdf
      specdiag features base/poyo_mp_converged --layer proc_layers.0 --sessions 'c_2013*'
    """  # noqa: D301
    _check_outputs(sources, groups, output, plot, force=force)
    from specdiag.features.comparison.compare import comparisons

    measured: list[Measured] = []
    for source in sources:
        if _is_file(source):
            _check_file_options(source, layers, sessions)
            measured += _of_file(source, names, groups, precision)
        else:
            _check_entry_options(source, names, groups, precision)
            measured += _of_entry(source, layers, sessions, scale, lock_path)
    compared = comparisons(measured) if len(sources) > 1 else []
    failed = not _written(measured, compared, output, plot, force=force)
    _print(measured, compared, as_json)
    if failed:
        raise click.exceptions.Exit(1)


def _check_outputs(
    sources: Sequence[str], groups: str, output: Path | None, plot: Path | None, *, force: bool
) -> None:
    """Check what the command may write, before anything is measured."""
    named = [*sources, groups] if groups else sources
    inputs = [path for name in named if (path := _split(name)[0]).exists()]
    if twice := [source for source in sources if sources.count(source) > 1]:
        raise click.UsageError(f"{twice[0]} is given twice")
    if output:
        check_output(output, inputs, suffixes=[".nc"], force=force)
    if plot:
        check_installed("--plot", "matplotlib")
        check_output(plot, inputs, suffixes=FIGURES, option="--plot", force=force)


def _print(
    measured: Sequence["Measured"], compared: Sequence["FeatureComparison"], as_json: bool
) -> None:
    from specdiag.show import features as tables

    if as_json:
        click.echo(tables.as_json(measured, compared))
        return
    width = terminal_width()
    for title, lines in (
        *tables.as_text(measured, width),
        *tables.comparison_lines(compared, width),
    ):
        print_lines(title, lines)


def _written(
    measured: Sequence["Measured"],
    compared: Sequence["FeatureComparison"],
    output: Path | None,
    plot: Path | None,
    *,
    force: bool,
) -> bool:
    """Return whether all files could be written; print the error if not, and go on."""
    if not (output or plot):
        return True
    from specdiag.dataset.netcdf import save_spectra
    from specdiag.features.comparison.dataset import as_dataset

    try:
        dataset = as_dataset(measured, compared)
        if output:
            save_spectra(dataset, output, overwrite=force)
            say(f"wrote {output}")
        if plot:
            _draw(measured, dataset, plot, force=force)
            say(f"drew {plot}")
    except ERRORS as error:
        complain(error)
        return False
    return True


def _draw(
    measured: Sequence["Measured"], dataset: "xr.Dataset", path: Path, *, force: bool
) -> None:
    """Draw one layer of each source by rank of the eigenvalues, or several layers by depth."""
    from specdiag.drawing.features import depth, spectrum
    from specdiag.drawing.style import save_figure, style

    layers = {one.layer: one.spectrum for one in measured if one.source == measured[0].source}
    sources = {one.source for one in measured}
    with style():
        if len(sources) == len(measured):
            figure = spectrum(dataset)
        elif len(sources) == 1:
            figure = depth(layers, measured[0].source)
        else:
            raise ValueError("--plot draws the layers of one source, or one layer of several")
        save_figure(figure, path, overwrite=force)


def _split(source: str) -> tuple[Path, str]:
    """Return the file and the array that a source names: FILE, or FILE:ARRAY."""
    from specdiag.features.files.open import SUFFIXES

    name, colon, array = source.rpartition(":")
    if colon and not Path(source).exists() and Path(name).suffix.lower() in SUFFIXES:
        return Path(name), array
    return Path(source), ""


def _is_file(source: str) -> bool:
    """Return whether a source is a file of features, and not the name of an entry."""
    from specdiag.features.files.open import SUFFIXES

    path, _ = _split(source)
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
    from specdiag.features.comparison.dataset import measured_of
    from specdiag.features.files.measure import open_features

    path, array = _split(source)
    opened = open_features(path, [array] if array else names, groups or None)
    with errors_of(path):
        return measured_of(source, opened, precision)


def _of_entry(
    name: str,
    layers: Sequence[str],
    sessions: Sequence[str],
    scale: "Scale | None",
    lock_path: Path | None,
) -> list["Measured"]:
    """Return the spectra of the layers of an entry, in the order of the forward pass."""
    from specdiag.cli.locks.features import READ, entry_features
    from specdiag.features.comparison.measured import Measured
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
