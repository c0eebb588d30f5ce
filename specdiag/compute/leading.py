"""Gram matrix -> its leading eigenvectors, by a solver that computes no others."""

import math
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from specdiag.compute import lapack
from specdiag.compute.eigenvalues import check_finite, eigenvalues_of_gram
from specdiag.compute.gram import fill

Array = NDArray[np.float64]

ORDINARY = 1e-140, 1e140  # beyond them, LAPACK scales a matrix before it computes eigenvalues
MOST = 300  # restarts of the Lanczos iterations, before a reduction is faster
ITERATED = 768  # rows from which on Lanczos iterations are faster than a reduction, measured


def load_solver(size: int) -> None:
    """Import what matrices of this size need: SciPy's BLAS must be there before it is limited."""
    if size >= ITERATED:
        import scipy.sparse.linalg  # noqa: F401


def leading_vectors(gram: Array, k: int) -> Array:
    """Return the eigenvectors of the k largest eigenvalues of a Gram matrix, which is overwritten.

    Small matrices are reduced to tridiagonal form, whose vectors are computed one by one (dstemr)
    and transformed back. For large ones Lanczos iterations with restarts are faster (ARPACK:
    Lehoucq, Sorensen & Yang 1998). Both are exact to rounding over the distance to the next
    eigenvalue.

    Parameters
    ----------
    gram : ndarray of shape (n, n)
        float64, C-contiguous. Only the values on and above the diagonal are read.
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
    check_finite(gram)
    return _iterated(gram, k) if len(gram) >= ITERATED else _reduced(gram, k)[1]


def eigenvalues_and_leading(gram: Array, k: int) -> tuple[Array, Array]:
    """Return all eigenvalues, ascending, and the k leading vectors: of small ones by one reduction.

    The eigenvalues are those of `eigenvalues_of_gram` bit by bit, the vectors those of
    `leading_vectors`, which has the parameters and errors.
    """
    check_finite(gram)
    if len(gram) < ITERATED and ORDINARY[0] < np.diagonal(gram).max() < ORDINARY[1]:
        return _reduced(gram, k)
    vectors = _iterated(gram, k)
    return eigenvalues_of_gram(gram), vectors


def _iterated(gram: Array, k: int) -> Array:
    from scipy.sparse.linalg import ArpackError, eigsh

    fill(gram)
    _, exponent = math.frexp(np.diagonal(gram).max())
    np.ldexp(gram, -exponent, out=gram)  # ARPACK takes small eigenvalues for converged
    vectors = None
    if 4 * k < len(gram):
        with suppress(ArpackError):  # it did not converge
            vectors = eigsh(gram, k, which="LA", v0=np.ones(len(gram)), maxiter=MOST)[1]
    found: Array = _reduced(gram.copy(), k)[1] if vectors is None else vectors
    np.ldexp(gram, exponent, out=gram)
    return found


def _reduced(gram: Array, k: int) -> tuple[Array, Array]:
    names = "dsytrd", "dsterf", "dstemr", "dormtr"
    solvers = [solver for solver in map(lapack.routine, names) if solver]
    if len(solvers) < len(names):
        values, vectors = np.linalg.eigh(gram.T)
        return values, vectors[:, len(gram) - k :]
    reduce, values_of, vectors_of, transform = solvers
    n, size = len(gram), np.empty(1)
    values, beside, scales = np.empty(n), np.empty(n), np.empty(n)
    arguments = b"L", n, gram, n, values, beside, scales
    reduce(*arguments, size, -1)
    work = np.empty(int(size[0]))
    reduce(*arguments, work, len(work))
    rows = _vectors_of_tridiagonal(vectors_of, values.copy(), beside.copy(), k)
    transform(b"L", b"L", b"N", n, k, gram, n, scales, rows, n, size, -1)
    work = np.empty(int(size[0]))
    transform(b"L", b"L", b"N", n, k, gram, n, scales, rows, n, work, len(work))
    values_of(n, values, beside)
    return values, rows.T


def _vectors_of_tridiagonal(solver: Callable[..., None], d: Array, e: Array, k: int) -> Array:
    n = len(d)
    rows, unused, integers = np.empty((k, n)), np.zeros(1), np.empty(10 * n, np.int64)
    found, support, exactly = np.empty(1, np.int64), np.empty(2 * n, np.int64), np.ones(1, np.int64)
    solver(
        *(b"V", b"I", n, d, e, unused, unused, n - k + 1, n, found, np.empty(n), rows, n, k),
        *(support, exactly, np.empty(18 * n), 18 * n, integers, len(integers)),
    )
    return rows
