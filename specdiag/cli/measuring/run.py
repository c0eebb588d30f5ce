"""Checkpoints of a training run -> the measured layers of each, what did not change once."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from specdiag.cli.measuring.files import with_progress
from specdiag.cli.options import ERRORS, complain, errors_of, say
from specdiag.cli.reading import READING, open_with

if TYPE_CHECKING:
    from specdiag.checkpoint.reader import Checkpoint
    from specdiag.checkpoint.weights.weight import Weight
    from specdiag.dataset.journal import Journal
    from specdiag.dataset.journal import Network as Finished
    from specdiag.htsr.layers import Layer
    from specdiag.htsr.measure import Network
    from specdiag.training.steps import Run


class Measured(NamedTuple):
    """One checkpoint of a run, and its layers."""

    step: int
    checkpoint: "Checkpoint"
    layers: list["Layer"]


class _Opened(NamedTuple):
    step: int
    checkpoint: "Checkpoint"
    network: "Network"
    finished: "Finished | None"


def measure_run(
    run: "Run", pattern: str | None, settings: dict[str, Any], journal: "Journal | None"
) -> tuple[list[Measured], int]:
    """Return the checkpoints that can be measured, and how many cannot; print their errors.

    A weight with the same elements as in the checkpoint before is not measured again. Layers that
    are in the journal are taken from there, and the others are kept in it.
    """
    opened: list[_Opened] = []
    n_failed, n_kept = 0, 0
    for step, path in run.checkpoints:
        try:
            with errors_of(path):
                one = _opened(step, path, pattern, settings, journal)
        except ERRORS as error:
            complain(error)
            n_failed += 1
        else:
            n_kept += one.finished.count(one.network.weights) if one.finished else 0
            opened.append(one)
    if journal and n_kept:
        from specdiag.wording import counted

        say(f"{counted(n_kept, 'layer')} of earlier runs taken from {journal.path.name}")
    same = _unchanged(opened, settings)
    return _complete(opened, same, _measured(opened, same, settings)), n_failed


def _opened(
    step: int,
    path: Path,
    pattern: str | None,
    settings: dict[str, Any],
    journal: "Journal | None",
) -> _Opened:
    from specdiag.compute.device import in_use
    from specdiag.dataset.spectra import network_of
    from specdiag.files import found_files

    with found_files() as files:
        checkpoint = open_with(path, settings)
    finished = journal.of(files, settings | {"device": in_use()}) if journal else None
    return _Opened(step, checkpoint, network_of(checkpoint, pattern, finished), finished)


def _unchanged(opened: Sequence[_Opened], settings: dict[str, Any]) -> list[set[str]]:
    """Return for each checkpoint the names of weights that the checkpoint before has, too.

    What the journal has, and what is skipped, is not read for it.
    """
    from specdiag.htsr.selection import skip_reason

    gate = settings["min_eigenvalues"], settings["include_embeddings"]
    found: list[set[str]] = []
    before: dict[str, Weight] = {}
    digests: dict[str, str] = {}  # of the checkpoint before, by name
    for one in opened:
        known: dict[str, str] = {}
        same = {
            weight.name
            for weight in one.network.weights
            if not (one.finished and one.finished.count([weight]))
            and not skip_reason(weight, *gate)
            and _is_same(weight, before.get(weight.name), known, digests)
        }
        found.append(same)
        before, digests = {weight.name: weight for weight in one.network.weights}, known
    return found


def _is_same(
    weight: "Weight", other: "Weight | None", known: dict[str, str], digests: dict[str, str]
) -> bool:
    """Return whether two weights have the same elements; digests by name are kept."""
    from specdiag.checkpoint.tensor import elements_hash

    if other is None or (other.shape, other.dtype) != (weight.shape, weight.dtype):
        return False
    try:
        for one, kept in ((weight, known), (other, digests)):
            if one.name not in kept:
                kept[one.name] = elements_hash(one.read())
    except ERRORS:  # reported when it is measured
        return False
    return known[weight.name] == digests[weight.name]


def _measured(
    opened: Sequence[_Opened], same: Sequence[set[str]], settings: dict[str, Any]
) -> list[list["Layer"]]:
    from specdiag.dataset.spectra import measured_layers

    measurement = {name: value for name, value in settings.items() if name not in READING}
    networks = [
        replace(one.network, weights=[w for w in one.network.weights if w.name not in names])
        for one, names in zip(opened, same, strict=True)
    ]
    return measured_layers(networks, with_progress, **measurement)


def _complete(
    opened: Sequence[_Opened], same: Sequence[set[str]], measured: Sequence[list["Layer"]]
) -> list[Measured]:
    """Return all layers of each checkpoint, in its order: those that changed, and the others."""
    complete: list[Measured] = []
    before: dict[str, Layer] = {}
    for one, names, layers in zip(opened, same, measured, strict=True):
        found = {layer.name: layer for layer in layers} | {name: before[name] for name in names}
        for weight in one.network.weights:
            if weight.name in names and one.finished:  # the next run need not read it
                one.finished(partial(_layer_of, found), weight)
        before = {weight.name: found[weight.name] for weight in one.network.weights}
        complete.append(Measured(one.step, one.checkpoint, list(before.values())))
    return complete


def _layer_of(found: dict[str, "Layer"], weight: "Weight") -> "Layer":
    return found[weight.name]
