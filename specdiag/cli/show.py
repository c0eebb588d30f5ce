"""The commands that show a Dataset: figures and report."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from specdiag.cli.options import check_installed, existing_file, say
from specdiag.cli.outputs import check_figures, check_output, force_option, output_option

if TYPE_CHECKING:
    import xarray as xr

    from specdiag.drawing.drawings import Drawing
    from specdiag.show.report import Section
    from specdiag.training.trajectory import Trajectory

_data = click.argument("data", type=existing_file)
_trainings = click.argument("trainings", nargs=-1, type=existing_file, metavar="[CSV]...")
_study_option = click.option(
    "--study",
    type=existing_file,
    metavar="LOCK",
    help="Also draw the modules in figures/ beside this lock: programs, which must be trusted.",
)


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
@_study_option
def figures(
    data: Path,
    trainings: tuple[Path, ...],
    output: Path,
    force: bool,
    names: tuple[str, ...],
    study: Path | None,
) -> None:
    """Draw every figure for which DATA has values, ready for print.

    DATA is a file that `specdiag spectra`, `alpha` or `compare` writes with -o. A CSV is the file
    .spectra.csv beside a trained checkpoint, or the metrics.csv of a logger of Lightning.

    \b
    Examples:
      specdiag figures spectra.nc -o drawings
      specdiag figures spectra.nc base.ckpt.spectra.csv -o drawings
      specdiag figures spectra.nc --study checkpoints.lock -o drawings
    """  # noqa: D301
    check_installed("figures", "matplotlib")
    from specdiag.drawing.drawings import CAPTIONS, NAMES, check_names, drawings, write

    folder = _study(study)
    known = [*NAMES, *(path.stem for path in folder.glob("[!_]*.py"))] if folder else NAMES
    inputs = (data, *trainings)
    check_figures(output, inputs, names=known, suffixes=[".svg", ".pdf"], force=force)
    check_figures(output, inputs, names=[CAPTIONS], suffixes=[".txt"], force=force)
    dataset, tables = _read(data, trainings)
    try:
        check_names(dataset, names)
    except ValueError as error:
        raise click.UsageError(f"--checkpoint: {error}") from error
    drawn = drawings(dataset, tables, spectra_of=names or None, study=folder)
    written, reasons = write(_with_count(drawn), output, overwrite=force)
    for name, reason in reasons.items():
        say(f"{name} is not drawn: {reason}")
    say(f"wrote {len(written)} files in {output}")


@click.command()
@_data
@_trainings
@output_option("Write this HTML file.", required=True)
@force_option
@click.option(
    "--claims",
    type=existing_file,
    metavar="JSON",
    help="Add the claims of this file, which `specdiag verify --json` printed.",
)
@_study_option
def report(
    data: Path,
    trainings: tuple[Path, ...],
    output: Path,
    force: bool,
    claims: Path | None,
    study: Path | None,
) -> None:
    """Write DATA as one HTML page that needs no network.

    The page has a summary, figures, layers and provenance. DATA and CSV are those of `specdiag
    figures`.

    \b
    Examples:
      specdiag report spectra.nc -o report.html
      specdiag report spectra.nc --claims claims.json -o report.html
      specdiag report minilm.nc -o minilm.html
    """  # noqa: D301
    check_installed("report", "matplotlib", "jinja2")
    inputs = [path for path in (data, *trainings, claims) if path]
    check_output(output, inputs, [study] if study else [], suffixes=[".html"], force=force)
    from specdiag.outputs import write_output
    from specdiag.show.report import report as page

    decided = _claims(claims)  # first, as it is quick
    dataset, tables = _read(data, trainings)
    sections = _sections(dataset) + decided
    html = page(dataset, tables=tables, sections=sections, study=_study(study))
    write_output(output, html.encode(), overwrite=force)
    say(f"wrote {output}")


def _study(lock_path: Path | None) -> Path | None:
    """Return the folder with the figures of the study of a lock; None if no lock is given."""
    from specdiag.drawing.drawings import FOLDER
    from specdiag.lock.place import inside

    if lock_path is None:
        return None
    folder = inside(lock_path.resolve().parent, FOLDER)
    if not folder.is_dir():
        raise click.UsageError(f"--study {lock_path}: there is no folder {FOLDER} beside it")
    return folder


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


def _claims(path: Path | None) -> list["Section"]:
    """Return the claims that `verify --json` decided, from its file; [] without one."""
    from specdiag.show import claims
    from specdiag.show.report import Section

    if path is None:
        return []
    count, rows = claims.read_rows(path)
    return [Section("Published claims", [count], claims.HEADER, rows)]


def _with_count(drawings: Iterable["Drawing"]) -> Iterator["Drawing"]:
    """Yield the drawings, and print their number on a terminal's stderr, in one line."""
    n = 0
    for n, drawing in enumerate(drawings, 1):
        yield drawing
        if sys.stderr.isatty():
            click.echo(f"\r{n} figures", nl=False, err=True)
    if n and sys.stderr.isatty():
        click.echo(err=True)


def _read(data: Path, trainings: tuple[Path, ...]) -> tuple["xr.Dataset", dict[str, "Trajectory"]]:
    from specdiag.dataset.netcdf import load_spectra
    from specdiag.drawing import trajectory

    tables = {path.name: trajectory.read(path) for path in trainings}
    return load_spectra(data), tables
