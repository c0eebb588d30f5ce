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
    json_option,
    lock_option,
    say,
    scale_option,
)
from specdiag.cli.outputs import check_output, force_option, target_type

if TYPE_CHECKING:
    from specdiag.lock.entry import Scale
    from specdiag.show.features import Measured

KINDS = (".png", ".pdf", ".svg")


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="NAME...")
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
    layers: tuple[str, ...],
    sessions: tuple[str, ...],
    plot: Path | None,
    force: bool,
    scale: "Scale | None",
    as_json: bool,
    lock_path: Path | None,
) -> None:
    """Measure how many directions the features of a network use: of trained entries of the lock.

    Features are the input of a layer, one row for each token or sample. The command shows the
    effective rank of their covariance, its condition number and more, with 95 % intervals. Without
    --layer and --sessions it reads what training measured, the input of the readout. With them it
    runs the recipe of the entry, a program that comes with the lock: do so only if you trust it.

    Several layers, such as --layers '*', give a row each, in the order of the forward pass.

    \b
    Examples:
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


def _of_entry(
    name: str,
    layers: Sequence[str],
    sessions: Sequence[str],
    scale: "Scale | None",
    lock_path: Path | None,
) -> list["Measured"]:
    """Return the spectra of the layers of an entry, in the order of the forward pass."""
    from specdiag.cli.locks.features import READ, entry_features
    from specdiag.features.conditioning import FeatureSpectrum
    from specdiag.features.profile import spectra_of
    from specdiag.show.features import Measured
    from specdiag.wording import some

    found = entry_features(name, lock_path=lock_path, scale=scale, layers=layers, sessions=sessions)
    if isinstance(found, FeatureSpectrum):
        return [Measured(name, READ, found)]
    few = [layer for layer, one in found.items() if one.n_samples < 2]
    if len(few) == len(found):
        raise ValueError(f"{name}: no samples of {some(few)}: not called, or all was masked")
    if few:
        say(f"{name}: without samples, and left out: {some(few)}")
    measured = {layer: one for layer, one in found.items() if layer not in few}
    return [Measured(name, layer, spectrum) for layer, spectrum in spectra_of(measured).items()]
