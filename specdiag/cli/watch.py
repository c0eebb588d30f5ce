"""The command that follows a training: its checkpoints, or the table of its monitor."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from specdiag.cli.measure import print_lines, terminal_width
from specdiag.cli.measuring.journal import journal_beside
from specdiag.cli.options import check_installed, json_option, lock_option, open_lock, say
from specdiag.cli.outputs import FIGURES, check_output, force_option, output_option, target_type
from specdiag.cli.reading import (
    CheckpointType,
    include_embeddings_option,
    layers_option,
    machine_options,
    min_eigenvalues_option,
    reading_options,
)

if TYPE_CHECKING:
    from specdiag.cli.measuring.run import Measured
    from specdiag.training.readings import Reading
    from specdiag.training.steps import Run
    from specdiag.training.trajectory import Trajectory

_TABLE = "spectra.csv"  # of the monitor of a recipe, in the folder of the build
_LOGGED = "metrics.csv"  # of Lightning's logger
_UNLOGGED = "no readings of SpectralMonitor in it, and no checkpoints beside it"
_OF_CHECKPOINTS = {
    "which": "--which",
    "base": "--base",
    "splits": "--split",
    "include_embeddings": "--include-embeddings",
}
_SUFFIXES = (".html", ".csv", ".nc")


class _Source(NamedTuple):
    """What a run was read from: a table of readings, or its checkpoints."""

    unit: str
    readings: "list[Reading]"
    measured: "Sequence[Measured]" = ()
    notes: Sequence[str] = ()
    n_failed: int = 0


class _RunType(CheckpointType):
    """A checkpoint, a folder of some, a table, or an entry of the lock with a table."""

    name = "run"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; of an entry that of its table, also while it is trained."""
        from specdiag.files import DistantPath

        path = Path(value)
        if str(value) and not path.exists():
            lock_path = ctx.params.get("lock_path") if ctx else None
            tables = _tables_of(value, lock_path if isinstance(lock_path, Path) else None)
            if len(tables) > 1:
                self.fail(f"{value} has several: name {' or '.join(map(str, tables))}", param, ctx)
            if tables:
                return tables[0]
        path = super().convert(value, param, ctx)
        if isinstance(path, DistantPath) or not path.is_file():
            return path
        table = path.with_name(f"{path.name}.{_TABLE}")
        return table if table.is_file() else path


def _tables_of(name: str, lock_path: Path | None) -> list[Path]:
    """Return the table of the monitor of each entry with this name: of a build, or what it left."""
    from specdiag.lock.place import inside
    from specdiag.obtain.beside import table_path, unfinished

    try:
        path, lock = open_lock(lock_path)
    except FileNotFoundError:
        return []
    tables = []
    for entry in (e for e in lock.entries if e.name == name):
        target = inside(path.parent, entry.path)
        folders = [inside(path.parent, folder / _TABLE) for folder in unfinished(target)]
        found = [file for file in (*folders, table_path(target, _TABLE)) if file.is_file()]
        tables += sorted(found, key=lambda file: file.stat().st_mtime_ns)[-1:]
    return tables


