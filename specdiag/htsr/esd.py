"""Weight matrix -> eigenvalues of its correlation matrix, those above rounding, and ranks.

Plain arrays in and out. For a matrix W of shape (n, m), N = max(n, m) and M = min(n, m). The
empirical spectral density (ESD) is the distribution of the M eigenvalues of the smaller of W'W / N
and WW' / N. Martin & Mahoney (2021), JMLR 22(165), section 2.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from specdiag.compute import device
from specdiag.compute.eigenvalues import eigenvalues_of_gram
from specdiag.compute.gram import SURE, half_gram
from specdiag.compute.leading import eigenvalues_and_leading

Array = NDArray[np.float64]

LARGEST, SMALLEST = 1e150, 1e-140  # limits of the largest value: its square is a float64
_PRECISIONS = {"float64": (2.0**-52, 2.0**-1074), "float32": (2.0**-23, 2.0**-149)}
_PRECISIONS |= {"float16": (2.0**-10, 2.0**-24), "bfloat16": (2.0**-7, 2.0**-133)}
EXPONENT = 700  # 2^700 brings float64 values beyond these limits between them


def eigenvalues(W: ArrayLike) -> Array:
    """Return the eigenvalues of the correlation matrix of W, largest first.

    A kernel with more than two axes, ``(out, in, *kernel)``, is treated as WeightWatcher treats
    Conv2d: every position of the kernel is one (out, in) matrix, and the eigenvalues of all of them
    are pooled. (WeightWatcher also multiplies those matrices by sqrt(1/2), which changes no
    exponent.)

    The eigenvalues come from the float64 Gram matrix, which is about three times faster than
    singular values. Its arithmetic cannot resolve eigenvalues below about N * 2.2e-16 of the
    largest; `resolved_eigenvalues` drops these.

    Parameters
    ----------
    W : array_like of shape (n, m) or (out, in, ...)
        Real numbers, of any dtype.

    Returns
    -------
    ndarray of shape (n_eigenvalues,)
        float64, descending, never negative; n_eigenvalues = min(n, m) * prod(kernel). Divided by
        N = max(n, m).

    Raises
    ------
    ValueError
        If W has fewer than two axes, no elements, values that are not finite, or values whose
        squares leave the range of float64.
    """
    return _solved(np.asarray(W), 0)[0]


def eigenvalues_and_vectors(W: ArrayLike, k: int) -> tuple[Array, Array]:
    """Return what `eigenvalues` does, and the k leading eigenvectors of the matrix as columns.

    They have min(n, m) rows and are the leading singular vectors of the smaller side of W, that of
    the largest value last. An empty array stands for those of a kernel, whose positions are pooled,
    and for those of a matrix that a GPU took.
    """
    return _solved(np.asarray(W), k)


def eigenvalues_of_product(left: ArrayLike, right: ArrayLike, positions: int = 1) -> Array:
    """Return what `eigenvalues` does of left @ right, without forming the product.

    The singular values of B A are those of R S', where B = Q R and A' = P S are QR decompositions:
    a matrix of the rank at most (Golub & Van Loan, section 5.4.5, on the same step of the SVD).

    Parameters
    ----------
    left : array_like of shape (n, r)
    right : array_like of shape (r, m * positions)
        Of a kernel, the positions are its last axis.
    """
    B, A = (np.asarray(x, dtype=np.float64) for x in (left, right))
    for x in (B, A):
        if not np.isfinite(x).all():
            bad = np.count_nonzero(~np.isfinite(x))
            raise ValueError(f"{bad:,} of {x.size:,} values of a factor are NaN or infinite")
    n, m = len(B), A.shape[1] // positions
    R = np.linalg.qr(B)[1]
    values = np.zeros((positions, min(n, m)))
    for i, part in enumerate(np.moveaxis(A.reshape(len(A), m, positions), 2, 0)):
        singular = np.linalg.svd(R @ np.linalg.qr(part.T)[1].T, compute_uv=False)
        found = np.square(singular[: min(n, m)]) / max(n, m)
        values[i, : len(found)] = found
    pooled = values.ravel()
    pooled[::-1].sort()
    return pooled


def _solved(W: NDArray[np.generic], n_vectors: int) -> tuple[Array, Array]:
    if W.ndim < 2 or W.size == 0:
        raise ValueError(
            f"W has shape {W.shape}: expected a matrix (n, m) or a kernel (out, in, …)"
        )
    if W.dtype.kind == "c":
        raise ValueError("W is complex: expected real numbers")
    shape = W.shape[:2]
    slices = W.reshape(*shape, -1)
    positions = slices.shape[2]
    solved = device.eigenvalues(np.moveaxis(slices, 2, 0))
    values = np.empty((positions, min(shape))) if solved is None else solved
    vectors, largest_square = np.empty((0, 0)), 0.0
    for i in range(positions) if solved is None else ():
        gram = half_gram(slices[:, :, i])
        square = float(np.diagonal(gram).max())  # at least that of the largest value
        largest_square = max(largest_square, square)
        last = i == positions - 1
        if not math.isfinite(square) or (last and not SURE[0] < largest_square < SURE[1]):
            _check_range(W)
        if last:
            del W, slices  # the peak of memory is the matrix as stored, and one Gram matrix
        gram /= max(shape)
        if n_vectors and positions == 1:
            values[i], vectors = eigenvalues_and_leading(gram, min(n_vectors, len(gram)))
        else:
            values[i] = eigenvalues_of_gram(gram)
    pooled = values.ravel()
    pooled[::-1].sort()
    return np.maximum(pooled, 0.0, out=pooled), vectors


def _check_range(W: NDArray[np.generic]) -> None:
    """Raise an error if values are not finite, or if the square of the largest is no float64."""
    with np.errstate(invalid="ignore"):  # of signalling NaNs
        A = W.astype(np.float64)
    largest = max(abs(A.min()), abs(A.max()))
    if not math.isfinite(largest):
        bad = np.count_nonzero(~np.isfinite(A))
        raise ValueError(f"{bad:,} of {A.size:,} values are NaN or infinite")
    if largest > LARGEST or 0 < largest < SMALLEST:
        raise ValueError(f"the largest value is {largest:.1e}: its square leaves the float64 range")


def exponent_beyond_range(W: NDArray[np.generic]) -> int:
    """Return the exponent of the power of two to divide W by, so that `eigenvalues` takes it.

    It is 0 for all but float64 values of extreme size, and for those below 2^-1040, which are
    stored with too few digits. Division by a power of two changes no digit of the others.
    """
    if W.dtype != np.float64 or not W.size:
        return 0
    largest = max(abs(float(W.min())), abs(float(W.max())))
    if LARGEST < largest < math.inf:
        return EXPONENT
    return -EXPONENT if 2.0**-1040 <= largest < SMALLEST else 0


def divided(W: NDArray[Any], exponent: int) -> NDArray[Any]:
    """Return W divided by 2^exponent; W itself, and no copy, if the exponent is 0."""
    return np.ldexp(W, -exponent) if exponent else W


def rank_gate(eigenvalues: ArrayLike, shape: tuple[int, ...], dtype: DTypeLike) -> float:
    """Return the value that an eigenvalue must exceed to be more than rounding.

    The gate is the largest of three floors. Each is proportional to the spectrum, so scaling W
    scales the gate:

    - arithmetic of the network: lambda_1 (N eps)^2, the square of the usual bound on singular
      values (Golub & Van Loan, section 5.5.8). eps is that of the stored dtype, but at most that of
      float32, because 16-bit weights are computed in 32-bit arithmetic (with the eps of bfloat16
      the bound would exceed lambda_1 itself from N = 128 on);
    - storage: rounding to the stored dtype adds an error matrix of independent entries whose
      variance is at most (eps^2 E[w^2] + tiny^2) / 12, where tiny is the smallest subnormal number.
      Its largest eigenvalue is about that variance times (sqrt(N) + sqrt(M))^2 / N. The floor is
      four times this value, because rows of large weights have larger errors;
    - arithmetic of `eigenvalues`: the float64 Gram matrix resolves lambda_1 N eps64.

    Parameters and errors are those of `resolved_eigenvalues`.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    if len(shape) < 2 or not values.size:
        raise ValueError(f"{values.size} eigenvalues of shape {shape}: expected those of a matrix")
    largest = float(values.max())
    N = max(shape[:2])
    eps, _ = precision(dtype)
    arithmetic = largest * (N * min(eps, float(np.finfo(np.float32).eps))) ** 2
    own = largest * N * float(np.finfo(np.float64).eps)
    return max(arithmetic, storage_floor(values, shape, dtype), own)


