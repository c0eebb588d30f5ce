"""Gram matrix -> its eigenvalues, in place, by the faster of two reductions to tridiagonal form.

LAPACK's usual reduction (dsytrd) reads the matrix from memory once for each column, and from about
1,900 rows on the processor waits for it. The reduction in two stages first brings the matrix to a
band, in blocks that stay in the cache, and then the band to three diagonals (Bischof, Lang & Sun
2000, ACM Trans. Math. Softw. 26(4); Haidar, Ltaief & Dongarra 2011, SC '11). Both are orthogonal
similarities with errors of a few eps of the largest eigenvalue: one is as exact as the other.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specdiag.compute import lapack
from specdiag.compute.band import LAST, to_band

Array = NDArray[np.float64]
Matrix = NDArray[Any]

TWO_STAGE = 1920  # rows from which on two stages are faster, measured
# Diagonals of the band, above the main one: a wide band is quick to reach and slow to leave, which
# takes a smaller share of the time of larger matrices.
NARROW, WIDE, WIDE_FROM = 48, 64, 4096
SAFE = 300  # binary exponents of the values that no square of a norm takes beyond float64


def eigenvalues_of_gram(gram: Matrix) -> Matrix:
    """Return the eigenvalues of a Gram matrix in its dtype, ascending; the matrix is overwritten.

    They are computed in float64, as `numpy.linalg.eigvalsh` does, and below `TWO_STAGE` rows by the
    same routine, so they are the same bit by bit. From there on they agree to a few eps of the
    largest. Where NumPy is not linked to OpenBLAS it is `numpy.linalg.eigvalsh`.

    Parameters
    ----------
    gram : ndarray of shape (n, n)
        float64 or float32, C-contiguous. Only the values on and above the diagonal are read.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the matrix is not finite, or the iteration does not converge.
    """
    check_finite(gram)
    A = np.ascontiguousarray(gram, np.float64)
    solver = _solver(two_stages=len(A) >= TWO_STAGE)
    return solver(A).astype(gram.dtype, copy=False)


def solver_bytes(n: int) -> float:
    """Return the memory that a Gram matrix of n rows and its eigenvalues take together.

    Where NumPy is not linked to OpenBLAS, it solves a copy.
    """
    in_place = lapack.routine("dsyevd") is not None
    return 8 * n * (n + 5 * WIDE if in_place else 2 * n)


def check_finite(gram: Matrix) -> None:
    """Raise LinAlgError if a value of the diagonal is not finite: then one of W is not."""
    if not np.isfinite(np.diagonal(gram)).all():
        raise np.linalg.LinAlgError("the Gram matrix is not finite")


@functools.cache
def _solver(*, two_stages: bool) -> Callable[[Array], Array]:
    """Return the fastest solver that this machine has and that is right on a small matrix."""
    size = LAST + WIDE if two_stages else 5
    W = np.cos(np.arange(size * size, dtype=np.float64) ** 2).reshape(size, size)
    gram = W.T @ W
    expected = np.linalg.eigvalsh(gram)
    for solver in (_by_two_stages, _by_one_stage) if two_stages else (_by_one_stage,):
        try:
            values = solver(gram.copy())
        except (LookupError, np.linalg.LinAlgError):
            continue
        if np.allclose(values, expected, rtol=0, atol=1e-12 * expected[-1]):
            return solver
    return _by_numpy


def _by_numpy(A: Array) -> Any:
    return np.linalg.eigvalsh(A.T)  # reads what lies on and below the diagonal


def _by_one_stage(A: Array) -> Array:
    """Call dsyevd, as NumPy does, but without copying the matrix."""
    (syevd,) = lapack.routines("dsyevd")
    n = len(A)
    values = np.empty(n)
    arguments = b"N", b"L", n, A, n, values
    size, integers = np.empty(1), np.empty(1, np.int64)
    syevd(*arguments, size, -1, integers, -1)
    work = np.empty(int(size[0]))
    syevd(*arguments, work, len(work), np.empty(16, np.int64), 16)
    return values


def _by_two_stages(A: Array) -> Array:
    """Reduce the matrix to a band and the band to three diagonals, whose eigenvalues follow.

    Like LAPACK, scale a matrix of extreme values; by a power of two, which is exact.
    """
    to_tridiagonal, sterf = lapack.routines("dsytrd_sb2st", "dsterf")
    n = len(A)
    _, exponent = math.frexp(np.diagonal(A).max())
    exponent *= abs(exponent) > SAFE
    if exponent:
        np.ldexp(A, -exponent, out=A)
    width = NARROW if n < WIDE_FROM else WIDE
    band = to_band(A, width)
    values, off, sizes = np.empty(n), np.empty(n), np.empty((2, 1))
    arguments = b"Y", b"N", b"L", n, width, band, width + 1, values, off
    to_tridiagonal(*arguments, sizes[0], -1, sizes[1], -1)
    reflectors, work = (np.empty(int(size)) for size in sizes[:, 0])
    to_tridiagonal(*arguments, reflectors, len(reflectors), work, len(work))
    sterf(n, values, off)
    return np.ldexp(values, exponent, out=values) if exponent else values
