"""Histories of the matrices of a training -> lines for people, JSON for machines."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from specdiag.show.table import render
from specdiag.training.readings import Reading
from specdiag.training.trajectory import History, Trajectory, medians
from specdiag.wording import counted, number, printable, without_nan

_STYLES: dict[str, dict[str, Any]] = {
    "collapsed": {"fg": "red"},
    "not finite": {"fg": "red"},
    "degenerate": {"fg": "yellow"},
}
_DROPPED = (({"stable rank"}, 24), ({"rank"}, 20), ({"95 % interval"}, 12))
_MOST = 20  # alarms that are printed; the table and --json have all


def as_json(found: Trajectory, checkpoints: Mapping[int, Any], notes: Sequence[str]) -> str:
    """Return the readings of all matrices as one JSON object; NaN becomes null.

    `checkpoints` has the path of the checkpoint of each step that was measured, for others null.
    """
    middle = medians(found)
    steps = [
        {
            "step": step,
            "path": str(checkpoints[step]) if step in checkpoints else None,
            "median_alpha": middle[step][0],
            "n_in_median": middle[step][1],
        }
        for step in found.steps
    ]
    matrices = [
        {
            "name": history.name,
            "state": history.state,
            "alpha_moved": history.moved,
            "events": [event._asdict() for event in history.events],
            "readings": [_row(reading) for reading in history.readings],
        }
        for history in found.histories
    ]
    content = {"unit": found.unit, "steps": steps, "matrices": matrices, "notes": list(notes)}
    return json.dumps(without_nan(content), indent=2, allow_nan=False)


def _row(reading: Reading) -> dict[str, Any]:
    names = ("norm", "rank", "stable_rank", "alpha", "alpha_low", "alpha_high")
    return {"step": reading.step} | {name: getattr(reading, name) for name in names}


def as_table(found: Trajectory, width: int | None = None) -> list[str]:
    """Return the lines of the table: a header, and a row for each matrix, its first and last."""
    rows = cells_of(found)
    styles = [_STYLES.get(history.state, {}) for history in found.histories]
    return render([history.name for history in found.histories], rows, styles, _DROPPED, width)


def cells_of(found: Trajectory) -> list[dict[str, str]]:
    """Return the cells of each matrix by column, its name left out; no column is empty."""
    rows = [_cells(history, found.unit) for history in found.histories]
    empty = {column for column in rows[0] if all(row[column] == "-" for row in rows)}
    return [{k: text for k, text in row.items() if k not in empty} for row in rows]


def _cells(history: History, unit: str) -> dict[str, str]:
    first, last = history.spectra[0], history.spectra[-1]
    norm = history.last.norm
    ratio = norm / history.first.norm if history.first.norm else math.nan
    return {
        "alpha": _both(first.alpha, last.alpha, ".2f"),
        "95 % interval": f"{last.alpha_low:.2f} - {last.alpha_high:.2f}"
        if math.isfinite(last.alpha_low)
        else "-",
        "norm": number(norm, ".3g"),
        "of the first": number(ratio, ".3g"),
        "rank": _both(first.rank, last.rank, ".0f"),
        "stable rank": _both(first.stable_rank, last.stable_rank, ".1f"),
        "state": state(history, unit),
    }


def _both(first: float, last: float, form: str) -> str:
    one, two = number(first, form), number(last, form)
    return one if one == two else f"{one} -> {two}"


def state(history: History, unit: str) -> str:
    """Return the state of a matrix in words, with the step since when, or how alpha moved."""
    if history.is_bad:
        return f"{history.state} since {unit} {history.events[-1].step:,}"
    if history.state == "degenerate":
        return "degenerate from the start"
    return {1: "alpha rose", -1: "alpha fell", 0: "ok"}[history.moved]


def headline(found: Trajectory) -> str:
    """Return how many matrices were read at how many steps, and which collapsed first."""
    steps, unit = found.steps, found.unit
    at = f"at {unit} {steps[0]:,}"
    if len(steps) > 1:
        at = f"at {counted(len(steps), unit)} from {steps[0]:,} to {steps[-1]:,}"
    text = f"{counted(len(found.histories), 'matrix', 'matrices')} {at}: "
    bad = [history for history in found.histories if history.is_bad]
    if not bad:
        return text + "none has collapsed"
    n = {
        word: sum(h.state == word for h in found.histories) for word in ("collapsed", "not finite")
    }
    words = [f"{count} {word}" for word, count in n.items() if count]
    first = min(bad, key=lambda history: history.events[-1].step)
    since = f"{first.events[-1].step:,} ({printable(first.name)})"
    return f"{text}{' and '.join(words)}, the first since {unit} {since}"


def summary_lines(found: Trajectory) -> list[str]:
    """Return the lines below the table: medians of alpha, and what moved."""
    lines, unit = [], found.unit
    middle = [
        (step, alpha, n) for step, (alpha, n) in medians(found).items() if math.isfinite(alpha)
    ]
    if len(middle) > 1:
        (first, alpha, n), (last, now, _) = middle[0], middle[-1]
        lines.append(
            f"median alpha {alpha:.2f} at {unit} {first:,}, {now:.2f} at {unit} {last:,} "
            f"({counted(n, 'matrix', 'matrices')} with an alpha throughout)"
        )
    with_alpha = [
        history
        for history in found.histories
        if math.isfinite(history.spectra[0].alpha) and math.isfinite(history.spectra[-1].alpha)
    ]
    for sign, word in ((-1, "fell"), (1, "rose")):
        if n_moved := sum(h.moved == sign for h in with_alpha):
            of = f"{n_moved} of {counted(len(with_alpha), 'matrix', 'matrices')}"
            lines.append(f"alpha {word} in {of}: the first and last 95 % interval are apart")
    if n_degenerate := sum(history.state == "degenerate" for history in found.histories):
        of = f"{n_degenerate} of {counted(len(found.histories), 'matrix', 'matrices')}"
        lines.append(f"{of} without an alpha from the start: the rank is too low")
    return lines


def alarms(found: Trajectory, most: int | None = _MOST) -> list[str]:
    """Return a line for each change of a matrix that collapsed, in the order of the steps."""
    unit = found.unit
    events = sorted(
        ((event, history.name) for history in found.histories for event in history.events),
        key=lambda pair: pair[0].step,
    )
    lines = [
        f"{unit} {event.step:,}: {printable(name)} {_VERBS[event.word]}: {event.how}"
        for event, name in events
    ]
    more = len(lines) - most if most is not None else 0
    return [*lines[:most], f"and {counted(more, 'further change')}"] if more > 0 else lines


_VERBS = {"collapsed": "has collapsed", "not finite": "is not finite", "back": "is back"}
