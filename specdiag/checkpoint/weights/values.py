"""Values of a matrix -> why it is no weight: a mask, a table of sinusoids, a queue.

A state dict does not tell buffers from parameters, but trained weights never have such values.
"""

import numpy as np

from specdiag.checkpoint.tensor import ML_DTYPES

COARSEST = 0.01  # eps of a dtype; with a larger one, no length or sinusoid is exact
N_ROWS = 64  # rows that are enough to see sinusoids


def no_weight(name: str, values: np.ndarray) -> str:
    """Return why an array of two or more axes is no weight, or an empty string.

    - 0 and one other value: a mask. Zeros alone, one value alone, and diagonal matrices can be
      weights as they were initialised.
    - zero on one side of the diagonal of a square matrix: a mask, or a factor of a weight.
    - sinusoids along an axis, to rounding: positions, or rotary embeddings.
    - rows or columns of length 1: a queue of features, or a codebook. The weights of a layer may be
      kept at length 1, so those called `weight` or `kernel` do not count, nor do orthogonal ones.
    """
    if _is_mask(values):
        return "only zeros and one other value: a mask"
    if values.ndim != 2 or min(values.shape) < 2:
        return ""
    if _is_triangular(values):
        return "zero on one side of its diagonal: a mask, or a factor of a weight"
    eps = _eps(values)
    if eps > COARSEST:
        return ""
    if any(_is_sinusoidal(part[:N_ROWS], eps) for part in (values, values.T)):
        return "sinusoids: a table of positions"
    leaf = name.rpartition(".")[2]
    if "weight" not in leaf and "kernel" not in leaf and _has_unit_norms(values, eps):
        return "rows or columns of length 1: a queue or a table of features"
    return ""


def _eps(values: np.ndarray) -> float:
    if values.dtype.name in ML_DTYPES:
        return 2.0**-7 if values.dtype.name == "bfloat16" else 1.0
    return float(np.finfo(values.dtype).eps)


def _is_mask(values: np.ndarray) -> bool:
    flat = values.reshape(-1)
    start = flat[:1000]
    if len(np.unique(start[start != 0])) > 1:
        return False
    others = flat[flat != 0]
    if not 0 < len(others) < len(flat) or not (others == others[0]).all():
        return False
    return values.ndim != 2 or len(others) != np.count_nonzero(np.diagonal(values))


def _is_triangular(W: np.ndarray) -> bool:
    n, m = W.shape
    if n != m or (W[0, n // 2 :].any() and W[n // 2 :, 0].any()):
        return False
    return bool(np.triu(W, 1).any()) != bool(np.tril(W, -1).any())


def _is_sinusoidal(rows: np.ndarray, eps: float) -> bool:
    """Return whether every column is a sinusoid, and some turn by more than 0.3 a row.

    Three neighbours of a sinusoid satisfy x[t + 1] + x[t - 1] = 2 cos(w) x[t].
    """
    if len(rows) < 16:
        return False
    for columns in (rows[:, :8], rows):  # the first few show that most matrices are none
        A = columns[:, columns.any(axis=0)].astype(np.float64)
        middle, sums = A[1:-1], A[2:] + A[:-2]
        power = np.square(middle).sum(axis=0)
        cosine = (sums * middle).sum(axis=0) / np.where(power > 0, power, 1)
        error = np.abs(sums - cosine * middle).max(axis=0)
        if not (error <= max(1e-4, 4 * eps) * np.abs(A).max(axis=0)).all():
            return False  # also for NaN
    return bool((np.abs(cosine) < 2 * np.cos(0.3)).any())


def _has_unit_norms(W: np.ndarray, eps: float) -> bool:
    squares = np.square(W.astype(np.float32))
    rows, columns = (
        # Rounding errors of the squares add up to about eps / sqrt(n) of the sum of n.
        np.allclose(squares.sum(axis=axis), 1, 0, max(1e-5, 4 * eps / W.shape[axis] ** 0.5))
        for axis in (1, 0)
    )
    return rows != columns
