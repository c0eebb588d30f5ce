"""Update of a matrix -> its rank above the rounding of both stored matrices, in a word.

An update W' - W has the rounding of both: every element is off by up to half a unit in the last
place of each. Errors of independent signs have a spectral norm of at most about the largest row
norm plus the largest column norm of their standard deviations (Bandeira & van Handel 2016, Annals
of Probability 44(4)); a unit in the last place over sqrt(12) is the standard deviation of an error
that is uniform in it.
"""

import math
from typing import NamedTuple

import numpy as np

from specdiag.htsr import esd
from specdiag.htsr.tail.power_law import Array

KINDS = {
    "none": "the same numbers in both",
    "rounding": "the numbers differ, but no direction is above their rounding",
    "low rank": "of the given rank exactly: the rest is rounding",
    "full rank": "at least 90 % of all directions are above rounding",
    "unresolved": "at least of the given rank: the rest is below rounding, or lost in it",
}
GAP = 2.0  # an exact rank ends in a gap: the next eigenvalue is at most half of the last
WIDE_GAP = 100.0
LEFT = 0.9  # share of the expected rounding that is left, unless small updates were rounded away
MORE = 1.2  # the same, from above: more is an update that rounding hides
RESOLVED = 0.9  # share of the update in an exact rank
FULL = 0.9  # share of the directions


class Rounding(NamedTuple):
    """What rounding adds to an update.

    Attributes
    ----------
    floor : float
        Value that an eigenvalue of the update must exceed to be more than rounding.
    energy : tuple of float
        Expected sum of the eigenvalues that the rounding of the second matrix adds, and of both.
    """

    floor: float
    energy: tuple[float, float]


def rounding(A: Array, B: Array, dtypes: tuple[str, str]) -> Rounding:
    """Return what the rounding of two stored matrices adds to the eigenvalues of B - A.

    Parameters
    ----------
    A, B : ndarray of shape (n, m)
        The values, in float64.
    dtypes : tuple of str
        The dtypes that they are stored in.
    """
    first, second = (_variance(W, dtype) for W, dtype in zip((A, B), dtypes, strict=True))
    both = first + second
    norm = math.sqrt(both.sum(axis=0).max()) + math.sqrt(both.sum(axis=1).max())
    N = max(A.shape)
    energy = float(second.sum()) / N, float(both.sum()) / N
    return Rounding(floor=norm**2 / N, energy=energy)


def _variance(W: Array, dtype: str) -> Array:
    """Return the variance of the rounding error of each element."""
    eps, tiny = esd.precision(dtype)
    unit = np.maximum(np.ldexp(eps, np.frexp(W)[1] - 1), tiny)  # in the last place
    return unit**2 / 12


def kind_of(spectrum: Array, shape: tuple[int, ...], added: Rounding) -> tuple[str, int]:
    """Return the kind of an update, one of `KINDS`, and how many eigenvalues are above rounding.

    An exact low rank has most of the update, ends in a gap, and leaves as much rounding as was to
    be expected. Where less is left, small elements of the update were rounded away, and its rank
    with them; where more is left, a part of it is below the floor.
    """
    floor = max(added.floor, esd.rank_gate(spectrum, shape, np.float64))
    rank = int(np.count_nonzero(spectrum > floor))
    if not rank:
        return ("rounding" if spectrum[0] > 0 else "none"), 0
    if rank >= FULL * len(spectrum):
        return "full rank", rank
    last, rest = float(spectrum[rank - 1]), spectrum[rank:]
    if last >= WIDE_GAP * rest[0]:
        return "low rank", rank
    is_rounding = LEFT * added.energy[0] <= rest.sum() <= MORE * added.energy[1]
    is_most = spectrum[:rank].sum() >= RESOLVED * spectrum.sum()
    return ("low rank" if last >= GAP * rest[0] and is_rounding and is_most else "unresolved"), rank
