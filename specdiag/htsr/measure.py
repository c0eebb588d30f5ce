"""Weight matrices of networks -> their records, measured in parallel."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from specdiag.checkpoint.tensor import elements_hash, ties
from specdiag.checkpoint.weights.weight import Weight
from specdiag.compute import device
from specdiag.compute.parallel import in_parallel
from specdiag.htsr.layers import Layer, measure_weight, peak_bytes, record_of
from specdiag.htsr.selection import EMBEDDING, MIN_EIGENVALUES, skip_reason

ALONE = 8192  # rows and columns: one such matrix takes minutes on one core, and gigabytes

Through = Callable[[Callable[[Weight], Layer], Weight], Layer]


@dataclass(frozen=True, kw_only=True)
class Network:
    """The weights of a network, and how each of them is measured.

    Attributes
    ----------
    weights : sequence of Weight
    name : str
    through : function, optional
        It is given the function that measures a weight, and the weight, and returns its layer: from
        elsewhere, if it has it.
    ahead : function of a weight, optional
        It is called with the weight that is the next to be measured, meanwhile.
    """

    weights: Sequence[Weight]
    name: str = ""
    through: Through | None = None
    ahead: Callable[[Weight], object] | None = None


def measure(
    weights: Iterable[Weight], *, through: Through | None = None, **settings: Any
) -> list[Layer]:
    """Return one record for each weight, in order; `verdict.with_verdicts` adds the verdicts.

    The settings are those of `measure_networks`.
    """
    (layers,) = measure_networks([Network(weights=list(weights), through=through)], **settings)
    return layers


def measure_networks(
    networks: Sequence[Network],
    *,
    min_eigenvalues: int = MIN_EIGENVALUES,
    include_embeddings: bool = False,
    method: str = "specdiag",
    repeats: bool = False,
    traps: bool = False,
    done: Callable[[Weight], object] = lambda _: None,
    elsewhere: Callable[[Weight], Layer] | None = None,
    **options: Any,
) -> Iterator[list[Layer]]:
    """Yield the records of the weights of each network, in order.

    The matrices of all networks are measured in parallel, the largest first, within the cores and
    the memory that `compute.machine` allows, with one BLAS thread each: more threads for one matrix
    are slower than one for each of many, and change the last bits of its eigenvalues. Only matrices
    with more than `ALONE` rows and columns are measured one after the other, each with the threads
    of all cores. So the digits of a matrix depend neither on the others nor on the limits.

    `done` is called with each weight as soon as it is skipped or measured. `elsewhere` measures a
    weight on another machine, instead of this one. The other settings are those of
    `specdiag.alpha`.
    """
    plans = [_Plan(network, min_eigenvalues, include_embeddings) for network in networks]
    jobs = [(plan, w) for plan in plans for w in plan.network.weights if not plan.reasons[w.name]]
    if used := device.in_use():
        options["device"] = used
    function: Callable[[Weight], Layer] = elsewhere or functools.partial(
        measure_weight,
        min_eigenvalues=min_eigenvalues,
        method=method,
        repeats=repeats,
        traps=traps,
        **options,
    )
    is_ahead = not elsewhere and any(network.ahead for network in networks)
    completed = in_parallel(
        lambda job: job[0].layer(function, job[1]),
        [((plan, w), peak_bytes(w, repeats, traps)) for plan, w in jobs],
        alone=lambda job: is_alone(job[1]) and not elsewhere,
        ahead=(lambda job: job[0].ahead(job[1])) if is_ahead else None,
    )
    for plan in plans:
        layers = []
        for weight in plan.network.weights:
            if plan.reasons[weight.name]:
                done(weight)
            while not plan.reasons[weight.name] and weight.name not in plan.measured:
                i, record = next(completed)
                plan_of_it, measured = jobs[i]
                plan_of_it.measured[measured.name] = record
                done(measured)
            layers.append(plan.record(weight))
        yield layers


def is_alone(weight: Weight) -> bool:
    """Return whether the processor measures a weight when it measures no other one."""
    return min(weight.shape[:2]) > ALONE and not device.of_shape(weight.shape)


class _Plan:
    """A network, why some of its weights are not measured, and the layers of others."""

    def __init__(self, network: Network, min_eigenvalues: int, include_embeddings: bool) -> None:
        self.network = network
        self.measured: dict[str, Layer] = {}
        self._digests: dict[str, str] = {}
        self._spectra: dict[bytes, list[Weight]] = {}
        self.reasons = _skip_reasons(
            network.weights, self._digests, min_eigenvalues, include_embeddings
        )

    def layer(self, function: Callable[[Weight], Layer], weight: Weight) -> Layer:
        through = self.network.through
        return through(function, weight) if through else function(weight)

    def ahead(self, weight: Weight) -> None:
        if self.network.ahead:
            self.network.ahead(weight)

    def record(self, weight: Weight) -> Layer:
        """Return the record of a weight that was measured or is skipped, once."""
        layer, reason = self.measured.pop(weight.name, None), self.reasons[weight.name]
        if layer and layer.status == "fit":
            # Equal bits have equal spectra, so only weights of equal spectra are read again.
            equal = self._spectra.setdefault(layer.eigenvalues.tobytes(), [])
            if first := _equal_one(weight, equal, self._digests):
                layer, reason = None, f"a copy of {first.name} bit for bit, measured once"
            equal.append(weight)
        return layer or record_of(weight, status="skipped", reason=reason)


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
