"""The command that holds what was published against what is there."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from specdiag.cli.options import (
    check_output,
    debug_option,
    json_option,
    lock_option,
    open_lock,
    show_count,
)

if TYPE_CHECKING:
    from specdiag.lock.lockfile import Scale

_KINDS = (".md", ".csv")


@click.command()
@click.argument(
    "figures", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@lock_option
@click.option(
    "--scale",
    type=click.Choice(["desk", "paper"]),
    default="desk",
    show_default=True,
    help="Whose checkpoints are measured.",
)
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the page (.md) or the figures that it is made of (.csv); may be given twice.",
)
@json_option
@debug_option
def verify(
    figures: Path | None,
    lock_path: Path | None,
    scale: "Scale",
    outputs: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Say which published claims our figures reproduce.

    The claims lie in recipes/_claims.py beside the lock, and are programs as recipes are. The seeds are those of the lock and
    of its replicates beside it (`specdiag train --seed`). Given FIGURES, a table that -o wrote, nothing is measured.

    \b
    Examples:
      specdiag verify
      specdiag verify -o docs/claims.md -o figures.csv
      specdiag verify figures.csv -o docs/claims.md
    """  # noqa: D301
    for output in outputs:
        if output.suffix not in _KINDS or not output.resolve().parent.is_dir():
            raise click.UsageError(
                f"-o {output}: expected a file in a folder that exists, ending in .md or .csv"
            )
    path, _ = open_lock(lock_path)
    for output in outputs:
        check_output(output, [figures] if figures else [], [path])
    from specdiag.files import write_whole
    from specdiag.show import claims as claims_page
    from specdiag.transfer import verification

    found = (
        verification.read_figures(figures)
        if figures
        else verification.measured(path, scale, show_count)
    )
    scale = found[0].scale if figures else scale
    findings = verification.findings(path, scale, found)
    about = verification.claims_of(path.parent).__doc__ or ""
    for output in outputs:
        is_page = output.suffix == ".md"
        text = (
            claims_page.page(findings, found, scale, about)
            if is_page
            else verification.dumps_figures(found)
        )
        write_whole(output, text.encode())
        click.echo(f"wrote {output}", err=True)
    click.echo(
        claims_page.as_json(findings, scale) if as_json else "\n".join(claims_page.lines(findings))
    )