@click.command()
@click.argument("run", nargs=-1, required=True, type=_RunType(), metavar="RUN...")
@json_option
@output_option("Write a page (.html), the readings (.csv) or the measured Dataset (.nc).")
@force_option
@click.option(
    "--plot",
    type=target_type(),
    metavar="FILE",
    help="Draw alpha, norm and rank of every matrix by step (.png, .pdf or .svg).",
)
@click.option(
    "--collapsed",
    "share",
    type=click.FloatRange(min=0, max=1, max_open=True),
    default=1e-3,
    show_default=True,
    help="Share of the first norm below which a matrix has collapsed.",
)
@layers_option
@min_eigenvalues_option
@include_embeddings_option
@reading_options
@machine_options
@lock_option
def watch(
    run: tuple[Path, ...],
    as_json: bool,
    output: Path | None,
    force: bool,
    plot: Path | None,
    share: float,
    layers: str | None,
    lock_path: Path | None,  # noqa: ARG001 - CheckpointType uses it
    **settings: Any,
) -> None:
    """Follow a training: alpha, norm and rank of each matrix by step, and which collapsed.

    RUN is a folder with a checkpoint for each step, whose names tell the steps: step-500.ckpt,
    epoch=3-step=1200.ckpt, checkpoint-500/, iter_0005000/, or several of them. It can also be the
    table of a monitor: metrics.csv of Lightning's logger, or the .spectra.csv of a recipe, which an
    entry of checkpoints.lock names, too, also while it is trained.

    A matrix has collapsed when its norm falls below a share of its first norm, or its rank below
    the number of eigenvalues that an alpha needs. A matrix that did not change from one checkpoint
    to the next is measured once. With -o, a journal beside the output keeps every measured layer:
    the same command, given again while the network trains, measures only what is new.

    \b
    Examples:
      specdiag watch runs/bert
      specdiag watch runs/bert -o bert.html
      specdiag watch lightning_logs/version_0 --plot spectra.svg
      specdiag watch base/poyo_mp_converged --collapsed 0.1
      specdiag watch run/step-*.pt --layers '*attn*' --json
    """  # noqa: D301
    if output:
        tables = [path / _TABLE for path in run if path.is_dir()]
        check_output(output, [*run, *tables], suffixes=_SUFFIXES, force=force)
    if plot:
        check_installed("--plot", "matplotlib")
        check_output(plot, run, suffixes=FIGURES, option="--plot", force=force)
    if output and output.suffix.lower() == ".html":
        check_installed("-o", "matplotlib", "jinja2")
    source = _read(run, layers, settings, output)
    from specdiag.training.trajectory import trajectory

    at_least = settings["min_eigenvalues"]
    found = trajectory(source.readings, source.unit, share=share, min_eigenvalues=at_least)
    if not found.histories and source.n_failed:
        raise click.exceptions.Exit(1)  # their errors are printed
    if not found.histories:
        raise ValueError(f"{run[0]}: no reading of a matrix; see specdiag alpha")
    for note in source.notes:
        say(note)
    name = _name(run)
    _write(output, plot, source, found, name, settings | {"layers": layers}, force=force)
    _print(name, source, found, as_json)
    if source.n_failed:
        raise click.exceptions.Exit(1)


def _name(run: tuple[Path, ...]) -> str:
    """Return the name of a run; that of a table is often the same in every folder."""
    if len(run) > 1:
        return f"{run[0].name} to {run[-1].name}"
    path = run[0].absolute()
    return f"{path.parent.name}/{path.name}" if path.name in (_TABLE, _LOGGED) else path.name


def _read(
    run: tuple[Path, ...], layers: str | None, settings: dict[str, Any], output: Path | None
) -> _Source:
    from specdiag.training.steps import run_in, run_of
    from specdiag.wording import counted

    first = run[0]
    if len(run) > 1 or (first.suffix.lower() != ".csv" and not first.is_dir()):
        return _checkpoints(run_of(run), layers, settings, output)
    if not first.is_dir():
        return _table(first, layers, settings, output)
    if (first / _TABLE).is_file():  # of a build, which keeps its last states alone
        return _table(first / _TABLE, layers, settings, output)
    logged = _logged(first / _LOGGED, layers, settings, output)
    try:
        found = run_in(first)
    except FileNotFoundError:
        tables = sorted(first.glob(f"*.{_TABLE}"))
        if logged or len(tables) == 1:
            return logged or _table(tables[0], layers, settings, output)
        if not (first / _LOGGED).is_file():
            raise
        raise ValueError(f"{first / _LOGGED}: {_UNLOGGED}") from None
    if logged and len({r.step for r in logged.readings}) > len(found.checkpoints):
        n = counted(len(found.checkpoints), "checkpoint")
        note = f"read from {_LOGGED}, which has more steps than the {n} that could be measured"
        return logged._replace(notes=[note])
    return _checkpoints(found, layers, settings, output)


