"""Alpha by the rules of the papers that allocate by it: `median`, `peak` and `farms`.

Plain arrays in and out. TempBalance (Zhou et al. 2023) sets learning rates of layers, AlphaLoRA
(Qing et al. 2024) numbers of LoRA experts, AlphaPruning (Lu et al. 2024) sparsities, each from the
exponent of Hill (1975) above an xmin that is set by a rule; FARMS (Hu et al. 2025) measures windows
of one aspect ratio instead of the whole matrix. Written from their formulas and kept to their
published code, whose weaknesses are named in the docstrings. Nothing is allocated here.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specdiag.htsr import esd
from specdiag.htsr.others.weightwatcher import estimate
from specdiag.htsr.tail.posterior import Posterior
from specdiag.htsr.tail.power_law import NO_FIT, Array, TailFit, fit_above, fit_alpha

BINS = 100  # of the histogram whose highest bin is the peak
SIDE, RATIO, WINDOWS = 2000, 1.0, 10  # of FARMS, in its experiments on LLaMA-7B

RULES = ("median", "peak")


def median(squared_singular_values: Array) -> TailFit:
    """Return the power law above the median of all eigenvalues of W'W.

    With n eigenvalues in ascending order, counted from 0, xmin is the one at floor(n / 2), and
    ``alpha = 1 + k / sum(log(x / xmin))`` over the k = n - floor(n / 2) from there on: Hill's
    estimator at half of the spectrum. TempBalance, equation 2 (`pl_fitting='median'`), AlphaLoRA,
    and AlphaPruning (`fix_fingers='xmin_mid'`). Scale has no effect.
    """
    x = np.sort(squared_singular_values)
    return fit_above(x, len(x) // 2)


def peak(squared_singular_values: Array) -> TailFit:
    """Return the power law whose xmin is near the peak of the spectrum, from eigenvalues of W'W.

    The peak is the left edge of the highest of 100 bins of log10 of the eigenvalues. Of the
    eigenvalues from log10(0.95 peak) to 1.5 peak, xmin is the one whose tail has the least
    Kolmogorov-Smirnov distance. AlphaPruning (`fix_fingers='xmin_peak'`) and TempBalance
    (`'fix-finger'`), after WeightWatcher.

    The lower limit is the logarithm of the value that is meant, in their code and here: for a peak
    below 1.05 it is negative, so that there is no lower limit, and for a larger one it is far too
    low. So alpha can change with the scale of the weights.
    """
    x = squared_singular_values
    counts, edges = np.histogram(np.log10(x), BINS)
    top = 10 ** edges[counts.argmax()]
    return fit_alpha(x, between=(math.log10(0.95 * top), 1.5 * top))


def farms(
    W: NDArray[np.generic],
    *,
    side: int = SIDE,
    ratio: float = RATIO,
    windows: int = WINDOWS,
    rule: str = "median",
) -> list[TailFit]:
    """Return the fits of the eigenvalues of windows of one aspect ratio.

    A matrix (out, in) is covered by windows of r rows and r · ratio columns, where r is `side`, but
    at most what fits into the matrix. They begin at multiples of a step, at most `windows` along
    each axis: floor((rows - r) / (windows - 1)) rows, or 1. The eigenvalues of all of them together
    have one fit. A kernel (out, in, *positions) is cut along the longer of its first two axes into
    blocks of the shape (m / ratio, m) for a ratio above 1 and (m, m · ratio) else, m the shorter
    one; each block, over all positions, has a fit, and alpha is the mean.

    Hu et al. (2025), ICML, "Eigenspectrum analysis of neural networks without aspect ratio bias",
    section 3.2, and the code of its experiments. The defaults are those of LLaMA-7B, with xmin at
    the median, as the paper defines alpha; its experiments on LLMs use the rule `peak`, and those
    on images windows of 100 rows for matrices. `windows` above r overlap, so their eigenvalues are
    no independent draws.

    Parameters
    ----------
    W : ndarray of shape (out, in) or (out, in, *positions)
    side : int
        Rows of a window.
    ratio : float
        Columns over rows of a window.
    windows : int
        Largest number of windows along each axis, at least 2.
    rule : {'median', 'peak'}
        How xmin is chosen.

    Returns
    -------
    list of TailFit
        One for a matrix, and one for each block of a kernel. xmin is divided by the longer side of
        a window.
    """
    if side < 1 or windows < 2 or not 0 < ratio < math.inf or rule not in RULES:
        raise ValueError(
            f"side {side}, ratio {ratio}, windows {windows}, rule {rule!r}: expected side of at "
            f"least 1, a positive ratio, windows of at least 2, and one of {', '.join(RULES)}"
        )
    if W.ndim == 2:
        pools = iter([_pooled([W], _cuts(W.shape, side, ratio, windows))])
    else:
        pools = _of_kernel(W, ratio)
    fit = median if rule == "median" else peak
    return [_fit_of_pool(pool, longer, fit) for pool, longer in pools]


_Cuts = list[tuple[slice, slice]]


def _cuts(shape: tuple[int, ...], side: int, ratio: float, windows: int) -> _Cuts:
    """Return the windows of a matrix."""
    rows, columns = shape
    height = max(1, min(side, rows, columns, int(columns / ratio)))
    width = min(columns, max(1, int(height * ratio)))

    def starts(size: int, window: int) -> range:
        step = max(1, (size - window) // (windows - 1))
        return range(0, step * min(windows, (size - window) // step + 1), step)

    return [
        (slice(i, i + height), slice(j, j + width))
        for i in starts(rows, height)
        for j in starts(columns, width)
    ]


def _of_kernel(W: NDArray[np.generic], ratio: float) -> Iterator[tuple[Array, int]]:
    slices = W.reshape(*W.shape[:2], -1)
    if slices.shape[0] < slices.shape[1]:
        slices = slices.transpose(1, 0, 2)
    n, m, positions = slices.shape
    height = max(1, int(m // ratio)) if ratio > 1 else m
    width = m if ratio > 1 else max(1, int(m // (1 / ratio)))
    matrices = [slices[:, :, k] for k in range(positions)]
    for i in range(n // m):
        yield _pooled(matrices, [(slice(i * height, (i + 1) * height), slice(width))])


def _pooled(matrices: list[NDArray[np.generic]], cuts: _Cuts) -> tuple[Array, int]:
    """Return the eigenvalues of all windows of matrices, and the longer side of a window."""
    values = [esd.eigenvalues(W[cut]) for W in matrices for cut in cuts]
    return np.concatenate(values), max(matrices[0][cuts[0]].shape)


def _fit_of_pool(values: Array, longer: int, fit: Any) -> TailFit:
    if is_rounding(values, longer, fit is peak):
        return NO_FIT
    tail: TailFit = fit(values * longer)
    return tail.scaled(1 / longer)


def is_rounding(eigenvalues: Array, N: int, all_of_them: bool) -> bool:
    """Return whether an xmin at the median, or a histogram of all, rests on rounding.

    Eigenvalues below N · 2.2e-16 of the largest are rounding of the Gram matrix here, and of the
    float32 singular values in the published code, which would use them.
    """
    values = np.sort(eigenvalues)
    least = values[0 if all_of_them else len(values) // 2]
    return bool(least <= values[-1] * N * np.finfo(np.float64).eps)


def fit_allocation(
    method: str,
    shape: tuple[int, ...],
    spectrum: Array,
    read: Callable[[], NDArray[np.generic]],
) -> dict[str, Any]:
    """Return status, tail and posterior of a weight by 'median', 'peak' or 'farms'.

    The interval is alpha +- 1.96 sigma, sigma = (alpha - 1) / sqrt(n_tail): that of independent
    draws above a known xmin. Of `farms` there is none, because windows share their elements, and no
    xmin, because it is an eigenvalue of windows; `n_tail` counts the eigenvalues of all of them.
    """
    if method == "farms":
        fits = [fit for fit in farms(read()) if fit.n_tail]
        if not fits:
            return _degenerate("half of the eigenvalues of its windows are rounding")
        tail = _mean(fits)
        mean = Posterior(mean=tail.alpha, n_tail=float(tail.n_tail))
        return {"status": "fit", "tail": tail, "posterior": mean}
    N = max(shape[:2])
    if is_rounding(spectrum, N, method == "peak"):
        part = "its smallest eigenvalues are" if method == "peak" else "half of its eigenvalues are"
        return _degenerate(f"{part} rounding, on which alpha would rest")
    scale = N / 2 if len(shape) > 2 else float(N)  # kernels are multiplied by sqrt(1/2)
    tail = (peak if method == "peak" else median)(spectrum * scale).scaled(1 / scale)
    if not tail.n_tail:
        return _degenerate("no eigenvalue that the rule allows as xmin has a tail")
    return {"status": "fit", "tail": tail, "posterior": estimate(tail)}


def _degenerate(reason: str) -> dict[str, Any]:
    return {"status": "degenerate", "reason": reason}


def _mean(fits: list[TailFit]) -> TailFit:
    """Return the mean alpha and distance of fits, and the number of eigenvalues in all tails."""
    return TailFit(
        alpha=float(np.mean([fit.alpha for fit in fits])),
        xmin=math.nan,
        ks_distance=float(np.mean([fit.ks_distance for fit in fits])),
        n_tail=sum(fit.n_tail for fit in fits),
    )
