"""Two or more checkpoints -> one Dataset of what was added to each weight of the first."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from specdiag.checkpoint.reader import Checkpoint
from specdiag.checkpoint.weights.find import open_weights
from specdiag.checkpoint.weights.pieces import matches
from specdiag.checkpoint.weights.split import texts_of
from specdiag.checkpoint.weights.weight import Weight
from specdiag.comparison.dataset import aligned
from specdiag.comparison.updates.conclusion import summarise_updates
from specdiag.comparison.updates.update import (
    SIDES,
    Update,
    measure_update,
    not_compared,
    value_of,
)
from specdiag.compute.device import Device
from specdiag.compute.leading import load_solver
from specdiag.compute.machine import using
from specdiag.compute.parallel import in_parallel
from specdiag.dataset.build import build, unique_names
from specdiag.dataset.schema.updates import UPDATES
from specdiag.dataset.schema.variable import labelled
from specdiag.dataset.spectra import Progress, check_texts, check_whole_numbers, recorded
from specdiag.htsr.selection import MIN_EIGENVALUES, matrices
from specdiag.htsr.verdict import with_verdicts

if TYPE_CHECKING:
    import xarray as xr


class Added(NamedTuple):
    """What was added to the first of some networks, to become each of the others."""

    first: Checkpoint
    others: list[Checkpoint]
    names: list[str]  # of all networks
    updates: list[list[Update]]
    summaries: list[dict[str, Any]]  # of `conclusion.summarise_updates`
    settings: dict[str, Any]


def delta(
    before: Any,
    *after: Any,
    layers: str | None = None,
    min_eigenvalues: int = MIN_EIGENVALUES,
    rename: Mapping[str, str] = MappingProxyType({}),
    which: str | None = None,
    base: Any = None,
    split: Mapping[str, str] = MappingProxyType({}),
    jobs: int | None = None,
    memory: int | None = None,
    device: str | Device = "auto",
) -> "xr.Dataset":
    """Return the Dataset of what was added to each weight of a network: W' - W.

    Parameters
    ----------
    before, *after : path, torch.nn.Module, or mapping of names to arrays or tensors
        Anything that `open_checkpoint` reads. An adapter, such as a LoRA, is merged with `base`, or
        with the network before.
    layers : str, optional
        Shell pattern: only matrices whose name matches it are measured.
    min_eigenvalues : int
        Updates with fewer eigenvalues above rounding have no alpha.
    rename, which, base, split
        How each network is read, as in `specdiag.compare`.
    jobs, memory, device
        What may be used of this machine, as in `specdiag.alpha`.

    Returns
    -------
    xarray.Dataset
        The variables of `specdiag.alpha` for the matrices W' - W (a kernel is unfolded to a matrix;
        `rank` counts the eigenvalues above the rounding of both), and those of `UPDATES`, with dims
        (checkpoint, layer): a checkpoint is the network after. The attribute `conclusion` has one
        sentence for each.

    Raises
    ------
    ValueError
        If a source is not a checkpoint, or has no matrix in common with the first one.
    OSError
        If a file cannot be read.

    Examples
    --------
    >>> dataset = specdiag.delta("pretrained.ckpt", "scratch.ckpt")
    >>> print(dataset.conclusion)
    >>> dataset["rank"].sel(layer="layers.0.weight").item()
    """
    if not after:
        raise ValueError("delta() needs a network before and at least one after")
    check_whole_numbers(min_eigenvalues=(min_eigenvalues, 2))
    check_texts(layers=layers, which=which)
    reading = {"which": which, "base": base, "splits": texts_of(split)}
    with using(jobs=jobs, memory=memory, device=device):
        sources = [before, *after]
        return build_updates(
            measure_updates(
                sources, layers, rename=rename, reading=reading, min_eigenvalues=min_eigenvalues
            )
        )


def measure_updates(
    sources: Sequence[Any],
    pattern: str | None,
    progress: Progress | None = None,
    errors_of: Callable[[Any], AbstractContextManager[None]] = nullcontext,
    rename: Mapping[str, str] = MappingProxyType({}),
    reading: Mapping[str, Any] = MappingProxyType({}),
    min_eigenvalues: int = MIN_EIGENVALUES,
) -> Added:
    """Return what was added to the first source to become each of the others.

    Each source is opened within `errors_of(source)`; `reading` has the options of `open_weights`.
    The first source is the base of adapters that have no other one.
    """
    opened: list[Checkpoint] = []
    for source in sources:
        with errors_of(source):
            checkpoint = open_weights(source, **reading)
            if opened and any(getattr(tensor, "adapter", "") for tensor in checkpoint.tensors):
                checkpoint = open_weights(source, **{**reading, "base": sources[0]})
            opened.append(checkpoint)
    first, *others = aligned(opened, rename)
    with errors_of(sources[0]):
        matrices(first, pattern)
    settings = {"layers": pattern, "min_eigenvalues": min_eigenvalues, **reading}
    settings |= {"rename": dict(rename)} if rename else {}
    settings["base"] = recorded(reading.get("base"))
    updates = updates_of(first, others, pattern, progress, min_eigenvalues)
    names = unique_names([first, *others])
    summaries = [
        summarise_updates(found, (names[0], name))
        for found, name in zip(updates, names[1:], strict=True)
    ]
    return Added(first, others, names, updates, summaries, settings)


def updates_of(
    first: Checkpoint,
    others: Sequence[Checkpoint],
    pattern: str | None = None,
    progress: Progress | None = None,
    min_eigenvalues: int = MIN_EIGENVALUES,
) -> list[list[Update]]:
    """Return the updates of the matrices of the first network, for each of the others."""
    jobs = [job for i, other in enumerate(others) for job in _jobs(i, first, other, pattern)]
    pairs = [job for job in jobs if not isinstance(job[1], Update)]
    _load(max((min(w.shape[:2]) for _, pair in pairs for w in pair), default=0))
    label = f"{len(pairs)} updates"
    weights = [pair[1] for _, pair in pairs]
    measured: dict[int, Update] = {}

    def function(pair: tuple[Weight, Weight]) -> Update:
        return measure_update(*pair, min_eigenvalues=min_eigenvalues)

    with progress(weights, label) if progress else nullcontext(lambda _: None) as done:
        for k, update in in_parallel(function, [(pair, _peak(pair)) for _, pair in pairs]):
            measured[k] = update
            done(weights[k])
    found: list[list[Update]] = [[] for _ in others]
    ready = iter([measured[k] for k in range(len(pairs))])
    for i, job in jobs:
        found[i].append(job if isinstance(job, Update) else next(ready))
    return [_judged(updates) for updates in found]


def _jobs(
    i: int, first: Checkpoint, other: Checkpoint, pattern: str | None
) -> Iterator[tuple[int, Any]]:
    """Yield the pairs of weights to measure, and the records of those without a partner."""
    after = {w.name: w for w in matrices(other)}
    before = matrices(first, pattern)
    known = {weight.name for weight in matrices(first)}
    for weight in before:
        partner = after.get(weight.name)
        if partner is None:
            yield i, not_compared(weight, f"not in {other.name}")
        elif reason := weight.reason or partner.reason or weight.problem or partner.problem:
            yield i, not_compared(weight, reason)
        else:
            yield i, (weight, partner)
    for weight in after.values():
        if weight.name not in known and (pattern is None or matches(weight, pattern)):
            yield i, not_compared(weight, f"not in {first.name}")


def _peak(pair: tuple[Weight, Weight]) -> float:
    """Return how much memory a pair takes: that of ten matrices in float64.

    They are the two as stored and in float64, their difference, Gram matrices and vectors.
    """
    return 8 * 10 * max(prod(weight.shape) for weight in pair)


def _load(size: int) -> None:
    """Import what the measurement needs, before BLAS is limited to one thread."""
    load_solver(size)
    import scipy.special  # noqa: F401


def _judged(updates: list[Update]) -> list[Update]:
    layers = with_verdicts([update.layer for update in updates])
    return [replace(u, layer=layer) for u, layer in zip(updates, layers, strict=True)]


def build_updates(added: Added) -> "xr.Dataset":
    """Return the Dataset of the updates."""
    measured = [[update.layer for update in found] for found in added.updates]
    dataset = build(added.others, measured, added.settings)
    tables = [{update.name: update for update in found} for found in added.updates]
    names = list(dataset.layer.values)
    columns: dict[str, Any] = {"side": list(SIDES)}
    for name in UPDATES.keys() - columns.keys():
        columns[name] = [[value_of(table[layer], name) for layer in names] for table in tables]
    sentences = [summary["conclusion"] for summary in added.summaries]
    attributes = {
        "title": "Spectra of weight updates",
        "kind": "updates",
        "before": added.names[0],
        "conclusion": "\n".join(sentences),
    }
    data = dataset.assign(labelled(UPDATES, columns)).assign_attrs(attributes)
    return data.set_coords(["side", "update_kind", "role", "depth"])
