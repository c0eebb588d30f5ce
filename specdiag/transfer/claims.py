"""Published claims -> outcomes: a claim is a function of values, decided over training seeds.

The same function is applied to the published values and, seed by seed, to the measured ones, so
that both are the same quantity. Intervals are Student's t over training seeds. Differences are
paired by seed, because the function is applied within a seed: its base, finetunes and controls
change together.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from specdiag.htsr.statistics import LEVEL, Array, mean_interval
from specdiag.lock.entry import Scale
from specdiag.wording import counted, some

Key = tuple[str, str]  # (entry, quantity)
Values = Mapping[Key, float]
Get = Callable[[str, str], float]  # (entry, quantity) -> value, NaN where it is missing
Outcome = Literal[
    "reproduced", "direction only", "not reproduced", "undecided", "cannot be tested here"
]

MIN_SEEDS = 3  # the interval of two seeds reaches nine standard deviations to either side
LEAST_RATIO = 1e-12
NUMBER_AT_DESK = "a number of the published network and recordings"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A published statement, in a form that measured values can refute.

    Attributes
    ----------
    text : str
        One sentence.
    value : callable
        Takes `get(entry, quantity)` and returns a number, or several numbers that must all hold.
    holds : (float, float)
        The claim is true if its value lies strictly between these. The default, above 0, is a
        direction.
    tolerance : float, optional
        The claim is the published number itself: it is true if the measured number differs by less
        than this. `holds` is then not used.
    is_null : bool
        The claim is only that the value lies in `holds`, such as "no change": it has no direction
        and no size that could be compared.
    is_ratio : bool
        The value is a positive ratio: its intervals are symmetric on the log scale.
    labels : tuple of str
        Names of the numbers, if there are several.
    not_at_desk : str
        Why simulated recordings and small networks cannot test the claim; '' if they can.
    note : str
        A remark for a careful reader.
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

    def __post_init__(self) -> None:
        """Raise ValueError if a field has an invalid value."""
        given = (self.text, self.not_at_desk, self.note, *_listed(self.labels))
        ends = _listed(self.holds)
        for name, is_valid, expected in (
            ("labels", isinstance(self.labels, list | tuple), "a tuple of texts"),
            ("text, not_at_desk, note or labels", all(isinstance(s, str) for s in given), "text"),
            ("value", callable(self.value), "a function"),
            ("holds", len(ends) == 2 and all(map(_is_number, ends)), "two numbers"),
            ("tolerance", self.tolerance is None or _is_number(self.tolerance), "a number"),
        ):
            if not is_valid:
                raise ValueError(f"claim {str(self.text)!r}: invalid {name}; expected {expected}")


def _listed(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, list | tuple) else ()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The values that claims ask for, by training seed; infinite where only a lower bound is known.

    `fetched` holds the values of the published files themselves. They need no seeds, because they
    are facts about these files; they are not used for an entry that was also trained.
    """

    scale: Scale
    trained: Mapping[int, Values] = field(default_factory=dict)
    fetched: Mapping[int, Values] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one claim: the published values, the measured values and the outcome.

    `published`, `ours` (the mean over seeds) and the ends of its 95 % `interval` have one value for
    each number of the claim, NaN where it is unknown. `why` explains the outcome where it needs it.
    """

    claim: Claim
    published: Array
    ours: Array
    interval: tuple[Array, Array]
    n_seeds: int
    outcome: Outcome
    why: str


def needed(claims: Iterable[Claim]) -> list[Key]:
    """Return the (entry, quantity) pairs that the claims ask for, in the order of the claims.

    If the function of a claim fails, RuntimeError is raised, in one line that names the claim.
    """
    asked: dict[Key, None] = {}

    def get(entry: str, quantity: str) -> float:
        asked[entry, quantity] = None
        return math.nan

    for claim in claims:
        _numbers(claim, get)
    return list(asked)


def decide(values: Array, low: Array, high: Array) -> Literal["holds", "fails", "undecided"]:
    """Return whether the means over seeds lie between `low` and `high`, given their scatter.

    The result is `holds` if the 95 % intervals of all k columns lie between, and `fails` if that of
    one column lies outside. That all columns hold needs no correction (intersection-union test;
    Berger 1982, Technometrics 24). One column is enough to fail, so these intervals are at 1 - 0.05
    / k (Bonferroni). If the truth lies on the border, as it does without any effect, each result is
    therefore false in at most 2.5 %.

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


