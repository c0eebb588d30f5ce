"""Published claims -> verdicts: a claim is a function of figures, and an interval over seeds decides it.

The same function is applied to the published figures and, seed by seed, to ours, so that both are the same
quantity. Everything is Student's t over training seeds, paired by seed because the function is taken within each:
the seed moves base, finetunes and controls together.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specdiag.htsr.statistics import LEVEL, mean_interval

if TYPE_CHECKING:
    from specdiag.lock.entry import Scale

Array = NDArray[np.float64]
Get = Callable[[str, str], float]  # (entry, quantity) -> figure, NaN where there is none
Verdict = Literal[
    "reproduced", "direction only", "not reproduced", "undecided", "cannot be tested here"
]

MIN_SEEDS = 3  # two have an interval of nine standard deviations to either side
LEAST_RATIO = 1e-12
NUMBER_AT_DESK = "a number of the published network and recordings"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What was published, as something that figures can refute.

    Attributes
    ----------
    text : str
        One sentence.
    value : callable
        Of `get(entry, quantity)`; returns a number, or several of which all must hold.
    holds : (float, float)
        The claim is true of a value strictly between these. By default of any above 0: a direction.
    tolerance : float, optional
        The claim is the published number itself, and true within so much of it; `holds` is not used.
    is_null : bool
        That the value is in `holds` is all of the claim: there is no direction and no size beside it.
    is_ratio : bool
        The value is a positive ratio: intervals are symmetric on the log scale.
    labels : tuple of str
        Of the several numbers.
    not_at_desk : str
        Why simulated recordings and small networks cannot say anything of it.
    note : str
        What a careful reader should know.
    """

    text: str
    value: Callable[[Get], float | Sequence[float]]
    holds: tuple[float, float] = (0.0, math.inf)
    tolerance: float | None = None
    is_null: bool = False
    is_ratio: bool = False
    labels: tuple[str, ...] = ()
    not_at_desk: str = ""
    note: str = ""


class Figure(NamedTuple):
    """A value that was measured of one training; infinite where only a lower bound of it is known."""

    scale: "Scale"
    seed: int
    entry: str
    quantity: str
    value: float
    is_published: bool  # measured on the published file itself


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What became of a claim: the published values, ours, and the verdict.

    `published`, `ours` (the mean over seeds) and the ends of its 95 % `interval` have a value for each of the
    claim's numbers, NaN for none.
    """

    claim: Claim
    published: Array
    ours: Array
    interval: tuple[Array, Array]
    n_seeds: int
    verdict: Verdict
    why: str


def needed(claims: Iterable[Claim]) -> list[tuple[str, str]]:
    """Return the (entry, quantity) pairs that the claims ask for, in order of appearance."""
    asked: dict[tuple[str, str], None] = {}

    def get(entry: str, quantity: str) -> float:
        asked[entry, quantity] = None
        return math.nan

    for claim in claims:
        claim.value(get)
    return list(asked)


def decide(values: Array, low: Array, high: Array) -> Literal["holds", "fails", "undecided"]:
    """Return whether values lie between `low` and `high`, as far as their scatter over seeds allows to say.

    `holds` when the 95 % intervals of all columns lie between, `fails` when that of one lies outside. All of
    k columns must hold, which needs no correction (intersection-union test; Berger 1982, Technometrics 24);
    one that fails is enough, so there the intervals are at 1 - 0.05 / k (Bonferroni). Either is therefore
    false in at most 2.5 % where the truth is at the border, as it is when there is no effect.

    Parameters
    ----------
    values : ndarray of shape (n_seeds, k)
    low, high : ndarray of shape (k,)
    """
    lower, upper = mean_interval(values)
    if np.all((lower > low) & (upper < high)):
        return "holds"
    lower, upper = mean_interval(values, 1 - (1 - LEVEL) / values.shape[1])
    return "fails" if np.any((upper <= low) | (lower >= high)) else "undecided"


def judge(
    claim: Claim,
    scale: "Scale",
    reported: Mapping[tuple[str, str], float],
    figures: Iterable[Figure],
) -> Finding:
    """Return the finding on a claim.

    Parameters
    ----------
    claim : Claim
    scale : {'desk', 'paper'}
    reported : mapping of (entry, quantity) to float
        The published figures.
    figures : iterable of Figure
        Ours. Those of the published files themselves need no seeds: what they say is a fact of them. They are no
        replicates of it, and left out where there are others of the same entry.
    """
    asked = needed([claim])
    there = _ours([f for f in figures if (f.entry, f.quantity) in asked])
    used = [f for f in there if math.isfinite(f.value)]
    n_bounds = len({f.seed for f in there if f.value == math.inf})
    published = _values(claim, reported)
    values = _by_seed(claim, used, len(published))
    is_exact = len(values) == 1 and all(f.is_published for f in used)
    verdict, why = _verdict(claim, scale, published, values, is_exact=is_exact)
    if verdict == "cannot be tested here" and not why:
        why = _lacking(asked, there, len(values))
    if n_bounds:
        if verdict in ("reproduced", "direction only"):  # of the seeds whose figures are the best
            verdict, why = "undecided", ""
        bounds = f"{n_bounds} seed{'s' * (n_bounds > 1)} left out: only a lower bound is known"
        why = "; ".join(filter(None, (why, bounds)))
    low, high = claim.holds
    if claim.tolerance is None and np.any((published <= low) | (published >= high)):
        why = "; ".join(filter(None, (why, "the published figures themselves do not show it")))
    mean = values.mean(axis=0) if len(values) else np.full(len(published), math.nan)
    ours, lower, upper = (
        np.exp(x) if claim.is_ratio else x for x in (mean, *mean_interval(values))
    )
    return Finding(
        claim=claim,
        published=published,
        ours=ours,
        interval=(lower, upper),
        n_seeds=len(values),
        verdict=verdict,
        why=why,
    )


def _values(claim: Claim, figures: Mapping[tuple[str, str], float]) -> Array:
    found = claim.value(lambda entry, quantity: figures.get((entry, quantity), math.nan))
    return np.atleast_1d(np.asarray(found, dtype=np.float64))


def _ours(figures: Sequence[Figure]) -> list[Figure]:
    own = {(f.entry, f.quantity) for f in figures if not f.is_published}
    return [f for f in figures if not (f.is_published and (f.entry, f.quantity) in own)]


def _log(ratios: Array) -> Array:
    """Return logarithms; a ratio that is not positive counts as the least one."""
    return np.asarray(np.log(np.where(ratios <= 0, LEAST_RATIO, ratios)))


def _by_seed(claim: Claim, figures: Sequence[Figure], k: int) -> Array:
    """Return the claim's k values, of ratios the logarithms, a row for each seed that has all of them."""
    rows = [
        _values(claim, {(f.entry, f.quantity): f.value for f in figures if f.seed == seed})
        for seed in sorted({f.seed for f in figures})
    ]
    values = np.array([row for row in rows if np.isfinite(row).all()]).reshape(-1, k)
    return _log(values) if claim.is_ratio else values


