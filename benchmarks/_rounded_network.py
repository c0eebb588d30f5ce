"""Random networks in emulated precisions, whose features have a chosen condition number.

A network is a stem, residual blocks x + W2 gelu(W1 norm(x)) as in a transformer, and features like
published ones: two directions hold 98 % of a variance of 4e4. The other eigenvalues lie between
1/100 and 1/condition of the first ("graded"), or all at 1/condition ("flat"). The effect of
rounding depends on where the gradation arises:

- "linear": in the last matrix product, after well-conditioned blocks;
- "residual": in the stem, and every block writes into the same graded directions;
- "rotation": as "residual", and an orthogonal matrix product follows.

Precisions: float64; float32; tf32 (factors of matrix products rounded to 10 bits, sums and the
rest in float32); bfloat16 (the result of every operation rounded to it, sums in float32).
"""

import itertools
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from scipy.special import erf

KINDS = ("linear", "residual", "rotation")
TRACE = 4e4
LEAD = (0.57, 0.41)


@dataclass(frozen=True, kw_only=True)
class Network:
    """Weights, exact in float32 (or bfloat16); a float64 pass through them gives the truth."""

    kind: str
    stem: np.ndarray
    blocks: list
    graded: np.ndarray
    rotation: np.ndarray
    bias: np.ndarray


def network(rng, *, kind, condition, d=128, depth=6, tail="graded", mean=0.0, dtype=np.float32):
    """Return a random network.

    `mean` is the mean of the features, in units of their root-mean-square spread.
    """
    exact = lambda W: np.asarray(W).astype(dtype).astype(np.float64)  # noqa: E731
    end = LEAD[0] / condition
    rest = np.geomspace(LEAD[0] / 100, end, d - 2) if tail == "graded" else np.full(d - 2, end)
    values = np.concatenate([LEAD, rest])
    values *= TRACE / values.sum()
    graded = (_orthogonal(rng, d) * np.sqrt(values)) @ _orthogonal(rng, d)
    blocks = []
    for _ in range(depth):
        W1 = rng.standard_normal((d, 4 * d)) / np.sqrt(d)
        W2 = rng.standard_normal((4 * d, d)) / np.sqrt(16 * d * depth)
        blocks.append((exact(W1), exact(W2 if kind == "linear" else W2 @ graded)))
    return Network(
        kind=kind,
        stem=exact(rng.standard_normal((d, d)) / np.sqrt(d)),
        blocks=blocks,
        graded=exact(graded),
        rotation=exact(_orthogonal(rng, d)),
        bias=exact(rng.standard_normal(d) * mean * np.sqrt(TRACE / d)),
    )


def _orthogonal(rng, d):
    return np.linalg.qr(rng.standard_normal((d, d)))[0]


def features(net, x, precision):
    """Return the features of inputs of shape (n, d), computed in a precision, as float64."""
    a = _Arithmetic(precision)
    x = a.product(x, net.stem)
    if net.kind != "linear":
        x = a.product(x, net.graded)
    for W1, W2 in net.blocks:
        x = a.rounded(x + a.product(a.gelu(a.product(a.norm(x), W1)), W2))
    if net.kind != "residual":
        x = a.product(x, net.graded if net.kind == "linear" else net.rotation)
    return a.rounded(x + a.rounded(net.bias)).astype(np.float64)


class _Arithmetic:
    def __init__(self, precision):
        self.precision = precision
        self.dtype = np.float64 if precision == "float64" else np.float32

    def rounded(self, x):
        x = np.asarray(x, self.dtype)
        return x.astype(ml_dtypes.bfloat16).astype(x.dtype) if self.precision == "bfloat16" else x

    def product(self, x, W):
        x, W = self.rounded(x), self.rounded(W)
        if self.precision == "tf32":
            x, W = _to_bits(x, 10), _to_bits(W, 10)
        return self.rounded(x @ W)

    def norm(self, x):
        x = x - x.mean(axis=1, keepdims=True)
        variance = np.square(x).mean(axis=1, keepdims=True)
        return self.rounded(x / np.sqrt(variance + self.dtype(1e-5)))

    def gelu(self, x):
        return self.rounded(x * (1 + erf(x / self.dtype(np.sqrt(2)))) / 2)


def _to_bits(x, n):
    """Round to n explicit bits of the mantissa, as tensor cores read float32."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.rint(np.ldexp(mantissa, n + 1)), exponent - n - 1).astype(x.dtype)


def spectrum(x):
    """Return the eigenvalues of the covariance from singular values of x.

    They are accurate to 1e-30 of the first.
    """
    return np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2 / (len(x) - 1)


def designs(conditions, depths, means=(0.0, 3.0)):
    """Yield arguments of `network`.

    Every kind has both tails at depth 6; other depths and means have the graded tail.
    """
    for kind, condition in itertools.product(KINDS, conditions):
        yield {"kind": kind, "condition": condition, "tail": "flat"}
        for depth, mean in itertools.product(depths, means):
            if depth == 6 or mean == 0:
                yield {"kind": kind, "condition": condition, "depth": depth, "mean": mean}
