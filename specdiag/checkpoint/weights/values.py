"""Values of a matrix -> why it is no weight: a mask, a table, a filter bank, a queue, counts.

A state dict does not tell buffers from parameters, but trained weights never have such values.
"""

import math

import numpy as np

from specdiag.checkpoint.tensor import ML_DTYPES
from specdiag.checkpoint.weights.weight import Weight

COARSEST = 0.01  # eps of a dtype; with a larger one, no length or sinusoid is exact
N_ROWS = 64  # rows that show sinusoids; a Fourier basis can have sines after its cosines
N_FIRST = 1000  # values that show of most weights that they are no table
FEW = 16  # distinct values
MAX_LISTED = 2**24  # values that are read to list a weight


def reason_by_values(weight: Weight, values: np.ndarray) -> str:
    """Return why `no_weight` takes a weight for none; an empty string if it is composed."""
    if len(weight.tensors) > 1 or (weight.rule and not weight.whole):
        return ""
    return no_weight(weight.name, values, has_bias=weight.has_bias)


def reason_of_table(weight: Weight) -> str:
    """Return why `no_weight` takes a weight for none, if its name and size make it quick to see."""
    if _is_called_weight(weight.name) or math.prod(weight.shape) > MAX_LISTED:
        return ""
    try:
        return reason_by_values(weight, weight.read())
    except (ValueError, OSError, MemoryError):  # reported when it is measured
        return ""


@np.errstate(all="ignore")  # values that are not finite, or whose squares are not
def no_weight(name: str, values: np.ndarray, *, has_bias: bool = False) -> str:
    """Return why an array of two or more axes is no weight, or an empty string.

    - 0 and one other value: a mask.
    - whole numbers without a sign, of which some are larger than 1: counts or indices; at most 16
      values without a sign: a table.
    - zero on one side of the diagonal of a square matrix: a mask, or a factor of a weight.
    - one band without a sign in each row or column, further along in each: a bank of filters, such
      as the triangles of mel frequencies.
    - sinusoids along an axis, to rounding: positions, or rotary embeddings.
    - rows or columns of length 1: a queue of features, or a codebook; equal to its transpose: a
      covariance, distances or a graph; one value, its signs, or a diagonal of it.

    Weights can have the values of the last group: layers may be kept at length 1, symmetric or
    binary, and begin as constants or identities. So the group counts only for arrays that are not
    called `weight` or `kernel` and have no bias beside them (`has_bias`).
    """
    if _is_mask(values):
        return "only zeros and one other value: a mask"
    if reason := _unsigned(values):
        return reason
    if _has_sinusoids(values):
        return "sinusoids: a table of positions"
    if values.ndim != 2 or min(values.shape) < 2:
        return ""
    if _is_triangular(values):
        return "zero on one side of its diagonal: a mask, or a factor of a weight"
    return "" if has_bias or _is_called_weight(name) else _special(values)


def _is_called_weight(name: str) -> bool:
    leaf = name.rpartition(".")[2]
    return "weight" in leaf or "kernel" in leaf


def _special(W: np.ndarray) -> str:
    """Return why a matrix that is not called a weight is none; zeros can begin as one."""
    if not W.any():
        return ""
    if (np.abs(W) == np.abs(W[0, 0])).all():
        return "one value, or its signs"
    is_diagonal = np.count_nonzero(W) == min(W.shape) == np.count_nonzero(np.diagonal(W))
    if is_diagonal and (np.diagonal(W) == W[0, 0]).all():
        return "one value on the diagonal"
    if _has_unit_norms(W):
        return "rows or columns of length 1: a queue or a table of features"
    if W.shape[0] == W.shape[1] and _eps(W) <= COARSEST and (W.T == W).all():
        return "symmetric: a covariance, distances or a graph"
    return ""


def _eps(values: np.ndarray) -> float:
    if values.dtype.name in ML_DTYPES:
        return 2.0**-7 if values.dtype.name == "bfloat16" else 1.0
    return float(np.finfo(values.dtype).eps)


def _is_mask(values: np.ndarray) -> bool:
    flat = values.reshape(-1)
    start = flat[:N_FIRST]
    start = start[start != 0]
    if len(start) and not (start == start[0]).all():
        return False
    others = flat[flat != 0]
    if not 0 < len(others) < len(flat) or not (others == others[0]).all():
        return False
    if values.ndim > 2:  # a kernel can begin as the identity: one value in each channel
        return len(others) > min(values.shape[:2])
    return len(others) != np.count_nonzero(np.diagonal(values))


