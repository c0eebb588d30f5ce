"""Files -> their checkpoints and measured layers."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from specdiag.cli.measuring.cluster import on_cluster
from specdiag.cli.measuring.journal import finished_layers
from specdiag.cli.options import ERRORS, complain, errors_of, say
from specdiag.cli.reading import READING, open_with

if TYPE_CHECKING:
    from specdiag.checkpoint.reader import Checkpoint
    from specdiag.checkpoint.tensor import Tensor
    from specdiag.checkpoint.weights.weight import Weight
    from specdiag.dataset.journal import Journal
    from specdiag.files import File
    from specdiag.htsr.layers import Layer
    from specdiag.htsr.measure import Network

Result = TypeVar("Result")

# Number of multiplications in about two seconds; for less work a progress bar would only flicker.
_LONG = 5e10


def alphas_of_untrained(
    files: Sequence[Path],
    trained: Sequence[Path],
    pattern: str | None,
    settings: dict[str, Any],
    journal: "Journal | None",
) -> dict[str, list[float]]:
    """Return the alphas of untrained networks by layer; an error of a file ends the command.

    All files are checked before any is measured.
    """
    if not files:
        return {}
    if settings["method"] != "specdiag":
        raise click.UsageError("--initialisation needs --method specdiag: others have no null")
    if settings["null"] == "none":
        raise click.UsageError("--initialisation is one more null: it excludes --null none")
    from specdiag.htsr.null.initialisation import check_recipe, untrained_alphas
    from specdiag.htsr.selection import matrices

    wanted: list[Tensor] = []
    for file in trained:
        with suppress(*ERRORS):  # reported when the file is measured
            wanted += matrices(open_with(file, settings), pattern)
    quick = settings | {"null": "none", "gof": False, "repeats": False, "traps": False}
    quick |= {"which": None, "base": None}
    for file in files:
        with errors_of(file):
            check_recipe(matrices(open_with(file, quick), pattern), wanted)
    opened = []
    for file in files:
        with errors_of(file):
            opened.append(_opened(file, pattern, quick, journal).network)
    alphas, note = untrained_alphas(_measured(opened, quick))
    if note:
        say(note)
    return alphas


def measure_all(
    files: Sequence[Path],
    pattern: str | None,
    settings: dict[str, Any],
    engine: str,
    address: str | None,
    journal: "Journal | None",
) -> tuple[list["Checkpoint"], list[list["Layer"]]]:
    """Return the files that can be measured, and their layers; print the errors of the others."""
    function = partial(_opened, pattern=pattern, settings=settings, journal=journal)
    if engine != "ray":
        opened = list(_of_each(files, (partial(function, file) for file in files)))
        return [x.checkpoint for x in opened], _measured([x.network for x in opened], settings)
    there = partial(_measured_elsewhere, function, settings)
    with on_cluster(there, files, address, pattern, settings) as results:
        done = list(_of_each(files, results))
    return [c for c, _ in done], [layers for _, layers in done]


def _of_each(files: Iterable[Path], results: Iterable[Callable[[], Result]]) -> Iterator[Result]:
    """Yield the result for each file; print the errors of those that have none."""
    for file, result in zip(files, results, strict=True):
        try:
            with errors_of(file):
                found = result()
        except ERRORS as error:
            complain(error)
        else:
            yield found


class _Opened(NamedTuple):
    checkpoint: "Checkpoint"
    network: "Network"
    files: "set[File]"  # from which it is read


def _opened(
    file: Path, pattern: str | None, settings: dict[str, Any], journal: "Journal | None"
) -> _Opened:
    from specdiag.dataset.spectra import network_of
    from specdiag.files import found_files

    with found_files() as files:
        checkpoint = open_with(file, settings)
    finished = finished_layers(journal, checkpoint, pattern, files, settings) if journal else None
    return _Opened(checkpoint, network_of(checkpoint, pattern, finished), files)


def _measured(
    networks: Sequence["Network"], settings: dict[str, Any], **how: Any
) -> list[list["Layer"]]:
    from specdiag.dataset.spectra import measured_layers

    measurement = {name: value for name, value in settings.items() if name not in READING}
    return measured_layers(networks, with_progress, **measurement, **how)


def _measured_elsewhere(
    function: Callable[[Path], _Opened],
    settings: dict[str, Any],
    file: Path,
    elsewhere: "Callable[[Path, set[File]], Callable[[Weight], Layer]]",
) -> tuple["Checkpoint", list["Layer"]]:
    from specdiag.files import DistantPath

    checkpoint, network, files = function(file)
    path = checkpoint.path if isinstance(checkpoint.path, DistantPath) else file.absolute()
    (layers,) = _measured([network], settings, elsewhere=elsewhere(path, files))
    return checkpoint, layers


@contextmanager
def with_progress(
    tensors: Sequence["Tensor"], label: str
) -> Iterator[Callable[["Tensor"], object]]:
    """Yield a function to call with each tensor that is done.

    It moves a progress bar on a terminal's stderr if they take long together.
    """
    from specdiag.wording import printable

    total = sum(map(_cost, tensors))
    if total < _LONG or not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=total, label=printable(label), file=sys.stderr) as progress:
        yield lambda tensor: progress.update(_cost(tensor))


def _cost(tensor: "Tensor") -> int:
    return math.prod(tensor.shape) * min(tensor.shape[:2], default=0)
