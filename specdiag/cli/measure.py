"""The command that measures checkpoints, and what `compare` shares with it."""

import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specdiag.cli.measuring.adapters import lines_of_adapter, rows_of_adapters
from specdiag.cli.measuring.files import alphas_of_untrained, measure_all
from specdiag.cli.measuring.journal import close_journal, journal_beside
from specdiag.cli.options import (
    ERRORS,
    address_option,
    check_engine,
    check_installed,
    complain,
    engine_option,
    json_option,
    lock_option,
    say,
    seed_option,
)
from specdiag.cli.outputs import (
    check_figures,
    check_output,
    force_option,
    output_option,
    target_type,
)
from specdiag.cli.reading import (
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
    import xarray as xr

    from specdiag.checkpoint.reader import Checkpoint
    from specdiag.htsr.layers import Layer

netcdf_option = output_option("Write the xarray Dataset, eigenvalues included, as netCDF.")


class _Alpha(ManyFilesCommand):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verdicts, from the module of the library that decides them."""
        from specdiag.htsr.null.verdicts import VERDICTS

        super().format_epilog(ctx, formatter)
        with formatter.section("Verdicts"):
            formatter.write_dl(list(VERDICTS.items()))


def _packages(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[str, ...]:
    """Return the packages of `--beside`."""
    return tuple(dict.fromkeys(name.strip() for name in value.split(","))) if value else ()


def _check_options(two_formats: bool, beside: tuple[str, ...], settings: dict[str, Any]) -> None:
    if two_formats:
        raise click.UsageError("--json and --csv exclude each other")
    from specdiag.htsr.others.methods import check_method
    from specdiag.htsr.others.packages import check_packages

    try:
        check_method(settings["method"], gof=settings["gof"], repeats=settings["repeats"])
        check_packages(beside, settings["method"])
    except ValueError as error:
        raise click.UsageError(f"--{error}") from error


@click.command(cls=_Alpha)
@files_argument
@json_option
@click.option(
    "--csv",
    "as_csv",
    is_flag=True,
    help="Print CSV with a row for each matrix. Names like formulas begin with an apostrophe.",
)
@click.option(
    "--columns",
    type=click.Choice(["default", "all"]),
    default="default",
    show_default=True,
    help="Columns of the table; all adds what the verdict rests on, and alpha_ks (Clauset's rule).",
)
@netcdf_option
@force_option
@click.option(
    "--plot",
    type=target_type(is_folder=True),
    metavar="DIR",
    help="Draw the spectrum of every measured layer, and alpha by layer, into this folder.",
)
@layers_option
@min_eigenvalues_option
@include_embeddings_option
@reading_options
@click.option(
    "--method",
    type=click.Choice(["specdiag", "weightwatcher", "wwj", "median", "peak", "farms"]),
    default="specdiag",
    show_default=True,
    help="Use the rules of specdiag, weightwatcher, the published POYO model card (wwj), or of "
    "papers that allocate by alpha: xmin at the median of the spectrum (TempBalance, AlphaLoRA), "
    "near its peak (AlphaPruning), or at the median of windows of one aspect ratio (FARMS).",
)
@click.option(
    "--initialisation",
    multiple=True,
    type=CheckpointType(),
    metavar="FILE...",
    help="Also compare with untrained networks of the same recipe; verdicts do from 19 of them on.",
)
@click.option(
    "--null",
    type=click.Choice(["ladder", "none"]),
    default="ladder",
    show_default=True,
    help="Compare with random matrices and tell the kind of the tail; or, with none, measure alpha "
    "and its interval alone: a fifth faster, without verdicts.",
)
@click.option(
    "--gof",
    is_flag=True,
    help="Also test how well a power law fits, by a bootstrap, and compare other curves with it.",
)
@click.option(
    "--repeats",
    is_flag=True,
    help="Estimate how far alpha would scatter if the rows of each matrix were drawn again (slow).",
)
@click.option(
    "--traps",
    is_flag=True,
    help="Also permute the elements of each matrix and count the eigenvalues that still stand out "
    "(correlation traps), and measure how localised the leading singular vectors are.",
)
@click.option(
    "--beside",
    metavar="PACKAGE,...",
    default="",
    callback=_packages,
    help="Also run weightwatcher, powerlaw or both (weightwatcher,powerlaw) on the same matrices, "
    "in processes of their own: columns with what they find, and why it differs (slow).",
)
@seed_option("Random seed for bootstrap, sign flips, repeats and permutations.")
@machine_options
@engine_option
@address_option
@lock_option
def alpha(
    files: tuple[Path, ...],
    as_json: bool,
    as_csv: bool,
    columns: str,
    output: Path | None,
    plot: Path | None,
    force: bool,
    layers: str | None,
    initialisation: tuple[Path, ...],
    engine: str,
    address: str | None,
    beside: tuple[str, ...],
    lock_path: Path | None,  # noqa: ARG001 - CheckpointType uses it
    **settings: Any,
) -> None:
    """Measure how heavy-tailed the spectrum of each weight matrix is.

    The command fits a power law to the eigenvalues of every matrix of each FILE, and shows how
    certain its exponent alpha is. A FILE is one of torch (.ckpt, .pt, .pth, .bin), safetensors,
    GGUF, ONNX, Keras (.keras, .h5), Flax (.msgpack) or NumPy (.npz, .npy), an index of shards
    (*.index.json), a folder with one of these, or a name in checkpoints.lock. It can also
    be at the Hugging Face hub (hf://owner/repo[@revision][/file], or owner/repo) or behind a URL
    (https://host/file): only what is read is transferred. No code in it is ever run.

    The interval of alpha takes the eigenvalues for independent draws. It is not how far alpha moves
    when rows are drawn again (--repeats), nor when a network is trained again (compare --against).

    Of an adapter, such as a LoRA, it also shows the rank that each update uses, its effective rank
    and how much of it is noise; with --base, what it adds to the base, as compare --delta.

    With -o, a journal beside the output keeps every layer as soon as it is measured. The same
    command goes on with it after an interruption, measures the other layers, and removes it.

    \b
    Examples:
      specdiag alpha model.safetensors
      specdiag alpha last.ckpt --layers '*.to_qkv.*' --plot figures
      specdiag alpha a.pt b.pt -o both.nc
      specdiag alpha base.ckpt --method median --json
      specdiag alpha adapter/ --base base/
      specdiag alpha base.ckpt --traps --columns all
      specdiag alpha model.safetensors --beside weightwatcher,powerlaw
      specdiag alpha gpt2/ --split '*.c_attn.weight=q,k,v/12'
      specdiag alpha hf://sentence-transformers/all-MiniLM-L6-v2 --layers '*layer.0.*'
    """  # noqa: D301
    _check_options(as_json and as_csv, beside, settings)
    check_engine(engine, address)
    base: Path | None = settings["base"]
    inputs = [*files, *initialisation, *([base] if base else [])]
    if output:
        check_output(output, inputs, suffixes=[".nc"], force=force)
    if plot:
        check_installed("--plot", "matplotlib")
        from specdiag.drawing.drawings import NAMES

        check_figures(plot, inputs, names=NAMES, suffixes=[".png"], option="--plot", force=force)
    journal = journal_beside(output)
    untrained = alphas_of_untrained(initialisation, files, layers, settings, journal)
    measurement = settings | {"untrained": untrained, "base": base and base.absolute()}
    checkpoints, measured = measure_all(files, layers, measurement, engine, address, journal)
    failed = len(checkpoints) < len(files)
    if beside:
        measured = _beside(checkpoints, measured, layers, beside, settings)
    if checkpoints and (output or plot):  # first, as stdout may be closed before its end
        from specdiag.checkpoint.remote.path import pinned
        from specdiag.dataset.build import build
        from specdiag.drawing.drawings import draw_all

        settings["initialisation"] = [str(pinned(file)) for file in initialisation]
        settings["base"] = base and str(pinned(base))
        dataset = build(checkpoints, measured, {"layers": layers, **settings})
        failed |= not write(dataset, output, plot, partial(draw_all, overwrite=force), force=force)
    if journal:
        close_journal(journal, failed, checkpoints, measured)
    kind = "json" if as_json else "csv" if as_csv else columns
    _print(checkpoints, measured, kind, base, settings)
    if failed:
        raise click.exceptions.Exit(1)


def _beside(
    checkpoints: Sequence["Checkpoint"],
    measured: Sequence[Sequence["Layer"]],
    layers: str | None,
    names: tuple[str, ...],
    settings: dict[str, Any],
) -> list[list["Layer"]]:
    """Return the layers with what packages find, and note their names in the settings."""
    from specdiag.htsr.others.packages import beside_packages

    settings["beside"] = list(names)
    say(f"running {' and '.join(names)} on the same matrices")
    return beside_packages(checkpoints, measured, layers, names)


def _print(
    checkpoints: Sequence["Checkpoint"],
    measured: Sequence[Sequence["Layer"]],
    kind: str,
    base: Path | None,
    settings: dict[str, Any],
) -> None:
    """Print the layers as 'json', as 'csv', or as tables with the 'default' columns or 'all'."""
    from specdiag.show.layers import as_csv, as_json, as_table, summary_lines

    if kind == "json":
        click.echo(as_json(checkpoints, measured, rows_of_adapters(checkpoints, base, settings)))
    elif kind == "csv":
        click.echo(as_csv(checkpoints, measured), nl=False)
    else:
        for checkpoint, layers in zip(checkpoints, measured, strict=True):
            lines = as_table(layers, terminal_width(), kind) + summary_lines(checkpoint, layers)
            lines += lines_of_adapter(checkpoint, base, settings, terminal_width())
            print_lines(str(checkpoint.path), lines)


def print_lines(title: str, lines: Sequence[str]) -> None:
    """Print a title, lines, and an empty line."""
    from specdiag.wording import printable

    click.secho(printable(title), bold=True)
    click.echo("\n".join([*lines, ""]))


def terminal_width() -> int | None:
    """Return the columns of the terminal; None if stdout is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def write(
    dataset: "xr.Dataset",
    output: Path | None,
    plot: Path | None,
    draw: Callable[["xr.Dataset", Path], Sequence[Path]],
    *,
    force: bool,
) -> bool:
    """Return whether all files could be written; print the error if not, and go on."""
    from specdiag.dataset.netcdf import save_spectra
    from specdiag.wording import counted

    try:
        if output:
            save_spectra(dataset, output, overwrite=force)
            say(f"wrote {output}")
        if plot:
            drawn = counted(len(draw(dataset, plot)), "figure")
            say(f"drew {drawn} in {plot}")
    except ERRORS as error:
        complain(error)
        return False
    return True
