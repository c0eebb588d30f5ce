"""The command that links spectra, features and test R² of whole studies."""

import json
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specdiag.cli.options import (
    address_option,
    check_engine,
    check_output,
    debug_option,
    engine_option,
    existing_file,
    json_option,
    output_option,
    scale_option,
    show_count,
    start_log,
)

if TYPE_CHECKING:
    import xarray as xr


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--group", help="Only entries of this group of the lock.")
@scale_option("Only entries of this scale.", "all")
@click.option(
    "--lock",
    "locks",
    multiple=True,
    type=existing_file,
    help="A lock, also several times; by default checkpoints.lock here or in a folder above.",
)
@output_option("Write the xarray Dataset, as netCDF.", required=True)
@engine_option
@address_option
@json_option
@debug_option
def spectra(
    names: tuple[str, ...],
    group: str | None,
    scale: Any,
    locks: tuple[Path, ...],
    output: Path,
    engine: str,
    address: str | None,
    as_json: bool,
) -> None:
    """Link weight spectra, feature covariance and test R² of all checkpoints, or of some, in one file.

    Reads what lies beside the checkpoints of a lock, or of several, such as those of several seeds.
    Nothing is measured twice. What is missing is in the file as NaN, with the reason.

    \b
    Examples:
      specdiag spectra -o spectra.nc
      specdiag spectra --group published -o published.nc
      specdiag spectra --lock checkpoints.lock --lock checkpoints.seed-43.lock -o seeds.nc
    """  # noqa: D301
    check_engine(engine, address)
    start_log()
    from specdiag.dataset.netcdf import save_spectra
    from specdiag.lock.lockfile import find_lock, load, select
    from specdiag.transfer.collection import collect

    found_locks = locks or (find_lock(Path.cwd()),)
    check_output(output, locks=found_locks)
    scale = None if scale == "all" else scale
    loaded = [(path, load(path)) for path in found_locks]
    try:
        select(loaded, names, scale, group)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    dataset = collect(
        *found_locks,
        names=names,
        group=group,
        scale=scale,
        progress=show_count,
        measure=partial(_measure_on_cluster, address) if engine == "ray" else None,
    )
    save_spectra(dataset, output)
    click.echo(f"wrote {output}", err=True)
    found = _summary(dataset)
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(_lines(found)))


def _measure_on_cluster(address: str | None, checkpoints: list[Path]) -> None:
    from specdiag.obtain import cluster
    from specdiag.obtain.beside import attach_spectra

    for attached in cluster.map(attach_spectra, checkpoints, address=address):
        with suppress(ValueError):  # is raised again, and told, when it is read
            attached()


def _summary(dataset: "xr.Dataset") -> dict[str, Any]:
    """Return what is there of each checkpoint, NaN as None."""
    from specdiag.wording import without_nan

    names = ("state", "n_fit", "n_degenerate", "n_skipped", "n_failed", "r2", "condition_number")
    columns = {name: dataset[name].values.tolist() for name in ("checkpoint", "entry", *names)}
    with_spectra = (dataset.status != "absent").any("layer").values.tolist()
    rows = [
        without_nan({**dict(zip(columns, row, strict=True)), "has_spectra": has})
        for *row, has in zip(*columns.values(), with_spectra, strict=True)
    ]
    return {
        "layers": dataset.sizes["layer"],
        "sessions": dataset.sizes["session"],
        "with_spectra": sum(with_spectra),
        "with_r2": int(dataset.r2.notnull().sum()),
        "with_features": int(dataset.trace.notnull().sum()),
        "unreadable": json.loads(dataset.attrs["provenance"]).get("unreadable", []),
        "checkpoints": rows,
    }


def _lines(found: dict[str, Any]) -> list[str]:
    from specdiag.wording import counted, printable

    rows, layers, sessions = found["checkpoints"], found["layers"], found["sessions"]
    lines = [
        f"{counted(len(rows), 'checkpoint')}, {counted(layers, 'layer')}, {counted(sessions, 'session')}",
        *(f"  with {what:8}  {found[f'with_{what}']}" for what in ("spectra", "r2", "features")),
    ]
    count = Counter(row["state"] for row in rows)
    lines.append("  state          " + ", ".join(f"{n} {word}" for word, n in count.items()))
    lost = [row["entry"] for row in rows if row["state"] in ("missing", "stale", "corrupt")]
    if lost:
        some = ", ".join(lost[:3]) + ", ..." * (len(lost) > 3)
        lines.append(f"{len(lost)} lack values ({some}); `specdiag train --missing` makes them")
    if files := found["unreadable"]:
        some = ", ".join(files[:3]) + ", ..." * (len(files) > 3)
        lines.append(f"{counted(len(files), 'file')} beside checkpoints cannot be read: {some}")
    if rows and found["with_features"] < found["with_r2"]:
        lines.append(
            "R2 without features: their recipes left no evaluation.json; see docs/dataset.md"
        )
    return [printable(line) for line in lines]
