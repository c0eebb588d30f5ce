"""Two matrices or spectra -> differences, distances and overlaps. Plain arrays in and out.

Signed quantities are those of the second minus those of the first.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specdiag.compute.gram import half_gram
from specdiag.compute.leading import leading_vectors
from specdiag.htsr import esd
from specdiag.htsr.statistics import LEVEL
from specdiag.htsr.tail.posterior import Posterior, alpha_quantiles
from specdiag.htsr.tail.power_law import Array

N_LEADING = 10  # leading singular directions whose subspaces are compared

_N_QUANTILES = 256
_UNKNOWN: Array = np.empty((0, 0))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A difference with its 95 % interval and the probability that it is negative."""

    value: float
    interval: tuple[float, float]
    below_0: float


NO_DIFFERENCE = Difference(value=math.nan, interval=(math.nan, math.nan), below_0=math.nan)
NO_CHANGE = Difference(value=0.0, interval=(0.0, 0.0), below_0=0.0)  # of equal spectra


def alpha_difference(first: Posterior, second: Posterior) -> Difference:
    """Return the posterior of the difference of two alphas, whose spectra are taken as independent.

    The distribution is that of all differences between 256 quantiles of each, so that exchanging
    the two changes only signs. If one network was trained from the other, their spectra are
    positively dependent, and the interval is too wide, not too short.

    Returns
    -------
    Difference
        `value` is the difference of posterior means; the interval is equal-tailed. NaN if one of
        the posteriors is NaN.
    """
    p = (np.arange(_N_QUANTILES) + 0.5) / _N_QUANTILES
    a, b = alpha_quantiles(first, p), alpha_quantiles(second, p)
    if np.isnan(a[0]) or np.isnan(b[0]):
        return NO_DIFFERENCE
    differences = np.subtract.outer(b, a).ravel()
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(
        value=second.mean - first.mean,
        interval=(float(low), float(high)),
        below_0=float(np.mean(differences < 0) + np.mean(differences == 0) / 2),
    )


def is_small_change(A: Array, B: Array, eps: float) -> bool:
    """Return whether B is a trained A: close to it up to scale, but farther than rounding moves it.

    A rotated A is not close. The cosine of A and B is above 0.9, and the distance of the normalised
    matrices above 2 eps. Of the difference, the part along A is left out: it is the rounding of the
    two norms.
    """
    a, b = A / np.linalg.norm(A), B / np.linalg.norm(B)
    moved = b - a
    moved -= np.vdot(a, moved) * a
    return bool(np.vdot(a, b) > 0.9 and np.linalg.norm(moved) > 2 * eps)


def spectral_distance(first: Array, second: Array) -> float:
    """Return the Wasserstein-1 distance of two ESDs on a logarithmic scale, in decades.

    The arguments are the eigenvalues above the rank gate. Each is first divided by the mean of its
    spectrum, so the scale of the weights does not matter. NaN if a spectrum is empty. Villani
    (2009), Optimal transport, definition 6.1. On a line it is the area between the two distribution
    functions (Vallender 1974, Theory Probab. Appl. 18(4)).
    """
    if not len(first) or not len(second):
        return math.nan
    logs = [np.sort(np.log10(x / x.mean())) for x in (first, second)]
    at = np.sort(np.concatenate(logs))
    below = [np.searchsorted(x, at[:-1], side="right") / len(x) for x in logs]
    return float(np.abs(below[0] - below[1]) @ np.diff(at))


def subspace_overlap(
    A: Array, B: Array, k: int, known: tuple[Array, Array] = (_UNKNOWN, _UNKNOWN)
) -> tuple[float, float]:
    """Return how far the spaces of the k leading singular vectors of two matrices coincide.

    This is the mean of the squared cosines of the principal angles between them, |U_A' U_B|_F^2 /
    k: 1 for the same space, about k / n for random ones in n dimensions. Björck & Golub (1973),
    Math. Comp. 27(123). The first value is that of the outputs (columns of U), the second that of
    the inputs (columns of V); both are NaN when k is 0. k is at most the rank of both matrices.
    `known` has the leading vectors of `esd.eigenvalues_and_vectors`, where they were computed.
    """
    if not k:
        return math.nan, math.nan
    (left_a, right_a), (left_b, right_b) = (
        _leading_vectors(W, k, vectors) for W, vectors in zip((A, B), known, strict=True)
    )
    left, right = left_a.T @ left_b, right_a.T @ right_b
    return float(np.sum(left**2)) / k, float(np.sum(right**2)) / k


def _leading_vectors(W: Array, k: int, known: Array) -> tuple[Array, Array]:
    tall = W if W.shape[0] >= W.shape[1] else W.T
    is_known = len(known) == tall.shape[1] and known.shape[1] >= k
    small = known[:, known.shape[1] - k :] if is_known else leading_vectors(half_gram(W), k)
    large, _ = np.linalg.qr(tall @ small)  # the singular values do not change the space
    return (large, small) if tall is W else (small, large)


def unfolded(W: NDArray[Any]) -> Array:
    """Return W in float64; a kernel (out, in, *k) as a matrix (out, in * prod(k))."""
    return W.reshape(len(W), -1).astype(np.float64)


def added_eigenvalues(A: Array, B: Array, floor: float) -> tuple[Array, float]:
    """Return the eigenvalues of B - A, the change by training, and the value they must exceed.

    `floor` is the sum of `esd.storage_floor` of both: the difference contains the rounding of both.
    """
    spectrum = esd.eigenvalues(B - A)
    return spectrum, max(esd.rank_gate(spectrum, A.shape, np.float64), floor)
