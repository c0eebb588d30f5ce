"""Symmetric matrix -> a band with the same eigenvalues, by products of blocks alone.

Columns are taken in panels as wide as the band. A QR decomposition of the part of a panel that lies
beyond the band gives Q = I - V T V', and the rest A of the matrix becomes Q'AQ = A - V Y' - Y V',
with Y = A V T - V (T' V' A V T) / 2 (Bischof, Lang & Sun 2000, ACM Trans. Math. Softw. 26(4)).
LAPACK's dsytrd_sy2sb does the same. Half of its time is the product of a symmetric A and a panel
(dsymm), which OpenBLAS forms at three quarters of the speed of a general product: here most of it
is a general one.

A symmetric matrix is read and written on and above the diagonal only. V, Y and the panels are
stored as rows, as C-contiguous arrays hold what LAPACK calls columns.
"""

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from specdiag.compute import lapack

Array = NDArray[np.float64]

BLOCK = 256  # rows whose product with a panel is a general one but for the corner on the diagonal
LAST = 256  # rows that are left to LAPACK: there the calls cost more than the products
ONE, MINUS_ONE = np.ones(1), -np.ones(1)


def to_band(A: Array, width: int) -> Array:
    """Return the diagonals of a band matrix with the eigenvalues of A, which is overwritten.

    Parameters
    ----------
    A : ndarray of shape (n, n)
        C-contiguous. Read on and above the diagonal.
    width : int
        Diagonals above the main one, fewer than `LAST`.

    Returns
    -------
    ndarray of shape (n, width + 1)
        Row i holds the elements (i, i), (i, i + 1), ..., (i, i + width).

    Raises
    ------
    LookupError
        If NumPy's LAPACK lacks a routine.
    """
    geqrt3, syr2k, symm, sy2sb = lapack.routines("dgeqrt3", "dsyr2k", "dsymm", "dsytrd_sy2sb")
    n = len(A)
    start = 0
    while n - start > LAST:
        end = start + width
        panel, rest = A[start:end, end:], A[end:, end:]
        size = len(rest)
        t = np.zeros((width, width))
        geqrt3(size, width, panel, n, t, width)
        v = panel.copy()
        v[:, :width] = np.triu(v[:, :width], 1)
        np.fill_diagonal(v, 1)
        x = t @ v
        y = _product(symm, x, rest)
        y -= 0.5 * (y @ x.T) @ v
        syr2k(b"L", b"N", size, width, MINUS_ONE, v, size, y, size, ONE, rest, n)
        start = end
    band = np.zeros((n, width + 1))
    step = A.itemsize
    band[:start] = as_strided(A, (start, width + 1), ((n + 1) * step, step))
    left = n - start
    arguments = b"L", left, width, A[start:, start:], n, band[start:], width + 1, np.empty(left)
    work = np.empty(1)
    sy2sb(*arguments, work, -1)
    work = np.empty(int(work[0]))
    sy2sb(*arguments, work, len(work))
    return band


def _product(symm: Callable[..., None], x: Array, A: Array) -> Array:
    """Return the product of rows x with a symmetric matrix."""
    width, n = x.shape
    row = A.strides[0] // A.itemsize
    y = np.zeros_like(x)
    for s in range(0, n, BLOCK):
        e = min(s + BLOCK, n)
        symm(b"L", b"L", e - s, width, ONE, A[s:, s:], row, x[:, s:], n, ONE, y[:, s:], n)
        right = A[s:e, e:]
        y[:, e:] += x[:, s:e] @ right
        y[:, s:e] += x[:, e:] @ right.T
    return y
