"""The commands that show a Dataset: figures and report."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specdiag.cli.options import check_installed, existing_file, lock_option_with, open_lock
from specdiag.cli.outputs import check_folder, check_output, force_option, output_option

if TYPE_CHECKING:
    import xarray as xr

    from specdiag.plot.drawings import Drawing
    from specdiag.show.report import Section

_data = click.argument("data", type=existing_file)
_trainings = click.argument("trainings", nargs=-1, type=existing_file, metavar="[CSV]...")


@click.command()
@_data
@_trainings
@output_option(
    "Write an SVG and a PDF of each figure, and captions.txt, into this folder.",
    is_folder=True,
    required=True,
    metavar="DIR",
)
@force_option
@click.option(
    "--checkpoint",
    "names",
    multiple=True,
    help="Draw the spectra of this checkpoint; repeatable. By default, the first one's are drawn.",
)
def figures(
    data: Path, trainings: tuple[Path, ...], output: Path, force: bool, names: tuple[str, ...]
) -> None:
    """Draw every figure for which DATA has values, ready for print.

    DATA is a file that `specdiag spectra`, `alpha` or `compare` writes with -o. A CSV is the file
    .spectra.csv beside a trained checkpoint. If there is a folder figures/ beside the nearest lock,
    the figures of its modules are drawn, too.

    \b
    Examples:
      specdiag figures spectra.nc -o drawings
      specdiag figures spectra.nc base.ckpt.spectra.csv -o drawings
    """  # noqa: D301
    check_installed("figures", "matplotlib")
    if output.is_dir():
        captions = output / "captions.txt"
        check_output(captions, (data, *trainings), suffixes=[".txt"], force=force)
    else:
        check_folder(output.parent, f"-o {output}")
    from specdiag.plot.drawings import check_names, drawings, write

    dataset, tables = _read(data, trainings)
    try:
        check_names(dataset, names)
    except ValueError as error:
        raise click.UsageError(f"--checkpoint: {error}") from error
    drawn = drawings(dataset, tables, spectra_of=names or None, study=_study())
    written, reasons = write(_with_count(drawn), output, overwrite=force)
    for name, reason in reasons.items():
        click.echo(f"{name} is not drawn: {reason}", err=True)
    click.echo(f"wrote {len(written)} files in {output}", err=True)


@click.command()
@_data
@_trainings
@output_option("Write this HTML file.", required=True)
@force_option
@click.option(
    "--claims",
    type=existing_file,
    metavar="FIGURES.csv",
    help="A CSV that an earlier `specdiag verify` wrote. Deprecated: give --lock.",
)
@lock_option_with(
    "The lock file. By default only the drawings of the nearest lock are added; claims need --lock."
)
def report(
    data: Path,
    trainings: tuple[Path, ...],
    output: Path,
    force: bool,
    claims: Path | None,
    lock_path: Path | None,
) -> None:
    """Write DATA as one HTML page that needs no network.

    The page has a summary, figures, layers and provenance. DATA and CSV are those of `specdiag
    figures`. With --lock, the page also has the claims about that lock, as `specdiag verify`
    decides them on DATA.

    \b
    Examples:
      specdiag report spectra.nc -o report.html
      specdiag report spectra.nc --lock checkpoints.lock -o report.html
      specdiag report minilm.nc -o minilm.html
    """  # noqa: D301
    check_installed("report", "matplotlib", "jinja2")
    inputs = [path for path in (data, *trainings, claims) if path]
    locks = [lock_path] if lock_path else []
    check_output(output, inputs, locks, suffixes=[".html"], force=force)
    from specdiag.outputs import write_output
    from specdiag.show.report import report as page

    dataset, tables = _read(data, trainings)
    sections = _sections(dataset) + _claims(dataset, claims, lock_path)
    html = page(dataset, tables=tables, sections=sections, study=_study(lock_path))
    write_output(output, html.encode(), overwrite=force)
    click.echo(f"wrote {output}", err=True)


def _study(lock_path: Path | None = None) -> Path | None:
    """Return the folder with the figures of the study of a lock, the one given or the nearest."""
    from specdiag.lock.lockfile import find_lock
    from specdiag.plot.drawings import FOLDER

    try:
        path = lock_path or find_lock(Path.cwd())
    except FileNotFoundError:
        return None
    folder = path.resolve().parent / FOLDER
    return folder if folder.is_dir() else None


def _sections(dataset: "xr.Dataset") -> list["Section"]:
    """Return the conclusions of `specdiag link` on a collection, or why there are none."""
    from specdiag.show.link import sentences
    from specdiag.show.report import Section
    from specdiag.transfer.link import link

    if dataset.attrs.get("kind") != "collection":
        return []
    try:
        lines = sentences(link(dataset))
    except ValueError as error:
        lines = [str(error)]
    return [Section("Does the spectrum predict R²?", lines)]


def _claims(dataset: "xr.Dataset", values: Path | None, lock_path: Path | None) -> list["Section"]:
    """Return the claims about the given lock, decided on a collection; [] without claims."""
    from specdiag.lock.recipe import FOLDER
    from specdiag.show import claims as claim_tables
    from specdiag.show.report import Section
    from specdiag.transfer.verification import findings_of_lock, measure_for_lock, read_values

    if values:
        click.echo("specdiag: --claims is deprecated: give --lock with a collection", err=True)
        lock_path, measured = open_lock(lock_path)[0], read_values(values)
    elif (
        dataset.attrs.get("kind") == "collection"
        and lock_path
        and (lock_path.resolve().parent / FOLDER / "_claims.py").is_file()
    ):
        lock_path = lock_path.resolve()
        measured = measure_for_lock(lock_path, dataset)
    else:
        return []
    findings = findings_of_lock(lock_path, measured)
    rows = [claim_tables.row(finding) for finding in findings]
    return [Section("Published claims", [claim_tables.count(findings)], claim_tables.HEADER, rows)]


def _with_count(drawings: Iterable["Drawing"]) -> Iterator["Drawing"]:
    """Yield the drawings, and print their number on a terminal's stderr, in one line."""
    n = 0
    for n, drawing in enumerate(drawings, 1):
        yield drawing
        if sys.stderr.isatty():
            click.echo(f"\r{n} figures", nl=False, err=True)
    if n and sys.stderr.isatty():
        click.echo(err=True)


def _read(data: Path, trainings: tuple[Path, ...]) -> tuple["xr.Dataset", dict[str, Any]]:
    from specdiag.dataset.netcdf import load_spectra
    from specdiag.plot import trajectory

    return load_spectra(data), {path.name: trajectory.read(path) for path in trainings}
