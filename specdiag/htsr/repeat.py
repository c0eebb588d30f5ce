"""Weight matrix -> how far alpha would scatter if its rows were drawn again.

Eigenvalues of one matrix repel each other: they lie far more evenly than independent draws. The
posterior of alpha takes them for independent draws, so its width is not the scatter of alpha from
matrix to matrix of one population, which is often 5 to 30 times smaller. This module estimates that
scatter from the matrix itself.

The rows are the N vectors along the longer side, the samples of W'W / N; those of a square matrix
are along its first axis, the output units. They are taken for draws, in any order, from one
population of vectors. Alpha is the posterior mean. It is computed for pairs of subsamples that hold
m of the N rows each and have all columns, so that all have one aspect ratio, and differences
between them are not differences of shape (the idea of Hu, Goel, Killiakov and Yang 2025, ICML, PMLR
267, who take submatrices of one fixed aspect ratio for that reason). Two subsamples leave out
different rows: they have the share f = 2 - N / m of their rows in common.

Why m / N = (sqrt(5) - 1) / 2 = 0.618. By Hoeffding's decomposition a function of m rows is a sum of
uncorrelated terms of 1, 2, 3, ... rows, and half of the mean squared difference of two subsamples
is V_1 (1 - f) + V_2 (1 - f^2) + ..., where V_k is the variance of the terms of k rows. The variance
for N rows is wanted. If alpha is a mean over rows there is only V_1, which falls as 1 / m, and a
factor of (m / N) / (1 - f) is needed, as in the jackknife (Efron & Stein 1981, Ann. Statist. 9).
If it depends on many rows at once, as single eigenvalues do, 1 - f^k is nearly 1, no factor is
needed, and a jackknife that leaves out few rows is much too large. With the golden ratio the first
factor is 1, too: half of the mean squared difference is the variance, in both cases.

The estimate is within 0.8 to 1.25 of the scatter for most populations (docs/calibration.md), but
only 0.6 to 0.85 of it where a few long rows make the tail: V_1 then does not fall with the number
of rows.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from specdiag.htsr import esd
from specdiag.htsr.tail.posterior import alpha_posterior

SHARE = (math.sqrt(5) - 1) / 2  # of the rows, in a subsample
PAIRS = 8  # the estimate scatters by about 30 %, of which 1 / sqrt(2 PAIRS) = 25 % are due to them


def repeat_sd(
    W: ArrayLike, dtype: DTypeLike | None = None, *, alpha: float | None = None, seed: int = 0
) -> float:
    """Return the standard deviation that alpha would have if the rows of W were drawn again.

    Parameters
    ----------
    W : array_like of shape (n, m) or (out, in, *kernel)
        A row of a kernel is one unit, with all positions of the kernel: an output unit, or an input
        unit if there are more of them.
    dtype : dtype_like, optional
        Type that W was stored in; it sets the rank gate. Default: that of W.
    alpha : float, optional
        Posterior mean of W, if it is known.
    seed : int
        Decides which rows are in which subsample.

    Returns
    -------
    float
        In units of alpha. NaN if alpha is NaN for W or for any subsample: fewer than 16 eigenvalues
        above the rank gate, or all of them equal.
    """
    W = np.asarray(W)
    dtype = W.dtype if dtype is None else dtype
    axis = 0 if W.shape[0] >= W.shape[1] else 1

    def statistic(rows: NDArray[np.int64]) -> float:
        return _log_exponent(W.take(rows, axis), dtype)

    variance = paired_variance(statistic, W.shape[axis], PAIRS, seed=seed)
    log_exponent = _log_exponent(W, dtype) if alpha is None else math.log(alpha - 1)
    return math.exp(log_exponent) * math.sqrt(variance)


def paired_variance(
    statistic: Callable[[NDArray[np.int64]], float], N: int, n_pairs: int, *, seed: int
) -> float:
    """Return the variance of a function of N rows: half of the mean squared difference of pairs.

    The function is called with the numbers of the rows of each subsample.
    """
    rng = np.random.default_rng(seed)
    size = round(SHARE * N)
    differences = []
    for _ in range(n_pairs):
        rows = rng.permutation(N)
        differences.append(statistic(rows[:size]) - statistic(rows[N - size :]))
    return float(np.mean(np.square(differences))) / 2


def _log_exponent(W: NDArray[np.generic], dtype: DTypeLike) -> float:
    """Return log(alpha - 1).

    Its scatter depends less on the number of rows than that of alpha.
    """
    resolved = esd.resolved_eigenvalues(esd.eigenvalues(W), W.shape, dtype)
    return math.log(alpha_posterior(resolved).mean - 1)
