"""Matrices in which nothing was learned, and matrices with structure, for the ladder of nulls.

Every entry of UNLEARNED and LEARNED is a function (rng, n, m) -> matrix; those of KERNELS get the
shape of a kernel. Unlearned matrices have independent entries, whatever their scales, distribution
and precision, or are orthogonal.
"""

import ml_dtypes
import numpy as np
from scipy.stats import truncnorm


def gaussian(rng, n, m):
    return rng.standard_normal((n, m))


def orthogonal(rng, n, m):
    Q, _ = np.linalg.qr(gaussian(rng, max(n, m), min(n, m)))
    return Q if n >= m else Q.T


def noisy_orthogonal(noise):
    def draw(rng, n, m):
        return orthogonal(rng, n, m) + noise * gaussian(rng, n, m) / np.sqrt(max(n, m))

    return draw


def student(freedom):
    return lambda rng, n, m: rng.standard_t(freedom, (n, m))


def sparse(density):
    return lambda rng, n, m: gaussian(rng, n, m) * (rng.random((n, m)) < density)


def rows(sd, entries=gaussian):
    return lambda rng, n, m: entries(rng, n, m) * np.exp(sd * gaussian(rng, n, 1))


def columns(sd, entries=gaussian):
    return lambda rng, n, m: entries(rng, n, m) * np.exp(sd * gaussian(rng, 1, m))


def strong_rows(count, factor):
    """Return Gaussian matrices with a few rows that are much larger than the others."""

    def draw(rng, n, m):
        W = gaussian(rng, n, m)
        W[:count] *= factor
        return W

    return draw


