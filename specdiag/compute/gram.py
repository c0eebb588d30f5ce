"""Matrix of any stored dtype -> its smaller Gram matrix in float64, without a copy of the matrix.

BLAS multiplies blocks of the longer side and adds the products up in order. Here a few of those
blocks at a time are converted to float64, so every sum is the same bit by bit.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from specdiag.compute import lapack

Matrix = NDArray[Any]

# Rows or columns that are converted at once: a multiple of the blocks of 128, 256 and 384 in which
# OpenBLAS adds up products of float64 on x86. Other processors may have other last bits.
BLOCK = 768

SURE = 1e-250, 1e150**2  # between them, the largest square of a value has all digits of float64


def half_gram(W: NDArray[np.generic], dtype: DTypeLike = np.float64) -> Matrix:
    """Return the Gram matrix of the smaller side, W'W or WW', on and above its diagonal.

    The rest is unspecified. That is all that `eigenvalues_of_gram` reads, and the other half takes
    time to fill.

    Parameters
    ----------
    W : ndarray of shape (n, m)
        Real numbers, of any dtype and in any order of memory. Values that are not finite give a
        diagonal that is not.
    dtype : dtype_like
        Type of the arithmetic and of the result: float64 or float32.

    Returns
    -------
    ndarray of shape (min(n, m), min(n, m))
        It is not divided by the larger side.
    """
    n, m = W.shape
    syrk = lapack.routine("dsyrk" if np.dtype(dtype) == np.float64 else "ssyrk")
    with np.errstate(over="ignore", invalid="ignore"):
        if syrk is None or min(n, m) == 1:
            A = np.ascontiguousarray(W, dtype)
            return A.T @ A if n >= m else A @ A.T
        size = min(n, m)
        gram = np.zeros((size, size), dtype)
        one = np.ones(1, dtype)
        for A in _blocks(W, gram.dtype):
            inner, trans = (len(A), b"N") if n >= m else (A.shape[1], b"T")
            row = max(A.strides[0] // A.itemsize, A.shape[1])
            syrk(b"L", trans, size, inner, one, A, row, one, gram, size)
            del A  # before the next block is made
    return gram


def gram(W: NDArray[np.generic], dtype: DTypeLike = np.float64) -> Matrix:
    """Return the whole Gram matrix of the smaller side; see `half_gram`."""
    return fill(half_gram(W, dtype))


def fill(half: Matrix) -> Matrix:
    """Return a matrix of which the part on and above the diagonal is given, filled in place."""
    for start in range(0, len(half), BLOCK):  # blocks that stay in the processor's cache
        rows = slice(start, start + BLOCK)
        half[start + BLOCK :, rows] = half[rows, start + BLOCK :].T
        corner = half[rows, rows]
        corner[...] = np.triu(corner) + np.triu(corner, 1).T
    return half


def gram_bytes(n: int, m: int, dtype: DTypeLike) -> float:
    """Return the memory that `half_gram` of an (n, m) matrix takes beside it, in float64.

    It is the result and a block, or the whole matrix where NumPy is not linked to OpenBLAS.
    """
    small, large = sorted((n, m))
    in_blocks = lapack.routine("dsyrk") is not None
    converted = min(large, 2 * BLOCK) if in_blocks else large
    return 8 * small * (small + converted * (str(dtype) != "float64"))


def _blocks(W: NDArray[np.generic], dtype: np.dtype[Any]) -> Iterator[Matrix]:
    """Yield parts of W along its longer side, in the dtype, with contiguous rows."""
    n, m = W.shape
    step = W.strides[0] // W.itemsize
    in_rows = (m == 1 or W.strides[1] == W.itemsize) and (n == 1 or step >= m)
    in_rows &= W.strides[0] % W.itemsize == 0
    if W.dtype == dtype and W.dtype.isnative and W.flags.aligned and in_rows:
        yield W
        return
    size = max(n, m)
    block = BLOCK if dtype == np.float64 else size  # BLAS has other blocks in float32
    start = 0
    while start < size:
        stop = start + block if size - start >= 2 * block else size
        yield np.ascontiguousarray(W[start:stop] if n >= m else W[:, start:stop], dtype)
        start = stop