def _unsigned(values: np.ndarray) -> str:
    """Return why values without a sign are no weight, or an empty string.

    Weights have both signs: an array of one sign is looked at further.
    """
    flat = values.reshape(-1)
    if (flat[:N_FIRST] < 0).any() and (flat[:N_FIRST] > 0).any():
        return ""
    flat = flat.astype(np.float64)
    if not np.isfinite(flat).all() or (flat.min(initial=0) < 0 < flat.max(initial=0)):
        return ""
    flat = np.abs(flat)
    largest, smallest = flat.max(initial=0), flat.min(initial=np.inf)
    is_diagonal = np.count_nonzero(flat) == np.count_nonzero(_diagonal(values))
    if largest == smallest or is_diagonal:  # weights can begin so
        return ""
    if largest > 1 and (flat == np.round(flat)).all():
        return "whole numbers without a sign: counts or indices"
    if values.ndim == 2 and any(_has_bands(part) for part in (values, values.T)):
        return "one band of one sign in each row or column: a bank of filters"
    if _eps(values) <= COARSEST and len(np.unique(flat[:N_FIRST])) <= FEW:
        n_distinct = len(np.unique(flat))
        if 2 < n_distinct <= FEW and len(flat) > 100 * n_distinct:
            return f"only {n_distinct} values of one sign: a table"
    return ""


def _diagonal(values: np.ndarray) -> np.ndarray:
    return np.diagonal(values) if values.ndim == 2 else np.empty(0)


def _has_bands(rows: np.ndarray) -> bool:
    """Return whether each row has one band of non-zero values, which moves on from row to row."""
    used = rows != 0
    lengths = used.sum(axis=1)
    if min(rows.shape) < 8 or lengths.max() < 2 or lengths.mean() > rows.shape[1] / 3:
        return False
    kept = used[lengths > 0]
    first, last = kept.argmax(axis=1), kept.shape[1] - 1 - kept[:, ::-1].argmax(axis=1)
    is_one = (last - first + 1 == kept.sum(axis=1)).all()
    moves = (np.diff(first) >= 0).all() and (np.diff(last) >= 0).all()
    return bool(is_one and moves and first[-1] > first[0] and len(kept) > len(rows) / 2)


def _is_triangular(W: np.ndarray) -> bool:
    n, m = W.shape
    if n != m or (W[0, n // 2 :].any() and W[n // 2 :, 0].any()):
        return False
    return bool(np.triu(W, 1).any()) != bool(np.tril(W, -1).any())


def _has_sinusoids(values: np.ndarray) -> bool:
    """Return whether the array is sinusoids along one of its axes."""
    if (eps := _eps(values)) > COARSEST:
        return False
    for axis, size in enumerate(values.shape):
        if size >= 16:
            rows = np.moveaxis(values, axis, 0)[:N_ROWS]
            if _is_sinusoidal(rows.reshape(len(rows), -1), eps):
                return True
    return False


def _is_sinusoidal(rows: np.ndarray, eps: float) -> bool:
    """Return whether every column is a sinusoid, and some turn by more than 0.3 a row.

    Constants are sinusoids that do not turn. Of 3,357 arrays of networks, any limit from 0.05 to
    0.3 tells the same.

    Three neighbours of a sinusoid satisfy x[t + 1] + x[t - 1] = 2 cos(w) x[t].
    """
    for columns in (rows[:, :8], rows):  # the first few show that most matrices are none
        A = columns[:, columns.any(axis=0)].astype(np.float64)
        middle, sums = A[1:-1], A[2:] + A[:-2]
        power = np.square(middle).sum(axis=0)
        cosine = (sums * middle).sum(axis=0) / np.where(power > 0, power, 1)
        error = np.abs(sums - cosine * middle).max(axis=0)
        if not (error <= max(1e-4, 4 * eps) * np.abs(A).max(axis=0)).all():
            return False  # also for NaN
    return bool((np.abs(cosine) < 2 * np.cos(0.3)).any())


def _has_unit_norms(W: np.ndarray) -> bool:
    """Return whether the rows or the columns have length 1, and are not orthogonal to each other.

    Orthogonal ones are those of a weight that begins so, or is kept so.
    """
    if (eps := _eps(W)) > COARSEST:
        return False
    values = W.astype(np.float32)
    squares = np.square(values)
    rows, columns = (
        # Rounding errors of the squares add up to about eps / sqrt(n) of the sum of n.
        np.allclose(squares.sum(axis=axis), 1, 0, max(1e-5, 4 * eps / W.shape[axis] ** 0.5))
        for axis in (1, 0)
    )
    if rows == columns:
        return False
    first = (values if rows else values.T)[:N_ROWS]
    products = first @ first.T
    return not np.allclose(products, np.eye(len(first)), 0, max(1e-4, 4 * eps))
