"""The command that holds what was published against what is there."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from specdiag.cli.options import (
    check_output,
    debug_option,
    existing_file,
    json_option,
    lock_option,
    open_lock,
    output_option,
    scale_option,
    show_count,
)

if TYPE_CHECKING:
    from specdiag.lock.entry import Scale

_KINDS = (".md", ".csv")


@click.command()
@click.argument("figures", required=False, type=existing_file)
@lock_option
@scale_option("Measure the checkpoints of this scale.")
@output_option(
    "Write the page (.md) or the figures that it is made of (.csv); may be given twice.",
    multiple=True,
)
@json_option
@debug_option
def verify(
    figures: Path | None,
    lock_path: Path | None,
    scale: "Scale",
    output: tuple[Path, ...],
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
    for file in output:
        if file.suffix not in _KINDS:
            raise click.UsageError(f"-o {file}: expected a name that ends in .md or .csv")
    path, _ = open_lock(lock_path)
    for file in output:
        check_output(file, [figures] if figures else [], [path])
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
    for file in output:
        is_page = file.suffix == ".md"
        text = (
            claims_page.page(findings, found, scale, about)
            if is_page
            else verification.dumps_figures(found)
        )
        write_whole(file, text.encode())
        click.echo(f"wrote {file}", err=True)
    click.echo(
        claims_page.as_json(findings, scale) if as_json else "\n".join(claims_page.lines(findings))
    )
