"""Moments of blocks of samples -> spectra on both sides of the true one, and unbiased traces.

Blocks are independent of each other; the samples within a block may depend on each other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FOLDS = 8  # of blocks: eigenvectors come from 7/8 of the samples


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Count, mean (d,) and scatter matrix sum((x - mean)(x - mean)') (d, d) of samples."""

    count: int
    mean: Array
    scatter: Array


def merged(a: Moments, b: Moments) -> Moments:
    """Return the moments of the samples of both.

    The pairwise update of Chan, Golub & LeVeque (1979), STAN-CS-79-773. Unlike E[xx'] - mean mean',
    it subtracts no large sums.
    """
    count = a.count + b.count
    delta = b.mean - a.mean
    between = delta[:, None] * (delta * (a.count * b.count / count))
    mean = a.mean + delta * (b.count / count)
    return Moments(count=count, mean=mean, scatter=a.scatter + b.scatter + between)


def extended(known: Moments | None, rows: Any) -> Moments:
    """Return the moments of the samples of both, for rows of shape (n + 1, d) without the last.

    Rows and moments are arrays of NumPy, or tensors of one device; the rows are overwritten. The
    last one becomes the term between both means (see `merged`), so that one product of matrices
    gives the scatter of all.
    """
    n, mean = len(rows) - 1, rows[:-1].mean(0)
    rows[:-1] -= mean
    if known is None:
        return Moments(count=n, mean=mean, scatter=rows[:-1].T @ rows[:-1])
    count, delta = known.count + n, mean - known.mean
    rows[-1] = delta * math.sqrt(known.count * n / count)
    scatter = rows.T @ rows
    scatter += known.scatter
    return Moments(count=count, mean=known.mean + delta * (n / count), scatter=scatter)


class Blocks(NamedTuple):
    """Sums over the samples of k blocks, about the mean of all, with a total variance of 1."""

    size: Array  # (k,)
    sums: Array  # (k, d)
    squares: Array  # (k, d, d), sums of xx'
    products: Array  # (k, k), tr(AB) of two such sums


def scaled(blocks: Sequence[Moments], total: Moments) -> Blocks:
    """Return the sums of blocks whose samples together have the moments `total`."""
    scale = float(np.trace(total.scatter)) / (total.count - 1)
    size = np.array([block.count for block in blocks], dtype=np.float64)
    shift = np.array([block.mean - total.mean for block in blocks]) / math.sqrt(scale)
    squares = np.array(
        [
            block.scatter / scale + n * np.outer(mean, mean)
            for block, n, mean in zip(blocks, size, shift, strict=True)
        ]
    )
    flat = squares.reshape(len(size), -1)
    return Blocks(size, size[:, None] * shift, squares, flat @ flat.T)


class Spectra(NamedTuple):
    """Variances along eigenvectors, of all blocks and without each: arrays of shape (1 + k, d).

    The sample eigenvalues spread further than the true ones. The variances of held-out blocks
    spread less: their expectations are the diagonal of the true covariance in another basis, which
    its eigenvalues majorise (Schur 1923; Horn 1954, Am. J. Math. 76).
    """

    sample: Array  # along the eigenvectors of all blocks: the sample eigenvalues, descending
    held_out: Array  # of each fold of blocks, along the eigenvectors of the other folds
    smooth: Array  # `held_out`, made descending: the nearest such sequence


def spectra(blocks: Blocks) -> Spectra:
    """Return both spectra. Rows without a block keep the eigenvectors, a change of order 1/k^2."""
    from scipy.optimize import isotonic_regression

    n, size = blocks.size.sum(), blocks.size[:, None]
    vectors, _ = _eigenvectors(blocks.squares.sum(axis=0))
    along = _squares_along(vectors, blocks.squares)
    whole = along.sum(axis=0)
    lost = along + (blocks.sums @ vectors) ** 2 / (n - size)  # without a block, the mean moves
    sample = np.vstack([whole / (n - 1), (whole - lost) / (n - size - 1)])
    held = _held_out(blocks)
    whole = held.sum(axis=0)
    held_out = np.vstack([whole / n, (whole - held) / (n - size)])
    sample, held_out = np.maximum(sample, 0.0), np.maximum(held_out, 0.0)
    smooth = np.array([isotonic_regression(row, increasing=False).x for row in held_out])
    return Spectra(sample, held_out, smooth)


def _held_out(blocks: Blocks) -> Array:
    """Return the sums of squares of each block along the eigenvectors of the other folds (k, d)."""
    total = blocks.squares.sum(axis=0)
    fold = np.arange(len(blocks.size)) % min(FOLDS, len(blocks.size))
    held = np.empty_like(blocks.sums)
    for number in range(fold.max() + 1):
        own = fold == number
        size, sums, squares = blocks.size[own], blocks.sums[own], blocks.squares[own]
        n = blocks.size.sum() - size.sum()
        mean = -sums.sum(axis=0) / n  # of the others
        vectors, rank = _eigenvectors(total - squares.sum(axis=0) - n * np.outer(mean, mean))
        mean, sums = mean @ vectors, sums @ vectors
        along = _squares_along(vectors, squares) - 2 * sums * mean + size[:, None] * mean**2
        if rank < along.shape[1]:  # the basis of directions without variance is arbitrary
            along[:, rank:] = along[:, rank:].mean(axis=1, keepdims=True)
        held[own] = along
    return held


