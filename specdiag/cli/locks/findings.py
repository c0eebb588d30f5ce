"""The commands that collect spectra of whole studies, and conclude from them."""

import json
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specdiag.cli.options import (
    address_option,
    check_engine,
    engine_option,
    existing_file,
    group_option,
    json_option,
    lock_option,
    names_argument,
    open_lock,
    say,
    scale_option,
    seed_option,
    select,
    show_count,
)
from specdiag.cli.outputs import check_output, force_option, output_option
from specdiag.cli.reading import machine_options

if TYPE_CHECKING:
    import xarray as xr

    from specdiag.lock.entry import Scale


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
@force_option
@machine_options
@engine_option
@address_option
@json_option
def spectra(
    names: tuple[str, ...],
    group: str | None,
    scale: Any,
    locks: tuple[Path, ...],
    output: Path,
    force: bool,
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
    check_output(output, locks=locks, suffixes=[".nc"], force=force)
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
    save_spectra(dataset, output, overwrite=force)
    say(f"wrote {output}")
    summary = _summary(dataset)
    click.echo(json.dumps(summary, indent=2) if as_json else "\n".join(_lines(summary)))


def _measure_on_cluster(address: str | None, checkpoints: list[Path]) -> None:
    from specdiag.obtain import cluster
    from specdiag.obtain.beside import attach_spectra

    for attached in cluster.map(attach_spectra, checkpoints, address=address):
        with suppress(ValueError):  # raised again, and logged, when the file is read
            attached()


def _collection(path: Path) -> "xr.Dataset":
    from specdiag.dataset.netcdf import load_spectra

    dataset = load_spectra(path, eigenvalues=False)
    if dataset.attrs.get("kind") != "collection":
        raise ValueError(
            f"{path}: expected a collection of checkpoints with their R2, as `specdiag spectra` "
            "writes it"
        )
    return dataset


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


@click.command()
@click.argument("spectra", type=existing_file)
@json_option
@seed_option("Random seed for permutations and bootstrap.")
def link(spectra: Path, as_json: bool, seed: int) -> None:
    """Test whether spectra predict test R2, over the checkpoints of SPECTRA.

    SPECTRA is a file that `specdiag spectra` writes. Each property of the weight spectra and of the
    features gets its rank correlations with R2: over all checkpoints, within arms and tasks, and
    among trainings that differ only in their seed. The conclusion uses the last of these, because
    task, arm and data size influence both spectra and R2.

    \b
    Examples:
      specdiag link spectra.nc
      specdiag link spectra.nc --json
    """  # noqa: D301
    import specdiag.show.link

    dataset = _collection(spectra)
    try:
        linked = specdiag.link(dataset, seed=seed)
    except ValueError as error:
        raise ValueError(f"{spectra}: {error}") from error
    if as_json:
        click.echo(specdiag.show.link.as_json(linked))
    else:
        click.echo("\n".join(specdiag.show.link.lines(linked)))


@click.command()
@click.argument("spectra", type=existing_file)
@lock_option
@scale_option("Use only checkpoints of this scale; needed if SPECTRA has both.", default=None)
@output_option("Write the tables as Markdown.")
@force_option
@json_option
def verify(
    spectra: Path,
    lock_path: Path | None,
    scale: "Scale | None",
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Check published claims against the checkpoints in SPECTRA.

    SPECTRA is a file that `specdiag spectra` writes. A claim needs at least three seeds (`specdiag
    train --seed`). The claims are in recipes/_claims.py beside the lock. That file is a program, as
    recipes are: use only one that you trust.

    \b
    Examples:
      specdiag verify spectra.nc
      specdiag verify spectra.nc -o claims.md
    """  # noqa: D301
    path, _ = open_lock(lock_path)
    if output:
        check_output(output, [spectra], [path], suffixes=[".md"], force=force)
    from specdiag.outputs import write_output
    from specdiag.show import claims
    from specdiag.transfer.verification import findings_of_lock, measure_for_lock

    dataset = _collection(spectra)
    if scale:
        if scale not in (scales := sorted({*dataset.scale.values.tolist()})):
            has = " and ".join(scales) or "none"
            raise ValueError(f"{spectra} has no checkpoints of {scale} scale; it has {has}")
        dataset = dataset.sel(checkpoint=dataset.scale == scale)
    measured = measure_for_lock(path, dataset)
    findings = findings_of_lock(path, measured)
    if output:
        text = "\n\n".join(claims.tables(findings, measured).values())
        content = f"<!-- written by specdiag -->\n\n{text}\n"
        write_output(output, content.encode(), overwrite=force)
        say(f"wrote {output}")
    shown = [claims.as_json(findings, measured.scale)] if as_json else claims.lines(findings)
    click.echo("\n".join(shown))
