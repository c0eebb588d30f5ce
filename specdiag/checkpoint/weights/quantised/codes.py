"""Codes -> numbers, and numbers times the scales of their blocks."""

from collections.abc import Callable
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]

PIECE = 2**22  # elements that are computed at once
BLOCK = 128  # rows and columns of a block, where it does not divide the sides of the matrix

# Numbers of the codes of small floats, the sign in the highest bit: OCP Microscaling Formats (MX)
# Specification 1.0 (2023), section 5.3.
_E2M1 = (0, 0.5, 1, 1.5, 2, 3, 4, 6)
_E2M3 = (*(m / 8 for m in range(8)), *((1 + m / 8) * 2**e for e in range(3) for m in range(8)))
FP4: Floats = np.array([*_E2M1, *(-x for x in _E2M1)], np.float32)
FP6: Floats = np.array([*_E2M3, *(-x for x in _E2M3)], np.float32)


def powers(exponents: np.ndarray) -> Floats:
    """Return the powers of two that E8M0 scales stand for: 2**(code - 127).

    Scales of other float types are returned as float32.
    """
    if exponents.dtype != np.uint8:
        return exponents.astype(np.float32)
    return np.ldexp(np.float32(1), exponents.astype(np.int32) - 127)


def block_of(
    shape: tuple[int, ...], scales: tuple[int, ...], declared: tuple[int, int] | None = None
) -> tuple[int, int] | None:
    """Return the rows and columns that share a scale, or None if the shapes do not fit.

    Scales are a scalar, a vector of one for each row or for each matrix of a stack, or have as many
    axes as the weight. The last block of a side may be shorter where the blocks have a declared
    size or 128 rows and columns.
    """
    scales = _as_grid(shape, scales)
    if len(scales) != len(shape) or scales[:-2] != shape[:-2] or 0 in scales or 0 in shape:
        return None
    sides = list(zip(shape[-2:], scales[-2:], strict=True))
    for block in (declared, (BLOCK, BLOCK)):
        if block and all(-(-n // b) == s for (n, s), b in zip(sides, block, strict=True)):
            return block
    if any(size % count for size, count in sides):
        return None
    rows, columns = (size // count for size, count in sides)
    return rows, columns


def _as_grid(shape: tuple[int, ...], scales: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of scales with as many axes as the weight, if they have fewer than two.

    A vector has one scale for each row; for each column or each matrix of a stack, if there are so
    many of these and another number of rows. A vector of another length is returned as it is.
    """
    if len(scales) > 1:
        return scales
    size, ones = scales[0] if scales else 1, (1,) * len(shape)
    if size == 1:
        return (*shape[:-2], 1, 1)
    if len(shape) > 2:
        return (size, *ones[1:]) if size == shape[0] != shape[-2] else scales
    return (size, 1) if size == shape[0] else (1, size) if size == shape[1] else scales


def on_grid(
    numbers: Callable[[slice], np.ndarray],
    shape: tuple[int, ...],
    block: tuple[int, int],
    scales: np.ndarray,
    zeros: np.ndarray | None = None,
    columns: np.ndarray | None = None,
    shifts: np.ndarray | None = None,
) -> Floats:
    """Return (numbers - zeros) * scales + shifts, computed a few rows at a time.

    Parameters
    ----------
    numbers : callable
        Returns some of the rows of the numbers, of shape (rows, shape[-1]). The rows of the
        matrices of a stack follow each other.
    shape : tuple of int
        Shape of the weight, (..., n, m).
    block : tuple of int
        Rows and columns that share a scale.
    scales, zeros, shifts : ndarray
        See `block_of`; all have the same shape. Zeros and shifts may be None for none.
    columns : ndarray of shape (m,), optional
        For each column, the column of its scale, where they do not follow each other.

    Raises
    ------
    ValueError
        If a column of a scale is outside of the scales.
    """
    n, m = shape[-2:]
    n_stack = prod(shape[:-2])
    a, b = _as_grid(shape, scales.shape)[-2:]

    def grid(x: np.ndarray | None) -> np.ndarray | None:
        if x is None:
            return None
        return np.broadcast_to(x.reshape(-1, a, b), (n_stack, a, b)).reshape(-1, b)

    steps = (np.subtract, grid(zeros)), (np.multiply, grid(scales)), (np.add, grid(shifts))
    if columns is None:
        columns = np.arange(m) // block[1]
    elif columns.size and not 0 <= columns.min() <= columns.max() < b:
        raise ValueError(f"its columns have groups outside of the {b} that there are")
    at = (np.arange(n_stack)[:, np.newaxis] * a + np.arange(n) // block[0]).reshape(-1)
    out = np.empty((n_stack * n, m), np.float32)
    step = max(1, PIECE // max(m, 1))
    for start in range(0, len(out), step):
        rows = slice(start, start + step)
        piece = numbers(rows).astype(np.float32)
        for operation, values in steps:
            if values is not None:
                operation(piece, values[at[rows]].astype(np.float32)[:, columns], out=piece)
        out[rows] = piece
    return out.reshape(shape)
