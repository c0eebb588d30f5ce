"""The commands that list the weights of a checkpoint, and that write it as safetensors."""

from pathlib import Path
from typing import Any

import click

from specdiag.cli.measure import print_lines, terminal_width
from specdiag.cli.options import errors_of, json_option, lock_option
from specdiag.cli.outputs import check_output
from specdiag.cli.reading import (
    CheckpointType,
    include_embeddings_option,
    min_eigenvalues_option,
    open_with,
    reading_options,
    which_option,
)


@click.command()
@click.argument("checkpoint", type=CheckpointType())
@json_option
@min_eigenvalues_option
@include_embeddings_option
@reading_options
@lock_option
def weights(
    checkpoint: Path,
    as_json: bool,
    min_eigenvalues: int,
    include_embeddings: bool,
    lock_path: Path | None,  # noqa: ARG001 - CheckpointType uses it
    **reading: Any,
) -> None:
    """List the weights of CHECKPOINT, and which of them `alpha` measures.

    CHECKPOINT is a file or folder that the other commands read, or a name in checkpoints.lock.

    A weight is the matrix that the network multiplies with. It can be composed of several tensors
    of the file: of a direction and lengths, of values and a mask, of a base and its LoRA. Every
    tensor is part of exactly one weight. A weight that is not measured has a reason. Masks and
    other tables that only their values tell are looked for among the local tensors that are not
    called weight or kernel and have at most 2^24 values; no other values are read, so that `alpha`
    may skip a few more.

    \b
    Examples:
      specdiag weights model.safetensors
      specdiag weights adapter/ --json
      specdiag weights gpt2/ --split '*.c_attn.weight=q,k,v/12'
    """  # noqa: D301
    from specdiag.checkpoint.weights.find import weights as find_weights
    from specdiag.checkpoint.weights.values import reason_of_table
    from specdiag.files import DistantPath
    from specdiag.htsr.selection import skip_reason
    from specdiag.show.weights import as_json as json_of
    from specdiag.show.weights import as_lines

    with errors_of(checkpoint):
        opened = open_with(checkpoint, reading)
        found = find_weights(opened)
    is_local = not isinstance(opened.path, DistantPath)
    listed = [
        (
            weight,
            skip_reason(weight, min_eigenvalues, include_embeddings)
            or (reason_of_table(weight) if is_local else "")
            if weight.is_matrix
            else weight.problem or weight.reason or "vector or scalar",
        )
        for weight in found
    ]
    if as_json:
        click.echo(json_of(str(opened.path), listed, opened.notes))
    else:
        print_lines(str(opened.path), as_lines(listed, opened.notes, terminal_width()))


@click.command()
@click.argument("checkpoint", type=CheckpointType())
@click.argument("output", type=click.Path(path_type=Path), metavar="OUT.safetensors")
@click.option(
    "--force",
    is_flag=True,
    help="Replace the files if they exist; write more than twice the bytes of CHECKPOINT.",
)
@which_option
@lock_option
def export(
    checkpoint: Path,
    output: Path,
    force: bool,
    which: str | None,
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

    # Weights are never replaced without --force, not even those of an earlier export.
    check_output(output, [checkpoint], suffixes=[".safetensors"], option="", force=True)
    beside = output.with_suffix(".json")
    check_output(beside, [checkpoint], suffixes=[".json"], option="", force=True)
    with errors_of(checkpoint):
        opened = open_checkpoint(checkpoint, which)
    digest = write_export(opened, output, overwrite=force)
    for note in opened.notes:
        click.echo(printable(f"note: {note}"), err=True)
    tensors = counted(len(opened.tensors), "tensor")
    files = f"{output} ({output.stat().st_size:,} bytes) and {output.with_suffix('.json').name}"
    click.echo(printable(f"exported {tensors} to {files}, tensor digest {digest}"))
