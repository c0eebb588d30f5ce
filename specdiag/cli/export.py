"""The command that writes a checkpoint as safetensors."""

from pathlib import Path

import click

from specdiag.cli.options import CheckpointType, errors_of, lock_option


@click.command()
@click.argument("checkpoint", type=CheckpointType())
@click.argument("output", type=click.Path(path_type=Path), metavar="OUT.safetensors")
@click.option("--force", is_flag=True, help="Replace the files if they exist.")
@lock_option
def export(
    checkpoint: Path,
    output: Path,
    force: bool,
    lock_path: Path | None,  # noqa: ARG001 - CheckpointType uses it
) -> None:
    """Write CHECKPOINT as OUT.safetensors and OUT.json.

    CHECKPOINT is a file or folder that the other commands read, or a name in checkpoints.lock.

    Every tensor keeps its bits and its name, without prefixes of wrapper modules such as 'model.'.
    OUT.json holds vocabularies, hyper-parameters and other plain values. OUT.safetensors holds a
    copy of them, so that every command reads it as it reads CHECKPOINT. A tensor that cannot be
    exported is an error; other parts that are omitted are listed on stderr. No code in CHECKPOINT
    is ever run.

    \b
    Examples:
      specdiag export base.ckpt base.safetensors
      specdiag export model/ exported.safetensors --force
    """  # noqa: D301
    from specdiag.checkpoint.export import export as write_export
    from specdiag.checkpoint.reader import open_checkpoint
    from specdiag.wording import counted, printable

    if output.suffix != ".safetensors":
        raise click.UsageError(f"{output}: expected a name that ends in .safetensors")
    with errors_of(checkpoint):
        opened = open_checkpoint(checkpoint)
    digest = write_export(opened, output, overwrite=force)
    for note in opened.notes:
        click.echo(printable(f"note: {note}"), err=True)
    tensors = counted(len(opened.tensors), "tensor")
    files = f"{output} ({output.stat().st_size:,} bytes) and {output.with_suffix('.json').name}"
    click.echo(printable(f"exported {tensors} to {files}, tensor digest {digest}"))