def blocks_of_rows(*scales):
    """Return matrices whose rows are split evenly among the scales, as fused projections are."""

    def draw(rng, n, m):
        return gaussian(rng, n, m) * np.repeat(scales, -(-n // len(scales)))[:n, None]

    return draw


def zero(axis):
    def draw(rng, n, m):
        W = gaussian(rng, n, m)
        W.swapaxes(0, axis)[: (n, m)[axis] // 3] = 0
        return W

    return draw


def grid_of_blocks(parts, sd):
    """Return matrices of parts x parts blocks with lognormal scales."""

    def draw(rng, n, m):
        scales = np.exp(sd * gaussian(rng, parts, parts))
        return (
            gaussian(rng, n, m) * np.kron(scales, np.ones((-(-n // parts), -(-m // parts))))[:n, :m]
        )

    return draw


def checkerboard(rng, n, m):
    W = gaussian(rng, n, m)
    W[: n // 2, : m // 2] *= 3
    W[n // 2 :, m // 2 :] *= 3
    return W


def band(rng, n, m):
    place = np.abs(np.arange(n)[:, None] / n - np.arange(m) / m)
    return gaussian(rng, n, m) * np.exp(-4 * np.minimum(place, 1 - place))


def low_rank_variances(rng, n, m):
    return gaussian(rng, n, m) * np.exp(0.3 * gaussian(rng, n, 3) @ gaussian(rng, 3, m))


def cell_variances(rng, n, m):
    return gaussian(rng, n, m) * np.exp(0.7 * gaussian(rng, n, m))


def layer_norm(rng, n, m):
    return gaussian(rng, n, m) * (0.3 + rng.gamma(1.5, size=(1, m)))


def zipf_columns(rng, n, m):
    return gaussian(rng, n, m) * rng.permutation(np.arange(1, m + 1) ** -0.5)


def few_outliers(rng, n, m):
    W = gaussian(rng, n, m)
    W.ravel()[rng.choice(n * m, 10, replace=False)] *= 30
    return W


def stored_as(dtype, entries=gaussian):
    return lambda rng, n, m: entries(rng, n, m).astype(dtype).astype(np.float32)


def integers(levels, axis=None, entries=gaussian):
    """Return matrices rounded to integers, with one scale, or one for each row."""

    def draw(rng, n, m):
        W = entries(rng, n, m)
        step = np.abs(W).max(axis=axis, keepdims=True) / levels
        return np.round(W / step) * step

    return draw


def pruned(keep, entries=gaussian):
    """Return matrices of which only the largest entries are kept."""

    def draw(rng, n, m):
        W = entries(rng, n, m)
        return W * (np.abs(W) > np.quantile(np.abs(W), 1 - keep))

    return draw


UNLEARNED = {
    "gaussian (kaiming, xavier normal)": gaussian,
    "uniform (kaiming, xavier uniform)": lambda rng, n, m: rng.uniform(-1, 1, (n, m)),
    "truncated normal": lambda rng, n, m: truncnorm.rvs(-2, 2, size=(n, m), random_state=rng),
    "orthogonal": orthogonal,
    "orthogonal, noise 0.1": noisy_orthogonal(0.1),
    "orthogonal, noise 0.5": noisy_orthogonal(0.5),
    "laplace": lambda rng, n, m: rng.laplace(size=(n, m)),
    **{f"student {v:g}": student(v) for v in (8, 5, 4, 3, 2.5, 2)},
    **{f"sparse {100 * d:g} %": sparse(d) for d in (0.02, 0.04, 0.08, 0.1, 0.3)},
    "pruned to 10 %": pruned(0.1),
    "zero rows": zero(0),
    "zero columns": zero(1),
    **{f"row scales {sd}": rows(sd) for sd in (0.1, 0.3, 1)},
    **{f"column scales {sd}": columns(sd) for sd in (0.1, 0.3, 1)},
    **{f"both scales {sd}": rows(sd, columns(sd)) for sd in (0.3, 1)},
    "one row times 10": strong_rows(1, 10),
    "five rows times 30": strong_rows(5, 30),
    "fused, scales 1 1 2": blocks_of_rows(1, 1, 2),
    "fused, scales 1 3 9": blocks_of_rows(1, 3, 9),
    "half of the rows / sqrt(24)": blocks_of_rows(1, 24**-0.5),
    "layer norm folded": layer_norm,
    "zipf columns": zipf_columns,
    "bfloat16": stored_as(ml_dtypes.bfloat16),
    "float8": stored_as(ml_dtypes.float8_e4m3fn),
    "int8, a scale a row": integers(127, 1, rows(0.3)),
    "int4": integers(7),
    "int4, a scale a row": integers(7, 1, rows(0.3)),
    "2 x 2 blocks": checkerboard,
    "8 x 8 lognormal blocks": grid_of_blocks(8, 0.7),
    "band": band,
    "lognormal cell variances": cell_variances,
    "log-variances of rank 3": low_rank_variances,
    "offset 0.1": lambda rng, n, m: gaussian(rng, n, m) + 0.1,
    "offset 0.5": lambda rng, n, m: gaussian(rng, n, m) + 0.5,
    "uniform on 0 to 1": lambda rng, n, m: rng.random((n, m)),
    "row means": lambda rng, n, m: gaussian(rng, n, m) + gaussian(rng, n, 1),
    "ten entries times 30": few_outliers,
    "student 5, row scales 1": rows(1, student(5)),
    "student 3, both scales 0.3": rows(0.3, columns(0.3, student(3))),
    "sparse 10 %, row scales 1": rows(1, sparse(0.1)),
}


def kernel_gaussian(rng, shape):
    return rng.standard_normal(shape)


def kernel_channels(rng, shape):
    """Return a kernel with a folded batch normalisation: a scale for each output channel."""
    return rng.standard_normal(shape) * np.exp(0.5 * rng.standard_normal((shape[0], 1, 1, 1)))


def kernel_positions(rng, shape):
    """Return a kernel whose variance falls from the centre of the kernel outwards."""
    place = [np.arange(side) - (side - 1) / 2 for side in shape[2:]]
    return rng.standard_normal(shape) * np.exp(-0.5 * np.hypot(*np.meshgrid(*place, indexing="ij")))


def kernel_sparse(rng, shape):
    return rng.standard_normal(shape) * (rng.random(shape) < 0.2)


KERNEL_SHAPES = ((32, 16, 3, 3), (48, 3, 7, 7), (64, 64, 3, 3), (128, 32, 5, 1))
KERNELS = {
    "kernel": kernel_gaussian,
    "kernel, channel scales": kernel_channels,
    "kernel, position scales": kernel_positions,
    "kernel, student 3": lambda rng, shape: rng.standard_t(3, shape),
    "kernel, sparse 20 %": kernel_sparse,
    "kernel, offset 0.5": lambda rng, shape: rng.standard_normal(shape) + 0.5,
}


def population(alpha):
    """Return Gaussian rows whose covariance has a power law as eigenvalues, and random axes."""

    def draw(rng, n, m):
        N, M = max(n, m), min(n, m)
        sd = ((np.arange(M) + 0.5) / M) ** (-1 / (2 * (alpha - 1)))
        Q, _ = np.linalg.qr(gaussian(rng, M, M))
        W = (gaussian(rng, N, M) * sd) @ Q.T
        return W if n >= m else W.T

    return draw


def planted(count, gain, noise=gaussian):
    """Return noise plus random directions; squared singular values: a power law of exponent 2.5.

    The quantiles of the law are multiplied by gain times the squared edge of the noise.
    """

    def draw(rng, n, m):
        edge = np.sqrt(n) + np.sqrt(m)
        U, _ = np.linalg.qr(gaussian(rng, n, count))
        V, _ = np.linalg.qr(gaussian(rng, m, count))
        strength = edge * np.sqrt(gain * ((np.arange(count) + 0.5) / count) ** (-1 / 1.5))
        return noise(rng, n, m) + (U * strength) @ V.T

    return draw


LEARNED = {
    **{f"population {alpha:g}": population(alpha) for alpha in (2.5, 3.5, 4.5, 6)},
    **{
        f"planted {k} x {g}": planted(k, g) for k, g in ((40, 0.5), (10, 0.1), (20, 0.1), (40, 0.1))
    },
    "planted 40 x 0.05": planted(40, 0.05),
    "planted 80 x 0.05": planted(80, 0.05),
    "planted 40 x 0.1, bfloat16": stored_as(ml_dtypes.bfloat16, planted(40, 0.1)),
    "planted 40 x 0.1, int8": integers(127, 1, planted(40, 0.1)),
}
# Structure with scales or heavy entries: either beats the Gaussian null, which is no reference.
BOTH = {
    "planted 20 x 0.1, row scales 0.3": rows(0.3, planted(20, 0.1)),
    "planted 40 x 0.5, student 5": planted(40, 0.5, student(5)),
    "planted 40 x 1, pruned to 10 %": pruned(0.1, planted(40, 1)),
    "population 3.5, both scales 0.3": rows(0.3, columns(0.3, population(3.5))),
}
