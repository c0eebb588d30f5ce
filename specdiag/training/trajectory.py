"""Readings of a training -> the history of every matrix: where it is, and when it collapsed."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from specdiag.htsr.layers import Layer
from specdiag.htsr.selection import MIN_EIGENVALUES
from specdiag.training.collapse import COLLAPSED, NOT_FINITE, how_collapsed
from specdiag.training.readings import Reading

_NO_NUMBERS = "NaN or infinite"  # what the reason of a layer with such values ends in


class Event(NamedTuple):
    """A change of a matrix: from `step` on it has collapsed, is not finite, or is back."""

    step: int
    word: str  # collapsed, not finite or back
    how: str


@dataclass(frozen=True, kw_only=True)
class History:
    """The readings of one matrix in the order of the steps.

    Attributes
    ----------
    name : str
    readings : tuple of Reading
    events : tuple of Event
    state : str
        At the last reading: ``'collapsed'`` since the first one; ``'not finite'``; ``'degenerate'``
        if the rank was below `min_eigenvalues` at the first reading already, and is; or ``'ok'``.
    """

    name: str
    readings: tuple[Reading, ...]
    events: tuple[Event, ...] = ()
    state: str = "ok"

    @property
    def first(self) -> Reading:
        """The first reading."""
        return self.readings[0]

    @property
    def last(self) -> Reading:
        """The last reading."""
        return self.readings[-1]

    @property
    def spectra(self) -> list[Reading]:
        """The readings of the spectrum, or all if there are none: some are of the norm alone.

        A monitor with a budget reads every norm each time, and the spectra in turn.
        """
        found = [r for r in self.readings if math.isnan(r.norm) or not _is_norm_alone(r)]
        return found or list(self.readings)

    @property
    def is_bad(self) -> bool:
        """Whether it has collapsed or is not finite at the last reading."""
        return self.state in ("collapsed", "not finite")

    @property
    def moved(self) -> int:
        """1 if alpha rose from the first reading of it to the last, -1 if it fell, or else 0.

        It rose or fell if the two 95 % intervals do not overlap.
        """
        first, last = self.spectra[0], self.spectra[-1]
        return int(last.alpha_low > first.alpha_high) - int(last.alpha_high < first.alpha_low)


def _is_norm_alone(reading: Reading) -> bool:
    return all(math.isnan(x) for x in (reading.rank, reading.alpha, reading.stable_rank))


class Trajectory(NamedTuple):
    """The histories of the matrices of a training; `unit` is what its steps count."""

    histories: list[History]
    unit: str = "step"

    @property
    def steps(self) -> list[int]:
        """All steps of the readings, in order."""
        return sorted({r.step for history in self.histories for r in history.readings})

    @property
    def readings(self) -> list[Reading]:
        """All readings, in the order of the steps."""
        found = [reading for history in self.histories for reading in history.readings]
        return sorted(found, key=lambda reading: reading.step)


def trajectory(
    readings: Iterable[Reading],
    unit: str = "step",
    *,
    share: float = COLLAPSED,
    min_eigenvalues: int = MIN_EIGENVALUES,
) -> Trajectory:
    """Return the history of each matrix, in the order in which the matrices first occur.

    Of several readings of one matrix and step the last counts. `share` and `min_eigenvalues` are
    those of `specdiag.training.collapse.how_collapsed`.
    """
    by_name: dict[str, dict[int, Reading]] = {}
    for reading in readings:
        by_name.setdefault(reading.name, {})[reading.step] = reading
    found = [
        _history(name, [mine[step] for step in sorted(mine)], share, min_eigenvalues)
        for name, mine in by_name.items()
    ]
    return Trajectory(found, unit)


def _history(name: str, readings: Sequence[Reading], share: float, min_eigenvalues: int) -> History:
    first = next((r for r in readings if math.isfinite(r.norm)), readings[0])
    ranked = [r for r in readings if math.isfinite(r.rank)]
    word, events = "ok", []
    for reading in readings:
        if word == "collapsed" and ranked and _is_norm_alone(reading):
            continue  # it may have collapsed by its rank
        now, how = _state(first, ranked[:1], reading, share, min_eigenvalues)
        if now != word:
            events.append(Event(reading.step, "back" if now == "ok" else now, how))
            word = now
    if word == "ok" and ranked and max(ranked[0].rank, ranked[-1].rank) < min_eigenvalues:
        word = "degenerate"
    return History(name=name, readings=tuple(readings), events=tuple(events), state=word)


def _state(
    first: Reading, ranked: Sequence[Reading], now: Reading, share: float, min_eigenvalues: int
) -> tuple[str, str]:
    if math.isnan(now.norm):
        return "not finite", NOT_FINITE
    if how := how_collapsed(first, now, share, min_eigenvalues, ranked=next(iter(ranked), None)):
        return "collapsed", how
    rank = "" if math.isnan(now.rank) else f", its rank {now.rank:g}"
    return "ok", f"its norm is {now.norm:.3g}{rank}"


def reading_of(step: int, layer: Layer) -> Reading | None:
    """Return the reading of a measured layer after a step, or None if it was not measured.

    A layer that failed has a reading only if its values are not finite: else nothing is known.
    """
    if layer.status == "skipped":
        return None
    if layer.status == "failed":
        is_known = layer.reason.endswith(_NO_NUMBERS)
        return Reading(step=step, name=layer.name) if is_known else None
    low, high = layer.posterior.interval
    return Reading(
        step=step,
        name=layer.name,
        norm=layer.frobenius_norm,
        rank=layer.rank,
        alpha=layer.alpha,
        alpha_low=low,
        alpha_high=high,
        stable_rank=layer.stable_rank,
    )


def medians(found: Trajectory) -> dict[int, tuple[float, int]]:
    """Return by step the median of the last alphas until then, and of how many matrices it is.

    These are the matrices that had an alpha whenever their spectrum was read: a median over others
    would move when a matrix collapses, or when another one is read for the first time. It is NaN
    until all of them have been read.
    """
    whole = [
        {r.step: r.alpha for r in history.spectra}
        for history in found.histories
        if all(math.isfinite(r.alpha) for r in history.spectra)
    ]
    middle, now = {}, [math.nan] * len(whole)
    for step in found.steps:
        now = [alphas.get(step, alpha) for alphas, alpha in zip(whole, now, strict=True)]
        is_known = bool(now) and all(map(math.isfinite, now))
        middle[step] = (median(now) if is_known else math.nan, len(whole))
    return middle
