"""The command that asks whether spectra predict R²."""

from pathlib import Path

import click

from specdiag.cli.options import debug_option, existing_file, json_option, seed_option


@click.command()
@click.argument("spectra", type=existing_file)
@json_option
@seed_option("Random seed for permutations and bootstrap.")
@debug_option
def link(spectra: Path, as_json: bool, seed: int) -> None:
    """Tell whether spectra predict test R2, over the checkpoints of SPECTRA.

    SPECTRA is a file that `specdiag spectra` writes. Quantities of weight spectra and of features are correlated with R2 in ranks, over all checkpoints,
    within arms and tasks, and among trainings that differ in their seed alone. The last is what the
    verdict rests on: task, arm and data size move both.

    \b
    Examples:
      specdiag link spectra.nc
      specdiag link spectra.nc --json
    """  # noqa: D301
    from specdiag.dataset.netcdf import open_spectra
    from specdiag.show import link as link_tables
    from specdiag.transfer.link import link as linked

    dataset = open_spectra(spectra)  # its errors name the file
    try:
        found = linked(dataset, seed=seed)
    except ValueError as error:
        raise ValueError(f"{spectra}: {error}") from error
    if as_json:
        click.echo(link_tables.as_json(found))
        return
    for line in link_tables.lines(found):
        click.echo(line)
