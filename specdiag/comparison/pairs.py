"""Two checkpoints -> one record for each tensor name: the relation of the two, and differences.

Tensors are paired by name, without prefixes of wrappers. Every name of either checkpoint gets
exactly one relation:

- identical: the same bits; equal: the same numbers, stored differently;
- rounded: the same numbers, except for rounding to another dtype;
- same spectrum: other numbers, but the same eigenvalues up to rounding and to the scale of the
  weights;
- different; other shape; only in first; only in second;
- unreadable: the values of one could not be read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specdiag.checkpoint.reader import Checkpoint
from specdiag.checkpoint.tensor import Tensor
from specdiag.comparison import matrices
from specdiag.compute.parallel import in_parallel
from specdiag.htsr import esd
from specdiag.htsr.layers import Layer
from specdiag.htsr.null.ladder import false_discovery_rate, null_test
from specdiag.htsr.sameness import rounding_shift, same_spectrum
from specdiag.htsr.tail.posterior import NO_POSTERIOR, Posterior, alpha_posterior
from specdiag.htsr.tail.power_law import Array
from specdiag.htsr.verdict import is_meaningful

SAME = ("identical", "equal")
COMPARABLE = (*SAME, "rounded", "same spectrum", "different")
MEASURED = ("fit", "degenerate")
NOT_WALKED = Layer(name="", shape=(), dtype="", status="absent")

_CHUNK = 2**16  # number of values that are compared at a time: they stay in the cache
_START = 2**12  # of them that mostly decide it


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The tensors of one name in two checkpoints; NaN if a quantity does not apply.

    Attributes
    ----------
    name : str
    relation, reason : str
        See the module; the reason says why the two could not be compared.
    first, second : Layer
        Measured values of each; `NOT_WALKED` if the tensor is missing or is not a matrix. If the
        two are stored in different dtypes, their posteriors are those of the eigenvalues above the
        rank gates of both.
    distance : float
        Frobenius norm of second - first over that of first.
    alpha : Difference
        Difference of the posterior means of alpha.
    rope_difference : float
        Difference of the probability that alpha is from 1.9 to 2.1.
    spectral_distance : float
        See `matrices.spectral_distance`.
    overlap : tuple of float
        Overlap of the leading subspaces of outputs and inputs: see `matrices.subspace_overlap`.
    n_leading : int
        Number of directions in these subspaces.
    added : Posterior
        Posterior of alpha of second - first, the change by training; NaN if too few of its
        eigenvalues exceed rounding.
    added_null_p, added_null_q : float
        Of second - first, as of a layer: the probability of so low an alpha for random matrices,
        and the same adjusted for all pairs.
    added_rank, added_stable_rank : float
        Ranks of second - first. The stable rank is NaN if none of its eigenvalues exceeds rounding,
        so that it is nothing but rounding.
    """

    name: str
    relation: str
    reason: str = ""
    first: Layer = NOT_WALKED
    second: Layer = NOT_WALKED
    distance: float = math.nan
    alpha: matrices.Difference = matrices.NO_DIFFERENCE
    rope_difference: float = math.nan
    spectral_distance: float = math.nan
    overlap: tuple[float, float] = (math.nan, math.nan)
    n_leading: int = 0
    added: Posterior = NO_POSTERIOR
    added_null_p: float = math.nan
    added_null_q: float = math.nan
    added_rank: float = math.nan
    added_stable_rank: float = math.nan

    @property
    def is_measured(self) -> bool:
        """Whether both are matrices of one shape whose spectra were measured."""
        return self.relation in COMPARABLE and all(
            layer.status in MEASURED for layer in (self.first, self.second)
        )

    @property
    def is_fit(self) -> bool:
        """Whether both have an alpha."""
        return self.is_measured and self.first.status == self.second.status == "fit"

    @property
    def is_meaningful(self) -> bool:
        """Whether the alphas of both mean something, by their verdicts."""
        return all(is_meaningful(x.status, x.verdict) for x in (self.first, self.second))

    @property
    def is_weight(self) -> bool:
        """Whether one of them was measured or failed, so that a summary must count the pair."""
        return any(layer.status in (*MEASURED, "failed") for layer in (self.first, self.second))


