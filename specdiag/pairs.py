"""Two checkpoints -> one record a tensor name: whether they are the same, and how their spectra differ.

Tensors are paired by name, wrapper prefixes stripped. Every name of either checkpoint gets exactly one
relation:

- identical: the same bits; equal: the same numbers, stored differently;
- same spectrum: other numbers, but the same eigenvalues up to rounding and to the scale of the weights;
- different; other shape; only in first; only in second;
- unreadable: the values of one could not be read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specdiag import esd, paired
from specdiag.checkpoint import Checkpoint, Tensor
from specdiag.layers import MIN_EIGENVALUES, Layer, in_parallel
from specdiag.paired import NO_CHANGE, NO_DIFFERENCE, Difference, alpha_difference
from specdiag.posterior import NO_POSTERIOR, Posterior, alpha_posterior

SAME = ("identical", "equal")
RELATIONS = (
    *SAME,
    *("same spectrum", "different", "other shape", "only in first", "only in second", "unreadable"),
)
MEASURED = ("fit", "degenerate")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What is under one name in two checkpoints; NaN where a quantity does not apply.

    Attributes
    ----------
    relation, reason : str
    first, second : Layer or None
        What was measured of each; None for what is no matrix, or not there.
    distance : float
        Frobenius norm of second - first over that of first.
    alpha : Difference
        Of the posterior means.
    rope_difference : float
    spectral_distance : float
        See `paired.spectral_distance`.
    overlap : tuple of float
        Of the leading subspaces of outputs and inputs: see `paired.subspace_overlap`.
    n_leading : int
        Directions in these subspaces.
    added : Posterior
        Of the alpha of second - first, what training added; NaN when too few of its eigenvalues
        exceed rounding.
    added_rank, added_stable_rank : float
        Of second - first.
    """

    name: str
    relation: str
    reason: str = ""
    first: Layer | None = None
    second: Layer | None = None
    distance: float = math.nan
    alpha: Difference = NO_DIFFERENCE
    rope_difference: float = math.nan
    spectral_distance: float = math.nan
    overlap: tuple[float, float] = (math.nan, math.nan)
    n_leading: int = 0
    added: Posterior = NO_POSTERIOR
    added_rank: float = math.nan
    added_stable_rank: float = math.nan

    @property
    def is_measured(self) -> bool:
        """Whether both are matrices whose spectra were measured."""
        return all(layer and layer.status in MEASURED for layer in (self.first, self.second))

    @property
    def is_fit(self) -> bool:
        """Whether both have an alpha."""
        return all(layer and layer.status == "fit" for layer in (self.first, self.second))


def pair_up(
    first: Checkpoint,
    second: Checkpoint,
    first_layers: Sequence[Layer],
    second_layers: Sequence[Layer],
    *,
    min_eigenvalues: int = MIN_EIGENVALUES,
) -> list[Pair]:
    """Return a pair for every tensor name of two checkpoints, those of the first in its order first."""
    tensors = [{t.name: t for t in c.tensors} for c in (first, second)]
    layers = [{layer.name: layer for layer in found} for found in (first_layers, second_layers)]
    pairs = []
    for name in dict.fromkeys([*tensors[0], *tensors[1]]):
        pair = _relate(name, tensors[0].get(name), tensors[1].get(name))
        pairs.append(replace(pair, first=layers[0].get(name), second=layers[1].get(name)))

    jobs = [(pair, _peak_bytes(pair)) for pair in pairs if _is_comparable(pair)]
    budget = max(2**28, 2 * max((int(need) for _, need in jobs), default=0))

    def complete(pair: Pair) -> Pair:
        return _compare(pair, tensors[0][pair.name], tensors[1][pair.name], min_eigenvalues)

    completed = {pair.name: pair for pair in in_parallel(complete, jobs, budget)}
    return [completed.get(pair.name, pair) for pair in pairs]


def _is_comparable(pair: Pair) -> bool:
    return pair.is_measured and pair.relation in (*SAME, "different")


def _peak_bytes(pair: Pair) -> float:
    """Return the memory that comparing takes: two matrices, their difference, and Gram matrices."""
    return 8 * 6.0 * math.prod(pair.first.shape) if pair.first else 0.0


