"""The command that collects spectra, features and test R² of whole studies."""

import json
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specdiag.cli.options import (
    address_option,
    check_engine,
    check_output,
    engine_option,
    existing_file,
    group_option,
    json_option,
    names_argument,
    output_option,
    scale_option,
    select,
    show_count,
)

if TYPE_CHECKING:
    import xarray as xr


@click.command()
@names_argument
@group_option
@scale_option("Collect only entries of this scale.", "all")
@click.option(
    "--lock",
    "locks",
    multiple=True,
    type=existing_file,
    help="A lock file; repeatable. By default, checkpoints.lock in this folder or in one above.",
)
@output_option("Write the xarray Dataset, as netCDF.", required=True)
@engine_option
@address_option
@json_option
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
    """Collect spectra, features and test R² of many checkpoints.

    The command writes weight spectra, feature covariance and test R² into one file. It reads the
    files beside the checkpoints of one lock, or of several, such as those of other seeds, and
    measures spectra that are still missing. Missing values are NaN, with the reason.

    \b
    Examples:
      specdiag spectra -o spectra.nc
      specdiag spectra --group published -o published.nc
      specdiag spectra --lock checkpoints.lock --lock checkpoints.seed-43.lock -o seeds.nc
    """  # noqa: D301
    check_engine(engine, address)
    from specdiag.dataset.netcdf import save_spectra
    from specdiag.lock.lockfile import find_lock, load
    from specdiag.transfer.collection import collect

    locks = locks or (find_lock(Path.cwd()),)
    check_output(output, locks=locks)
    scale = None if scale == "all" else scale
    select([(path, load(path)) for path in locks], names, scale, group)  # before anything is read
    dataset = collect(
        *locks,
        names=names,
        group=group,
        scale=scale,
        progress=show_count,
        measure=partial(_measure_on_cluster, address) if engine == "ray" else None,
    )
    save_spectra(dataset, output)
    click.echo(f"wrote {output}", err=True)
    summary = _summary(dataset)
    click.echo(json.dumps(summary, indent=2) if as_json else "\n".join(_lines(summary)))


def _measure_on_cluster(address: str | None, checkpoints: list[Path]) -> None:
    from specdiag.obtain import cluster
    from specdiag.obtain.beside import attach_spectra

    for attached in cluster.map(attach_spectra, checkpoints, address=address):
        with suppress(ValueError):  # raised again, and logged, when the file is read
            attached()


def _summary(dataset: "xr.Dataset") -> dict[str, Any]:
    """Return counts of the values that checkpoints have, and scalars of each; None for NaN."""
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


def _lines(summary: dict[str, Any]) -> list[str]:
    from specdiag.wording import counted, printable, some, tally

    rows = summary["checkpoints"]
    counts = {"checkpoint": len(rows), "layer": summary["layers"], "session": summary["sessions"]}
    lines = [
        ", ".join(counted(n, noun) for noun, n in counts.items()),
        *(f"  with {part:8}  {summary[f'with_{part}']}" for part in ("spectra", "r2", "features")),
        f"  state          {tally(row['state'] for row in rows)}",
    ]
    lost = [row["entry"] for row in rows if row["state"] in ("missing", "stale", "corrupt")]
    if lost:
        lines.append(
            f"{counted(len(lost), 'checkpoint')} without values: {some(lost, 3)}; "
            "`specdiag train --missing` makes them"
        )
    if files := summary["unreadable"]:
        lines.append(
            f"{counted(len(files), 'file')} beside checkpoints cannot be read: {some(files, 3)}"
        )
    if rows and summary["with_features"] < summary["with_r2"]:
        lines.append(
            "R² without features: evaluation.json is missing or has none; see docs/dataset.md"
        )
    return [printable(line) for line in lines]