def pair_up(
    first: Checkpoint,
    second: Checkpoint,
    first_layers: Sequence[Layer],
    second_layers: Sequence[Layer],
    min_eigenvalues: int,
) -> list[Pair]:
    """Return a pair for every tensor name: those of the first in its order, then the others."""
    tensors = [{t.name: t for t in c.tensors} for c in (first, second)]
    layers = [{layer.name: layer for layer in side} for side in (first_layers, second_layers)]
    names = list(dict.fromkeys([*tensors[0], *tensors[1]]))

    def paired(name: str) -> Pair:
        a, b = (t and replace(t, read=cache(t.read)) for t in (side.get(name) for side in tensors))
        sides = [side.get(name, NOT_WALKED) for side in layers]
        pair = replace(relate(name, a, b), first=sides[0], second=sides[1])
        return _compare(pair, a, b, min_eigenvalues) if a and b and pair.is_measured else pair

    jobs = [(name, _peak_bytes(*(side.get(name) for side in tensors))) for name in names]
    completed = dict(in_parallel(paired, jobs))
    pairs = [completed[i] for i in range(len(names))]
    q = false_discovery_rate([pair.added_null_p for pair in pairs])
    return [replace(x, added_null_q=float(y)) for x, y in zip(pairs, q, strict=True)]


def _peak_bytes(a: Tensor | None, b: Tensor | None) -> float:
    """Return how much memory comparing two tensors takes: that of eight matrices in float64.

    They are the two, as stored and in float64, their difference, and Gram matrices.
    """
    return 8 * 8 * max(math.prod(t.shape) for t in (a, b) if t)


def relate(name: str, a: Tensor | None, b: Tensor | None) -> Pair:
    """Return the pair with its relation and, if both have real numbers, its relative distance."""
    if a is None or b is None:
        return Pair(name=name, relation="only in second" if a is None else "only in first")
    if a.shape != b.shape:
        sizes = " and ".join("x".join(map(str, t.shape)) or "scalar" for t in (a, b))
        return Pair(name=name, relation="other shape", reason=sizes)
    if problem := a.problem or b.problem:
        return Pair(name=name, relation="unreadable", reason=problem)
    try:
        return _relate_values(name, a.read().ravel(), b.read().ravel())
    except (ValueError, OSError, MemoryError) as error:
        return Pair(name=name, relation="unreadable", reason=str(error) or "not enough memory")


def _relate_values(name: str, x: NDArray[Any], y: NDArray[Any]) -> Pair:
    if x.dtype == y.dtype and same_bits(x, y):
        return Pair(name=name, relation="identical", distance=0.0)
    if x.dtype.kind in "iubc" or y.dtype.kind in "iubc":
        relation = "equal" if np.array_equal(x, y) else "different"
        return Pair(name=name, relation=relation, distance=0.0 if relation == "equal" else math.nan)
    moved = norm = 0.0
    relations = {"equal"}
    exponent = max(map(esd.exponent_beyond_range, (x, y)))
    for i in range(0, len(x), _CHUNK):
        parts = x[i : i + _CHUNK], y[i : i + _CHUNK]
        a, b = (part.astype(np.float64) for part in parts)
        if not _equal(a, b):
            relations.add("rounded" if _is_rounded(*parts) else "different")
        a, b = (esd.divided(part, exponent) for part in (a, b))
        with np.errstate(invalid="ignore"):  # of infinite values
            b -= a
            moved, norm = moved + float(b @ b), norm + float(a @ a)
    relation = next(word for word in ("different", "rounded", "equal") if word in relations)
    distance = math.sqrt(moved / norm) if norm else math.inf
    return Pair(name=name, relation=relation, distance=0.0 if relation == "equal" else distance)


def same_bits(x: NDArray[Any], y: NDArray[Any]) -> bool:
    """Return whether two arrays of one dtype and shape have the same bits."""
    a, b = (np.ascontiguousarray(v).reshape(-1).view(np.uint8) for v in (x, y))
    return np.array_equal(a[:_START], b[:_START]) and np.array_equal(a, b)


def _equal(x: Array, y: Array) -> bool:
    """Return whether the numbers are the same; NaN is the same as NaN."""
    starts = x[:_START], y[:_START]
    return np.array_equal(*starts, equal_nan=True) and np.array_equal(x, y, equal_nan=True)


def _is_rounded(x: NDArray[Any], y: NDArray[Any]) -> bool:
    finer, coarser = (x, y) if x.itemsize > y.itemsize else (y, x)
    if x.itemsize == y.itemsize:
        return False
    with np.errstate(over="ignore"):
        return np.array_equal(finer.astype(coarser.dtype), coarser, equal_nan=True)