def _relate(name: str, a: Tensor | None, b: Tensor | None) -> Pair:
    """Return the pair with its relation and, where there are numbers, its relative distance."""
    if a is None or b is None:
        return Pair(name=name, relation="only in second" if a is None else "only in first")
    if a.shape != b.shape:
        sizes = " and ".join("x".join(map(str, t.shape)) or "scalar" for t in (a, b))
        return Pair(name=name, relation="other shape", reason=sizes)
    if problem := a.problem or b.problem:
        return Pair(name=name, relation="unreadable", reason=problem)
    try:
        return _relate_values(name, a.read(), b.read())
    except (ValueError, OSError, MemoryError) as error:
        return Pair(name=name, relation="unreadable", reason=str(error) or "not enough memory")


def _relate_values(name: str, x: NDArray[Any], y: NDArray[Any]) -> Pair:
    if x.dtype == y.dtype and x.tobytes() == y.tobytes():
        return Pair(name=name, relation="identical", distance=0.0)
    is_exact = x.dtype.kind in "iubc" or y.dtype.kind in "iubc"
    x, y = (x, y) if is_exact else (x.astype(np.float64), y.astype(np.float64))
    if np.array_equal(x, y):
        return Pair(name=name, relation="equal", distance=0.0)
    with np.errstate(all="ignore"):  # values that are not finite have no distance
        norm = np.linalg.norm(x.ravel())
        distance = (
            float(np.linalg.norm((y - x).ravel()) / norm) if not is_exact and norm else math.nan
        )
    return Pair(name=name, relation="different", distance=distance)


def _compare(pair: Pair, a: Tensor, b: Tensor, min_eigenvalues: int) -> Pair:
    """Return the pair of two measured matrices with everything that takes their spectra or values."""
    if pair.relation in SAME:
        return replace(_without_difference(pair), spectral_distance=0.0, overlap=(1.0, 1.0))
    first, second = _layers(pair)
    spectra = first.eigenvalues, second.eigenvalues
    gates = (
        esd.rank_gate(spectra[0], a.shape, a.dtype),
        esd.rank_gate(spectra[1], b.shape, b.dtype),
    )
    resolved = [x[x > gate] for x, gate in zip(spectra, gates, strict=True)]
    if paired.same_spectrum(*spectra, gates):
        pair = replace(_without_difference(pair), relation="same spectrum")
    else:
        pair = replace(
            pair,
            alpha=alpha_difference(first.posterior, second.posterior),
            rope_difference=second.posterior.rope - first.posterior.rope,
        )
    pair = replace(
        pair,
        spectral_distance=paired.spectral_distance(*resolved),
        n_leading=min(paired.N_LEADING, *map(len, resolved)),
    )
    return _compare_values(pair, a, b, min_eigenvalues)


def _without_difference(pair: Pair) -> Pair:
    """Return the pair with differences of zero: what is measured of equal spectra is rounding."""
    return replace(pair, alpha=NO_CHANGE, rope_difference=0.0) if pair.is_fit else pair


def _compare_values(pair: Pair, a: Tensor, b: Tensor, min_eigenvalues: int) -> Pair:
    first, second = _layers(pair)
    floor = esd.storage_floor(first.eigenvalues, a.shape, a.dtype)
    floor += esd.storage_floor(second.eigenvalues, b.shape, b.dtype)
    try:
        A, B = paired.unfolded(a.read()), paired.unfolded(b.read())
        spectrum, floor = paired.added_eigenvalues(A, B, floor)
        overlap = paired.subspace_overlap(A, B, pair.n_leading)
    except (ValueError, OSError, MemoryError, np.linalg.LinAlgError) as error:
        return replace(pair, reason=f"not compared: {str(error) or 'not enough memory'}")
    resolved = spectrum[spectrum > floor]
    return replace(
        pair,
        overlap=overlap,
        added=alpha_posterior(resolved) if len(resolved) >= min_eigenvalues else NO_POSTERIOR,
        added_rank=len(resolved),
        added_stable_rank=esd.stable_rank(spectrum),
    )


def _layers(pair: Pair) -> tuple[Layer, Layer]:
    if pair.first is None or pair.second is None:
        raise ValueError(f"{pair.name} was not measured in both checkpoints")
    return pair.first, pair.second
