"""The command that correlates spectra with R²."""

from pathlib import Path

import click

from specdiag.cli.options import existing_file, json_option, seed_option


@click.command()
@click.argument("spectra", type=existing_file)
@json_option
@seed_option("Random seed for permutations and bootstrap.")
def link(spectra: Path, as_json: bool, seed: int) -> None:
    """Test whether spectra predict test R2, over the checkpoints of SPECTRA.

    SPECTRA is a file that `specdiag spectra` writes. Quantities of weight spectra and of features
    are correlated with R2 in ranks: over all checkpoints, within arms and tasks, and among
    trainings that differ only in their seed. The conclusion rests on the last, because task, arm
    and data size influence both.

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
        result = linked(dataset, seed=seed)
    except ValueError as error:
        raise ValueError(f"{spectra}: {error}") from error
    if as_json:
        click.echo(link_tables.as_json(result))
        return
    for line in link_tables.lines(result):
        click.echo(line)
