"""The journal of a command: what it says about the layers that an interrupted run has finished."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specdiag.cli.options import say

if TYPE_CHECKING:
    from specdiag.checkpoint.reader import Checkpoint
    from specdiag.dataset.journal import Journal, Network
    from specdiag.files import File
    from specdiag.htsr.layers import Layer


def finished_layers(
    journal: "Journal",
    checkpoint: "Checkpoint",
    pattern: str | None,
    files: Iterable["File"],
    settings: dict[str, Any],
) -> "Network":
    """Return what takes the layers of a network from the journal, and keeps those of this run."""
    from specdiag.compute.device import in_use
    from specdiag.htsr.selection import matrices
    from specdiag.wording import counted

    told = {name: value for name, value in settings.items() if name != "untrained"}
    network = journal.of(files, told | {"device": in_use()})
    if n := network.count(matrices(checkpoint, pattern)):
        layers = counted(n, "layer")
        say(f"{checkpoint.name}: {layers} of an interrupted run taken from {journal.path.name}")
    return network


def journal_beside(output: Path | None) -> "Journal | None":
    """Return the journal of an output, which is closed when the command ends."""
    if output is None:
        return None
    from specdiag.dataset.journal import Journal

    journal = Journal(output)
    click.get_current_context().call_on_close(journal.close)
    return journal


def close_journal(
    journal: "Journal",
    failed: bool,
    checkpoints: Sequence["Checkpoint"],
    measured: Sequence[Sequence["Layer"]],
) -> None:
    """Remove the journal, unless the same command would end with more than this one has."""
    from specdiag.files import DistantPath
    from specdiag.wording import counted

    n = sum(
        layer.status == "failed"
        for checkpoint, layers in zip(checkpoints, measured, strict=True)
        for layer in layers
        if isinstance(checkpoint.path, DistantPath)
    )
    if n and not journal.problem:
        say(f"{counted(n, 'layer')} could not be read; the same command measures them alone")
    journal.close(remove=not (failed or n))
