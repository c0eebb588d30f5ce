"""Gram matrix -> its leading eigenvectors, by a solver that computes no others."""

import numpy as np
from numpy.typing import NDArray

from specdiag.compute import lapack

Array = NDArray[np.float64]

ITERATED = 768  # rows from which on Lanczos iterations are faster than a reduction, measured


def leading_vectors(gram: Array, k: int) -> Array:
    """Return the eigenvectors of the k largest eigenvalues of a Gram matrix, which is overwritten.

    Small matrices are reduced to tridiagonal form (dsyevr), from which only these vectors are
    transformed back; for large ones Lanczos iterations with restarts are faster (ARPACK: Lehoucq,
    Sorensen & Yang 1998). Both are exact to rounding over the distance to the next eigenvalue.

    Parameters
    ----------
    gram : ndarray of shape (n, n)
        float64, whole, C-contiguous.
    k : int
        From 1 to n.

    Returns
    -------
    ndarray of shape (n, k)
        Orthonormal columns; that of the largest eigenvalue is the last.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the matrix is not finite, or the solver fails.
    """
    if not np.isfinite(np.diagonal(gram)).all():
        raise np.linalg.LinAlgError("the Gram matrix is not finite")
    n = len(gram)
    if n >= ITERATED and 4 * k < n:
        from scipy.sparse.linalg import ArpackError, eigsh

        try:
            return eigsh(gram, k, which="LA", v0=np.ones(n))[1]
        except ArpackError:  # it did not converge
            pass
    return _by_reduction(gram, k)


def _by_reduction(gram: Array, k: int) -> Array:
    n, solver = len(gram), lapack.routine("dsyevr")
    if solver is None:
        vectors: Array = np.linalg.eigh(gram)[1][:, n - k :]
        return vectors
    values, rows, unused = np.empty(n), np.empty((k, n)), np.zeros(1)
    found, support = np.empty(1, np.int64), np.empty(2 * n, np.int64)
    matrix = b"V", b"I", b"L", n, gram, n
    arguments = *matrix, unused, unused, n - k + 1, n, unused, found, values, rows, n, support
    size, integers = np.empty(1), np.empty(1, np.int64)
    solver(*arguments, size, -1, integers, -1)
    work, more = np.empty(int(size[0])), np.empty(10 * n, np.int64)
    solver(*arguments, work, len(work), more, len(more))
    return rows.T
