"""Alphas of random matrices of the same shape, and p-values from them.

Plain arrays in and out. The statistic is the posterior mean of alpha (`posterior.posterior_mean`):
among the estimators of alpha it separates heavy tails from noise best (docs/calibration.md).

The two nulls answer different questions:

- **gaussian**: could independent Gaussian entries give an alpha this low? The null depends only on
  the shape, so it is drawn once for each shape and cached.
- **permutation**: could the layer's own entries, shuffled, give it? Shuffling keeps a heavy-tailed
  distribution of the entries and destroys all correlation, so only the effect of correlation is
  tested. This null must be drawn for every layer.
"""

import functools
import io
import logging
import math
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from specdiag.files import write_whole
from specdiag.htsr import esd
from specdiag.htsr.tail.change_points import MIN_SPACINGS
from specdiag.htsr.tail.posterior import posterior_mean

Array = NDArray[np.float64]

VERSION = 1  # of the estimator: draws of another version are not comparable
PERMUTATIONS = 99
NULLS = ("gaussian", "permutation")

_log = logging.getLogger(__name__)


def p_value(alpha: float, draws: Array) -> float:
    """Return the probability of an alpha as low as this one, from n sorted draws of the null.

    p = (1 + #{draws <= alpha}) / (1 + n), Davison & Hinkley (1997), section 4.2. It is never 0: the
    least p-value is 1 / (1 + n). It is NaN without draws.
    """
    if math.isnan(alpha) or not len(draws):
        return math.nan
    return float((1 + np.searchsorted(draws, alpha, side="right")) / (1 + len(draws)))


def false_discovery_rate(p: ArrayLike) -> Array:
    """Return the Benjamini-Hochberg adjusted p-values (q) of several tests; NaN stays NaN.

    Benjamini & Hochberg (1995), J. R. Statist. Soc. B 57. Of all tests with q <= 0.05, at most 5 %
    are false discoveries, on average.
    """
    p = np.asarray(p, dtype=np.float64)
    q = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    scaled = p[order] * len(order) / np.arange(1, len(order) + 1)
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    return q


def gaussian_draws(shape: tuple[int, ...]) -> Array:
    """Return sorted alphas of Gaussian matrices of one shape: (n, m), or (out, in, *kernel).

    They are read from the package or from the user's cache folder, or drawn and cached. `n_draws`
    says how many there are; there are none if the matrix is too small for a posterior.
    """
    return _gaussian_draws(max(shape[:2]), min(shape[:2]), math.prod(shape[2:]))


@functools.lru_cache(maxsize=512)
def _gaussian_draws(N: int, M: int, slices: int) -> Array:
    if M * slices <= MIN_SPACINGS + 1:
        return np.empty(0)
    key = f"{N}x{M}" + (f"x{slices}" if slices > 1 else "")
    with np.load(str(files("specdiag.htsr") / "null_draws.npz")) as shipped:
        if shipped["version"] == VERSION and key in shipped:
            return shipped[key].astype(np.float64)
    from platformdirs import user_cache_path

    cached = user_cache_path("specdiag") / f"null-v{VERSION}" / f"{key}.npy"
    try:
        return _read_cache(cached, n_draws(M * slices))
    except (OSError, ValueError):
        draws = simulate(N, M, slices)
        _keep(cached, draws)
        return draws


def _read_cache(path: Path, expected: int) -> Array:
    with path.open("rb") as file:
        draws: Array = np.lib.format.read_array(file, allow_pickle=False)
    if draws.shape != (expected,) or draws.dtype != np.float64 or np.any(np.diff(draws) < 0):
        raise ValueError("a damaged cache file")
    return draws


def _keep(path: Path, draws: Array) -> None:
    """Write the draws to the cache; if that is not possible, log a warning and go on."""
    content = io.BytesIO()
    np.save(content, draws)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.getvalue())
    except OSError as error:
        _log.warning("the null of %s could not be cached: %s", path.stem, error)


def n_draws(n_eigenvalues: int) -> int:
    """Return how many Gaussian matrices are drawn for a shape: fewer for large, slow ones."""
    steps = ((512, 1000), (1024, 400), (4096, 200))
    return next((count for size, count in steps if n_eigenvalues <= size), 100)


def simulate(N: int, M: int, slices: int = 1) -> Array:
    """Return sorted alphas of Gaussian matrices, drawn with a seed that depends on the shape.

    The eigenvalues of W'W for Gaussian W of shape (N, M) have the same distribution as those of a
    tridiagonal matrix of M + M - 1 chi-square numbers. This is exact, and takes M^2 operations
    instead of N M^2. Dumitriu & Edelman (2002), J. Math. Phys. 43, theorem 3.4 with beta = 1.
    """
    count = n_draws(M * slices)
    _log.info("drawing %d random matrices of %d x %d for the null, once", count, N, M)
    rng = np.random.default_rng([VERSION, N, M, slices])
    alphas = [
        posterior_mean(np.sort(np.concatenate([_wishart(rng, N, M) for _ in range(slices)]))[::-1])
        for _ in range(count)
    ]
    return np.sort(alphas)


def _wishart(rng: np.random.Generator, N: int, M: int) -> Array:
    from scipy.linalg.lapack import dsterf

    diagonal = rng.chisquare(np.arange(N, N - M, -1))
    below = rng.chisquare(np.arange(M - 1, 0, -1))
    off = np.sqrt(diagonal[:-1] * below)
    diagonal[1:] += below
    values, failure = dsterf(diagonal, off)
    if failure:
        raise np.linalg.LinAlgError("the eigenvalues of a random matrix did not converge")
    return np.maximum(values, values[-1] * N * np.finfo(np.float64).eps) / N


def permutation_draws(W: ArrayLike, dtype: DTypeLike = np.float64, *, seed: int = 0) -> Array:
    """Return sorted alphas of W, (n, m) or (out, in, *kernel), with its entries shuffled 99 times.

    `dtype` is the type that W was stored in. It sets the rank gate of the shuffled matrices. The
    same seed gives the same draws.
    """
    rng = np.random.default_rng(seed)
    shuffled = np.array(W, dtype=np.float64)
    if min(shuffled.shape[:2]) * math.prod(shuffled.shape[2:]) <= MIN_SPACINGS + 1:
        return np.empty(0)
    alphas = []
    for _ in range(PERMUTATIONS):
        rng.shuffle(shuffled.reshape(-1))
        values = esd.eigenvalues(shuffled)
        resolved = esd.resolved_eigenvalues(values, shuffled.shape, dtype)
        if len(resolved) > MIN_SPACINGS:
            alphas.append(posterior_mean(resolved))
    return np.sort(alphas)
