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