def separation(eigenvalues: Array, shape: tuple[int, ...], dtype: DTypeLike) -> float:
    """Return how far rounding can move two equal singular values apart, over sqrt(N).

    Weyl's inequality: an error E of W moves no singular value by more than |E|, and |E|^2 / N is
    here the largest of the floors of `rank_gate`, but for the arithmetic of the network: its bound
    is for the worst case, in which all errors add up. Errors of N products mostly grow like
    sqrt(N) eps instead (Higham & Mary 2019, SIAM J. Sci. Comput. 41(5)); eight times that is taken.
    """
    N, largest = max(shape[:2]), float(eigenvalues.max())
    eps = min(precision(dtype)[0], 2.0**-23)
    arithmetic = largest * (min(N, 8 * math.sqrt(N)) * eps) ** 2
    own = largest * N * 2.0**-52
    return 2 * math.sqrt(max(arithmetic, storage_floor(eigenvalues, shape, dtype), own))


def count_distinct(resolved: Array, width: float, most: int) -> int:
    """Return how many values rounding leaves apart among eigenvalues, up to `most`.

    It is the number of intervals that hold all square roots, each as wide as `separation`.
    """
    singular = np.sort(np.sqrt(resolved))
    n = start = 0
    while start < len(singular) and n < most:
        start = int(np.searchsorted(singular, singular[start] + width, side="right"))
        n += 1
    return n


