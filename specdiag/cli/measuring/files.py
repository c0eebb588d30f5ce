"""Files -> their checkpoints and measured layers."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from specdiag.htsr.layers import Layer

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
    quick = settings | {"null": "none", "gof": False, "repeats": False}
    quick |= {"which": None, "base": None}
    for file in files:
        with errors_of(file):
            check_recipe(matrices(open_with(file, quick), pattern), wanted)
    networks = []
    for file in files:
        with errors_of(file):
            networks.append(_open_and_measure(file, pattern, quick, journal)[1])
    alphas, note = untrained_alphas(networks)
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
    function = partial(_open_and_measure, pattern=pattern, settings=settings, journal=journal)
    with ExitStack() as stack:
        results: Iterable[Callable[[], Any]] = (partial(function, file) for file in files)
        if engine == "ray":
            results = stack.enter_context(on_cluster(function, files, address, pattern, settings))
        checkpoints, measured = [], []
        for file, result in zip(files, results, strict=True):
            try:
                with errors_of(file):
                    checkpoint, layers = result()
            except ERRORS as error:
                complain(error)
            else:
                checkpoints.append(checkpoint)
                measured.append(layers)
    return checkpoints, measured


def _open_and_measure(
    file: Path,
    pattern: str | None,
    settings: dict[str, Any],
    journal: "Journal | None",
    elsewhere: "Callable[[Path], Callable[[Weight], Layer]] | None" = None,
) -> tuple["Checkpoint", list["Layer"]]:
    from specdiag.dataset.spectra import measure_checkpoint
    from specdiag.files import DistantPath, found_files

    with found_files() as files:
        checkpoint = open_with(file, settings)
    measurement = {name: value for name, value in settings.items() if name not in READING}
    if elsewhere:
        path = checkpoint.path if isinstance(checkpoint.path, DistantPath) else file.absolute()
        measurement["elsewhere"] = elsewhere(path)
    if journal:
        measurement["journal"] = finished_layers(journal, checkpoint, pattern, files, settings)
    return checkpoint, measure_checkpoint(checkpoint, pattern, with_progress, **measurement)


@contextmanager
def with_progress(
    tensors: Sequence["Tensor"], label: str
) -> Iterator[Callable[["Tensor"], object]]:
    """Yield a function to call with each tensor that is done.

    It moves a progress bar on a terminal's stderr if they take long together.
    """
    from specdiag.wording import printable

    costs = {t.name: math.prod(t.shape) * min(t.shape[:2], default=0) for t in tensors}
    total = sum(costs.values())
    if total < _LONG or not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=total, label=printable(label), file=sys.stderr) as progress:
        yield lambda tensor: progress.update(costs[tensor.name])
