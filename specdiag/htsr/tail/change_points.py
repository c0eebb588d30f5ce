"""Log-spacings of a spectrum -> evidence of every place at which its tail may end.

Plain arrays in and out. Sort n eigenvalues downwards, lambda_1 >= ... >= lambda_n, and take the
normalised log-spacings E_i = i log(lambda_i / lambda_{i+1}), i = 1 ... m, m = n - 1. For
independent draws they are exponential, and their rate is the hazard of log lambda: beta = alpha - 1
where the density is a power law (Rényi 1953, Acta Math. Hung. 4; their mean over i <= k is Hill's
estimator), and a function of any form below xmin.

The model: the hazard is piecewise constant in i. It may change at the edges e_0 < e_1 < ... < e_J,
with e_0 = 15, e_J = m, and six edges an octave. Changes occur at a rate of L an octave, so a
segment goes on from e_t to e_u with probability exp(-L log2(e_u / e_t)). L is 1/2 or 1, averaged by
evidence: with fewer changes intervals are wider, with more they miss where a body bends smoothly
into the tail. The rates below the tail are independent, in equal parts Gamma(1,
s/4) and Gamma(1, s), where s = median(E) / log 2 sets the scale. A segment of c spacings that sum
to S then has the evidence

    g(c, S) = 1/2 sum over r in {s/4, s} of r Gamma(1 + c) / (r + S)^(1 + c),

and the evidence of everything below edge t follows exactly, whatever the number of segments, from
the bottom upwards (Barry & Hartigan 1992, Ann. Statist. 20; Fearnhead 2006, Stat. Comput. 16):

    Q_J = 1,   Q_t = sum over u > t of P(from e_t to e_u) g(e_u - e_t, S_tu) Q_u.

The tail is the first segment. Its end is uniform in log i over the edges; that there is no body at
all weighs as much as one octave.

The edges lie at fixed counts from the top, apart from the last ones: one more eigenvalue at the
bottom changes nothing at the top, so layers of nearly equal sizes are comparable, and alpha of
random matrices is a smooth function of their shape. All terms depend on ratios of eigenvalues only,
and lambda -> lambda^p multiplies every E by p: eigenvalues and singular values agree.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from specdiag.htsr.statistics import median
from specdiag.htsr.tail.power_law import TIE, Array

MIN_SPACINGS = 15  # a shorter tail cannot be distinguished from the last points of a body
PER_OCTAVE = 6
PER_OCTAVE_BOTTOM = 3  # the last edges are geometric in m - i, too: a spectrum may end abruptly
CHANGES = (0.5, 1.0)  # of the hazard, per octave
RATES = (0.25, 1.0)  # of the prior of the hazard below the tail, in units of s
NO_BODY = 1.0  # octaves


class Layout(NamedTuple):
    """The parts of the model that depend only on the number of spacings."""

    ends: NDArray[np.int64]  # e_0 ... e_J
    length: NDArray[np.int64]  # [t, u - 1]: spacings from e_t to e_u, 0 if e_u <= e_t
    passage: Array  # [L, t, u - 1]: P(from e_t to e_u), 0 if e_u <= e_t
    shared: Array  # [t, u - 1]: log Gamma(1 + spacings from e_t to e_u), -inf if e_u <= e_t
    log_prior: Array  # of every end of the tail
    log_gamma: Array  # [i]: log Gamma(1 + i), i = 0 ... m + 1


def spacings(logs: Array) -> Array:
    """Return the normalised log-spacings E_i of descending log-eigenvalues."""
    return np.arange(1, len(logs)) * -np.diff(logs)


def scale(e: Array) -> float:
    """Return s, by which priors are scaled: the rate of exponential spacings, from their median."""
    return median(e[e > TIE]) / math.log(2)


def tail_ends(e: Array) -> tuple[NDArray[np.int64], Array]:
    """Return the possible numbers of spacings in the tail, and the log weight of each.

    Parameters
    ----------
    e : ndarray of shape (n_spacings,)
        Normalised log-spacings, from the top; at least 15, and not all of them ties.

    Returns
    -------
    ends : ndarray of int, shape (n_edges,)
        e_0 ... e_J.
    log_weight : ndarray of shape (n_edges,)
        Log prior of each end plus the log evidence Q of everything below it. The evidence of the
        tail itself is not included: `posterior` and `kind` have different models of it.
    """
    ends, length, passage, shared, log_prior, _ = layout(len(e))
    if len(ends) == 1:
        return ends, log_prior
    total = np.concatenate([[0.0], np.cumsum(e)])[ends]
    below = np.maximum(total[1:] - total[:-1, None], 0)  # negative below the diagonal
    s = scale(e)
    log_g = [math.log(r * s / len(RATES)) - (1 + length) * np.log(r * s + below) for r in RATES]
    # Relative to one segment for each bin, whose evidence is known, the numbers fit into doubles;
    bins = functools.reduce(np.logaddexp, [np.diagonal(g) for g in log_g])
    base = np.append(np.cumsum((bins + np.diagonal(shared))[::-1])[::-1], 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        q = _evidence(log_g, shared, base, passage)
    if not np.isfinite(q).all():  # but not if hundreds of eigenvalues are tied: then the best path.
        segment = functools.reduce(np.logaddexp, log_g) + shared
        for t in reversed(range(len(bins))):
            base[t] = (segment[t, t:] + base[t + 1 :]).max()
        q = _evidence(log_g, shared, base, passage)
    return ends, log_prior + np.log(q) + base


def _evidence(log_g: list[Array], shared: Array, base: Array, passage: Array) -> Array:
    """Return Q_t / exp(base_t), averaged over the rates of change."""
    offset = shared - base[:-1, None] + base[1:]
    gain = np.exp(log_g[0] + offset)
    for g in log_g[1:]:
        gain += np.exp(g + offset)
    size = len(base)
    system = np.zeros((len(CHANGES), size, size))
    system[:] = np.eye(size)
    system[:, :-1, 1:] -= passage * gain
    bottom = np.zeros((size, 1))
    bottom[-1] = 1
    # Triangular: the elimination has nothing to do, and the back substitution is the recursion.
    q = np.linalg.solve(system, np.broadcast_to(bottom, (len(CHANGES), *bottom.shape)))[..., 0]
    mean: Array = q.mean(axis=0)
    return mean


@functools.lru_cache(maxsize=16)
def layout(n_spacings: int) -> Layout:
    """Return the edges for a number of spacings of at least 15, and what follows from them."""
    ends = [MIN_SPACINGS]
    while ends[-1] < n_spacings:
        left = n_spacings - ends[-1]
        width = round(ends[-1] * (2 ** (1 / PER_OCTAVE) - 1))
        width = max(3, min(width, round(left * (1 - 2 ** (-1 / PER_OCTAVE_BOTTOM)))))
        ends.append(ends[-1] + width if left - width >= 4 else n_spacings)
    place = np.log2(ends)
    octaves = np.diff(place)
    e = np.array(ends)
    length = np.maximum(e[1:] - e[:-1, None], 0)
    passage = np.zeros((len(CHANGES), *length.shape))
    for rate, p in zip(CHANGES, passage, strict=True):
        change = -np.expm1(-rate * octaves)  # in the last bin of the segment;
        change[-1:] = 1  # the bottom ends every segment
        go_on = np.exp(np.minimum(rate * (place[:-1, None] - place[:-1]), 0))
        p[:] = np.where(length, go_on * change, 0)
    log_gamma = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n_spacings + 2)))])
    log_prior = np.log(np.append(octaves, NO_BODY))
    shared = np.where(length > 0, log_gamma[length], -math.inf)
    return Layout(e, length, passage, shared, log_prior, log_gamma)
