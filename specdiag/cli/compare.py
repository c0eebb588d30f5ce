"""The command that compares checkpoints."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specdiag.cli.measure import (
    netcdf_option,
    print_lines,
    terminal_width,
    write,
)
from specdiag.cli.measuring.files import with_progress
from specdiag.cli.options import (
    check_installed,
    errors_of,
    json_option,
    lock_option,
)
from specdiag.cli.outputs import FIGURES, check_output, force_option, target_type
from specdiag.cli.reading import (
    READING,
    CheckpointType,
    ManyFilesCommand,
    files_argument,
    include_embeddings_option,
    layers_option,
    machine_options,
    min_eigenvalues_option,
    reading_options,
)

if TYPE_CHECKING:
    from specdiag.checkpoint.reader import Checkpoint
    from specdiag.comparison.dataset import Compared


@click.command(cls=ManyFilesCommand)
@files_argument
@click.option(
    "--against",
    multiple=True,
    type=CheckpointType(),
    metavar="FILE...",
    help="Compare all FILEs before with all of these, as seeds of two recipes.",
)
@click.option(
    "--delta",
    is_flag=True,
    help="Show what was added to each weight instead: rank, size and directions of the update.",
)
@json_option
@netcdf_option
@force_option
@click.option(
    "--plot",
    type=target_type(),
    metavar="FILE",
    help="Draw alpha of both and its difference, by layer (.png, .pdf or .svg).",
)
@click.option(
    "--rename",
    nargs=2,
    multiple=True,
    metavar="OLD NEW",
    help="Replace the text OLD by NEW in the tensor names of every file except the first.",
)
@layers_option
@min_eigenvalues_option
@include_embeddings_option
@reading_options
@machine_options
@lock_option
def compare(
    files: tuple[Path, ...],
    against: tuple[Path, ...],
    delta: bool,
    as_json: bool,
    output: Path | None,
    plot: Path | None,
    force: bool,
    rename: tuple[tuple[str, str], ...],
    layers: str | None,
    lock_path: Path | None,  # noqa: ARG001 - CheckpointType uses it
    **settings: Any,
) -> None:
    """Compare the first FILE with each of the others, or two groups of seeds.

    The command compares layer by layer and as a whole. It shows which tensors are bit-identical,
    how alpha and the spectra of the other tensors differ, and a conclusion in one sentence. Each
    difference is the other file minus the first.

    Two networks cannot show how far two seeds of one recipe differ, so that is assumed. Give
    several seeds of both recipes to measure it: with --against, the FILEs before it are one group,
    those after it the other.

    With --delta, the updates themselves are measured, also those of embedding tables: the spectrum
    of each matrix after minus before, its rank above rounding (a merged LoRA shows its rank), how
    much of it lies in the leading directions of the weight, and which directions are new.

    \b
    Examples:
      specdiag compare pretrained.ckpt scratch.ckpt
      specdiag compare base.ckpt finetuned.ckpt --plot difference.pdf
      specdiag compare base.ckpt a.ckpt b.ckpt c.ckpt -o all.nc
      specdiag compare base/ finetuned/ --delta
      specdiag compare base/ adapter/ --delta -o updates.nc
      specdiag compare model/ adapter/ --base model/
      specdiag compare a.ckpt b.ckpt --which ema --split '*.qkv.weight=q,k,v'
      specdiag compare a1.pt a2.pt a3.pt --against b1.pt b2.pt b3.pt
    """  # noqa: D301
    _check_usage(files, against, plot, delta=delta)
    from specdiag.drawing import difference

    inputs = [*files, *against, *([settings["base"]] if settings["base"] else [])]
    if output:
        check_output(output, inputs, suffixes=[".nc"], force=force)
    if plot:
        check_installed("--plot", "matplotlib")
        for path in difference.paths(plot, 1 if against else len(files) - 1):
            check_output(path, inputs, suffixes=FIGURES, option="--plot", force=force)
    if len(files) + len(against) > 2 and against:
        _check_distinct([*files, *against])
    settings["rename"] = dict(rename)
    settings["reading"] = {name: settings.pop(name) for name in READING}
    if delta:
        _show_updates(files, layers, as_json, output, settings, force=force)
        return
    from specdiag.comparison.dataset import build_comparison, measure_and_compare
    from specdiag.show import comparison as comparison_tables

    groups = [files, against] if against else [[file] for file in files]
    compared = measure_and_compare(groups, layers, with_progress, errors_of, **settings)
    failed = False
    if output or plot:
        draw = partial(difference.draw_all, overwrite=force)
        failed = not write(build_comparison(compared), output, plot, draw, force=force)
    if as_json:
        click.echo(comparison_tables.as_json(compared))
    else:
        _print_comparisons(compared)
    if failed:
        raise click.exceptions.Exit(1)


def _check_usage(
    files: Sequence[Path], against: Sequence[Path], plot: Path | None, *, delta: bool
) -> None:
    if len(files) + len(against) < 2:
        text = "compare needs at least two files; the first is compared with the others"
        raise click.UsageError(text)
    if delta and (against or plot):
        other = "--against" if against else "--plot"
        raise click.UsageError(f"--delta and {other} exclude each other")


def _check_distinct(files: Sequence[Path]) -> None:
    known: dict[Path, Path] = {}
    for file in files:
        other = known.setdefault(file.resolve(), file)
        if other is not file:
            also = "twice" if other == file else f"twice, also as {other}"
            raise click.UsageError(
                f"{file} is given {also}: a network counts once, and in one group only"
            )


def _print_comparisons(compared: "Compared") -> None:
    from specdiag.show.comparison import as_table, legend, summary_lines
    from specdiag.show.table import aligned

    first, *others = compared.names
    for i, (name, comparison) in enumerate(zip(others, compared.comparisons, strict=True)):
        table = as_table(comparison.pairs, terminal_width())
        explained = table if i else table + legend(comparison.pairs, table)
        print_lines(f"1: {first}   2: {name}", explained + summary_lines(comparison, (first, name)))
    _print_notes(compared.checkpoints)
    if len(others) > 1:
        conclusions = [comparison.summary["conclusion"] for comparison in compared.comparisons]
        click.echo("\n".join(aligned(list(zip(others, conclusions, strict=True)))))


def _print_notes(checkpoints: Sequence["Checkpoint"]) -> None:
    from specdiag.dataset.build import unique_names
    from specdiag.wording import printable

    for name, checkpoint in zip(unique_names(checkpoints), checkpoints, strict=True):
        for note in checkpoint.notes:
            click.echo(printable(f"note: {name}: {note}"))


def _show_updates(
    files: Sequence[Path],
    layers: str | None,
    as_json: bool,
    output: Path | None,
    settings: dict[str, Any],
    *,
    force: bool,
) -> None:
    """Print what was added to the first file to become each of the others, and write it."""
    from specdiag.comparison.updates.delta import build_updates, measure_updates
    from specdiag.show import updates as tables

    settings.pop("include_embeddings")
    added = measure_updates(files, layers, with_progress, errors_of, **settings)
    failed = False
    if output:
        failed = not write(build_updates(added), output, None, lambda *_: [], force=force)
    if as_json:
        click.echo(tables.as_json(added))
    else:
        first, *others = added.names
        for name, updates, summary in zip(others, added.updates, added.summaries, strict=True):
            table = tables.as_table(updates, terminal_width())
            lines = [*table, *tables.legend(updates, table)]
            lines += tables.summary_lines(updates, summary)
            print_lines(f"{name}, added to {first}", lines)
        _print_notes([added.first, *added.others])
    if failed:
        raise click.exceptions.Exit(1)
