"""Matrix before and after an update -> how far its spectrum and its singular vectors moved.

Plain arrays in and out. W of shape (out, in) is before, W' after, D = W' - W. Outputs are the left
singular vectors, inputs the right ones; pairs of values are of outputs and inputs, in this order.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from specdiag.comparison.matrices import N_LEADING
from specdiag.comparison.updates.chance import Chance, chance
from specdiag.compute.eigenvalues import check_finite
from specdiag.compute.gram import fill, half_gram
from specdiag.compute.leading import eigenvalues_and_leading
from specdiag.htsr import esd
from specdiag.htsr.tail.power_law import Array

INTRUDER = 0.5  # cosine below which a singular vector is new
SAFE = 100  # binary exponents of values whose fourth powers stay well within float64

Sides = tuple[float, float]
_NONE = (math.nan, math.nan)


@dataclass(frozen=True, kw_only=True)
class Directions:
    """How far the directions of a matrix moved; NaN where an update is nothing but rounding.

    Attributes
    ----------
    relative_spectral_norm : float
        Spectral norm of D over that of W.
    spectrum_change : float
        Euclidean norm of the differences of the singular values, in order, over that of the first.
    spectrum_share : float
        Its square over that of the norm of D: the share of the update that changes singular values.
        At most 1 (Mirsky 1960, Quart. J. Math. 11): 0 if the update turns W, 1 if it is along the
        singular vectors of W.
    scale_share : float
        Share of the squared norm of D that is along W itself: 1 if W is scaled.
    scale : float
        The factor of W in W' by least squares: <W, W'> / <W, W>.
    n_leading : int
        Number k of leading singular directions.
    overlap : tuple of float
        Mean squared cosine of the principal angles between the leading subspaces of W and W'.
    overlap_chance : tuple of Chance
        What two unrelated matrices of that shape share.
    leading_share : tuple of float
        Share of the squared norm of D in the leading subspaces of W.
    leading_chance : tuple of Chance
        Of an update with the spectrum of D and unrelated directions.
    best_match : tuple of float
        Mean, over the k leading singular vectors of W', of the largest |cosine| with any of W.
    n_intruders : tuple of float
        How many of the k have no match of 0.5 (Shuttleworth et al. 2024: intruder dimensions).
    cka, cka_chance : float
        Linear CKA of the outputs of W and W' for white inputs (Kornblith et al. 2019), |W' W^T|_F^2
        / (|W W^T|_F |W' W'^T|_F), and its expectation for unrelated inputs.
    """

    relative_spectral_norm: float = math.nan
    spectrum_change: float = math.nan
    spectrum_share: float = math.nan
    scale_share: float = math.nan
    scale: float = math.nan
    n_leading: int = 0
    overlap: Sides = _NONE
    overlap_chance: tuple[Chance, Chance] = (Chance(*_NONE), Chance(*_NONE))
    leading_share: Sides = _NONE
    leading_chance: tuple[Chance, Chance] = (Chance(*_NONE), Chance(*_NONE))
    best_match: Sides = _NONE
    n_intruders: Sides = _NONE
    cka: float = math.nan
    cka_chance: float = math.nan


class _Factors(NamedTuple):
    """Eigenvalues of the smaller Gram matrix, ascending, and vectors of the smaller side."""

    values: Array
    vectors: Array
    rank: int


def directions(A: Array, B: Array, dtypes: tuple[str, str], spectrum: Array) -> Directions:
    """Return how far the directions of A moved to B, both of shape (out, in).

    `spectrum` has the eigenvalues of B - A as `esd.eigenvalues` returns them, above rounding.
    """
    _, e = math.frexp(max(float(np.abs(W).max()) for W in (A, B)))
    if abs(e) > SAFE:
        return directions(np.ldexp(A, -e), np.ldexp(B, -e), dtypes, np.ldexp(spectrum, -2 * e))
    is_tall = A.shape[0] >= A.shape[1]
    X, Y = (A, B) if is_tall else (A.T, B.T)  # the rows are the larger side
    grams = [fill(half_gram(W)) for W in (X, Y)]
    cka, cka_chance = _cka(A, B, grams, is_tall)
    first = _factors(grams[0], A.shape, dtypes[0], len(grams[0]))
    second = _factors(grams[1], A.shape, dtypes[1], N_LEADING)
    k = min(N_LEADING, first.rank, second.rank)
    change, share = _spectra(first.values, second.values, X, Y)
    largest = float(first.values[-1])
    known: dict[str, Any] = {
        "relative_spectral_norm": math.sqrt(spectrum[0] * max(A.shape) / largest)
        if largest
        else math.inf,
        "spectrum_change": change,
        "spectrum_share": share,
        "scale_share": _scale_share(A, B - A),
        "scale": float(np.vdot(A, B) / np.vdot(A, A)) if largest else math.nan,
        "n_leading": k,
        "cka": cka,
        "cka_chance": cka_chance,
    }
    if not k:
        return Directions(**known)
    measured = _of_sides(X, Y, first, second, k)
    p = spectrum / spectrum.sum()
    sizes, purity = X.shape, float(p @ p)
    measured["overlap_chance"] = [chance(n, (1 / k, 1 / k), k) for n in sizes]
    measured["leading_chance"] = [chance(n, (1 / k, purity), k) for n in sizes]
    ordered: dict[str, Any] = {
        name: tuple(v if is_tall else v[::-1]) for name, v in measured.items()
    }
    return Directions(**known, **ordered)


def _factors(gram: Array, shape: tuple[int, ...], dtype: str, k: int) -> _Factors:
    check_finite(gram)
    if k == len(gram):
        values, vectors = np.linalg.eigh(gram)
    else:
        values, vectors = eigenvalues_and_leading(gram, min(k, len(gram)))
    values = np.maximum(values, 0)
    gate = esd.rank_gate(values / max(shape), shape, dtype) * max(shape)
    return _Factors(values, vectors, int(np.count_nonzero(values > gate)))


def _spectra(a: Array, b: Array, A: Array, B: Array) -> tuple[float, float]:
    moved = float(np.square(np.sqrt(b) - np.sqrt(a)).sum())
    total, first = float(np.square(B - A).sum()), float(a.sum())
    change = math.sqrt(moved / first) if first else math.nan
    return change, min(moved / total, 1.0) if total else math.nan


def _scale_share(A: Array, D: Array) -> float:
    norms = float(np.square(A).sum()) * float(np.square(D).sum())
    return min(float(np.vdot(A, D)) ** 2 / norms, 1.0) if norms else math.nan


def _cka(A: Array, B: Array, grams: list[Array], is_tall: bool) -> tuple[float, float]:
    squares = [float(np.square(gram).sum()) for gram in grams]
    if not all(squares):
        return math.nan, math.nan
    shared = float(np.vdot(*grams)) if is_tall else float(np.square(B @ A.T).sum())
    value = shared / (math.sqrt(squares[0]) * math.sqrt(squares[1]))
    traces = [float(np.trace(gram)) for gram in grams]
    purities = [s / t**2 for s, t in zip(squares, traces, strict=True)]
    expected = 1 / (A.shape[1] * math.sqrt(purities[0] * purities[1]))
    return min(value, 1.0), min(expected, 1.0)


def _of_sides(
    X: Array, Y: Array, first: _Factors, second: _Factors, k: int
) -> dict[str, list[Any]]:
    """Return the values of the larger side, and of the smaller one."""
    small_a, small_b = first.vectors[:, -k:], second.vectors[:, -k:]
    large_a, large_b = np.linalg.qr(X @ small_a)[0], np.linalg.qr(Y @ small_b)[0]
    D = Y - X
    total = float(np.square(D).sum())
    kept = slice(len(first.values) - first.rank, None)
    V, s = first.vectors[:, kept], np.sqrt(first.values[kept])
    of_b = Y @ small_b
    of_b /= np.linalg.norm(of_b, axis=0)
    cosines = [(V.T @ (X.T @ of_b)) / s[:, None], V.T @ small_b]
    best = [np.abs(c).max(axis=0) for c in cosines]
    return {
        "overlap": [
            min(float(np.square(a.T @ b).sum()) / k, 1.0)
            for a, b in ((large_a, large_b), (small_a, small_b))
        ],
        "leading_share": [
            min(float(np.square(part).sum()) / total, 1.0) for part in (large_a.T @ D, D @ small_a)
        ],
        "best_match": [min(float(b.mean()), 1.0) for b in best],
        "n_intruders": [float(np.count_nonzero(b < INTRUDER)) for b in best],
    }
