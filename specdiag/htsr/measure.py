"""Weight matrices of a checkpoint -> their records, measured in parallel."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from specdiag.checkpoint.tensor import elements_hash, ties
from specdiag.checkpoint.weights.weight import Weight
from specdiag.compute import device
from specdiag.compute.parallel import in_parallel
from specdiag.htsr.layers import Layer, measure_weight, peak_bytes, record_of
from specdiag.htsr.selection import EMBEDDING, MIN_EIGENVALUES, skip_reason

ALONE = 8192  # rows and columns: one such matrix takes minutes on one core, and gigabytes

Through = Callable[[Callable[[Weight], Layer], Weight], Layer]


def measure(
    weights: Iterable[Weight],
    *,
    min_eigenvalues: int = MIN_EIGENVALUES,
    include_embeddings: bool = False,
    method: str = "specdiag",
    repeats: bool = False,
    done: Callable[[Weight], object] = lambda _: None,
    through: Through | None = None,
    ahead: Callable[[Weight], object] | None = None,
    elsewhere: Callable[[Weight], Layer] | None = None,
    **options: Any,
) -> Iterator[Layer]:
    """Yield one record for each weight, in order; `verdict.with_verdicts` adds the verdicts.

    Matrices are measured in parallel, the largest first, within the cores and the memory that
    `compute.machine` allows, with one BLAS thread each: more threads for one matrix are slower than
    one for each of many, and change the last bits of its eigenvalues. Only matrices with more than
    `ALONE` rows and columns are measured one after the other, with all threads. So the digits of a
    matrix depend neither on the others nor on the limits, those of the largest ones apart.

    `done` is called with each weight as soon as it is skipped or measured. `through` is given the
    function that measures a weight, and the weight, and returns its layer: from elsewhere, if it
    has it. `ahead` is called with the weight that is the next to be measured, meanwhile.
    `elsewhere` measures a weight on another machine, instead of this one. The other settings are
    those of `specdiag.alpha`.
    """
    weights = list(weights)
    digests: dict[str, str] = {}
    reasons = _skip_reasons(weights, digests, min_eigenvalues, include_embeddings)
    jobs = [w for w in weights if not reasons[w.name]]
    if used := device.in_use():
        options["device"] = used
    function: Callable[[Weight], Layer] = elsewhere or functools.partial(
        measure_weight,
        min_eigenvalues=min_eigenvalues,
        method=method,
        repeats=repeats,
        **options,
    )
    completed = in_parallel(
        functools.partial(through, function) if through else function,
        [(w, peak_bytes(w, repeats)) for w in jobs],
        alone=lambda w: min(w.shape[:2]) > ALONE and not (elsewhere or device.of_shape(w.shape)),
        ahead=None if elsewhere else ahead,
    )
    measured: dict[str, Layer] = {}
    spectra: dict[bytes, list[Weight]] = {}
    for weight in weights:
        reason = reasons[weight.name]
        if reason:
            done(weight)
        while not reason and weight.name not in measured:
            i, record = next(completed)
            measured[jobs[i].name] = record
            done(jobs[i])
        layer = measured.pop(weight.name, None)
        if layer and layer.status == "fit":
            # Equal bits have equal spectra, so only weights of equal spectra are read again.
            equal = spectra.setdefault(layer.eigenvalues.tobytes(), [])
            if first := _equal_one(weight, equal, digests):
                layer, reason = None, f"a copy of {first.name} bit for bit, measured once"
            equal.append(weight)
        yield layer or record_of(weight, status="skipped", reason=reason)


def _skip_reasons(
    weights: Sequence[Weight],
    digests: dict[str, str],
    min_eigenvalues: int,
    include_embeddings: bool,
) -> dict[str, str]:
    """Return by name why a weight is not measured, or an empty string if it is."""
    reasons = {w.name: skip_reason(w, min_eigenvalues, include_embeddings) for w in weights}
    tables = [w for w in weights if reasons[w.name].startswith(EMBEDDING)]
    for weight in weights:
        table = None if reasons[weight.name] else _equal_one(weight, tables, digests)
        if table:
            reasons[weight.name] = f"tied to {table.name}, an embedding table"
    tied = ties(w for w in weights if not reasons[w.name])
    return reasons | {name: f"tied to {first}, measured once" for name, first in tied.items()}


def _equal_one(weight: Weight, others: Iterable[Weight], digests: dict[str, str]) -> Weight | None:
    """Return the first of the others with the same elements, in memory or bit by bit, or None.

    Digests by name are kept: each weight is read once, however many others there are.
    """
    for other in others:
        if (other.shape, other.dtype) != (weight.shape, weight.dtype):
            continue
        if weight.identity and weight.identity == other.identity:
            return other
        try:
            for one in (weight, other):
                if one.name not in digests:
                    digests[one.name] = elements_hash(one.read())
        except (ValueError, OSError, MemoryError):  # reported when it is measured
            continue
        if digests[weight.name] == digests[other.name]:
            return other
    return None