def _compare(pair: Pair, a: Tensor, b: Tensor, min_eigenvalues: int) -> Pair:
    """Return the pair of two measured matrices with all quantities of their spectra and values."""
    if pair.relation in SAME:
        return replace(unchanged(pair), spectral_distance=0.0, overlap=(1.0, 1.0))
    if pair.first.exponent != pair.second.exponent:
        return replace(pair, reason="not compared: too far apart in scale for float64")
    try:
        exponent = pair.first.exponent
        A, B = (esd.divided(matrices.unfolded(t.read()), exponent) for t in (a, b))
        return _compare_values(_compare_spectra(pair, a, b, (A, B)), a, b, (A, B), min_eigenvalues)
    except (ValueError, OSError, MemoryError, np.linalg.LinAlgError) as error:
        return replace(pair, reason=f"not compared: {str(error) or 'not enough memory'}")


def _compare_spectra(pair: Pair, a: Tensor, b: Tensor, values: tuple[Array, Array]) -> Pair:
    spectra = pair.first.eigenvalues, pair.second.eigenvalues
    gates = [esd.rank_gate(s, t.shape, t.dtype) for s, t in zip(spectra, (a, b), strict=True)]
    if a.dtype != b.dtype:
        gates = _common(spectra, gates)
        first, second = _regated(pair.first, gates[0]), _regated(pair.second, gates[1])
        pair = replace(pair, first=first, second=second)
    eps = max(esd.precision(t.dtype)[0] for t in (a, b))
    shifts = [
        rounding_shift(s, t.shape, t.dtype, float(max(-W.min(), W.max())))
        for s, t, W in zip(spectra, (a, b), values, strict=True)
    ]
    if pair.relation == "rounded":
        pair = unchanged(pair)
    elif same_spectrum(*spectra, *shifts) and not matrices.is_small_change(*values, eps):
        pair = replace(unchanged(pair), relation="same spectrum")
    else:
        pair = replace(
            pair,
            alpha=matrices.alpha_difference(pair.first.posterior, pair.second.posterior),
            rope_difference=pair.second.posterior.rope - pair.first.posterior.rope,
        )
    resolved = [x[x > gate] for x, gate in zip(spectra, gates, strict=True)]
    return replace(
        pair,
        spectral_distance=matrices.spectral_distance(*resolved),
        n_leading=min(matrices.N_LEADING, *map(len, resolved)),
    )


def unchanged(pair: Pair) -> Pair:
    """Return the pair with differences of zero: any other value would be only rounding."""
    return replace(pair, alpha=matrices.NO_CHANGE, rope_difference=0.0) if pair.is_fit else pair


def _common(spectra: tuple[Array, Array], gates: list[float]) -> list[float]:
    """Return gates that are the same share of both spectra: that of the coarser dtype."""
    largest = [float(spectrum[0]) for spectrum in spectra]
    share = max((g / top for g, top in zip(gates, largest, strict=True) if top), default=0.0)
    return [share * top for top in largest]


def _regated(layer: Layer, gate: float) -> Layer:
    resolved = layer.eigenvalues[layer.eigenvalues > gate]
    if layer.status != "fit" or len(resolved) == layer.rank:
        return layer
    return replace(layer, posterior=alpha_posterior(resolved), rank=len(resolved))


def _compare_values(
    pair: Pair, a: Tensor, b: Tensor, values: tuple[Array, Array], min_eigenvalues: int
) -> Pair:
    known = pair.first.leading, pair.second.leading
    pair = replace(pair, overlap=matrices.subspace_overlap(*values, pair.n_leading, known))
    floor = esd.storage_floor(pair.first.eigenvalues, a.shape, a.dtype)
    floor += esd.storage_floor(pair.second.eigenvalues, b.shape, b.dtype)
    spectrum, floor = matrices.added_eigenvalues(*values, floor)
    resolved = spectrum[spectrum > floor]
    if pair.relation == "rounded" or not len(resolved):
        return replace(pair, added_rank=0)  # nothing is added but rounding
    pair = replace(pair, added_rank=len(resolved), added_stable_rank=esd.stable_rank(spectrum))
    if len(resolved) < min_eigenvalues:
        return pair
    A, B = values
    posterior = alpha_posterior(resolved)
    test = null_test(posterior.mean, A.shape, lambda: B - A, np.float64)
    return replace(pair, added=posterior, added_null_p=test.null_p)