def resolved_eigenvalues(eigenvalues: ArrayLike, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return the eigenvalues that are more than rounding: those above `rank_gate`, in their order.

    Parameters
    ----------
    eigenvalues : array_like of shape (n_eigenvalues,)
        All eigenvalues that the function `eigenvalues` returns for W.
    shape : tuple of int
        Shape of W.
    dtype : dtype_like
        Type that W was stored in, before any conversion. Integers are taken as exact.

    Returns
    -------
    ndarray of shape (rank,)

    Raises
    ------
    ValueError
        If there are no eigenvalues, or the shape has fewer than two axes.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    return values[values > rank_gate(values, shape, dtype)]


def storage_floor(eigenvalues: Array, shape: tuple[int, ...], dtype: DTypeLike) -> float:
    """Return an upper bound of the eigenvalues that rounding to the dtype adds to a spectrum."""
    N, M = max(shape[:2]), min(shape[:2])
    eps, tiny = precision(dtype)
    variance = (eps**2 * float(eigenvalues.mean()) + tiny**2) / 12
    return 4 * variance * (math.sqrt(N) + math.sqrt(M)) ** 2 / N


def precision(dtype: DTypeLike) -> tuple[float, float]:
    """Return eps and the smallest subnormal number of a dtype; zeros for integers."""
    if isinstance(dtype, str) and dtype in _PRECISIONS:
        return _PRECISIONS[dtype]
    import ml_dtypes  # takes longer than a small network; it also names its types for np.dtype

    dtype = np.dtype(dtype)
    if dtype.kind in "iub":
        return 0.0, 0.0
    # ml_dtypes.finfo accepts the types of NumPy as well as bfloat16 and float8.
    info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    return float(info.eps), float(info.smallest_subnormal)


def stable_rank(eigenvalues: Array) -> float:
    """Return the squared Frobenius norm over the squared spectral norm; NaN for a zero matrix.

    Rudelson & Vershynin (2007), J. ACM 54(4). Between 1 and the rank.
    """
    return float(eigenvalues.sum() / eigenvalues[0]) if eigenvalues[0] > 0 else math.nan


def spectral_entropy(eigenvalues: Array) -> float:
    """Return -sum(p log p) / log(n), where p = lambda / sum(lambda) and n is their number.

    It is 1 when all eigenvalues are equal, and NaN for fewer than two. Pass only the eigenvalues
    above the rank gate. Roy & Vetterli (2007), EUSIPCO, normalised as in WeightWatcher.
    """
    if len(eigenvalues) < 2:
        return math.nan
    p = eigenvalues / eigenvalues.sum()
    return float(-(p * np.log(p)).sum() / math.log(len(p)))


def effective_rank(eigenvalues: Array) -> float:
    """Return exp(-sum(p log p)), where p = lambda / sum(lambda); NaN without eigenvalues.

    It is between 1 and their number. Pass only the eigenvalues above the rank gate. Roy & Vetterli
    (2007), EUSIPCO.
    """
    if not len(eigenvalues):
        return math.nan
    p = eigenvalues / eigenvalues.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def erg_count(eigenvalues: Array) -> int:
    """Return how many of the largest eigenvalues have a product below 1, over their mean.

    It is the smallest such number: the tail that an exact renormalisation group (ERG) keeps is as
    long if its volume is preserved, det X = 1. Martin & Hinrichs (2025), arXiv:2507.17912;
    WeightWatcher calls it `detX_num`, and its difference from the length of a power-law tail
    `ERG_gap`. The product is one of logarithms here: that of the eigenvalues of a large matrix
    leaves the range of float64. Of equal eigenvalues, whose product never falls below 1, all are
    counted.
    """
    with np.errstate(divide="ignore"):
        below = np.cumsum(np.log(eigenvalues / eigenvalues.mean())) < 0
    return int(below.argmax()) + 1 if below.any() else len(eigenvalues)