def decide_claim(claim: Claim, published: Values, measured: Measured) -> Finding:
    """Return the finding on one claim."""
    asked = needed([claim])
    seeds = _by_seed(asked, measured)
    n_bounds = sum(math.inf in values.values() for values in seeds.values())
    theirs = _values(claim, published)
    ours = _rows(claim, seeds.values(), len(theirs))
    is_trained = any(key in values for values in measured.trained.values() for key in asked)
    is_exact = len(ours) == 1 and not is_trained
    outcome, why = _outcome(claim, measured.scale, theirs, ours, is_exact=is_exact)
    if outcome == "cannot be tested here" and not why:
        why = _missing(asked, seeds.values(), len(ours))
    reasons = [why]
    if n_bounds:
        if outcome in ("reproduced", "direction only"):  # the seeds left out may well differ
            outcome, reasons = "undecided", []
        reasons.append(f"{counted(n_bounds, 'seed')} left out: only a lower bound is known")
    low, high = claim.holds
    if claim.tolerance is None and np.any((theirs <= low) | (theirs >= high)):
        reasons.append("the published numbers themselves do not show it")
    mean = ours.mean(axis=0) if len(ours) else np.full(len(theirs), math.nan)
    numbers = (mean, *mean_interval(ours))
    mean, lower, upper = (np.exp(x) for x in numbers) if claim.is_ratio else numbers
    return Finding(
        claim=claim,
        published=theirs,
        ours=mean,
        interval=(lower, upper),
        n_seeds=len(ours),
        outcome=outcome,
        why="; ".join(filter(None, reasons)),
    )


def _by_seed(asked: Sequence[Key], measured: Measured) -> dict[int, dict[Key, float]]:
    """Return the values asked for by seed: trained ones, else those of fetched checkpoints."""
    trained = {key for values in measured.trained.values() for key in values}
    seeds: dict[int, dict[Key, float]] = {}
    for source, keys in ((measured.trained, {*asked}), (measured.fetched, {*asked} - trained)):
        for seed, values in source.items():
            chosen = {key: value for key, value in values.items() if key in keys}
            seeds.setdefault(seed, {}).update(chosen)
    return dict(sorted(seeds.items()))


def _rows(claim: Claim, seeds: Iterable[Values], k: int) -> Array:
    """Return the k numbers of a claim, a row for each complete seed; of ratios the logarithms."""
    finite = ({key: x for key, x in values.items() if math.isfinite(x)} for values in seeds)
    rows = [row for values in finite if np.isfinite(row := _values(claim, values)).all()]
    numbers = np.array(rows).reshape(-1, k)
    return _log(numbers) if claim.is_ratio else numbers


def _values(claim: Claim, values: Values) -> Array:
    return _numbers(claim, lambda entry, quantity: values.get((entry, quantity), math.nan))


def _numbers(claim: Claim, get: Get) -> Array:
    """Return the numbers of a claim; an error of its function raises RuntimeError in one line."""
    where = f"claim {claim.text!r}"
    try:
        value = claim.value(get)
        numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (Exception, SystemExit) as error:  # a user's program
        text = f"{where}: {type(error).__name__}: {error}"
        raise RuntimeError(text).with_traceback(error.__traceback__) from error
    if value is None or numbers.ndim > 1 or not numbers.size:
        raise RuntimeError(f"{where}: its value is {value!r}; expected one or more numbers")
    return numbers


def _log(ratios: Array) -> Array:
    """Return logarithms; a ratio that is not positive counts as the least one."""
    return np.asarray(np.log(np.where(ratios <= 0, LEAST_RATIO, ratios)))


def _outcome(
    claim: Claim, scale: Scale, published: Array, ours: Array, *, is_exact: bool
) -> tuple[Outcome, str]:
    """Return the outcome and a remark; `decide_claim` adds the remark when seeds are missing."""
    if scale == "desk" and (claim.not_at_desk or claim.tolerance is not None):
        return "cannot be tested here", claim.not_at_desk or NUMBER_AT_DESK
    if len(ours) < MIN_SEEDS and not is_exact:
        return "cannot be tested here", ""
    scaled = _log(published) if claim.is_ratio else published
    if claim.tolerance is None:
        low, high = (np.log(claim.holds) if claim.is_ratio else np.array(claim.holds))[:, None]
    elif np.isfinite(published).all():
        low, high = published - claim.tolerance, published + claim.tolerance
    else:
        return "cannot be tested here", "no published number"
    if is_exact:
        ours = np.repeat(ours, MIN_SEEDS, axis=0)  # an interval of no width
    decision = decide(ours, low, high)
    if decision == "fails":
        return "not reproduced", ""
    if decision == "undecided":
        return "undecided", _resolution(claim, ours)
    if claim.tolerance is not None or claim.is_null:
        return "reproduced", ""
    if scale == "desk" or is_exact or np.isnan(scaled).any():
        return "direction only", ""
    lower, upper = mean_interval(ours)
    is_same = np.all((lower <= scaled) & (scaled <= upper))
    return ("reproduced", "") if is_same else ("direction only", "the size differs")


def _resolution(claim: Claim, ours: Array) -> str:
    """Return the smallest effect that these seeds can show: half of the widest interval."""
    half = max((upper - lower) / 2 for lower, upper in zip(*mean_interval(ours), strict=True))
    size = f"a factor of {np.exp(half):.2g}" if claim.is_ratio else f"{half:.2g}"
    return f"{len(ours)} seeds with this scatter can only show effects of {size} or more"


def _missing(asked: Sequence[Key], seeds: Iterable[Values], n_seeds: int) -> str:
    """Return why there are too few seeds."""
    known = {key for values in seeds for key in values}
    lost = [f"{quantity} of {entry}" for entry, quantity in asked if (entry, quantity) not in known]
    if lost:
        return f"no {some(lost, most=1)}"
    return f"{n_seeds} of {MIN_SEEDS} seeds" if n_seeds else "no seed has all its values"
