"""The command that writes a checkpoint as safetensors."""

from pathlib import Path

import click

from specdiag.cli.options import CheckpointType, debug_option, lock_option


@click.command()
@click.argument("checkpoint", type=CheckpointType())
@click.argument("output", type=click.Path(path_type=Path), metavar="OUT.safetensors")
@click.option("--force", is_flag=True, help="Replace the files if they exist.")
@lock_option
@debug_option
def export(
    checkpoint: Path,
    output: Path,
    force: bool,
    lock_path: Path | None,  # noqa: ARG001 - CheckpointType uses it
) -> None:
    """Write CHECKPOINT as OUT.safetensors, and OUT.json with its vocabulary beside it.

    CHECKPOINT is a file or folder that the other commands read, or a name in checkpoints.lock.

    All tensors keep their bits, and their names without the prefixes of wrapper modules such as
    'model.'. The JSON holds vocabularies, hyper-parameters and whatever else is plain; the
    safetensors file holds a copy of it, so that every command reads the export as it read
    CHECKPOINT. A tensor that cannot be exported is an error; what else was left aside is said on
    stderr. No code in CHECKPOINT is ever run.

    \b
    Examples:
      specdiag export base.ckpt base.safetensors
      specdiag export model/ exported.safetensors --force
    """  # noqa: D301
    from specdiag.checkpoint import export as exports
    from specdiag.checkpoint.reader import open_checkpoint
    from specdiag.wording import printable

    if output.suffix != ".safetensors":
        raise click.UsageError(f"{output}: the name of the file to write ends in .safetensors")
    found = open_checkpoint(checkpoint)
    digest = exports.export(found, output, overwrite=force)
    for note in found.notes:
        click.echo(printable(f"note: {note}"), err=True)
    n_tensors, n_bytes = len(found.tensors), output.stat().st_size
    tensors = f"{n_tensors:,} tensor{'s' * (n_tensors != 1)}"
    files = f"{output} ({n_bytes:,} bytes) and {output.with_suffix('.json').name}"
    click.echo(printable(f"exported {tensors} to {files}, tensor digest {digest}"))