def _verdict(
    claim: Claim, scale: "Scale", published: Array, values: Array, *, is_exact: bool
) -> tuple[Verdict, str]:
    """Return the verdict and what is to be said of it; too few seeds are told by whoever knows why."""
    if scale == "desk" and (claim.not_at_desk or claim.tolerance is not None):
        return "cannot be tested here", claim.not_at_desk or NUMBER_AT_DESK
    if len(values) < MIN_SEEDS and not is_exact:
        return "cannot be tested here", ""
    scaled = _log(published) if claim.is_ratio else published
    if claim.tolerance is None:
        low, high = (np.log(claim.holds) if claim.is_ratio else np.array(claim.holds))[:, None]
    elif np.isfinite(published).all():
        low, high = published - claim.tolerance, published + claim.tolerance
    else:
        return "cannot be tested here", "no published figure"
    if is_exact:
        values = np.repeat(values, MIN_SEEDS, axis=0)  # an interval of no width
    outcome = decide(values, low, high)
    if outcome == "fails":
        return "not reproduced", ""
    if outcome == "undecided":
        return "undecided", _resolution(claim, values)
    if claim.tolerance is not None or claim.is_null:
        return "reproduced", ""
    lower, upper = mean_interval(values)
    if scale == "desk" or is_exact or np.isnan(scaled).any():
        return "direction only", ""
    is_same = np.all((lower <= scaled) & (scaled <= upper))
    return ("reproduced", "") if is_same else ("direction only", "its size is another")


def _resolution(claim: Claim, values: Array) -> str:
    """Return how large an effect would have to be to be told: half of the interval, the widest of several."""
    half = max((upper - lower) / 2 for lower, upper in zip(*mean_interval(values), strict=True))
    size = f"a factor of {np.exp(half):.2g}" if claim.is_ratio else f"{half:.2g}"
    return f"{len(values)} seeds that scatter so tell no less than {size}"


def _lacking(asked: Sequence[tuple[str, str]], used: Sequence[Figure], n_seeds: int) -> str:
    """Return why there are too few seeds."""
    there = {(f.entry, f.quantity) for f in used}
    lost = [f"{quantity} of {entry}" for entry, quantity in asked if (entry, quantity) not in there]
    if not lost:
        return f"{n_seeds} of {MIN_SEEDS} seeds"
    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    return f"no {lost[0]}{more}"
