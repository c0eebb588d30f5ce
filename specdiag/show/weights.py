"""Weights of a checkpoint, not measured -> a table for people, JSON for machines."""

import json
from collections.abc import Sequence

from specdiag.checkpoint.weights.weight import Weight
from specdiag.show.table import render
from specdiag.wording import counted, printable

Listed = Sequence[tuple[Weight, str]]  # each with the reason why it is not measured, or ''


def as_json(path: str, listed: Listed, notes: Sequence[str]) -> str:
    """Return the weights as one JSON object; vectors and scalars are among them."""
    rows = [
        {
            "name": weight.name,
            "shape": weight.shape,
            "dtype": weight.dtype,
            "tensors": weight.tensors,
            "whole": weight.whole,
            "rule": weight.rule,
            "measured": not reason,
            "reason": reason,
        }
        for weight, reason in listed
    ]
    return json.dumps({"path": path, "weights": rows, "notes": list(notes)}, indent=2)


def as_lines(listed: Listed, notes: Sequence[str], width: int | None = None) -> list[str]:
    """Return a table with a row for each weight of two or more axes, and a summary.

    The column `tensors` counts the tensors of the file that a weight is composed of.
    """
    rows = [(weight, reason) for weight, reason in listed if weight.is_matrix]
    cells = [
        {
            "shape": "x".join(map(str, weight.shape)),
            "dtype": weight.dtype,
            "tensors": str(len(weight.tensors)),
            "measured": "; ".join(filter(None, (weight.rule, reason))) or "yes",
        }
        for weight, reason in rows
    ]
    styles = [{"dim": True} if reason else {} for _, reason in rows]
    lines = render([w.name for w, _ in rows], cells, styles, (), width) if rows else []
    n_tensors = len({name for weight, _ in listed for name in weight.tensors})
    n_measured = sum(not reason for _, reason in rows)
    matrices = counted(len(rows), "weight of two or more axes", "weights of two or more axes")
    vectors = counted(len(listed) - len(rows), "vector or scalar", "vectors and scalars")
    lines.append(f"{counted(n_tensors, 'tensor')}: {matrices}, {n_measured} measured; {vectors}")
    return [*lines, *(printable(f"note: {note}") for note in notes)]
