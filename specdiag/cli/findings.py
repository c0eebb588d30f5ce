"""The commands that draw conclusions from a collection: link and verify."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from specdiag.cli.options import (
    check_output,
    existing_file,
    json_option,
    lock_option,
    open_lock,
    output_option,
    scale_option,
    seed_option,
)

if TYPE_CHECKING:
    from specdiag.lock.entry import Scale


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

    dataset = specdiag.open_spectra(spectra)  # its errors name the file
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
@json_option
def verify(
    spectra: Path, lock_path: Path | None, scale: "Scale | None", output: Path | None, as_json: bool
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
    if output and output.suffix != ".md":
        raise click.UsageError(f"-o {output}: expected a name that ends in .md")
    if output:
        check_output(output, [spectra], [path])
    from specdiag.dataset.netcdf import open_spectra
    from specdiag.files import write_whole
    from specdiag.show import claims
    from specdiag.transfer.verification import findings_of_lock, measure_for_lock

    dataset = open_spectra(spectra)  # its errors name the file
    if scale and "scale" in dataset.variables:
        if scale not in (scales := sorted({*dataset.scale.values.tolist()})):
            has = " and ".join(scales) or "none"
            raise ValueError(f"{spectra} has no checkpoints of {scale} scale; it has {has}")
        dataset = dataset.sel(checkpoint=dataset.scale == scale)
    measured = measure_for_lock(path, dataset)
    findings = findings_of_lock(path, measured)
    if output:
        text = "\n\n".join(claims.tables(findings, measured).values())
        write_whole(output, f"{text}\n".encode())
        click.echo(f"wrote {output}", err=True)
    shown = [claims.as_json(findings, measured.scale)] if as_json else claims.lines(findings)
    click.echo("\n".join(shown))
