"""Weight matrix -> the spectrum of a copy with its elements permuted, and the traps in it.

A permuted copy has the same elements at random places: whatever its rows and columns have in common
is gone. If the elements are not too unequal, its spectrum is that of a random matrix. An eigenvalue
that lies beyond it stems from single large elements; Martin & Hinrichs (2025), arXiv:2507.17912,
call it a correlation trap (WeightWatcher's ``randomize``).

Three things decide where a permuted copy without traps ends:

- the variance of the elements. Their mean is taken out first: a common offset is a part of rank one
  that every permutation keeps, and no trap;
- their excess kurtosis kappa. It moves the end by kappa (sqrt(N) + sqrt(M))^2 / sqrt(N M), in units
  of variance / N, for sparse elements as for others: Hwang, Lee & Schnelli (2019), Ann. Appl.
  Probab. 29(5). This is not small: for elements with a Laplace distribution in a
  100 x 100 matrix it is as large as the Tracy-Widom spread;
- the Tracy-Widom law of the largest eigenvalue, centred and scaled as in Ma (2012), Bernoulli 18.

An element whose square is above sqrt(N M) times the variance makes an eigenvalue of its own
(Benaych-Georges & Nadakuditi 2012, J. Multivar. Anal. 111: a part of rank one with a singular value
above (N M)^(1/4) sigma). Such elements are left out of variance and kurtosis, which they would
dominate.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specdiag.htsr import esd
from specdiag.htsr.bulk.tracy_widom import largest_of_gaussian, tracy_widom_tail

Array = NDArray[np.float64]

RATE = 0.01  # of matrices without large elements have a trap
_BLOCK = 2**17  # elements that are converted to float64 at once, in the cache
_PASSES = 30  # over the elements, each leaving out larger ones; three or four are enough
_EQUAL = 1e-28  # variance over the squared largest value, below which values are equal to rounding


@dataclass(frozen=True)
class Traps:
    """The spectrum of a permuted copy of a matrix, compared with a random one and with its own.

    Attributes
    ----------
    n : float
        Number of eigenvalues of the copy that are traps: a matrix without large elements has one
        in 1 % of cases.
    p : float
        Probability that the largest eigenvalue of such a matrix is as large as that of the copy.
    ratio : float
        Largest eigenvalue of the copy over that of a random matrix with elements of the same
        variance and kurtosis: the size of the largest trap, and about 1 without one.
    soft_rank : float
        Largest eigenvalue of the copy over that of the matrix (Martin & Mahoney 2021, JMLR 22(165),
        take the edge of the bulk for it).
    n_beyond : float
        Number of eigenvalues of the matrix that are larger than all of the copy (parallel analysis:
        Buja & Eyuboglu 1992, Multivariate Behavioral Research 27).
    distance : float
        Kolmogorov-Smirnov distance of the eigenvalues of the matrix and those of the copy.
    """

    n: float = math.nan
    p: float = math.nan
    ratio: float = math.nan
    soft_rank: float = math.nan
    n_beyond: float = math.nan
    distance: float = math.nan


NO_TRAPS = Traps()


class _Moments(NamedTuple):
    n: int
    mean: float
    variance: float
    kurtosis: float


def permuted_traps(W: ArrayLike, eigenvalues: ArrayLike, *, seed: int = 0) -> Traps:
    """Return the traps of a matrix or kernel W.

    Parameters
    ----------
    W : array_like of shape (n, m) or (out, in, *kernel)
        The elements of a kernel are permuted among all positions.
    eigenvalues : array_like
        All eigenvalues that `esd.eigenvalues` returns for W.
    seed : int
        Decides the permutation.

    Returns
    -------
    Traps
        All NaN if the elements are equal.
    """
    W, spectrum = np.asarray(W), np.asarray(eigenvalues, dtype=np.float64)
    copy, variance, kurtosis = _permuted(W, seed)
    if not variance:
        return NO_TRAPS
    permuted = esd.eigenvalues(copy)
    N, M, positions = max(W.shape[:2]), min(W.shape[:2]), math.prod(W.shape[2:])
    centre, spread = largest_of_gaussian(N, M)
    end = centre + kurtosis * (math.sqrt(N) + math.sqrt(M)) ** 2 / math.sqrt(N * M)
    leading = permuted[: max(1, np.count_nonzero(permuted * N > end * variance))]
    one = tracy_widom_tail((leading * (N / variance) - end) / spread)
    p = -np.expm1(positions * np.log1p(-np.minimum(one, 1 - 2.0**-53)))
    both = np.sort(np.concatenate([permuted, spectrum]))
    below = (np.searchsorted(x[::-1], both, side="right") for x in (permuted, spectrum))
    difference = np.subtract(*below) / len(spectrum)
    return Traps(
        n=int(np.count_nonzero(p <= RATE)),
        p=float(p[0]),
        ratio=float(permuted[0] * N / (end * variance)),
        soft_rank=float(permuted[0] / spectrum[0]),
        n_beyond=int(np.count_nonzero(spectrum > permuted[0])),
        distance=float(abs(difference).max()),
    )


def _permuted(W: NDArray[Any], seed: int) -> tuple[NDArray[Any], float, float]:
    """Return a permuted copy without the mean, and variance and excess kurtosis of the elements.

    Elements that make an eigenvalue of their own are left out of mean, variance and kurtosis,
    unless they are more than the smaller side: then nothing would be left of some sparse matrices.
    """
    values: NDArray[Any] = W.astype(np.float64 if W.dtype.itemsize > 4 else np.float32).ravel()
    np.random.default_rng(seed).shuffle(values)
    scale = float(max(values.max(), -values.min()))
    moments, limit = _Moments(0, 0.0, 0.0, -3.0), math.inf
    for _ in range(_PASSES if scale else 0):
        new = _moments(values, scale, moments.mean, limit)
        if values.size - new.n > min(W.shape[:2]):
            break
        moments, former = new, moments
        limit = math.sqrt(moments.variance) * math.prod(W.shape[:2]) ** 0.25
        if moments.n == former.n or not moments.variance > _EQUAL:
            break
    values -= np.asarray(moments.mean * scale, values.dtype)
    variance = moments.variance if moments.variance > _EQUAL else 0.0
    return values.reshape(W.shape), variance * scale**2, moments.kurtosis


def _moments(values: NDArray[Any], scale: float, mean: float, limit: float) -> _Moments:
    """Return the moments of values / scale, of those that are not further than limit from mean."""
    n, sums = 0, np.zeros(4)
    for start in range(0, values.size, _BLOCK):
        part = values[start : start + _BLOCK].astype(np.float64) / scale - mean
        if limit < 2:
            part = part[np.abs(part) <= limit]
        squares = part**2
        n += part.size
        sums += part.sum(), squares.sum(), part @ squares, squares @ squares
    first, second, third, fourth = (sums / n).tolist()
    variance = second - first**2
    central = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
    kurtosis = central / variance**2 - 3 if variance > 0 else -3.0
    return _Moments(n, mean + first, variance, kurtosis)
