"""Entries, plans and outcomes of a lock -> rows for machines, and tables for people."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specdiag.lock.entry import Entry, Lock
from specdiag.obtain.state import state
from specdiag.wording import printable

if TYPE_CHECKING:
    from specdiag.obtain.build import Outcome
    from specdiag.obtain.plan import Step


def rows(root: Path, lock: Lock, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return a row an entry: name, state, and what is known of it; None where nothing is.

    `published_r2` holds every published test R², with its method; `r2` is ours: of the file that is there,
    else the recorded one.
    """
    return [_row(root, lock, entry) for entry in entries]


def _row(root: Path, lock: Lock, entry: Entry) -> dict[str, Any]:
    found = state(root, lock, entry)
    metrics = found.receipt.metrics if found.receipt else entry.metrics
    path = root / entry.path
    return {
        "name": entry.name,
        "scale": entry.scale,
        "group": entry.group,
        "state": found.word,
        "reason": found.reason,
        "size": path.stat().st_size if path.is_file() else entry.file.size,
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


def _obtained_by(entry: Entry) -> str:
    if entry.kind == "evaluation":
        return "evaluate"
    return "fetch, train" if entry.source else "train"


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table, with the reason of every state that is not ok, and a count."""
    if not found:
        return "the lock has no entries: write a recipe, then run `specdiag lock`"
    header = ("name", "scale", "state", "size", "published R2", "our R2", "by", "cost", "")
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
        for row in found
    ]
    count = Counter(row["state"] for row in found)
    total = ", ".join(f"{n} {word}" for word, n in count.items())
    return "\n".join([*_aligned([header, *cells]), f"{len(found)} entries: {total}"])


def plan_text(steps: Sequence["Step"]) -> str:
    """Return what is to be done with each entry, and the known cost of all."""
    lines = _aligned(
        [
            (step.action, step.entry.name, step.entry.scale, _why(step), _step_cost(step))
            for step in steps
            if step.action != "keep"
        ]
    )
    costs = [_known(s.entry)[0] for s in steps if s.action not in ("keep", "fetch")]
    kept = sum(step.action == "keep" for step in steps)
    known = [c for c in costs if c is not None]
    total = f"to do: {len(steps) - kept} of {len(steps)} entries"
    if known:
        unknown = f" and {len(costs) - len(known)} of unknown cost" * (len(known) < len(costs))
        total += f", about {_duration(sum(known))}{unknown}"
    return "\n".join([*lines, total])


def _why(step: "Step") -> str:
    is_open = step.action == "follow"
    return "if its parent changes" if is_open else step.state.reason or step.state.word


def _step_cost(step: "Step") -> str:
    return "" if step.action == "fetch" else _cost(*_known(step.entry))


def _known(entry: Entry) -> tuple[float | None, str | None]:
    return (entry.cost.seconds, entry.cost.hardware) if entry.cost else (None, None)


def outcome_text(outcomes: Sequence["Outcome"]) -> str:
    """Return what became of each entry, and a count."""
    cells = [(o.word, o.entry.name, o.entry.scale, o.text) for o in outcomes]
    count = Counter(o.word for o in outcomes)
    total = ", ".join(f"{n} {word}" for word, n in count.items()) or "0 entries"
    return "\n".join([*_aligned(cells), total])


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    cells = [[printable(cell) for cell in row] for row in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    ]


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
