"""Entries, plans and outcomes of a lock -> rows for machines, and tables for people."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specdiag.files import OutsideError
from specdiag.lock.entry import Entry, Lock
from specdiag.lock.place import inside
from specdiag.obtain.state import state
from specdiag.show.table import aligned
from specdiag.wording import counted, tally

if TYPE_CHECKING:
    from specdiag.obtain.build import Outcome
    from specdiag.obtain.plan import Step


def row(root: Path, lock: Lock, entry: Entry) -> dict[str, Any]:
    """Return the name, state, size, R² and cost of an entry; None for unknown values.

    `published_r2` holds every published test R² with its method. `r2` is the test R² that was
    measured for the file or, without a usable file, the one that the lock records.
    """
    current = state(root, lock, entry)
    metrics = current.receipt.metrics if current.receipt else entry.metrics
    size = _size_of(root, entry)
    return {
        "name": entry.name,
        "scale": entry.scale,
        "group": entry.group,
        "state": current.word,
        "reason": current.reason,
        "size": entry.file.size if size is None else size,
        "path": entry.path if entry.kind == "checkpoint" else None,
        "published_r2": [
            {"value": r.value, "method": r.method, "origin": r.origin}
            for r in entry.reported
            if r.quantity == "r2"
        ],
        "r2": metrics["r2"].value if "r2" in metrics else None,
        "obtained_by": _obtained_by(entry),
        "seconds": entry.cost.seconds if entry.cost else None,
        "hardware": entry.cost.hardware if entry.cost else None,
    }


def _size_of(root: Path, entry: Entry) -> int | None:
    try:
        return inside(root, entry.path).stat().st_size if entry.kind == "checkpoint" else None
    except (OSError, OutsideError):
        return None


def _obtained_by(entry: Entry) -> str:
    if entry.kind == "evaluation":
        return "evaluate"
    return "fetch, train" if entry.source else "train"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table with the reason of each state that is not ok, and their number."""
    if not rows:
        return "the lock has no entries: write a recipe, then run `specdiag lock`"
    header = ("name", "scale", "state", "size", "published R2", "our R2", "made by", "cost", "")
    cells = [
        (
            row["name"],
            row["scale"],
            row["state"],
            _size(row["size"]),
            " / ".join(dict.fromkeys(_r2(r["value"]) for r in row["published_r2"])) or "-",
            _r2(row["r2"]),
            row["obtained_by"],
            _cost(row["seconds"], row["hardware"]),
            row["reason"],
        )
        for row in rows
    ]
    states = tally(row["state"] for row in rows)
    total = f"{counted(len(rows), 'entry', 'entries')}: {states}"
    return "\n".join([*aligned([header, *cells]), total])


def plan_text(steps: Sequence["Step"]) -> str:
    """Return a line for each entry with the action that it needs, and the known cost of all."""
    to_do = [step for step in steps if step.action != "keep"]
    lines = aligned(
        [(s.action, s.entry.name, s.entry.scale, _why(s), _step_cost(s)) for s in to_do]
    )
    costs = [step.entry.cost for step in to_do if step.action != "fetch"]
    known = [cost.seconds for cost in costs if cost]
    total = f"to do: {len(to_do)} of {len(steps)} entries"
    if known:
        unknown = f" and {len(costs) - len(known)} of unknown cost" * (len(known) < len(costs))
        total += f", about {_duration(sum(known))}{unknown}"
    return "\n".join([*lines, total])


def _why(step: "Step") -> str:
    is_open = step.action == "follow"
    return "if its parent changes" if is_open else step.state.reason or step.state.word


def _step_cost(step: "Step") -> str:
    cost = step.entry.cost
    known = _cost(cost.seconds, cost.hardware) if cost else "-"
    return "" if step.action == "fetch" else known


def outcome_text(outcomes: Sequence["Outcome"]) -> str:
    """Return a line for each entry with its outcome, and how often each outcome occurs."""
    cells = [(o.word, o.entry.name, o.entry.scale, o.text) for o in outcomes]
    return "\n".join([*aligned(cells), tally(o.word for o in outcomes) or "0 entries"])


def outcome_json(outcomes: Sequence["Outcome"]) -> str:
    """Return the outcome of each entry as JSON."""
    rows = [
        {"name": o.entry.name, "scale": o.entry.scale, "outcome": o.word, "text": o.text}
        for o in outcomes
    ]
    return json.dumps({"checkpoints": rows}, indent=2)


def _size(size: int | None) -> str:
    if size is None:
        return "-"
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _r2(value: float | list[float] | None) -> str:
    if isinstance(value, list):
        return ", ".join(map(_r2, value))
    return "-" if value is None else f"{value:.3f}"


def _cost(seconds: float | None, hardware: str | None) -> str:
    return "-" if seconds is None else f"{_duration(seconds)} on {hardware}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