def _logged(
    path: Path, layers: str | None, settings: dict[str, Any], output: Path | None
) -> _Source | None:
    """Return what the table of a logger in the folder of a run has, or None if it has nothing."""
    from specdiag.training.logged import is_logged

    of_spectra = any(settings[name] for name in _OF_CHECKPOINTS) or _is_dataset(output)
    if of_spectra or not path.is_file() or not is_logged(path):
        return None
    return _table(path, layers, settings, output)


def _is_dataset(output: Path | None) -> bool:
    return output is not None and output.suffix.lower() == ".nc"


def _table(
    path: Path, layers: str | None, settings: dict[str, Any], output: Path | None
) -> _Source:
    from fnmatch import fnmatchcase

    from specdiag.training.logged import read_table

    if _is_dataset(output):
        raise click.UsageError(f"-o {output}: a table has no spectra; give .html or .csv")
    for name, option in _OF_CHECKPOINTS.items():
        if settings[name]:
            raise click.UsageError(f"{option} is for checkpoints, and {path} is a table")
    readings = read_table(path)
    return _Source("step", [r for r in readings if not layers or fnmatchcase(r.name, layers)])


def _checkpoints(
    run: "Run", layers: str | None, settings: dict[str, Any], output: Path | None
) -> _Source:
    from specdiag.cli.measuring.run import measure_run
    from specdiag.training.trajectory import reading_of

    journal = journal_beside(output)
    measurement = settings | {"method": "specdiag", "null": "none", "seed": 0}
    measured, n_failed = measure_run(run, layers, measurement, journal)
    readings = [
        reading
        for one in measured
        for layer in one.layers
        if (reading := reading_of(one.step, layer))
    ]
    return _Source(run.unit, readings, measured, [*run.notes, *_faults(measured)], n_failed)


def _faults(measured: "Sequence[Measured]") -> list[str]:
    """Return a line for each layer that could not be read."""
    from specdiag.training.trajectory import reading_of

    return [
        f"{one.checkpoint.name}: {layer.name}: {layer.reason}"
        for one in measured
        for layer in one.layers
        if layer.status == "failed" and reading_of(one.step, layer) is None
    ]


def _write(
    output: Path | None,
    plot: Path | None,
    source: _Source,
    found: "Trajectory",
    name: str,
    settings: dict[str, Any],
    *,
    force: bool,
) -> None:
    if plot:
        from specdiag.drawing import trajectory
        from specdiag.drawing.style import save_figure, style

        with style():
            save_figure(trajectory.plot(found), plot, overwrite=force)
        say(f"drew {plot}")
    if output is None:
        return
    suffix = output.suffix.lower()
    if suffix == ".csv":
        from specdiag.training.readings import write_readings

        write_readings(output, found.readings, overwrite=force)
    elif suffix == ".nc":
        from specdiag.dataset.netcdf import save_spectra

        save_spectra(_dataset(source.measured, settings), output, overwrite=force)
    else:
        from specdiag.outputs import write_output
        from specdiag.show.training.page import page

        last = _dataset(source.measured[-1:], settings) if source.measured else None
        html = page(found, name, last, source.notes)
        write_output(output, html.encode(), overwrite=force)
    say(f"wrote {output}")


def _dataset(measured: "Sequence[Measured]", settings: dict[str, Any]) -> Any:
    from specdiag.checkpoint.remote.path import pinned
    from specdiag.dataset.build import build

    told = settings | {"base": settings["base"] and str(pinned(settings["base"]))}
    told |= {"method": "specdiag", "null": "none", "seed": 0}
    return build([one.checkpoint for one in measured], [one.layers for one in measured], told)


def _print(name: str, source: _Source, found: "Trajectory", as_json: bool) -> None:
    from specdiag.show.training import table

    if as_json:
        paths = {one.step: one.checkpoint.path for one in source.measured}
        click.echo(table.as_json(found, paths, source.notes))
        return
    lines = [table.headline(found), "", *table.as_table(found, terminal_width())]
    print_lines(name, [*lines, *table.summary_lines(found), *table.alarms(found)])