def _eigenvectors(matrix: Array) -> tuple[Array, int]:
    """Return eigenvectors in columns, by descending eigenvalue, and the rank of the matrix."""
    values, vectors = np.linalg.eigh(matrix)
    limit = len(values) * np.finfo(np.float64).eps * values[-1]
    return vectors[:, ::-1], int(np.count_nonzero(values > limit))


def _squares_along(vectors: Array, squares: Array) -> Array:
    return np.array([(vectors * (one @ vectors)).sum(axis=0) for one in squares])


def trace(blocks: Blocks) -> Array:
    """Return tr(S) of the covariance S without bias, of all blocks and without each: (1 + k,).

    The squared mean is averaged over products of different blocks (see `traces`).
    """
    size, sums, squares, _ = blocks
    n, of_block = size.sum(), np.trace(squares, axis1=1, axis2=2)
    own = (sums**2).sum(axis=1)
    left = np.append(n, n - size)
    second = np.append(of_block.sum(), of_block.sum() - of_block) / left
    # The sums of all add up to 0, those of all but one to minus its own.
    different = np.append(-own.sum(), 2 * own - own.sum())
    pairs = left**2 - np.append((size**2).sum(), (size**2).sum() - size**2)
    return np.asarray(second - different / pairs, np.float64)


def traces(blocks: Blocks) -> Array:
    """Return tr(S^2) and tr(S)^2 of the covariance S without bias: shape (2, 1 + k).

    First of all blocks, then without each. For samples with second moments M and mean m,
    tr(S^2) = tr(MM) - 2 m'Mm + (m'm)^2 and tr(S)^2 = tr(M)^2 - 2 tr(M) m'm + (m'm)^2. Every product
    is averaged over *different* blocks, so it has the expectation of independent factors, however
    the samples within a block depend on each other.
    """
    size, sums, squares, products = blocks
    of_block = np.trace(squares, axis1=1, axis2=2)
    pairs, inner = np.outer(size, size), sums @ sums.T
    # Sums over a third block: of all blocks, which is n or 0, less those of the two.
    third = size.sum() - np.add.outer(size, size)
    crossed = -((sums @ squares) * (sums[:, None] + sums)).sum(axis=2)
    over = _over_different(
        np.array([pairs, products, np.outer(of_block, of_block)]),
        np.array([pairs * third, crossed, -of_block[:, None] * (inner + np.diag(inner))]),
        np.array([pairs, inner, inner]),
    )
    two, three, four = over[:, 1:] / over[:, :1]
    return np.asarray(two - 2 * three + four, np.float64)


def curvature(blocks: Blocks) -> float:
    """Return the second-order standard error of the logarithm of tr(S)^2 / tr(S^2).

    With S + E for S of trace 1, tr(S^2) changes by 2 tr(SE) + tr(EE). The jackknife sees the first
    term, which is zero where the ratio is at a maximum; this is the error of the second.
    """
    share = blocks.size / blocks.size.sum()
    trace = np.trace(blocks.squares, axis1=1, axis2=2) / blocks.size
    products = blocks.products / np.outer(blocks.size, blocks.size)
    with_mean, trace = products @ share, trace / (share @ trace)
    mean = float(share @ with_mean)
    # Inner products of M_b / n_b - trace_b * mean, whose trace is zero.
    products -= (
        np.outer(trace, with_mean) + np.outer(with_mean, trace) - mean * np.outer(trace, trace)
    )
    # About the mean of k blocks, those of independent ones are -1 / (k - 1) of the squares.
    squares = np.diag(products).copy()
    products += np.add.outer(squares, squares) / (2 * (len(share) - 1))
    products *= np.outer(share, share)
    np.fill_diagonal(products, 0.0)
    return math.sqrt(2 * float((products**2).sum())) / mean


def _over_different(pairs: Array, triples: Array, factors: Array) -> Array:
    """Return sums over different blocks a, b, c, d of P[a, b], Q[a, b, c] and F[a, b] F[c, d].

    P and F are symmetric, and so is Q in its last two indices; `triples` are its sums over c. For m
    arrays each, the result has the shape (3, m, 1 + k): first over all k blocks, then without each.
    """
    off = 1 - np.eye(pairs.shape[-1])
    pairs, triples, factors = pairs * off, triples * off, factors * off
    two, three = pairs.sum((1, 2)), triples.sum((1, 2))
    with_one_of_three = triples.sum(2) + 2 * triples.sum(1)
    # Of all F[a, b] F[c, d], those that share one index (in 4 ways) or both (in 2 ways) go.
    total, rows, squares = factors.sum((1, 2)), factors.sum(2), (factors**2).sum(2)
    four = total**2 - 4 * (rows**2).sum(1) + 2 * squares.sum(1)
    rows_without = (rows[:, None] - factors) * off
    total_without = total[:, None] - 2 * rows
    squares_without = squares.sum(1)[:, None] - 2 * squares
    four_without = total_without**2 - 4 * (rows_without**2).sum(2) + 2 * squares_without
    without = [two[:, None] - 2 * pairs.sum(1), three[:, None] - with_one_of_three, four_without]
    whole = np.array([two, three, four])[:, :, None]
    return np.concatenate([whole, np.array(without)], axis=2)
